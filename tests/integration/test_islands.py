"""Two apps in one process."""

from __future__ import annotations

from fastapi import FastAPI

from fastapi_athomic import Athomic, AthomicSettings, include_athomic
from tests.support.apps import Record, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker


def build(settings: AthomicSettings, record: Record, name: str) -> Athomic:
    athomic = include_athomic(FastAPI(), settings)

    @athomic.subscribe_to("islands", group_id="islands", handler_id="same-id")
    async def handle(message: str, plugin: Athomic) -> None:
        assert plugin is athomic
        record.note((name, message))

    return athomic


async def test_p14_apps_with_different_brokers_and_settings_share_nothing(
    apache_kafka: KafkaBroker | ExternalKafka,
) -> None:
    record = Record()
    settings = [
        AthomicSettings(),
        AthomicSettings(),
        AthomicSettings(broker_url=f"kafka://{apache_kafka.bootstrap}", client_id="third"),
    ]
    first, second, third = (build(one, record, name) for one, name in zip(settings, ("1", "2", "3"), strict=True))
    async with running(first), running(second), running(third):
        for athomic, name in ((first, "1"), (second, "2"), (third, "3")):
            await athomic.publish("islands", f"from {name}")
        await record.count(3)
        for athomic in (first, second, third):
            assert athomic.consumers()[0].counters.received == 1
        broker = first._transport.broker  # type: ignore[attr-defined]
        broker.disconnect()
        await second.publish("islands", "still")
        await third.publish("islands", "still")
        await record.count(5)
        broker.reconnect()
    assert sorted(record.seen) == [("1", "from 1"), ("2", "from 2"), ("2", "still"), ("3", "from 3"), ("3", "still")]

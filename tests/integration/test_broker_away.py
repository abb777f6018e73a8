"""Apache Kafka that is not there, dies, or comes back. A broker of these tests' own, because they kill it."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, PublishError, TransportError, subscribe_to
from fastapi_athomic.messages import OutgoingMessage, TopicPartition
from fastapi_athomic.transports.base import CommittedOffset, ConsumerConfig
from fastapi_athomic.transports.kafka.transport import KafkaTransport
from tests.support.apps import Record, eventually, new_app, running
from tests.support.kafka_broker import KafkaBroker

pytestmark = pytest.mark.timeout(300)
SLACK = 2.0
"""Seconds beyond `shutdown_timeout` in which P10, which is a promise about time, may be kept on a busy machine."""


class Event(BaseModel):
    number: int


def settings(broker: KafkaBroker, **changes: Any) -> AthomicSettings:
    usual: dict[str, Any] = {
        "broker_url": f"kafka://{broker.bootstrap}",
        "restart_backoff": 0.1,
        "restart_backoff_max": 0.5,
        "kafka": KafkaSettings(session_timeout=3, heartbeat_interval=1),
    }
    return AthomicSettings(**(usual | changes))


def status(athomic: Athomic) -> str:
    health = athomic.health()
    return health.status if health is not None else "not running"


async def test_p08_the_app_is_up_before_the_broker_and_recovers_without_a_restart(mortal_kafka: KafkaBroker) -> None:
    mortal_kafka.stop()
    record = Record()

    @subscribe_to("p08-start", group_id="p08-start", handler_id="h")
    async def handle(message: Event) -> None:
        record.note(message.number)

    athomic = new_app(settings(mortal_kafka), handle)
    async with athomic.app.router.lifespan_context(athomic.app):
        await eventually(lambda: "the broker cannot be reached" in str(athomic.health()))
        assert status(athomic) == "starting"
        assert "new (its start waits for the broker)" in str(athomic.health())
        publishing = asyncio.create_task(athomic.publish("p08-start", Event(number=1)))
        await mortal_kafka.start_beside()
        await eventually(lambda: status(athomic) == "healthy", 60)
        await publishing
        assert await record.count(1) == [1]
        assert athomic.consumers()[0].restarts == 0


async def test_p08_a_broker_that_dies_under_load_costs_nothing_but_time(
    mortal_kafka: KafkaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    record = Record()
    sent: list[int] = []

    @subscribe_to("p08-load", group_id="p08-load", handler_id="h", ordering="key", concurrency=10)
    async def handle(message: Event) -> None:
        await asyncio.sleep(0.001)
        record.note(message.number)

    async def publish(athomic: Athomic, numbers: range) -> None:
        for number in numbers:
            while True:
                try:
                    await athomic.publish("p08-load", Event(number=number), key=str(number % 5))
                    break
                except PublishError:
                    await asyncio.sleep(0.1)
            sent.append(number)

    async with running(new_app(settings(mortal_kafka, publish_timeout=5.0), handle)) as athomic:
        await publish(athomic, range(100))
        await record.count(50)
        publishing = asyncio.create_task(publish(athomic, range(100, 300)))
        await record.count(110)
        mortal_kafka.kill()
        await eventually(lambda: status(athomic) != "healthy", 60)
        assert not publishing.done(), "the broker died under load"
        await mortal_kafka.start_beside()
        await publishing
        await record.until(lambda seen: set(seen) >= set(range(300)), 60)
        await eventually(lambda: status(athomic) == "healthy", 60)
        await eventually(lambda: "the broker can be reached again after" in caplog.text, 60)
    refused = [text for text in caplog.messages if text.startswith("cannot connect to broker")]
    assert refused
    assert len(refused) == len(set(refused)), "one line for each change of state"
    assert "more lines like those of aiokafka above were left out" in caplog.text
    for key in range(5):
        first_seen = list(dict.fromkeys(number for number in record.seen if number % 5 == key))
        assert first_seen == sorted(first_seen), "out of order"


async def test_p10_stopping_ends_also_with_the_broker_dead(mortal_kafka: KafkaBroker) -> None:
    record = Record()

    @subscribe_to("p10", group_id="p10", handler_id="h")
    async def handle(message: Event) -> None:
        record.note(message.number)

    limit = 5.0
    async with running(new_app(settings(mortal_kafka, shutdown_timeout=limit, drain_timeout=3.0), handle)) as athomic:
        await athomic.publish("p10", Event(number=1))
        await record.count(1)
        mortal_kafka.kill()
        began = monotonic()
    assert monotonic() - began < limit + SLACK
    leftovers = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert leftovers == [], "nothing of the clients is left behind"


async def test_every_call_returns_by_its_deadline_with_the_broker_dead(mortal_kafka: KafkaBroker) -> None:
    transport = KafkaTransport(settings(mortal_kafka))
    await transport.start(10)
    await transport.create_topics({"deadline": 1}, 10)

    class Listener:
        assigned = asyncio.Event()

        def on_arrival(self) -> None: ...

        async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
            self.assigned.set()

        async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None: ...

    consumer = transport.consumer(ConsumerConfig(group_id="g", client_id="c", topics=("deadline",)), Listener())
    await consumer.start()
    async with asyncio.timeout(30):
        while not Listener.assigned.is_set():
            consumer.poll([])
            await asyncio.sleep(0.01)
    place = TopicPartition("deadline", 0)
    mortal_kafka.kill()

    # each has a second; a client that were left to itself would wait for longer than all of them together may
    async with asyncio.timeout(KafkaSettings().request_timeout):
        (result,) = await transport.producer.send([OutgoingMessage("deadline", b"k", b"v")], 1)
        assert isinstance(result, TransportError)
        for call in (
            consumer.commit({place: CommittedOffset(0)}, 1),
            consumer.committed([place], 1),
            transport.partition_counts(["deadline"], 1),
            transport.create_topics({"another": 1}, 1),
        ):
            with pytest.raises(TransportError):
                await call
        await consumer.stop(1)
        await transport.stop(1)
    with pytest.raises(TransportError):
        await KafkaTransport(settings(mortal_kafka)).start(1)


def test_an_app_may_run_again_on_another_event_loop(mortal_kafka: KafkaBroker) -> None:
    record: list[int] = []

    @subscribe_to("loops", group_id="loops", handler_id="h")
    async def handle(message: Event) -> None:
        record.append(message.number)

    athomic = new_app(settings(mortal_kafka), handle)

    async def one_run(number: int) -> None:
        async with running(athomic):
            await athomic.publish("loops", Event(number=number))
            await eventually(lambda: number in record)

    for number in range(2):
        asyncio.run(one_run(number))
    assert record == [0, 1]


def test_a_wrong_address_does_not_stop_the_web_service() -> None:
    athomic = new_app(AthomicSettings(broker_url="kafka://127.0.0.1:1", shutdown_timeout=2.0))
    app = athomic.app

    @app.get("/ping")
    def ping() -> str:
        return "pong"

    with TestClient(app) as client:
        assert client.get("/ping").json() == "pong"
        assert client.get("/consumers/health/ready").status_code == 200
        assert client.get("/consumers/health/live").status_code == 200
        assert client.get("/consumers/health/startup").json() == {"ok": False, "codes": ["starting"]}

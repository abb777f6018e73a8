"""How soon members hear of a rebalance, on Apache Kafka."""

from __future__ import annotations

import asyncio
from itertools import count
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, subscribe_to
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.support.apps import Record, eventually, new_app, owned, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka
NEVER = KafkaSettings(session_timeout=1000, heartbeat_interval=999)
"""No test lives long enough to see two heartbeats of a member that idles."""


@pytest.fixture
def topic() -> str:
    return f"rebalances-{uuid4().hex[:12]}"


def app_of(broker: Kafka, topic: str, record: Record) -> Athomic:
    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def handle(number: int) -> None:
        record.note(number)

    return new_app(AthomicSettings(broker_url=f"kafka://{broker.bootstrap}", kafka=NEVER), handle)


async def test_who_works_hears_at_once_that_a_member_comes_or_goes(apache_kafka: Kafka, topic: str) -> None:
    record, foreign = Record(), Foreign(apache_kafka.bootstrap)
    await foreign.create_topic(topic, 4)
    first, second = (app_of(apache_kafka, topic, record) for _ in range(2))
    sent: list[int] = []

    async def publish() -> None:
        for number in count():
            await first.publish(topic, number)
            sent.append(number)
            await asyncio.sleep(0.02)

    async with running(first):
        publishing = asyncio.create_task(publish())
        await record.count(5)
        async with running(second):
            await eventually(lambda: len(owned(first, topic)) == len(owned(second, topic)) == 2)
        await eventually(lambda: len(owned(first, topic)) == 4)
        publishing.cancel()
        await asyncio.wait([publishing])
        await record.until(lambda seen: set(sent) <= set(seen))
    assert len(record.seen) == len(set(record.seen))

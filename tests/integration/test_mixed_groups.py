"""Members of ours beside members that use the new group protocol (KIP-848), on Apache Kafka.

The broker assigns there, and counts retry and redrive topics like others.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer

from fastapi_athomic import Athomic, AthomicSettings, RetryPolicy, subscribe_to
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.support.apps import Record, eventually, new_app, owned, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka
PARTITIONS = 12
SLOW = 60.0
"""Seconds until members of the new protocol have heard: the broker has them ask every 5 seconds."""


@pytest.fixture
def topic() -> str:
    return f"mixed-{uuid4().hex[:12]}"


class Newcomer:
    """A consumer of librdkafka with the new protocol. It commits each message before it takes the next."""

    def __init__(self, broker: Kafka, topic: str, record: Record) -> None:
        self.partitions: frozenset[int] = frozenset()
        self._record = record
        self._over = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker.bootstrap,
                "group.id": topic,
                "group.protocol": "consumer",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        self._consumer.subscribe([topic])
        self._thread = threading.Thread(target=self._consume)
        self._thread.start()

    def _consume(self) -> None:
        while not self._over.is_set():
            message = self._consumer.poll(0.1)
            self.partitions = frozenset(place.partition for place in self._consumer.assignment())
            if message is not None and message.error() is None:
                self._record.note(int(message.value() or b"0"))
                self._consumer.commit(message=message, asynchronous=False)
        self._consumer.close()

    def leave(self) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def newcomers(broker: Kafka, topic: str, record: Record) -> Iterator[list[Newcomer]]:
    """Two of them."""
    both = [Newcomer(broker, topic, record) for _ in range(2)]
    try:
        yield both
    finally:
        for each in both:
            each.leave()


def side_topics(topic: str) -> list[str]:
    return [f"{topic}.{topic}.{kind}" for kind in ("retry.1s", "redrive")]


def app_of(broker: Kafka, topic: str, record: Record, failed: set[int]) -> Athomic:
    @subscribe_to(
        topic,
        group_id=topic,
        handler_id="h",
        retry=RetryPolicy(max_attempts=1, retry_topics=(1.0,), allow_reordering=True),
    )
    async def handle(number: int) -> None:
        if number % 10 == 0 and number not in failed:
            failed.add(number)
            raise RuntimeError("the first time")
        record.note(number)

    return new_app(AthomicSettings(broker_url=f"kafka://{broker.bootstrap}"), handle)


async def test_each_has_its_share_of_the_source_and_nothing_is_lost_or_repeated(
    apache_kafka: Kafka, topic: str
) -> None:
    record, foreign, failed, sent = Record(), Foreign(apache_kafka.bootstrap), set[int](), list[int]()
    for name in (topic, *side_topics(topic)):
        await foreign.create_topic(name, PARTITIONS)
    first, second = (app_of(apache_kafka, topic, record, failed) for _ in range(2))

    async def publish() -> None:
        for number in count(1):
            await first.publish(topic, number)
            sent.append(number)
            await asyncio.sleep(0.02)

    def shares(*members: Any) -> list[int]:
        return [len(owned(each, topic) if isinstance(each, Athomic) else each.partitions) for each in members]

    def side_partitions(*apps: Athomic) -> int:
        return sum(len(owned(app, name)) for app in apps for name in side_topics(topic))

    async with running(first):
        publishing = asyncio.create_task(publish())
        await eventually(lambda: shares(first) == [12])
        with newcomers(apache_kafka, topic, record) as new:
            await eventually(lambda: shares(first, *new) == [4, 4, 4], SLOW)
            await eventually(lambda: side_partitions(first) == 24, SLOW)  # topics that are new are found after a while
            async with running(second):
                await eventually(lambda: shares(first, second, *new) == [3, 3, 3, 3], SLOW)
                await eventually(lambda: side_partitions(first, second) == 24, SLOW)
            await eventually(lambda: shares(first, *new) == [4, 4, 4], SLOW)
            new[0].leave()
            await eventually(lambda: shares(first, new[1]) == [6, 6], SLOW)
        await eventually(lambda: shares(first) == [12], SLOW)
        assert side_partitions(first) == 24
        publishing.cancel()
        await asyncio.wait([publishing])
        await record.until(lambda seen: set(sent) <= set(seen))
        await first.drain()
    assert failed, "none came back by a retry topic"
    assert [number for number, times in Counter(record.seen).items() if times > 1] == []

"""Compressed batches that unpack to much, on Apache Kafka: one beyond the limit holds its partition, and only that."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, subscribe_to
from fastapi_athomic.transports.kafka.transport import KafkaTransport
from tests.support.apps import Record, eventually, new_app, running, sentences
from tests.support.batches import batch_of_zeros
from tests.support.kafka_broker import KafkaBroker

pytestmark = pytest.mark.timeout(120)
MEGABYTE = 1_000_000


async def produce(broker: KafkaBroker, topic: str, partition: int, batch: bytes) -> None:
    """Sends a batch as it is. The broker looks through its records, and takes it."""
    client = AIOKafkaClient(bootstrap_servers=broker.bootstrap)
    await client.bootstrap()
    try:
        client.add_topic(topic)
        await client.force_metadata_update()
        leader = client.cluster.leader_for_partition(KafkaPartition(topic, partition))
        response = await client.send(leader, ProduceRequest(None, -1, 30_000, [(topic, [(partition, batch)])]))
        ((_, ((_, code, *_),)),) = response.topics
        assert code == 0
    finally:
        await client.close()


def settings(broker: KafkaBroker, **kafka: Any) -> AthomicSettings:
    return AthomicSettings(broker_url=f"kafka://{broker.bootstrap}", kafka=KafkaSettings(**kafka))


def app(broker: KafkaBroker, topic: str, record: Record, **kafka: Any) -> Athomic:
    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def handle(message: bytes) -> None:
        record.note(message if len(message) < 100 else len(message))

    return new_app(settings(broker, **kafka), handle)


@pytest.fixture
async def topic(apache_kafka: KafkaBroker) -> str:
    topic, transport = f"large-{uuid4().hex[:12]}", KafkaTransport(settings(apache_kafka))
    await transport.start(10)
    await transport.create_topics({topic: 2}, 10)
    await transport.stop(5)
    return topic


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_a_batch_beyond_the_limit_holds_its_partition_until_it_is_sought_past(
    apache_kafka: KafkaBroker, topic: str, codec: str
) -> None:
    batch = batch_of_zeros(codec, 200, MEGABYTE)
    assert len(batch) < 500_000
    await produce(apache_kafka, topic, 0, batch)
    record = Record()
    athomic = app(apache_kafka, topic, record, max_batch_bytes=100 * MEGABYTE)

    def reasons() -> list[str]:
        report = athomic.health()
        assert report is not None
        return sentences(report.consumers["h"])

    async with running(athomic):
        await athomic.publish(topic, b"behind it", partition=0)
        await athomic.publish(topic, b"beside it", partition=1)
        await record.until(lambda seen: seen == [b"beside it"])
        await eventually(reasons)
        (reason,) = reasons()
        assert reason == (
            f"{topic}[0] is held at offset 0: a batch of {len(batch):,} bytes unpacks to more than 100,000,000: "
            "kafka.max_batch_bytes (ATHOMIC_KAFKA__MAX_BATCH_BYTES) allows no more; the next batch begins at offset "
            "200. It is tried again, see docs/damaged-batches.md"
        )
        await athomic.seek("h", topic, 0, 200)
        await record.until(lambda seen: seen == [b"beside it", b"behind it"])
        await athomic.drain()
        assert reasons() == []


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_a_large_batch_within_the_limit_is_handled_whole(
    apache_kafka: KafkaBroker, topic: str, codec: str
) -> None:
    await produce(apache_kafka, topic, 0, batch_of_zeros(codec, 100, MEGABYTE))
    record = Record()
    athomic = app(apache_kafka, topic, record)
    async with running(athomic):
        assert await record.count(100) == [MEGABYTE] * 100
        await athomic.publish(topic, b"behind it", partition=0)
        await record.until(lambda seen: seen[-1] == b"behind it")

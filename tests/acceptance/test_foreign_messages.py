"""Apache Kafka as others use it: what another client wrote is handled, and what we commit another client sees."""

from __future__ import annotations

from collections import defaultdict
from uuid import uuid4

from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient
from pydantic import BaseModel

from fastapi_athomic import MessageHeaders, RawMessage, subscribe_to
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.delivery.brokers import Record as Written
from tests.support.apps import Record, new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

COUNT, PARTITIONS = 10_000, 6


class Reading(BaseModel):
    sensor: str
    sequence: int


async def test_p01_ten_thousand_foreign_messages(apache_kafka: KafkaBroker | ExternalKafka) -> None:
    topic = f"readings-{uuid4().hex[:8]}"
    foreign, record = Foreign(apache_kafka.bootstrap), Record()
    await foreign.create_topic(topic, PARTITIONS)
    readings = [Reading(sensor=f"s{number % 100}", sequence=number // 100) for number in range(COUNT)]
    written = [
        Written(
            reading.model_dump_json().encode(), reading.sensor.encode(), (("origin", b"foreign"), ("raw", b"\x00\xff"))
        )
        for reading in readings
    ]
    await foreign.produce(topic, written)

    @subscribe_to(topic, group_id=topic, concurrency=PARTITIONS)
    async def handle(reading: Reading, raw: RawMessage, headers: MessageHeaders) -> None:
        assert raw.key == reading.sensor.encode()
        assert dict(headers) == {"origin": b"foreign", "raw": b"\x00\xff"}
        record.note((raw.partition, raw.offset, reading.sensor, reading.sequence))

    async with running(new_app(foreign.settings(), handle)):
        seen = await record.count(COUNT)
    assert len(seen) == COUNT
    offsets, sequences = defaultdict(list), defaultdict(list)
    for partition, offset, sensor, sequence in seen:
        offsets[partition].append(offset)
        sequences[sensor].append(sequence)
    assert len(offsets) == PARTITIONS
    assert all(found == list(range(len(found))) for found in offsets.values()), "each offset once, in order"
    assert all(found == list(range(100)) for found in sequences.values())

    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})
    (asked,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(topic)]).values()
    committed = {place.partition: place.offset for place in asked.result(30).topic_partitions}
    assert committed == {partition: len(found) for partition, found in offsets.items()}

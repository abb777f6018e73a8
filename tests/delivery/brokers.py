"""The three brokers behind one interface: what a test does to a broker from outside the app."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fastapi_athomic import AthomicSettings, KafkaSettings
from fastapi_athomic.messages import Headers, OutgoingMessage, RawMessage
from fastapi_athomic.messages import TopicPartition as Place
from fastapi_athomic.settings import MemorySettings
from fastapi_athomic.transports.memory.partitioner import partition_for
from fastapi_athomic.transports.memory.transport import broker_named

SECONDS = 30.0
HEARTBEAT_SECONDS = 0.3
"""Members hear of a rebalance when they send a heartbeat. With the default of 3 s, tests would mostly wait for that."""
Isolation = Literal["loop", "thread"]


class Record(NamedTuple):
    """A message written by somebody else."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None


class Broker(Protocol):
    """A broker as a foreign client sees it."""

    name: str
    url: str
    isolation: Isolation

    def settings(self, **changes: Any) -> AthomicSettings: ...

    async def create_topic(self, topic: str, partitions: int) -> None: ...

    async def produce(self, topic: str, records: Iterable[Record]) -> None: ...

    async def read(self, topic: str) -> list[RawMessage]:
        """All messages of the topic; of each partition in order."""
        ...

    async def committed(self, group_id: str, topic: str) -> dict[int, int]:
        """The committed offset of each partition that has one."""
        ...


class MemoryBroker:
    """`memory://`."""

    name = "memory"

    def __init__(self, shared_name: str) -> None:
        self.url = f"memory://{shared_name}"
        self.isolation: Isolation = "loop"
        self._broker = broker_named(shared_name)

    def settings(self, **changes: Any) -> AthomicSettings:
        return AthomicSettings(broker_url=self.url, isolation=self.isolation, restart_backoff=0.05, **changes)

    async def create_topic(self, topic: str, partitions: int) -> None:
        self._broker.create_topics({topic: partitions})

    async def produce(self, topic: str, records: Iterable[Record]) -> None:
        messages = [OutgoingMessage(topic, r.key, r.value, r.headers, r.partition) for r in records]
        for result in self._broker.append(messages, MemorySettings()):
            if isinstance(result, Exception):
                raise result

    async def read(self, topic: str) -> list[RawMessage]:
        partitions = self._broker.partition_counts([topic]).get(topic, 0)
        logs = [self._broker.log(Place(topic, partition)) for partition in range(partitions)]
        return [message for log in logs if log is not None for message in log.messages]

    async def committed(self, group_id: str, topic: str) -> dict[int, int]:
        found = self._broker.committed(group_id)
        return {place.partition: offset.offset for place, offset in found.items() if place.topic == topic}


class KafkaBroker:
    """Apache Kafka."""

    name = "kafka"

    def __init__(self, bootstrap: str) -> None:
        self.url = f"kafka://{bootstrap}"
        self.isolation: Isolation = "loop"
        self._config: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 0}

    def settings(self, **changes: Any) -> AthomicSettings:
        usual: dict[str, Any] = {"restart_backoff": 0.05, "kafka": KafkaSettings(heartbeat_interval=HEARTBEAT_SECONDS)}
        return AthomicSettings(broker_url=self.url, isolation=self.isolation, **(usual | changes))

    async def create_topic(self, topic: str, partitions: int) -> None:
        admin = AdminClient(self._config)
        for future in admin.create_topics([NewTopic(topic, partitions, 1)], operation_timeout=SECONDS).values():
            await asyncio.to_thread(future.result, SECONDS)

    async def produce(self, topic: str, records: Iterable[Record]) -> None:
        await asyncio.to_thread(self._produce, topic, list(records))

    def _produce(self, topic: str, records: Sequence[Record]) -> None:
        # the partitioner of Kafka's own clients; librdkafka's default is another
        config = {"enable.idempotence": True, "linger.ms": 5, "partitioner": "murmur2_random"}
        producer = Producer(self._config | config)
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failures.append(error)

        for record in records:
            place: dict[str, Any] = {} if record.partition is None else {"partition": record.partition}
            headers: Any = list(record.headers)
            producer.produce(topic, record.value, record.key, headers=headers, on_delivery=delivered, **place)
            producer.poll(0)
        assert producer.flush(SECONDS) == 0, "the broker did not take all messages"
        assert not failures, failures

    async def read(self, topic: str) -> list[RawMessage]:
        return await asyncio.to_thread(self._read, topic)

    def _read(self, topic: str) -> list[RawMessage]:
        consumer = Consumer({**self._config, "group.id": "reader", "enable.partition.eof": True})
        try:
            known = consumer.list_topics(topic, SECONDS).topics[topic].partitions
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in known])
            found: list[RawMessage] = []
            ended: set[int | None] = set()
            while len(ended) < len(known):
                message = consumer.poll(SECONDS)
                assert message is not None, f"no end of {topic} was seen"
                error = message.error()
                if error is None:
                    found.append(_raw(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise AssertionError(error)
            return sorted(found, key=lambda message: (message.partition, message.offset))
        finally:
            consumer.close()

    async def committed(self, group_id: str, topic: str) -> dict[int, int]:
        return await asyncio.to_thread(self._committed, group_id, topic)

    def _committed(self, group_id: str, topic: str) -> dict[int, int]:
        consumer = Consumer({**self._config, "group.id": group_id})
        try:
            known = consumer.list_topics(topic, SECONDS).topics[topic].partitions
            offsets = consumer.committed([TopicPartition(topic, partition) for partition in known], SECONDS)
            return {place.partition: place.offset for place in offsets if place.offset >= 0}
        finally:
            consumer.close()


class MockCluster(KafkaBroker):
    """librdkafka's mock cluster.

    Topics are created by their first use, with four partitions, of which those that were not asked for stay empty. It
    waits for members that have left until their session ends.
    """

    name = "mock"

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self._partitions: dict[str, int] = {}

    def settings(self, **changes: Any) -> AthomicSettings:
        kafka = KafkaSettings(session_timeout=3, heartbeat_interval=HEARTBEAT_SECONDS)
        return super().settings(**({"kafka": kafka} | changes))

    async def create_topic(self, topic: str, partitions: int) -> None:
        assert partitions <= 4, "mark the test as not_on('mock')"
        self._partitions[topic] = partitions
        await asyncio.to_thread(Producer(self._config).list_topics, topic, SECONDS)

    async def produce(self, topic: str, records: Iterable[Record]) -> None:
        count = self._partitions[topic]
        placed = [
            record._replace(partition=partition_for(record.key or b"%d" % number, count))
            if record.partition is None
            else record
            for number, record in enumerate(records)
        ]
        await super().produce(topic, placed)


def _raw(message: Any) -> RawMessage:
    headers = tuple((name, value) for name, value in message.headers() or ())
    return RawMessage(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers,
    )

"""`memory://`: a broker inside the process, for development, tests and demonstrations.

The broker of `memory://` is private to its app; all apps in the process with the URL `memory://name` share one.
Messages are kept as long as some transport holds the broker, up to `memory.retention_messages` per partition.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic
from weakref import WeakValueDictionary

from ...exceptions import TopicNotFoundError, TransportClosedError, TransportError
from ...messages import OutgoingMessage, PublishedMessage, RawMessage, TopicPartition
from ...settings import AthomicSettings
from ..base import CommittedOffset, ConsumerConfig, RebalanceListener, TopicCounts
from .answers import answer
from .broker import MemoryBroker
from .consumer import MemoryConsumer
from .topics import compressed_size_of, size_of

RECONNECT_INTERVAL = 0.02
"""Seconds after which a send tries again while the broker is disconnected."""

READ_LIMIT = 500
"""Most messages that one `read` returns."""

_shared: WeakValueDictionary[str, MemoryBroker] = WeakValueDictionary()
_shared_lock = threading.Lock()


def broker_named(name: str) -> MemoryBroker:
    """The broker that all transports with the URL `memory://name` share. A new one if the name is empty."""
    if not name:
        return MemoryBroker()
    with _shared_lock:
        broker = _shared.get(name)
        if broker is None:
            broker = _shared[name] = MemoryBroker()
        return broker


class MemoryTransport:
    """See `Transport`."""

    scheme = "memory"

    def __init__(self, settings: AthomicSettings) -> None:
        self.address = settings.broker_address
        self.broker = broker_named(self.address)
        self._settings = settings.memory
        self._producer = MemoryProducer(self.broker, settings)
        self._consumers: list[MemoryConsumer] = []

    @property
    def producer(self) -> MemoryProducer:
        return self._producer

    async def start(self, timeout: float) -> None:
        self.broker.check_connected()
        self._producer.closed = False

    async def stop(self, timeout: float) -> None:
        self._producer.closed = True
        for consumer in self._consumers:
            await consumer.stop(timeout)
        self._consumers.clear()

    async def ping(self, timeout: float) -> None:
        await answer(self.broker, timeout)
        self.broker.check_connected()

    async def bounds(self, topic: str, timeout: float) -> dict[int, tuple[int, int]]:
        counts = self.broker.partition_counts([topic])
        if topic not in counts:
            raise TopicNotFoundError(f"topic {topic} does not exist")
        logs = ((number, self.broker.log(TopicPartition(topic, number))) for number in range(counts[topic]))
        return {number: (log.first, log.end) for number, log in logs if log is not None}

    async def offsets_at(self, topic: str, milliseconds: int, timeout: float) -> dict[int, int]:
        found = {}
        for number in await self.bounds(topic, timeout):
            log = self.broker.log(TopicPartition(topic, number))
            messages = list(log.messages) if log is not None else []
            offset = next((each.offset for each in messages if each.timestamp >= milliseconds), None)
            if offset is not None:
                found[number] = offset
        return found

    async def committed(
        self, group_id: str, partitions: Collection[TopicPartition], timeout: float
    ) -> dict[TopicPartition, CommittedOffset]:
        await answer(self.broker, timeout)
        self.broker.check_connected()
        found = self.broker.committed(group_id)
        return {place: found[place] for place in partitions if place in found}

    async def read(self, partition: TopicPartition, offset: int, timeout: float) -> list[RawMessage]:
        self.broker.check_connected()
        await answer(self.broker, timeout)
        log = self.broker.log(partition)
        return self.broker.read(partition, max(offset, log.first) if log is not None else offset, READ_LIMIT)

    def consumer(self, config: ConsumerConfig, listener: RebalanceListener) -> MemoryConsumer:
        consumer = MemoryConsumer(self.broker, config, listener)
        self._consumers = [known for known in self._consumers if not known.stopped]
        self._consumers.append(consumer)
        return consumer

    async def partition_counts(self, topics: Collection[str] | None, timeout: float) -> TopicCounts:
        counts = self.broker.partition_counts(topics)
        return TopicCounts(counts, ids=self.broker.ids_of(counts))

    async def create_topics(self, topics: Mapping[str, int], timeout: float) -> None:
        default = self._settings.partitions
        self.broker.create_topics({name: default if count == -1 else count for name, count in topics.items()})


class MemoryProducer:
    """See `TransportProducer`. `closed` is set by its transport: it takes messages between `start` and `stop`."""

    def __init__(self, broker: MemoryBroker, settings: AthomicSettings) -> None:
        self._broker = broker
        self._settings = settings.memory
        self.closed = True

    async def send(self, messages: Sequence[OutgoingMessage], timeout: float) -> list[PublishedMessage | Exception]:
        return await self._append(messages, timeout, size_of)

    async def send_alone(self, message: OutgoingMessage, timeout: float) -> PublishedMessage | Exception:
        (result,) = await self._append([message], timeout, compressed_size_of)
        return result

    async def _append(
        self, messages: Sequence[OutgoingMessage], timeout: float, size: Callable[[OutgoingMessage], int]
    ) -> list[PublishedMessage | Exception]:
        end = monotonic() + timeout
        try:
            await answer(self._broker, timeout)
        except TransportError as error:
            return [error] * len(messages)
        while not self.closed:
            try:
                return self._broker.append(messages, self._settings, size)
            except TransportError as error:
                if monotonic() >= end:
                    return [error] * len(messages)
            await asyncio.sleep(RECONNECT_INTERVAL)
        return [TransportClosedError("the producer is closed")] * len(messages)

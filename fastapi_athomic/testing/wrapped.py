"""A transport around another one. Subclasses change what they want to change."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..messages import RawMessage, TopicPartition
from ..transports.base import (
    CommittedOffset,
    ConsumerConfig,
    RebalanceListener,
    TopicCounts,
    Transport,
    TransportConsumer,
    TransportProducer,
)


class WrappedTransport:
    """See `Transport`: does what the one inside it does."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.scheme, self.address = inner.scheme, inner.address

    @property
    def producer(self) -> TransportProducer:
        return self.inner.producer

    async def start(self, timeout: float) -> None:
        await self.inner.start(timeout)

    async def stop(self, timeout: float) -> None:
        await self.inner.stop(timeout)

    async def ping(self, timeout: float) -> None:
        await self.inner.ping(timeout)

    async def bounds(self, topic: str, timeout: float) -> dict[int, tuple[int, int]]:
        return await self.inner.bounds(topic, timeout)

    async def offsets_at(self, topic: str, milliseconds: int, timeout: float) -> dict[int, int]:
        return await self.inner.offsets_at(topic, milliseconds, timeout)

    async def committed(
        self, group_id: str, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        return await self.inner.committed(group_id, partitions, timeout)

    async def read(self, partition: TopicPartition, offset: int, timeout: float) -> Sequence[RawMessage]:
        return await self.inner.read(partition, offset, timeout)

    def consumer(self, config: ConsumerConfig, listener: RebalanceListener) -> TransportConsumer:
        return self.inner.consumer(config, listener)

    async def partition_counts(self, topics: Collection[str] | None, timeout: float) -> TopicCounts:
        return await self.inner.partition_counts(topics, timeout)

    async def create_topics(self, topics: Mapping[str, int], timeout: float) -> None:
        await self.inner.create_topics(topics, timeout)

"""Reading topics of Apache Kafka without a group: nobody's offsets are touched."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition as KafkaPartition

from ..exceptions import TopicNotFoundError, TransportError
from ..messages import RawMessage, TopicPartition
from .kafka_records import decode_records

BEGINNING, END = -2, -1
READ_UNCOMMITTED = 0
ANY_REPLICA = -1
LEADER_PAUSE = 0.1
"""Seconds until the brokers are asked again for a leader that is not known."""


class KafkaReader:
    """Asks the leaders of partitions for what they hold. Callers set the deadlines."""

    def __init__(self, client: AIOKafkaClient, max_bytes: int) -> None:
        self._client = client
        self._max_bytes = max_bytes  # of one answer; a single larger batch comes whole (KIP-74)

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """The first offset and the end of each partition."""
        await self._know(topic)
        partitions = sorted(self._client.cluster.partitions_for_topic(topic) or ())
        first, end = await asyncio.gather(*(self._offsets(topic, partitions, time) for time in (BEGINNING, END)))
        return {partition: (first[partition], end[partition]) for partition in partitions}

    async def read(self, partition: TopicPartition, offset: int) -> list[RawMessage]:
        """Messages from `offset` on, as many as one answer holds; none at the end."""
        await self._know(partition.topic)
        wanted = [(partition.topic, [(partition.partition, offset, self._max_bytes)])]
        request = FetchRequest(0, 1, self._max_bytes, READ_UNCOMMITTED, wanted)
        response = await self._client.send(await self._leader(partition), request)
        ((_, ((_, code, *_, batches),)),) = response.topics
        if code:
            raise for_code(code)()
        return decode_records(bytes(batches or b""), partition, offset)

    async def _offsets(self, topic: str, partitions: list[int], time: int) -> dict[int, int]:
        by_leader: dict[Any, list[tuple[int, int]]] = {}
        for partition in partitions:
            leader = await self._leader(TopicPartition(topic, partition))
            by_leader.setdefault(leader, []).append((partition, time))
        found: dict[int, int] = {}
        for leader, asked in by_leader.items():
            response = await self._client.send(leader, OffsetRequest(ANY_REPLICA, READ_UNCOMMITTED, [(topic, asked)]))
            for partition, code, *_, offset in response.topics[0][1]:
                if code:
                    raise for_code(code)()
                found[partition] = offset
        return found

    async def _know(self, topic: str) -> None:
        if self._client.cluster.partitions_for_topic(topic) is None:
            self._client.add_topic(topic)
            await self._client.force_metadata_update()
        if self._client.cluster.partitions_for_topic(topic) is None:
            raise TopicNotFoundError(f"topic {topic} does not exist")

    async def _leader(self, partition: TopicPartition) -> Any:
        for _ in range(2):
            leader = self._client.cluster.leader_for_partition(KafkaPartition(*partition))
            if leader not in (None, -1):
                return leader
            await asyncio.sleep(LEADER_PAUSE)
            await self._client.force_metadata_update()
        raise TransportError(f"{partition} has no leader")

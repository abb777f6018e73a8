"""Reading topics of Apache Kafka without a group."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from ...exceptions import TopicNotFoundError
from ...messages import RawMessage, TopicPartition
from ..base import BEGINNING, END
from .client import KafkaClient
from .records import decode_records, end_of

READ_UNCOMMITTED, READ_COMMITTED = 0, 1
ANY_REPLICA = -1
NOBODY = -1
LEADER_PAUSE = 0.1
"""Seconds before a request is tried again because we know no leader of its partition."""

T = TypeVar("T")


class Answer(NamedTuple):
    """The response to one fetch request."""

    end: int  # the partition's high watermark
    throttled: float  # seconds for which the broker asks us to wait
    batches: bytes


class KafkaReader:
    """Asks the leaders of partitions for messages and offsets. Callers set the deadlines.

    Topics are deleted and created again, with more or fewer partitions, so it asks for the leaders each time. It does
    not add the topics to the client, which would go on asking for them, and a broker may create what a client asks for.
    """

    def __init__(self, client: KafkaClient, max_bytes: int, max_batch_bytes: int) -> None:
        self._client = client
        self._max_batch_bytes = max_batch_bytes  # to which one batch may unpack
        self._max_bytes = max_bytes  # of one response; a single larger batch comes whole (KIP-74)

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """The first offset and the last stable offset of each partition."""
        return await self._persistently(lambda: self._bounds(topic))

    async def offsets_at(self, topic: str, milliseconds: int) -> dict[int, int]:
        """See `Transport.offsets_at`."""
        # a time before the epoch would be taken for one of the request's codes (-1: the end)
        found = await self._persistently(lambda: self._offsets_at(topic, max(0, milliseconds)))
        return {partition: offset for partition, offset in found.items() if offset >= 0}

    async def read(self, partition: TopicPartition, offset: int) -> list[RawMessage]:
        """Messages from `offset` on, as many as one response holds. Empty only at the end.

        A response may be empty for other reasons (only control records, all compacted away, throttling): then it asks
        again. It starts at the first message that is left if those at `offset` were deleted.
        """
        while True:
            answer = await self._persistently(partial(self._fetch, partition, offset))
            if answer is None:
                first, _ = (await self.bounds(partition.topic)).get(partition.partition, (0, 0))
                if first <= offset:  # `offset` is after the end: the topic was created again
                    return []
                offset = first
            elif messages := decode_records(answer.batches, partition, offset, self._max_batch_bytes):
                return messages
            elif (behind := end_of(answer.batches, offset)) > offset:
                offset = behind
            elif answer.throttled and offset < answer.end:
                await asyncio.sleep(answer.throttled)
            else:
                return []

    async def _persistently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Tries again if a leader has moved, or some brokers do not know a new topic yet."""
        while True:
            try:
                return await ask()
            except KafkaError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(LEADER_PAUSE)
            await self._client.force_metadata_update()

    async def _bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        leaders = await self._leaders(topic)
        first, end = await asyncio.gather(*(self._offsets(topic, leaders, time) for time in (BEGINNING, END)))
        return {partition: (first[partition], end[partition]) for partition in sorted(leaders)}

    async def _offsets_at(self, topic: str, milliseconds: int) -> dict[int, int]:
        return await self._offsets(topic, await self._leaders(topic), milliseconds)

    async def _fetch(self, partition: TopicPartition, offset: int) -> Answer | None:
        """None if `offset` is neither in the log nor at its end."""
        leader = (await self._leaders(partition.topic)).get(partition.partition)
        if leader is None:
            raise TopicNotFoundError(f"{partition} does not exist")
        wanted = [(partition.topic, [(partition.partition, offset, self._max_bytes)])]
        request = FetchRequest(0, 1, self._max_bytes, READ_UNCOMMITTED, wanted)
        response = await self._client.send(leader, request)
        ((_, ((_, code, end, *_, batches),)),) = response.topics
        if code == OffsetOutOfRangeError.errno:
            return None
        if code:
            raise for_code(code)(partition.topic)
        return Answer(end, response.throttle_time_ms / 1000, bytes(batches or b""))

    async def _offsets(self, topic: str, leaders: Mapping[int, Any], time: int) -> dict[int, int]:
        by_leader: dict[Any, list[tuple[int, int]]] = {}
        for partition, leader in leaders.items():
            by_leader.setdefault(leader, []).append((partition, time))
        found: dict[int, int] = {}
        for leader, asked in by_leader.items():
            response = await self._client.send(leader, OffsetRequest(ANY_REPLICA, READ_COMMITTED, [(topic, asked)]))
            for partition, code, *_, offset in response.topics[0][1]:
                if code:
                    raise for_code(code)(topic)
                found[partition] = offset
        return found

    async def _leaders(self, topic: str) -> dict[int, Any]:
        """The leader of each partition."""
        request = MetadataRequest([topic], allow_auto_topic_creation=False)
        response = await self._client.ask_any(request)
        (found,) = response.to_object()["topics"]
        if found["error_code"] == UnknownTopicOrPartitionError.errno:
            raise TopicNotFoundError(f"topic {topic} does not exist")
        if found["error_code"]:
            raise for_code(found["error_code"])(topic)
        leaders = {each["partition"]: each["leader"] for each in found["partitions"]}
        if NOBODY in leaders.values():
            raise LeaderNotAvailableError(topic)
        return leaders

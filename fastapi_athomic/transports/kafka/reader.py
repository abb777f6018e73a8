"""Reading topics of Apache Kafka without a group: nobody's offsets are touched."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

from aiokafka.client import AIOKafkaClient
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
from .records import decode_records, end_of

READ_UNCOMMITTED, READ_COMMITTED = 0, 1
ANY_REPLICA = -1
NOBODY = -1
LEADER_PAUSE = 0.1
"""Seconds until the brokers are asked again for a leader that is not known."""

T = TypeVar("T")


class Answer(NamedTuple):
    """To one fetch request."""

    end: int  # of the partition
    throttled: float  # seconds for which the broker wants to be left alone
    batches: bytes


class KafkaReader:
    """Asks the leaders of partitions for what they hold. Callers set the deadlines.

    Topics are deleted and made anew, with more or fewer partitions: who leads what is asked each time. The client is
    not told of the topics: it would ask for them ever after, and brokers may make what a client asks for.
    """

    def __init__(self, client: AIOKafkaClient, max_bytes: int) -> None:
        self._client = client
        self._max_bytes = max_bytes  # of one answer; a single larger batch comes whole (KIP-74)

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """The first offset and the last stable one of each partition: who waits for more, while a transaction is open,
        waits for that.
        """
        return await self._persistently(lambda: self._bounds(topic))

    async def read(self, partition: TopicPartition, offset: int) -> list[RawMessage]:
        """Messages from `offset` on, as many as one answer holds; none at the end, and nowhere else.

        An answer may be empty for other reasons: it holds control records only, all of it was compacted away, or the
        broker throttles us. What was deleted is passed over.
        """
        while True:
            answer = await self._persistently(partial(self._fetch, partition, offset))
            if answer is None:
                first, _ = (await self.bounds(partition.topic)).get(partition.partition, (0, 0))
                if first <= offset:  # it lies behind the end: the topic was made anew
                    return []
                offset = first
            elif messages := decode_records(answer.batches, partition, offset):
                return messages
            elif (behind := end_of(answer.batches, offset)) > offset:
                offset = behind
            elif answer.throttled and offset < answer.end:
                await asyncio.sleep(answer.throttled)
            else:
                return []

    async def _persistently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Tries again where a leader has moved, or a new topic is not known everywhere."""
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

    async def _fetch(self, partition: TopicPartition, offset: int) -> Answer | None:
        """None: the partition does not reach from before `offset` to behind it."""
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
            raise for_code(code)()
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
                    raise for_code(code)()
                found[partition] = offset
        return found

    async def _leaders(self, topic: str) -> dict[int, Any]:
        """The leader of each partition."""
        request = MetadataRequest([topic], allow_auto_topic_creation=False)
        response = await self._client.send(self._client.get_random_node(), request)
        (found,) = response.to_object()["topics"]
        if found["error_code"] == UnknownTopicOrPartitionError.errno:
            raise TopicNotFoundError(f"topic {topic} does not exist")
        if found["error_code"]:
            raise for_code(found["error_code"])(topic)
        leaders = {each["partition"]: each["leader"] for each in found["partitions"]}
        if NOBODY in leaders.values():
            raise LeaderNotAvailableError(topic)
        return leaders

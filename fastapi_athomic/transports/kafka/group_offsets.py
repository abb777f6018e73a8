"""What a group has committed, asked by who is no member of it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest

from ...messages import TopicPartition
from ..base import CommittedOffset
from .client import KafkaClient

GROUP = 0
"""The kind of coordinator."""
RETRY_PAUSE = 0.1
"""Seconds before the coordinator is looked for again, as it has moved or is not ready."""


async def group_offsets(
    client: KafkaClient, group_id: str, partitions: Collection[TopicPartition]
) -> Mapping[TopicPartition, CommittedOffset]:
    """The offsets with their metadata. Partitions without a commit are left out. The caller sets the deadline."""
    while True:
        try:
            return await _ask(client, group_id, partitions)
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(RETRY_PAUSE)


async def _ask(
    client: KafkaClient, group_id: str, partitions: Collection[TopicPartition]
) -> Mapping[TopicPartition, CommittedOffset]:
    found = await client.ask_any(FindCoordinatorRequest(group_id, GROUP))
    _check(found.error_code, group_id)
    response = await client.send(found.coordinator_id, OffsetFetchRequest(group_id, _by_topic(partitions)))
    _check(getattr(response, "error_code", 0), group_id)  # old brokers have none for the whole
    offsets = dict[TopicPartition, CommittedOffset]()
    for topic, answers in response.topics:
        for partition, offset, metadata, code in answers:
            if code == UnknownTopicOrPartitionError.errno:
                continue
            _check(code, group_id)
            if offset >= 0:
                offsets[TopicPartition(topic, partition)] = CommittedOffset(offset, metadata or "")
    return offsets


def _by_topic(partitions: Collection[TopicPartition]) -> list[tuple[str, list[int]]]:
    found: dict[str, list[int]] = {}
    for place in partitions:
        found.setdefault(place.topic, []).append(place.partition)
    return list(found.items())


def _check(code: int, group_id: str) -> None:
    error: Any = for_code(code)
    if code:
        raise error(group_id) if error is GroupAuthorizationFailedError else error()

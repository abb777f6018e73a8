"""Asking the leaders of partitions for offsets, with the metadata that a client has."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import KafkaError, LeaderNotAvailableError, StaleMetadata, for_code
from aiokafka.protocol.offset import OffsetRequest

from ...messages import TopicPartition
from .options import RETRY_SECONDS

CONSUMER, NOBODY = -1, -1

Offsets = dict[TopicPartition, int]


async def offsets_of(client: AIOKafkaClient, places: Collection[TopicPartition], time: int) -> Offsets:
    """The first offset of each partition (`BEGINNING`), or its last stable offset (`END`).

    Tries again while a leader is unknown or has just moved: callers set the deadline. Raises errors of aiokafka.
    """
    while True:
        try:
            return await _ask_leaders(client, places, time)
        except KafkaError as error:
            if not error.retriable:
                raise
            if error.invalid_metadata:
                client.force_metadata_update()
        await asyncio.sleep(RETRY_SECONDS)


async def _ask_leaders(client: AIOKafkaClient, places: Collection[TopicPartition], time: int) -> Offsets:
    await client._maybe_wait_metadata()
    by_leader: dict[int, dict[str, list[tuple[int, int]]]] = {}
    for place in places:
        leader = client.cluster.leader_for_partition(place)
        if leader is None:
            raise StaleMetadata(place)
        if leader == NOBODY:
            raise LeaderNotAvailableError(place)
        by_leader.setdefault(leader, {}).setdefault(place.topic, []).append((place.partition, time))
    answers = await asyncio.gather(*(_ask(client, leader, asked) for leader, asked in by_leader.items()))
    return {place: offset for answer in answers for place, offset in answer.items()}


async def _ask(client: AIOKafkaClient, leader: int, asked: dict[str, list[tuple[int, int]]]) -> Offsets:
    response: Any = await client.send(leader, OffsetRequest(CONSUMER, READ_COMMITTED, list(asked.items())))
    found = {}
    for topic, partitions in response.topics:
        for number, code, *_, offset in partitions:
            place = TopicPartition(topic, number)
            if code:
                raise for_code(code)(place)
            found[place] = offset
    return found

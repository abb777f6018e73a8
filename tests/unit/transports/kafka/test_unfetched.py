"""Where partitions end that are not fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from aiokafka.structs import TopicPartition

from fastapi_athomic import TransportError
from fastapi_athomic.transports.kafka.unfetched import LOOK_SECONDS, UnfetchedEnds

FIRST, SECOND = TopicPartition("t", 0), TopicPartition("t", 1)


async def test_those_in_no_fetch_are_asked_for_every_few_seconds() -> None:
    asked: list[list[TopicPartition]] = []
    now, away = 0.0, False

    async def ask(places: Collection[TopicPartition]) -> None:
        asked.append(list(places))
        if away:
            raise TransportError("the broker is away")

    ends = UnfetchedEnds(ask, lambda: now)

    async def look(*fetched: TopicPartition) -> list[list[TopicPartition]]:
        ends.look(fetched, [FIRST, SECOND])
        await asyncio.sleep(0)
        found = asked[:]
        asked.clear()
        return found

    assert await look(FIRST) == [], "too soon"
    now += LOOK_SECONDS
    assert await look() == [[SECOND]], "the first one was fetched meanwhile"
    assert await look() == []
    away = True
    now += LOOK_SECONDS
    assert await look() == [[FIRST, SECOND]]
    await asyncio.sleep(0)
    now += LOOK_SECONDS
    assert await look(FIRST, SECOND) == [], "all are fetched"
    now += LOOK_SECONDS
    assert await look(FIRST) == [[SECOND]], "a broker that was away is asked again"
    ends.close()

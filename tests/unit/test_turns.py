"""Whoever shares the event loop with consumers gets his turns, whatever the handlers do. Counted, not timed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import Athomic, AthomicSettings, RetryPolicy, include_athomic
from fastapi_athomic.stores.base import Call, Member
from fastapi_athomic.stores.memory import store_named
from tests.support.apps import eventually, running

KEYS = 300
ENDLESS = RetryPolicy(delay=lambda attempt, error: 0, max_attempts=0)


class Step(BaseModel):
    shop: str
    number: int = 1


class Attempts:
    """Of two handlers that always fail."""

    def __init__(self, athomic: Athomic, **options: Any) -> None:
        self.number = 0
        decorate: Any = athomic.ordered_consumer if "sequence_id_field" in options else athomic.subscribe_to
        for group in ("g1", "g2"):
            decorate("t", group_id=group, handler_id=group, target_type=Step, retry=ENDLESS, **options)(self.new())

    def new(self) -> Any:
        async def handle(given: Any) -> None:
            self.number += 1
            raise LookupError

        return handle


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ordering": "key", "concurrency": 5},
        {"ordering": "none", "concurrency": 5},
        {"batch_size": 5, "batch_linger_ms": 1},
        {"aggregate_key_field": "shop", "sequence_id_field": "number", "concurrency": 5},
    ],
)
async def test_p12_fault_02_endless_retries_without_a_delay_let_others_run(options: dict[str, Any]) -> None:
    settings = AthomicSettings(slice_seconds=0.000_1, shutdown_timeout=1)
    athomic = include_athomic(FastAPI(), settings)
    attempts = Attempts(athomic, **options)
    most = 0
    async with running(athomic):
        await athomic.publish_many("t", [Step(shop=str(shop)) for shop in range(KEYS)], key=lambda step: step.shop)
        await eventually(lambda: all(status.counters.received == KEYS for status in athomic.consumers()))
        target = attempts.number + 10 * KEYS
        while attempts.number < target:
            before = attempts.number
            await asyncio.sleep(0)  # as a route does that waits for something
            most = max(most, attempts.number - before)
    assert most < KEYS / 3, "so many attempts were made between two turns of somebody else"


async def test_p12_fault_02_the_store_in_memory_gives_turns_as_one_over_a_network_does() -> None:
    """A ledger with much to write asks it again and again."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    store = store_named("")
    member = Member(group_id="g", name="m", lease=10.0, before_first=0, room_per_aggregate=10, room_per_group=10)
    for _ in range(10):
        await store.call(member, Call())
    counting.cancel()
    assert turns >= 9

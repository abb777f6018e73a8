"""How far a consumer reads ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from math import inf
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, ordered_consumer, subscribe_to
from fastapi_athomic.consumption import session as session_module
from fastapi_athomic.consumption.lanes import FREE
from fastapi_athomic.consumption.partitions import PartitionState
from fastapi_athomic.consumption.read_ahead import BUFFERED, WAITING, enough, max_buffered
from fastapi_athomic.loop.load import ThreadLoad
from fastapi_athomic.messages import OutgoingMessage, TopicPartition
from fastapi_athomic.settings import MemorySettings
from fastapi_athomic.subscriptions import subscriptions_of
from tests.support.apps import eventually, new_app, running
from tests.support.causes import broker_of, session_of

CALLS = 200
"""At once."""
MESSAGES = 900
"""Fewer than may be read ahead for so many calls."""
MOST = CALLS + WAITING + 125
"""In hand while that is enough. So many are taken in at once."""
FEW = 20
"""Too few to look whether there is room again."""


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        ({}, {}, 500),
        ({"ordering": "none", "concurrency": 1_000}, {}, 2_000),
        ({"ordering": "key", "concurrency": 1_000}, {}, 5_000),
        ({"ordering": "key", "concurrency": 3_000}, {}, 10_000),
        ({"ordering": "key", "concurrency": 8_000}, {}, 16_000),
        ({"batch_size": 500}, {}, 2_500),
        ({"batch_size": 50}, {}, 500),
        ({"batch_size": 5_000}, {}, 10_000),
        ({}, {"max_poll_messages": 400}, 800),
        ({"batch_size": 500}, {"max_buffered_messages": 1_000}, 1_000),
    ],
)
def test_p16_what_is_taken_in_ahead_depends_on_what_is_in_hand(
    options: dict[str, Any], settings: dict[str, Any], expected: int
) -> None:
    @subscribe_to("t", group_id="g", **options)
    def handle(orders: list[int]) -> None: ...

    (subscription,) = subscriptions_of(handle)
    assert max_buffered(AthomicSettings(**settings), subscription) == expected


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        ({}, {}, inf),
        ({"ordering": "key", "concurrency": 100}, {}, inf),
        ({"ordering": "key", "concurrency": 101}, {}, WAITING),
        ({"ordering": "none", "concurrency": 251}, {}, WAITING),
        ({"batch_size": 500}, {}, 1_000),
        ({"batch_size": 10, "concurrency": 200}, {}, 500),
        ({}, {"max_poll_messages": 400}, inf),
        ({"ordering": "key", "concurrency": 1_000}, {"max_buffered_messages": 5_000}, inf),
    ],
)
def test_there_are_enough_messages_if_more_are_taken_in_for_one_handler_than_for_another(
    options: dict[str, Any], settings: dict[str, Any], expected: float
) -> None:
    @subscribe_to("t", group_id="g", **options)
    def handle(orders: list[int]) -> None: ...

    (subscription,) = subscriptions_of(handle)
    assert enough(AthomicSettings(**settings), subscription) == expected


@pytest.mark.parametrize(("concurrency", "expected"), [(1, 750), (375, 750), (1_000, 2_000)])
def test_nothing_is_enough_for_an_ordered_consumer(concurrency: int, expected: int) -> None:
    """The message that all others wait for may come next. And messages of an aggregate share a write to the store."""

    @ordered_consumer(
        "t", group_id="g", aggregate_key_field="order", sequence_id_field="number", concurrency=concurrency
    )
    def handle(order: dict[str, int]) -> None: ...

    (subscription,) = subscriptions_of(handle)
    assert enough(AthomicSettings(), subscription) == inf
    assert max_buffered(AthomicSettings(), subscription) == expected


class Calls:
    """A consumer by key whose calls end when they are let go."""

    def __init__(self, partitions: int = 1) -> None:
        self.running: dict[int, asyncio.Event] = {}  # by the number of the message
        self._over = False

        async def handle(number: int) -> None:
            if not self._over:
                self.running[number] = event = asyncio.Event()
                await event.wait()
                del self.running[number]

        settings = AthomicSettings(
            broker_url=f"memory://{uuid4().hex}", memory=MemorySettings(partitions=partitions), isolation="loop"
        )
        subscribed = subscribe_to("t", group_id="g", handler_id="h", ordering="key", concurrency=CALLS)(handle)
        self.athomic: Athomic = new_app(settings, subscribed)

    def write(self, *keys: int, partition: int = 0) -> None:
        """A message with each of these keys. Its number is its place among them, plus a thousand for each partition."""
        written = [
            OutgoingMessage("t", b"%d" % key, b"%d" % (number + 1_000 * partition), (), partition=partition)
            for number, key in enumerate(keys)
        ]
        broker_of(self.athomic).append(written, self.athomic.settings.memory)

    def in_hand(self, partition: int = 0) -> int:
        """Messages that wait or run."""
        state: PartitionState = session_of(self.athomic).states[TopicPartition("t", partition)]
        return state.buffered

    async def rested(self) -> None:
        """The poll loop has taken in what it wanted."""
        await eventually(lambda: session_of(self.athomic)._bell.waited_for)

    def let_go(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.running[number].set()

    def let_all_go(self) -> None:
        self._over = True
        self.let_go(self.running)


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll loop looks only when it is called."""
    monkeypatch.setattr(session_module, "POLL_SECONDS", 60.0)
    monkeypatch.setattr(session_module, "POSITIONS_SECONDS", 60.0)


@pytest.fixture(autouse=True)
def load(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How much of its time the thread computes, as tests set it."""
    load = [0.0]
    monkeypatch.setattr(ThreadLoad, "share", lambda _: load[0])
    return load


@pytest.fixture
def busy(load: list[float]) -> None:
    load[0] = 1.0


async def test_no_more_is_taken_in_than_is_enough_while_all_calls_have_messages() -> None:
    async with running((calls := Calls()).athomic):
        calls.write(*range(MESSAGES))
        await eventually(lambda: len(calls.running) == CALLS)
        await calls.rested()
        in_hand = calls.in_hand()
        assert CALLS < in_hand <= MOST
        calls.let_go(range(FEW))
        await eventually(lambda: len(calls.running) == CALLS and FEW - 1 not in calls.running)
        await calls.rested()
        assert calls.in_hand() == in_hand - FEW
        calls.let_all_go()
        await calls.athomic.drain()


async def test_more_is_taken_in_as_soon_as_calls_could_run_that_have_no_message() -> None:
    async with running((calls := Calls()).athomic):
        calls.write(*range(CALLS), *[0] * (MESSAGES - CALLS))
        await eventually(lambda: len(calls.running) == CALLS)
        await calls.rested()
        assert calls.in_hand() <= MOST
        free = CALLS // FREE + 1
        calls.let_go(range(1, 1 + free))
        await eventually(lambda: calls.in_hand() == MESSAGES - free)
        calls.let_all_go()
        await calls.athomic.drain()


async def test_more_is_taken_in_when_an_operator_wants_more_calls() -> None:
    async with running((calls := Calls()).athomic):
        calls.write(*range(MESSAGES))
        await eventually(lambda: len(calls.running) == CALLS)
        await calls.rested()
        await calls.athomic.set_concurrency("h", MESSAGES)
        await eventually(lambda: len(calls.running) == MESSAGES)
        calls.let_all_go()
        await calls.athomic.drain()


async def test_one_call_at_a_time_gets_as_many_messages_as_any_handler() -> None:
    async with running((calls := Calls()).athomic):
        await calls.athomic.set_concurrency("h", 1)
        calls.write(*range(MESSAGES))
        await eventually(lambda: len(calls.running) == 1)
        await calls.rested()
        assert calls.in_hand() == BUFFERED
        calls.let_all_go()
        await calls.athomic.drain()


async def test_no_more_is_taken_in_than_is_enough_while_the_thread_is_busy(busy: None) -> None:
    """More calls would only wait for the processor. But it is not so if most calls are free."""
    async with running((calls := Calls(partitions=4)).athomic):
        most = CALLS * 3 // 4
        calls.write(*range(most), *[0] * (MESSAGES - most))
        await eventually(lambda: len(calls.running) == most)
        await calls.rested()
        assert calls.in_hand() <= MOST
        calls.let_go(range(1, most - CALLS // 2 + 2))
        await eventually(lambda: calls.in_hand() > MOST)
        calls.let_all_go()
        await calls.athomic.drain()


async def test_a_partition_without_a_call_gets_messages_however_many_partitions_there_are(busy: None) -> None:
    async with running((calls := Calls(partitions=CALLS + 1)).athomic):
        calls.write(*range(CALLS))
        await eventually(lambda: len(calls.running) == CALLS)
        calls.write(*range(MESSAGES), partition=1)
        await eventually(lambda: calls.in_hand(1) > MOST)
        calls.let_all_go()
        await calls.athomic.drain()


async def test_keys_do_not_wait_for_a_frequent_one_though_other_partitions_have_all_calls(busy: None) -> None:
    async with running((calls := Calls(partitions=2)).athomic):
        calls.write(*range(CALLS))
        await eventually(lambda: len(calls.running) == CALLS)
        calls.write(*[0] * (MESSAGES - 1), 1, partition=1)
        await eventually(lambda: calls.in_hand(1) == MESSAGES)
        calls.let_go(range(2))
        await eventually(lambda: {1_000, 1_000 + MESSAGES - 1} <= calls.running.keys())
        calls.let_all_go()
        await calls.athomic.drain()

"""SIGTERM reaches every app, and in any case the handler that was there before."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fastapi_athomic.loop.termination import told_of_termination

SIGTERM, SIGINT = signal.SIGTERM, signal.SIGINT


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """The signals that reached the server's handler."""
    came: list[int] = []

    def handle(number: int, _: object) -> None:
        came.append(number)

    before = signal.signal(SIGTERM, handle)
    yield came
    signal.signal(SIGTERM, before)


def test_fault_18_an_app_whose_event_loop_was_closed_swallows_no_signal(handled: list[int]) -> None:
    """Its lifespan never ended, yet the signal reaches the handler before and can still end the process."""
    left_open = told_of_termination(list)

    async def begin() -> None:
        left_open.__enter__()

    asyncio.run(begin())
    signal.raise_signal(SIGTERM)
    assert handled == [SIGTERM]


async def test_fault_18_apps_of_one_process_may_end_in_any_order(handled: list[int]) -> None:
    before = signal.getsignal(SIGTERM)
    told: list[str] = []
    first, second = ExitStack(), ExitStack()
    first.enter_context(told_of_termination(lambda: told.append("first")))
    second.enter_context(told_of_termination(lambda: told.append("second")))
    first.close()
    signal.raise_signal(SIGTERM)
    await asyncio.sleep(0)
    assert told == ["second"]
    second.close()
    assert signal.getsignal(SIGTERM) is before


async def test_fault_18_apps_that_follow_each_other_without_a_gap_pile_nothing_up(handled: list[int]) -> None:
    last = ExitStack()
    for _ in range(2_000):
        following = ExitStack()
        following.enter_context(told_of_termination(list))
        last.close()
        last = following
    signal.raise_signal(SIGTERM)
    last.close()
    assert handled == [SIGTERM]


async def test_each_signal_has_listeners_of_its_own(handled: list[int]) -> None:
    told: list[str] = []
    before = signal.signal(SIGINT, signal.getsignal(SIGTERM))
    try:
        with told_of_termination(lambda: told.append("term")), told_of_termination(lambda: told.append("int"), SIGINT):
            signal.raise_signal(SIGINT)
            await asyncio.sleep(0)
            assert told == ["int"]
            signal.raise_signal(SIGTERM)
            await asyncio.sleep(0)
    finally:
        signal.signal(SIGINT, before)
    assert told == ["int", "term"]
    assert handled == [SIGINT, SIGTERM]

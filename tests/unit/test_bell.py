"""Where the poll loop waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from fastapi_athomic import AthomicSettings, subscribe_to
from fastapi_athomic.bell import LONG, LONG_WAIT, SHORT, Bell, shared_moment
from fastapi_athomic.consumption.partitions import PartitionParts, PartitionState, WorkDone
from fastapi_athomic.messages import RawMessage, TopicPartition
from tests.support.apps import Record, eventually, new_app, running
from tests.support.interleaving import run_shuffled


def test_each_wait_has_its_own_time_and_they_share_a_timer() -> None:
    async def waits() -> list[float]:
        bell, loop = Bell(), asyncio.get_running_loop()
        seen, began = list[float](), loop.time()
        for ring_after, seconds in ((1, 10), (1, 10), (None, 10), (None, 2), (0, 10)):
            bell.clear()
            if ring_after == 0:
                bell.ring()
            elif ring_after is not None:
                loop.call_later(ring_after, bell.ring)
            await bell.wait(seconds)
            seen.append(loop.time() - began)
        bell.close()
        return seen

    work: Coroutine[Any, Any, list[float]] = waits()
    assert run_shuffled(work, Random(1)) == pytest.approx([1, 2, 12, 14, 14], abs=0.01)


@pytest.mark.parametrize("pause", [0.1, 0.2, 0.4, 1.0, 2.0, 3.0])
def test_whoever_waits_wakes_together_with_others(pause: float) -> None:
    """Soon after, and after each pause from then on: a process is woken for all of them at once."""
    apart = SHORT if pause < LONG_WAIT else LONG
    firsts = [shared_moment(began, pause) for began in (1000 + number * 0.0137 for number in range(200))]
    for number, first in enumerate(firsts):
        assert pause - apart <= first - (1000 + number * 0.0137) <= pause + 1e-6
        assert shared_moment(first + 0.004, pause) - first == pytest.approx(pause), "it woke, and worked for a while"
    assert len({round(first, 3) for first in firsts}) <= (firsts[-1] - firsts[0]) / apart + 1.5


def test_short_waits_are_on_time() -> None:
    assert shared_moment(1000.0371, 0.05) == 1000.0371 + 0.05


def test_a_partition_that_was_full_by_its_span_tells_when_it_has_room() -> None:
    told, work_done = list[str](), WorkDone()
    parts = PartitionParts(low_mark=100, most_span=10, has_room=lambda: told.append("room"), work_done=work_done)
    state = PartitionState(TopicPartition("t", 0), parts, committed=0)
    state.receive([RawMessage("t", 0, offset, 0, None, b"", ()) for offset in range(12)])
    state.conclude_all(range(1, 12))  # one slow message is left before all the others
    assert not state.has_room()
    assert told == []
    state.conclude(0)
    state.settle()
    assert told == ["room"]
    assert state.has_room()
    assert work_done.count == 12


async def test_a_worker_that_dies_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record()

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None:
        record.note(message)
        monkeypatch.setattr("fastapi_athomic.consumption.lanes.LaneStrategy._leave", lambda *_: 1 / 0)

    settings = AthomicSettings(restart_backoff=0.01, stall_timeout=36_000, health={"poll_late": 36_000})  # type: ignore[arg-type]
    monkeypatch.setattr("fastapi_athomic.consumption.session.POLL_SECONDS", 3600.0)
    async with running(new_app(settings, handle)) as athomic:
        await athomic.publish("t", "first")
        await record.count(1)
        await eventually(lambda: athomic.consumers()[0].restarts)
        monkeypatch.undo()

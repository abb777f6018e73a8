"""Durations are counted correctly, whether messages are noted one by one or together."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import AthomicSettings, subscribe_to
from fastapi_athomic.observation.timings import SHORTEST, Timings
from tests.support.apps import Record, new_app, running

SINCE = 100.0


def new_timings() -> Timings:
    timings = Timings()
    timings.wall_offset = 0.0
    return timings


@pytest.mark.parametrize(
    "waited",
    [
        (0.5, 0.6, 0.7),
        (0.001, 0.02, 3.0, 90_000.0),
        (0.5,),
        (0.25, 0.251),
    ],
    ids=["of one bucket", "of several", "a single one", "at the edge of one"],
)
def test_messages_noted_together_count_like_messages_noted_one_by_one(waited: tuple[float, ...]) -> None:
    timestamps = [round((SINCE - seconds) * 1_000) for seconds in waited]
    together, single = new_timings(), new_timings()
    for timings in (together, single):  # leaves a remembered bucket behind
        timings.note(SINCE, SINCE, round((SINCE - 0.5) * 1_000))
    for timestamp in timestamps:
        single.note(SINCE, SINCE + 0.001, timestamp)
    together.note_all(SINCE, SINCE + 0.001 * len(waited), timestamps)
    assert timestamps == [], "they are not to be noted again"
    assert together.process.counts == single.process.counts
    assert together.queue.counts == single.queue.counts
    assert together.process.total == pytest.approx(single.process.total)
    assert together.queue.total == pytest.approx(single.queue.total)


def test_clocks_of_others_may_be_ahead() -> None:
    timings = new_timings()
    timings.note_all(SINCE, SINCE, [round((SINCE + 5) * 1_000)] * 2)
    timings.note(SINCE, SINCE, round((SINCE + 5) * 1_000))
    assert timings.queue.counts[0] == 3
    assert timings.queue.total == 0.0


def test_who_records_is_told_each_duration() -> None:
    timings = new_timings()
    recorded: list[float] = []
    assert timings.look_up_at(SINCE, SINCE + 1) == SINCE + SHORTEST
    assert timings.look_up_at(SINCE, SINCE + SHORTEST / 2) == SINCE + SHORTEST / 2
    timings.recorder = recorded.append
    assert timings.look_up_at(SINCE, SINCE + 1) == SINCE, "nothing is noted together any more"
    timings.note(SINCE, SINCE + 0.25, 0)
    assert recorded == [0.25]


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
async def test_each_message_is_counted_once(ordering: Any) -> None:
    record = Record()

    @subscribe_to("t", group_id="g", handler_id="h", ordering=ordering, concurrency=1)
    async def handle(message: int) -> None:
        record.note(message)

    athomic = new_app(AthomicSettings(broker_url=f"memory://{uuid4().hex}"), handle)
    async with running(athomic):
        await athomic.publish_many("t", list(range(1_000)), key=lambda number: str(number % 7))
        await record.count(1_000)
        await athomic.drain()
        timings = athomic.manager().consumers["h"].counters.timings  # type: ignore[union-attr]
        assert sum(timings.process.counts) == sum(timings.queue.counts) == 1_000

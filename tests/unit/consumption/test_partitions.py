"""The stages of a partition, from its assignment until another member has it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from fastapi_athomic import AthomicError
from fastapi_athomic.consumption.partitions import (
    TRANSITIONS,
    Hold,
    PartitionParts,
    PartitionStage,
    PartitionState,
    WorkDone,
)
from fastapi_athomic.messages import RawMessage, TopicPartition

OPEN, HELD, LEAVING, REVOKED = PartitionStage
Change = Callable[[PartitionState], None]
REACHED: dict[PartitionStage, Change] = {
    OPEN: lambda state: None,
    HELD: lambda state: state.hold("doubt"),
    LEAVING: PartitionState.leave,
    REVOKED: PartitionState.revoke,
}


def partition() -> PartitionState:
    parts = PartitionParts(low_mark=0, has_room=lambda: None, work_done=WorkDone())
    return PartitionState(TopicPartition("t", 0), parts, committed=0)


@pytest.mark.parametrize(("before", "after"), [*product(PartitionStage, (LEAVING, REVOKED))])
def test_only_what_the_table_allows_is_possible(before: PartitionStage, after: PartitionStage) -> None:
    state = partition()
    REACHED[before](state)
    assert state.stage is before
    if after is before or after in TRANSITIONS[before]:
        REACHED[after](state)
        assert state.stage is after
    else:
        with pytest.raises(AthomicError, match=rf"partition t\[0\] cannot go from {before} to {after}"):
            REACHED[after](state)
        assert state.stage is before
    assert (state.open, state.revoked) == (False, state.stage is REVOKED)


@pytest.mark.parametrize("last", [0, 1])
def test_a_partition_opens_when_nothing_holds_it_any_more(last: int) -> None:
    state = partition()
    holds: list[Hold] = ["seek", "paused"]
    for reason in holds:
        state.hold(reason)
        assert (state.stage, state.open) == (HELD, False)
    state.lift(holds[1 - last])
    assert (state.stage, state.open, state.paused) == (HELD, False, holds[last] == "paused")
    state.lift(holds[last])
    assert (state.stage, state.open, state.paused) == (OPEN, True, False)


@pytest.mark.parametrize("gone", [LEAVING, REVOKED])
def test_p04_a_partition_that_goes_is_not_opened_by_what_is_lifted(gone: PartitionStage) -> None:
    state = partition()
    state.hold("paused")
    REACHED[gone](state)
    state.hold("seek")
    assert state.paused
    for reason in ("paused", "seek"):
        state.lift(reason)
    assert (state.stage, state.open) == (gone, False)


def message(offset: int) -> RawMessage:
    return RawMessage(topic="t", partition=0, offset=offset, key=None, value=b"", headers=(), timestamp=0)


def test_how_long_the_oldest_waits_is_known_from_when_it_was_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    state = partition()
    arrivals: list[float | None] = [state.oldest_arrival]
    for offset, now in ((0, 100.0), (2, 200.0)):
        monkeypatch.setattr("fastapi_athomic.consumption.partitions.monotonic", lambda now=now: now)
        state.receive([message(offset), message(offset + 1)])
    for running in (0, 1, 2, 4):
        state.running = running
        arrivals.append(state.oldest_arrival)
    state.running = 0
    for done in ([0, 1, 2], [3]):
        state.conclude_all(done)
        state.settle()
        arrivals.append(state.oldest_arrival)
    assert arrivals == [None, 100.0, 100.0, 200.0, None, 200.0, None]

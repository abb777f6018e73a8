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


def partition(committed: int | None = None) -> PartitionState:
    parts = PartitionParts(low_mark=0, has_room=lambda: None, work_done=WorkDone())
    return PartitionState(TopicPartition("t", 0), parts, committed=committed)


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


def oldest(state: PartitionState) -> float | None:
    return state.oldest_arrival


def test_p13_the_oldest_arrival_is_of_a_message_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("fastapi_athomic.consumption.partitions.monotonic", lambda: now)
    state = partition(committed=0)
    assert oldest(state) is None
    for first, moment in ((0, 10.0), (2, 20.0), (4, 30.0)):  # two messages at a time
        now = moment
        state.receive([RawMessage("t", 0, offset, 0, None, b"", ()) for offset in (first, first + 1)])
    assert oldest(state) == 10
    state.running = 1
    assert oldest(state) == 10, "the second one waits"
    state.running = 2
    assert oldest(state) == 20
    state.conclude_all([0, 1, 2])
    state.settle()
    assert oldest(state) == 30, "3 and 4 run, 5 waits"
    state.hold("paused")
    assert oldest(state) is None, "none may start"
    state.lift("paused")
    state.running = 3
    assert oldest(state) is None, "none waits"

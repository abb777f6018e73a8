import random

from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic.consumption.notes import decode_note
from fastapi_athomic.consumption.offsets import OffsetTracker
from fastapi_athomic.transports.base import CommittedOffset


def test_position_follows_what_is_done_in_order() -> None:
    tracker = OffsetTracker(committed=None)
    tracker.received([5, 6, 7])
    tracker.done(5)
    tracker.done(6)
    assert tracker.position == 7
    assert tracker.outstanding == 1


def test_position_waits_for_the_first_that_is_not_done() -> None:
    tracker = OffsetTracker(committed=5)
    tracker.received([5, 6, 7])
    tracker.done(7)
    tracker.done(6)
    assert tracker.position == 5
    tracker.done(5)
    assert tracker.position == 8
    assert tracker.outstanding == 0


def test_missing_offsets_do_not_hold_the_position() -> None:
    tracker = OffsetTracker(committed=0)
    tracker.received([0, 3, 900])
    for offset in (900, 0, 3):
        tracker.done(offset)
    assert tracker.position == 901


def test_nothing_is_due_before_anything_is_done() -> None:
    tracker = OffsetTracker(committed=None)
    tracker.received([4, 5])
    assert tracker.due() is None


def test_what_is_done_above_is_due_as_a_note_even_if_nothing_was_ever_committed() -> None:
    tracker = OffsetTracker(committed=None)
    tracker.received([4, 5, 6])
    tracker.done(6)
    due = tracker.due()
    assert due is not None
    assert due.offset == 4
    assert decode_note(due.offset, due.metadata) == {6}


def test_what_was_committed_is_not_due_again() -> None:
    tracker = OffsetTracker(committed=0)
    tracker.received([0, 1, 2])
    tracker.done(0)
    due = tracker.due()
    assert due == CommittedOffset(1)
    tracker.committed_as(due)
    assert tracker.due() is None
    assert not tracker.settled
    tracker.done(1)
    tracker.done(2)
    last = tracker.due()
    assert last == CommittedOffset(3)
    tracker.committed_as(last)
    assert tracker.settled


@given(st.lists(st.integers(0, 5_000), min_size=1, unique=True), st.randoms())
def test_the_position_is_what_a_simple_model_says(offsets: list[int], chance: random.Random) -> None:
    ordered = sorted(offsets)
    tracker = OffsetTracker(committed=None)
    tracker.received(ordered)
    done: set[int] = set()
    for offset in chance.sample(ordered, len(ordered)):
        tracker.done(offset)
        done.add(offset)
        pending = [o for o in ordered if o not in done]
        prefix = [o for o in ordered if not pending or o < pending[0]]
        assert tracker.position == (prefix[-1] + 1 if prefix else None)
        assert tracker.outstanding == len(pending)
        above = {o for o in done if pending and o > pending[0]}
        due = tracker.due()
        assert due is None or decode_note(due.offset, due.metadata) == above
    assert tracker.span == 0


@given(st.integers(0, 5_000), st.lists(st.integers(1, 20), max_size=6), st.randoms())
def test_p04_what_is_done_stays_noted_through_rebalances_however_little_each_owner_does(
    first: int, rounds: list[int], chance: random.Random
) -> None:
    """Also what an owner has not yet received again when it has to give the partition up."""
    offsets, done, committed = list(range(first, first + 40)), set[int](), CommittedOffset(first)
    for received in rounds:
        before = decode_note(committed.offset, committed.metadata)
        assert before == {offset for offset in done if offset >= committed.offset}
        tracker = OffsetTracker(committed.offset, done_before=before)
        assert tracker.due() is None, "it is committed already"
        here = [offset for offset in offsets if offset >= committed.offset][:received]
        tracker.received(here)
        for offset in before.intersection(here):
            tracker.done(offset)
        left = [offset for offset in here if offset not in before]
        for offset in chance.sample(left, chance.randint(0, len(left))):
            tracker.done(offset)
            done.add(offset)
        committed = tracker.due() or committed


def test_where_the_log_has_a_huge_hole_there_is_no_note() -> None:
    """A compacted topic. What is done behind the hole comes again after a crash, but no bitmap spans the hole."""
    tracker = OffsetTracker(committed=None)
    tracker.received([5, 10**12, 10**12 + 1])
    tracker.done(10**12)
    assert tracker.due() == CommittedOffset(5)
    tracker.done(5)
    assert tracker.due() == CommittedOffset(10**12 + 1)
    tracker.received([10**15, 10**15 + 1])
    tracker.done(10**15 + 1)
    tracker.done(10**12 + 1)
    assert tracker.due() == CommittedOffset(10**12 + 2), "the note would begin far before what is done"

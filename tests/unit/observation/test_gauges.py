from __future__ import annotations

from fastapi_athomic.observation.gauges import SequenceGauge
from fastapi_athomic.observation.reasons import ReasonCode, lasting


def test_the_gauge_says_what_somebody_should_look_at() -> None:
    gauge = SequenceGauge(gap_timeout=1.0, waiting=9)
    assert gauge.reasons() == []
    gauge.trouble = lasting(None, ReasonCode.STORE_UNREACHABLE, "no store")
    gauge.overdue, gauge.oldest_gap = 2, 61.4
    gauge.note_blocked(3)
    gauge.note_full(4)
    assert [str(reason) for reason in gauge.reasons()] == [
        "no store",
        "2 aggregates wait for a missing number, the oldest for 61 s",
        "3 aggregates are blocked by a message that failed",
        "the waiting room is full for 4 aggregates",
    ]


def test_what_lasts_keeps_its_beginning_until_it_has_gone() -> None:
    gauge = SequenceGauge(gap_timeout=1.0)
    gauge.note_blocked(1)
    gauge.note_full(1)
    began = gauge.blocked_since, gauge.full_since
    assert None not in began
    gauge.note_blocked(2)
    gauge.note_full(2)
    assert [reason.since for reason in gauge.reasons()] == list(began)
    gauge.note_blocked(0)
    gauge.note_full(0)
    assert (gauge.blocked_since, gauge.full_since, gauge.reasons()) == (None, None, [])
    first = lasting(None, ReasonCode.COMMIT_FAILING, "a")
    again = lasting(first, ReasonCode.COMMIT_FAILING, "b")
    assert first is not None
    assert again is not None
    assert (again.message, again.since) == ("b", first.since)
    assert lasting(again, ReasonCode.COMMIT_FAILING, None) is None

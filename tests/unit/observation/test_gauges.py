from __future__ import annotations

from fastapi_athomic.observation.gauges import SequenceGauge


def test_the_gauge_says_what_somebody_should_look_at() -> None:
    gauge = SequenceGauge(gap_timeout=1.0, waiting=9)
    assert gauge.reasons() == []
    gauge.trouble, gauge.overdue, gauge.oldest_gap, gauge.blocked, gauge.full = "no store", 2, 61.4, 3, 4
    assert gauge.reasons() == [
        "no store",
        "2 aggregates wait for a missing number, the oldest for 61 s",
        "3 aggregates are blocked by a message that failed",
        "the waiting room is full for 4 aggregates",
    ]

"""Looks through the waiting rooms of the whole group once in a while.

This finds what nobody would notice otherwise: messages whose turn has come, but whose process is gone, and gaps that
stay open. Status and health show the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..observation.gauges import SequenceGauge
from ..stores.base import Overview, Scan
from ..subscriptions import OnGap
from .calls import Agenda
from .holdings import Holdings

SCAN_SECONDS = 1.0
"""Seconds between two looks, or a quarter of `gap_timeout` where that is less."""
SCAN_LIMIT = 100
"""Most aggregates of each kind in one look. The next look continues after them."""


class Survey:
    """Asks the store for aggregates that somebody should look after, one page at a time."""

    def __init__(self, gauge: SequenceGauge, holdings: Holdings, agenda: Agenda, on_gap: OnGap) -> None:
        self._gauge = gauge
        self._holdings = holdings
        self._agenda = agenda
        self._on_gap = on_gap
        self.seconds = min(SCAN_SECONDS, max(0.02, gauge.gap_timeout / 4))
        self._scan_at = 0.0
        self._scan_start = 0

    def due(self, now: float) -> bool:
        """It is time for another look. `now` is on the monotonic clock."""
        return now >= self._scan_at

    def scan(self, now: float) -> Scan:
        """The scan to send now. The next one is due `seconds` later."""
        self._scan_at = now + self.seconds
        return Scan(self._gauge.gap_timeout, SCAN_LIMIT, self._scan_start)

    def note(self, overview: Overview) -> None:
        """Takes the answer: numbers go to the gauge, aggregates to the next call."""
        gauge = self._gauge
        gauge.waiting, gauge.parked = overview.waiting, overview.parked
        gauge.overdue, gauge.oldest_gap = overview.overdue_count, overview.oldest_gap
        self._scan_start += SCAN_LIMIT
        if self._scan_start >= overview.waiting:
            self._scan_start = 0
        for key in overview.ready:
            known = self._holdings.aggregates.get(key)
            if known is None or known.token is None or self._holdings.is_idle(known):
                self._agenda.mark(self._holdings.aggregate(key))
        self._note_overdue(overview.overdue)

    def _note_overdue(self, keys: Sequence[bytes]) -> None:
        if self._on_gap == "wait":
            return
        for key in keys:
            aggregate = self._holdings.aggregate(key)
            aggregate.overdue = True
            self._agenda.mark(aggregate)

"""Keeps the log from being flooded: the same complaint is logged a few times a minute, and then only counted."""

from __future__ import annotations

from time import monotonic

INTERVAL = 60.0
"""Seconds in which the same complaint is logged at most `BURST` times, where nothing else is said."""
BURST = 10


class Complaints:
    """Lets the same complaint through `burst` times per `interval`, and counts what it holds back.

    `interval` is in seconds; None: `INTERVAL`.
    """

    def __init__(self, burst: int = BURST, interval: float | None = None) -> None:
        self._burst = burst
        self._interval = interval
        self._windows: dict[str, tuple[float, int]] = {}  # by subject: when it began, and how many there were

    def due(self, subject: str) -> int | None:
        """None: do not log it. Else how many were held back since the last one that was logged."""
        now = monotonic()
        began, count = self._windows.get(subject, (now, 0))
        if now - began >= (INTERVAL if self._interval is None else self._interval):
            self._windows[subject] = (now, 1)
            return max(0, count - self._burst)
        self._windows[subject] = (began, count + 1)
        return 0 if count < self._burst else None

"""How busy is the thread of an event loop?"""

from __future__ import annotations

from time import monotonic, thread_time

LOAD_SECONDS = 0.5
"""The time that a share is measured over: a thread that computes for a few milliseconds is not busy yet."""


class ThreadLoad:
    """How much of its time a thread computes. Must be asked in that thread, now and then."""

    def __init__(self) -> None:
        self._share = 0.0
        self._since = self._computed = 0.0  # on the monotonic clock, and on the CPU clock of the thread

    def share(self) -> float:
        """From 0 to 1, measured since the last call, or over `LOAD_SECONDS` if calls come more often."""
        now = monotonic()
        seconds = now - self._since
        if seconds >= LOAD_SECONDS:
            computed = thread_time()
            self._share = (computed - self._computed) / seconds
            self._since, self._computed = now, computed
        return self._share

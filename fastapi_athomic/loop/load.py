"""How busy a thread is."""

from __future__ import annotations

from time import monotonic, thread_time

LOAD_SECONDS = 0.5
"""A thread that computes for a few milliseconds is not busy yet."""


class ThreadLoad:
    """How much of its time a thread computes. To be asked in that thread, now and then."""

    def __init__(self) -> None:
        self._share = 0.0
        self._since = self._computed = 0.0  # seconds, on the monotonic clock and on that of the thread

    def share(self) -> float:
        """From 0 to 1, over `LOAD_SECONDS` or since it was asked before."""
        now = monotonic()
        seconds = now - self._since
        if seconds >= LOAD_SECONDS:
            computed = thread_time()
            self._share = (computed - self._computed) / seconds
            self._since, self._computed = now, computed
        return self._share

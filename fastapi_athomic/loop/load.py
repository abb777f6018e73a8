"""How busy the HTTP routes, the event loop and its thread are: consumers work less, or commit less often, then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, thread_time

QUIET_SECONDS = 1.0
"""This long after the last request the routes count as quiet: there is probably nobody to hold up."""
LAG_INTERVAL = 0.05
"""Seconds between two measurements of the lag."""
FADING = 0.95
"""What remains of a peak of the lag at the next measurement: half of it after 0.7 s."""
GREATEST_LAG = 0.2
"""Seconds; a longer lag counts as this. So work is not reduced further, and is soon back to normal after a freeze."""
LOAD_SECONDS = 0.5
"""Seconds over which load is averaged: a burst of milliseconds does not count as busy."""


class RequestGauge:
    """How many HTTP requests are being answered, and when the last answer ended.

    The middleware enters this context manager for each request; nothing else changes the fields, but for `waiting`.
    """

    __slots__ = ("ended_at", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self.ended_at = float("-inf")  # the last request, on the monotonic clock

    def __enter__(self) -> None:
        self.in_flight += 1

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1
        self.ended_at = monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within the block one of the requests does not count: an open stream, which mostly waits."""
        self.in_flight -= 1
        try:
            yield
        finally:
            self.in_flight += 1

    def quiet(self, now: float) -> bool:
        """Whether there has been no request for `QUIET_SECONDS`. `now` is on the monotonic clock."""
        return not self.in_flight and now - self.ended_at > QUIET_SECONDS


class LoopLag:
    """How late callbacks run in the event loop: the greatest delay of the last seconds, at most `GREATEST_LAG`.

    It has nothing to do with the lag of a consumer behind the end of its partitions. Only `watch` sets `seconds`,
    `turned_at` and `late`; any thread may read them. `late_after`: seconds of delay that `late` tells of.
    """

    def __init__(self, late_after: float = float("inf")) -> None:
        self._late_after = late_after
        self.late: tuple[float, float] | None = None  # when the loop last turned so late (monotonic), and how late
        self.seconds = 0.0
        self.turned_at: float | None = None  # when the loop last turned, on the monotonic clock; None: nobody watches

    async def watch(self, late: Callable[[float], None] | None = None) -> None:
        """Measures until it is cancelled. Calls `late` with each delay, in seconds."""
        try:
            while True:
                self.turned_at = began = monotonic()
                await asyncio.sleep(LAG_INTERVAL)
                delay = max(0.0, monotonic() - began - LAG_INTERVAL)
                if delay > self._late_after:
                    self.late = monotonic(), delay
                self.seconds = max(min(delay, GREATEST_LAG), self.seconds * FADING)
                if late is not None:
                    late(delay)
        finally:
            self.turned_at = None


class ThreadLoad:
    """How much of its time a thread computes. Call `share` regularly, from that thread."""

    def __init__(self) -> None:
        self._share = 0.0
        self._since = self._computed = 0.0  # on the monotonic clock, and on the CPU clock of the thread

    def share(self) -> float:
        """From 0 to 1, measured since the last call, or over `LOAD_SECONDS` if calls come more often."""
        now = monotonic()
        seconds = now - self._since
        if not 0 <= seconds < LOAD_SECONDS:
            computed = thread_time()
            if seconds > 0:  # else a clock that tests had put forward is back
                self._share = (computed - self._computed) / seconds
            self._since, self._computed = now, computed
        return self._share

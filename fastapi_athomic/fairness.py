"""Consumers give the event loop back before HTTP routes feel them."""

from __future__ import annotations

import asyncio
import time
from time import monotonic

from .lag import LoopLag

TURNS = 3
"""Turns of the event loop given away at once.

One lets a request in, the next ones let it be answered (measured, PEERS F5).
"""
TURNS_FOR_REQUESTS = 5
"""More turns at most, while requests are being answered."""
SHARE_BESIDE_REQUESTS = 0.5
"""Of the slice, while requests are being answered."""
LATE_SECONDS = 0.02
"""A loop that is later than this gets shorter slices and takes less in, in proportion to its lag."""
SHORTEST_SLICE = 0.000_2
SMALLEST_INTAKE = 10
GIL_PAUSE = 0.000_05
"""Seconds that a thread of its own sleeps after each slice: as long as it works, another one waits for the GIL."""


class RequestGauge:
    """How many HTTP requests are being answered."""

    __slots__ = ("in_flight",)

    def __init__(self) -> None:
        self.in_flight = 0


class LoopShare:
    """The slice of time that all consumers of one event loop work in together, before everybody else gets a turn.

    It is shorter while HTTP requests are being answered, and when the loop of the routes is late.
    """

    __slots__ = ("_lag", "_pause", "_requests", "_slice_seconds", "deadline")

    def __init__(
        self,
        slice_seconds: float,
        requests: RequestGauge | None = None,
        lag: LoopLag | None = None,
        *,
        own_thread: bool = False,
    ) -> None:
        self._slice_seconds = slice_seconds
        self._requests = requests or RequestGauge()
        self._lag = lag or LoopLag()
        self._pause = GIL_PAUSE if own_thread else 0.0
        self.deadline = 0.0  # on the monotonic clock; whoever is past it calls `give_way`

    async def give_way(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if self._pause:
            time.sleep(self._pause)  # noqa: ASYNC251 - it is this thread that is to stand still
        else:
            await self._let_requests_through()
        self.deadline = monotonic() + self.slice()

    async def _let_requests_through(self) -> None:
        turns = TURNS_FOR_REQUESTS
        while turns and self._requests.in_flight:
            await asyncio.sleep(0)
            turns -= 1

    def slice(self) -> float:
        """Seconds of work until everybody else gets a turn."""
        seconds = self._slice_seconds * (SHARE_BESIDE_REQUESTS if self._requests.in_flight else 1.0)
        return max(min(SHORTEST_SLICE, seconds), seconds * self._eased())

    def intake(self, most: int) -> int:
        """How many messages to take in at once, of `most` that there is room for."""
        return max(min(SMALLEST_INTAKE, most), int(most * self._eased()))

    def _eased(self) -> float:
        """1 as long as the loop is in time."""
        late = self._lag.seconds
        return 1.0 if late <= LATE_SECONDS else LATE_SECONDS / late

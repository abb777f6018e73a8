"""Where a task waits for whatever there is to do, and when it looks by itself."""

from __future__ import annotations

import asyncio
from math import floor
from time import monotonic

SHORT, LONG = 0.1, 0.5
"""Seconds between the moments at which those wake together who wait for less than `LONG_WAIT`, and for longer."""
LONG_WAIT = 1.0
_FIRST = monotonic()  # of these moments: each process has its own, so that not all ask the same broker at once


def apart(pause: float) -> float:
    """Seconds between the moments at which those wake who wait for `pause` seconds."""
    return SHORT if pause < LONG_WAIT else LONG


def shared_moment(began: float, pause: float) -> float:
    """When to wake, at most `pause` seconds after `began`: at a moment at which others do, too.

    A process with many quiet consumers is woken once for all of them then, as with the timer slack of Linux. Who waits
    for less than `SHORT` seconds wakes on time. All times are on the monotonic clock.
    """
    if pause < SHORT:
        return began + pause
    step = apart(pause)
    return _FIRST + floor((began + pause - _FIRST) / step) * step


class Bell:
    """Lets a task wait until somebody rings, or until its time is up.

    It is an `asyncio.Event` whose waits all share one timer: while messages trickle, most waits end long before their
    time is up. Used from one event loop, and by one task that waits.
    """

    __slots__ = ("_due", "_loop", "_rung", "_timer", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the time of the last wait is up, by the clock of the loop
        self._loop: asyncio.AbstractEventLoop | None = None  # of the task that waits

    def ring(self) -> None:
        """The wait under way ends, or the next one if none is."""
        self._rung = True
        self._end_wait()

    @property
    def waited_for(self) -> bool:
        """A task waits, and nobody has rung for it yet."""
        return self._waiter is not None and not self._rung

    def clear(self) -> None:
        """Forgets who rang. Call it before looking at what they might ring for."""
        self._rung = False

    async def wait(self, seconds: float) -> None:
        """Returns when it rings, or has rung since `clear`; after so many seconds at the latest.

        The rest of the event loop gets a turn in any case.
        """
        if self._rung:
            await asyncio.sleep(0)
            return
        if (loop := self._loop) is None:  # in Python 3.11 it takes a call of the system to find it
            loop = self._loop = asyncio.get_running_loop()
        self._due = loop.time() + seconds
        if self._timer is None or self._timer.when() > self._due:
            self.close()
            self._timer = loop.call_at(self._due, self._look, loop)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """The time of some wait is up, perhaps of an earlier one."""
        self._timer = None
        if self._waiter is None:
            return
        if loop.time() < self._due:
            self._timer = loop.call_at(self._due, self._look, loop)
        else:
            self._end_wait()

    def _end_wait(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Stops its timer; nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

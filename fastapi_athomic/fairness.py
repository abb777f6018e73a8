"""Consumers give the event loop back before HTTP routes feel them."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic, sleep

from .lag import LoopLag

TURNS = 3
"""Turns of the event loop given away at once.

One lets a request in, the next ones let it be answered (measured, PEERS F5).
"""
TURNS_FOR_REQUESTS = 5
"""More turns at most, while requests are being answered."""
SHARE_BESIDE_REQUESTS = 0.5
"""Of the slice, while requests are being answered."""
QUIET_SECONDS = 1.0
"""So long after the last request nobody seems to be there who could be held up."""
QUIET_SHARE = 2.5
"""Of the slice, then. Handlers that wait for something do not rest at all: the loop turns by itself as they wait."""
INTAKE_SHARE = 0.5
"""Of a turn of the loop: to take a message in costs less than to handle it, so nobody goes hungry for long."""
LATE_SECONDS = 0.02
"""A loop that is later than this gets shorter slices and takes less in, in proportion to its lag."""
SHORTEST_SLICE = 0.000_2
SMALLEST_INTAKE = 10
TOGETHER = 10
"""So many of those that wait for the next slice go on in one turn of the loop."""
GIL_PAUSE = 0.000_05
"""Seconds that a thread of its own sleeps after a slice at a time, while requests are being answered."""
GIL_PAUSES = 10
"""So often at most."""


class RequestGauge:
    """How many HTTP requests are being answered, and when the last one was."""

    __slots__ = ("_ended_at", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self._ended_at = float("-inf")  # on the monotonic clock

    def __enter__(self) -> None:
        self.in_flight += 1

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1
        self._ended_at = monotonic()

    def quiet(self, now: float) -> bool:
        """Whether nobody has asked for anything for a while."""
        return not self.in_flight and now - self._ended_at > QUIET_SECONDS


class LoopShare:
    """The slice of time that all consumers of one event loop work in together, before everybody else gets a turn.

    It is shorter while HTTP requests are being answered, and when the loop of the routes is late.
    """

    __slots__ = (
        "_began",
        "_lag",
        "_own_thread",
        "_requests",
        "_resting",
        "_slice_seconds",
        "_turned",
        "_turns",
        "_turns_for_requests",
        "_waiting",
        "deadline",
    )

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
        self._own_thread = own_thread
        self.deadline = 0.0  # on the monotonic clock; whoever is past it calls `give_way`
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._resting = False  # or letting in who waits
        self._turns = self._turns_for_requests = 0  # still to be given away
        self._began = 0.0  # the slice, on the monotonic clock
        self._turned = True  # the loop has turned since then

    def turned(self, since: float, now: float) -> bool:
        """At the end of a slice: whether a new one has begun, so that nobody needs to give way.

        So it is where the loop has turned by itself meanwhile, as the handler waited for something; unless requests
        are being answered, or some rest already. `since`: when the work began that ends `now`.
        """
        if self._requests.quiet(now):
            if not (self._turned or since < self._began):
                return False
        elif not self._turned or self._resting or self._requests.in_flight:
            return False
        self._begin(now)
        self._watch_turn(asyncio.get_running_loop())
        return True

    def _begin(self, now: float) -> None:
        self._began = now
        self.deadline = now + self.slice(now)

    def _watch_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turned = False
        loop.call_soon(self._note_turn)

    def _note_turn(self) -> None:
        self._turned = True

    async def give_way(self) -> None:
        """Returns in the next slice, after everybody else has had some turns of the loop.

        All who work in this loop rest together: a thousand workers that each gave turns away would keep it busy.
        """
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiting.append(waiter)
        if not self._resting:
            self._rest(loop)
        await waiter

    def _rest(self, loop: asyncio.AbstractEventLoop) -> None:
        self._resting = True
        self._turns = 1 if self._own_thread else TURNS
        self._turns_for_requests = 0 if self._own_thread else TURNS_FOR_REQUESTS
        loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._turns > 1:
            self._turns -= 1
        elif self._turns_for_requests and self._requests.in_flight:
            self._turns_for_requests -= 1
        else:
            if self._own_thread:
                self._leave_the_gil()
            self._begin(monotonic())
            self._let_in(loop)
            self._watch_turn(loop)  # after those who were let in: their turn is where the slice begins
            return
        loop.call_soon(self._turn, loop)

    def _leave_the_gil(self) -> None:
        """To the thread that answers requests, until it has done so."""
        pauses = GIL_PAUSES
        while pauses and self._requests.in_flight:
            sleep(GIL_PAUSE)
            pauses -= 1

    def _let_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Those that wait go on, first come, first served, as long as the slice lasts."""
        waiting, room = self._waiting, TOGETHER
        while waiting and room:
            waiter = waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1
        if waiting:
            loop.call_soon(self._go_on, loop)
        else:
            self._resting = False

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if monotonic() >= self.deadline:
            self._rest(loop)
        else:
            self._let_in(loop)

    def slice(self, now: float) -> float:
        """Seconds of work until everybody else gets a turn."""
        quiet, busy = self._requests.quiet(now), self._requests.in_flight
        seconds = self._slice_seconds * (QUIET_SHARE if quiet else SHARE_BESIDE_REQUESTS if busy else 1.0)
        return max(min(SHORTEST_SLICE, seconds), seconds * self._eased())

    def intake(self, most: int) -> int:
        """How many messages to take in at once, of `most` that there is room for."""
        return max(min(SMALLEST_INTAKE, most), int(most * self._eased()))

    def intake_seconds(self, now: float, *, turn: float) -> float:
        """How long fetches may follow each other, before everybody else gets a turn.

        `turn`: seconds the last one took. As long as nobody asks for anything, turns may be long, and many workers be
        hungry after one.
        """
        return turn * INTAKE_SHARE if self._requests.quiet(now) else 0.0

    def _eased(self) -> float:
        """1 as long as the loop is in time."""
        late = self._lag.seconds
        return 1.0 if late <= LATE_SECONDS else LATE_SECONDS / late

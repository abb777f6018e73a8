"""Consumers give the event loop back before HTTP routes feel them."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic

from .lag import LoopLag
from .requests import RequestGauge
from .turns import Loan, Turns, readiness

SHARE_BESIDE_REQUESTS = 0.5
"""Of the slice, while requests are being answered."""
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
LOOK_SECONDS = 0.000_4
"""So often those who work look whether anything waits at the sockets of the routes' loop: a look costs 2 µs."""


class LoopShare:
    """The slice of time that all consumers of one event loop work in together, before everybody else gets a turn.

    It ends sooner when something waits at the sockets of the routes' loop, and is shorter while HTTP requests are
    being answered, and when the loop of the routes is late. As long as nobody asks for anything, only answers to the
    consumers themselves would wait there, and nobody looks.

    `routes`: the loop of the routes. `own_thread`: the consumers live in another one.
    """

    __slots__ = (
        "_began",
        "_ends",
        "_lag",
        "_lent_to",
        "_loan",
        "_ready",
        "_ready_there",
        "_requests",
        "_resting",
        "_slice_seconds",
        "_turned",
        "_waiting",
        "deadline",
    )

    def __init__(
        self,
        slice_seconds: float,
        requests: RequestGauge | None = None,
        lag: LoopLag | None = None,
        *,
        routes: asyncio.AbstractEventLoop | None = None,
        own_thread: bool = False,
    ) -> None:
        self._slice_seconds = slice_seconds
        self._requests = requests or RequestGauge()
        self._lag = lag or LoopLag()
        self._lent_to = routes if own_thread else None
        self._loan: Loan | None = None
        self._ready = readiness(routes) if routes is not None else None
        self._ready_there = readiness(routes) if routes is not None else None  # for the use in that loop's own thread
        self.deadline = 0.0  # on the monotonic clock; whoever is past it asks `turned`, or calls `give_way`
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._resting = False  # or letting in who waits
        self._began = self._ends = 0.0  # the slice, on the monotonic clock
        self._turned = True  # the loop has turned since then

    def turned(self, since: float, now: float) -> bool:
        """At the deadline: whether nobody needs to give way.

        So it is within a slice, as long as nothing waits at the sockets; and at its end where the loop has turned by
        itself meanwhile, as the handler waited for something: then a new slice begins, unless requests are being
        answered, or some rest already. `since`: when the work began that ends `now`.
        """
        if now < self._ends:
            return self._look(now)
        if self._requests.quiet(now):
            if not (self._turned or since < self._began):
                return False
        elif not self._turned or self._resting or self._requests.in_flight:
            return False
        self._begin(now)
        self._watch_turn(asyncio.get_running_loop())
        return True

    def _look(self, now: float) -> bool:
        if self._ready is not None and self._ready():
            if self._lent_to is None:
                return False
            self._lend(self._lent_to)
            now = monotonic()
        self._look_again(now)
        return True

    def _look_again(self, now: float) -> None:
        looks = self._ready is not None and not self._requests.quiet(now)
        self.deadline = min(self._ends, now + LOOK_SECONDS) if looks else self._ends

    def _begin(self, now: float) -> None:
        self._began, self._ends = now, now + self.slice(now)
        self._look_again(now)

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
        if self._lent_to is None:
            Turns(loop, self._requests, self._ready_there, self._new_slice).begin()
        else:
            loop.call_soon(self._new_slice)

    def _new_slice(self) -> None:
        if self._lent_to is not None and (self._requests.in_flight or (self._ready is not None and self._ready())):
            self._lend(self._lent_to)
        loop = asyncio.get_running_loop()
        self._begin(monotonic())
        self._let_in(loop)
        self._watch_turn(loop)  # after those who were let in: their turn is where the slice begins

    def _lend(self, routes: asyncio.AbstractEventLoop) -> None:
        loan = self._loan
        if loan is None or not loan.out:
            try:
                loan = self._loan = Loan(routes, self._requests, self._ready_there)
            except RuntimeError:  # it is closed
                return
        loan.wait()

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
        noticed = self._ready is not None  # who comes is
        share = SHARE_BESIDE_REQUESTS if busy else QUIET_SHARE if quiet or noticed else 1.0
        seconds = self._slice_seconds * share
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

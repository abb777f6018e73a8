"""Consumers share the event loop with HTTP routes: they work in slices of time, and give the loop back after each."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic

from .load import LoopLag, RequestGauge
from .turns import Loan, Turns, readiness

SHARE_BESIDE_REQUESTS = 0.5
"""Part of the slice that consumers use while requests are being answered."""
QUIET_SHARE = 2.5
"""How many times longer the slice is while the routes are quiet, or if a request would end it early.

Handlers that await something do not rest at all: while they wait, the loop turns anyway.
"""
INTAKE_SHARE = 0.5
"""Fetching gets this part of a turn of the loop. More is not needed: handling a message costs more than fetching it."""
LATE_SECONDS = 0.02
"""If the loop lags more than this, slices get shorter and intakes smaller, in proportion to the lag."""
SHORTEST_SLICE = 0.000_2
"""Seconds; no lag makes a slice shorter."""
SMALLEST_INTAKE = 10
"""Messages; no lag makes an intake smaller."""
TOGETHER = 10
"""How many waiting workers go on in one turn of the loop when a slice begins."""
LOOK_SECONDS = 0.000_4
"""How often consumers look whether anything waits at the sockets of the routes' loop. A look costs 2 µs."""


class LoopShare:
    """The consumers' share of an event loop: a slice of time for all of them together, then others get a turn.

    A slice ends early when something waits at the sockets of the routes' loop. It is shorter while HTTP requests are
    being answered, and when the routes' loop lags. While the routes are quiet, consumers do not look at the sockets:
    all that would wait there are answers to the consumers themselves.

    How to use it: work until `deadline`. Then ask `turned`; if that is False, `await give_way()`.

    `routes`: the loop of the HTTP routes. `own_thread`: the consumers run in another loop, in a thread of its own.
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
        self._ready_there = readiness(routes) if routes is not None else None  # for use in that loop's own thread
        self.deadline = 0.0  # on the monotonic clock; after it, ask `turned`, or `give_way`
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._resting = False  # between `give_way` and the last of `_waiting` to go on
        self._began = self._ends = 0.0  # the slice, on the monotonic clock
        self._turned = True  # whether the loop has turned since the slice began

    def turned(self, since: float, now: float) -> bool:
        """Asked after the deadline: True if the caller can go on at once, False if it must `give_way`.

        Within a slice: True if nothing waits at the sockets. After the slice: True if the loop has turned while the
        handler awaited something; unless the routes are quiet, it must also be true that no request is being answered
        and that nobody else has given way. A new slice then begins.

        `since` is when the caller's last piece of work began, `now` when it ended; both are on the monotonic clock.
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
        """Returns in the next slice, after everything else in the loop has had some turns.

        All consumers of the loop rest together: a thousand workers that yield one by one would keep the loop busy.
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
        self._watch_turn(loop)  # after those that were let in: the slice begins with their turn

    def _lend(self, routes: asyncio.AbstractEventLoop) -> None:
        loan = self._loan
        if loan is None or not loan.out:
            try:
                loan = self._loan = Loan(routes, self._requests, self._ready_there)
            except RuntimeError:  # the loop is closed
                return
        loan.wait()

    def _let_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Lets those that wait go on, first come, first served, as long as the slice lasts."""
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
        """The length of a slice that begins `now`, in seconds."""
        quiet, busy = self._requests.quiet(now), self._requests.in_flight
        noticed = self._ready is not None  # a request would end the slice
        share = SHARE_BESIDE_REQUESTS if busy else QUIET_SHARE if quiet or noticed else 1.0
        seconds = self._slice_seconds * share
        return max(min(SHORTEST_SLICE, seconds), seconds * self._eased())

    def intake(self, most: int) -> int:
        """How many messages to fetch at once, if there is room for `most`."""
        return max(min(SMALLEST_INTAKE, most), int(most * self._eased()))

    def intake_seconds(self, now: float, *, turn: float) -> float:
        """For how many seconds one fetch may follow another before everything else in the loop gets a turn.

        `turn`: how many seconds the last turn of the loop took. While the routes are quiet, turns can be long, and many
        workers may be out of messages after one.
        """
        return turn * INTAKE_SHARE if self._requests.quiet(now) else 0.0

    def _eased(self) -> float:
        """1 if the loop does not lag, less if it does."""
        late = self._lag.seconds
        return 1.0 if late <= LATE_SECONDS else LATE_SECONDS / late

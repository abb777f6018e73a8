"""Lets an event loop turn a few times, so that requests get on; also that of another thread, by lending it the GIL.

A thread that computes in numpy or the like lets go of the GIL all the time: `Tries` tells that nothing need be lent.

A turn is one pass of the loop: it looks at its sockets, and calls everything that is due.
"""

from __future__ import annotations

import asyncio
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep

from .load import RequestGauge

TURNS = 3
"""How many turns of the event loop are given away at once.

Measured: one lets a request in, the next ones let it be answered.
"""
TURNS_FOR_REQUESTS = 5
"""At most this many more, while requests are being answered or something waits at the sockets."""
LENT_SECONDS = 0.005
"""How long a consumers' thread waits, at most, until the routes' loop has had its turns."""
TRY_SECONDS = 0.2
"""How often the routes' thread tries how long it waits for the GIL, while there are requests."""
LET_GO_SECONDS = 0.000_05
"""For so long it lets go of the GIL then. By the clock of the system it becomes some 0.1 ms."""
PROMPT_SECONDS = 0.000_3
"""Back within this time, it did not wait: beside a thread that keeps the GIL it takes `isolation.SWITCH_SECONDS` more.

Measured: nine times in ten 0.19 ms or less beside numpy, mostly 0.36 to 0.67 ms beside plain Python.
"""
TRIES = 16
"""So many of the last tries count."""
PROMPT_TRIES = 14
"""If so many of them were prompt, nothing is lent."""

Ready = Callable[[], bool]


def readiness(loop: asyncio.AbstractEventLoop) -> Ready | None:
    """A function that tells whether something waits at the sockets of `loop`.

    That is a request, an answer, or a call from another thread. The file descriptor of the loop's selector is readable
    when one of those that it watches is ready (epoll(7), kqueue(2)). None for loops without such a selector, like
    uvloop's: there, slices end by time alone.
    """
    selector = getattr(loop, "_selector", None)
    try:
        watched = selector.fileno()  # type: ignore[union-attr]
        poll = select.poll()
        poll.register(watched, select.POLLIN)
    except (AttributeError, OSError, ValueError):
        return None
    look = poll.poll
    return lambda: bool(look(0))


class Turns:
    """Lets an event loop turn a few times, then calls `then`. More often while requests are being answered.

    What was read from a socket in one turn is worked on in the next, so there is one more while anything is ready.
    """

    __slots__ = ("_loop", "_ready", "_requests", "_then", "made")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        requests: RequestGauge,
        ready: Ready | None,
        then: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._requests = requests
        self._ready = ready
        self._then = then
        self.made = 0

    def begin(self) -> None:
        """Starts the turns. Call it in the loop's own thread."""
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.made += 1
        if self.made < TURNS or (self.made < TURNS + TURNS_FOR_REQUESTS and self._asked()):
            self._loop.call_soon(self._turn)
        else:
            self._then()

    def _asked(self) -> bool:
        requests = self._requests
        if requests.in_flight or self._ready is None:
            return bool(requests.in_flight)
        return not requests.quiet(monotonic()) and self._ready()


class Loan:
    """Lends the GIL to the routes' thread until the loop there has had its turns.

    The constructor raises `RuntimeError` if that loop is closed.
    """

    __slots__ = ("_back", "_requests", "_seen", "_turns")

    def __init__(self, routes: asyncio.AbstractEventLoop, requests: RequestGauge, ready: Ready | None) -> None:
        self._requests = requests
        self._back = threading.Lock()  # held until the GIL is given back
        self._back.acquire()
        self._turns = Turns(routes, requests, ready, self._back.release)
        self._seen: object = None
        routes.call_soon_threadsafe(self._turns.begin)

    @property
    def out(self) -> bool:
        """Whether the loop has not had all of its turns yet."""
        return self._back.locked()

    def wait(self) -> None:
        """Blocks this thread until the turns are over, for at most `LENT_SECONDS`. It does not hold the GIL meanwhile.

        Returns at once if the loop made no progress since the last wait: a route that blocks its loop must not hold up
        consumers, too. A loop that makes progress with many requests at once gets more time.
        """
        if self._progress() == self._seen:
            return
        if self._back.acquire(timeout=LENT_SECONDS):
            self._back.release()
        self._seen = self._progress()

    def _progress(self) -> object:
        return self._turns.made, self._requests.in_flight, self._requests.ended_at


class Tries:
    """Whether the routes' thread gets the GIL at once, also while consumers compute in another thread.

    It does if they let go of it all the time, as numpy, torch, zlib and the like do: `unaided` is True then. Only the
    routes' thread changes that.
    """

    __slots__ = ("_out", "_prompt", "_routes", "_tried_at", "unaided")

    def __init__(self, routes: asyncio.AbstractEventLoop) -> None:
        self._routes = routes
        self._tried_at = float("-inf")  # on the monotonic clock
        self._out = False  # between the call of the loop and its try: a loop that stands still is called once
        self._prompt: deque[bool] = deque(maxlen=TRIES)
        self.unaided = False

    def begin(self, now: float) -> None:
        """Called in the consumers' thread when they begin to work. `now` is on the monotonic clock."""
        if self._out or now - self._tried_at < TRY_SECONDS:
            return
        self._tried_at, self._out = now, True
        with suppress(RuntimeError):  # the loop is closed: nobody is held up
            self._routes.call_soon_threadsafe(self._try)

    def _try(self) -> None:
        began = monotonic()
        sleep(LET_GO_SECONDS)  # consumers who wait for the GIL take it now
        self._prompt.append(monotonic() - began < PROMPT_SECONDS)
        self.unaided = sum(self._prompt) >= PROMPT_TRIES
        self._out = False

"""Lets an event loop turn a few times, so that requests get on; also that of another thread, by lending it the GIL.

A turn is one pass of the loop: it looks at its sockets, and calls everything that is due.
"""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Callable
from time import monotonic

from .load import RequestGauge

TURNS = 3
"""How many turns of the event loop are given away at once.

Measured: one lets a request in, the next ones let it be answered.
"""
TURNS_FOR_REQUESTS = 5
"""At most this many more, while requests are being answered or something waits at the sockets."""
LENT_SECONDS = 0.005
"""How long a consumers' thread waits, at most, until the routes' loop has had its turns."""

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

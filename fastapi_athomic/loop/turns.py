"""Turns of an event loop, given to whoever else lives in it."""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Callable
from time import monotonic

from .requests import RequestGauge

TURNS = 3
"""Turns of the event loop given away at once.

One lets a request in, the next ones let it be answered (measured, PEERS F5).
"""
TURNS_FOR_REQUESTS = 5
"""More turns at most, while requests are being answered."""
LENT_SECONDS = 0.005
"""So long a thread of its own waits at most until the routes' loop has had its turns."""

Ready = Callable[[], bool]


def readiness(loop: asyncio.AbstractEventLoop) -> Ready | None:
    """Tells whether something waits at the sockets of `loop`: a request, an answer, a call from another thread.

    The descriptor of its selector is ready itself when one of those that it watches is (epoll(7), kqueue(2)). None for
    loops without such a selector, as uvloop's: slices end by time alone there.
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
    """Lets an event loop turn a few times before something goes on; more often while requests are being answered.

    What is read from a socket in the last turn is worked on in one more.
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
        """To be called in the loop."""
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
    """The GIL, lent to the thread of the routes until their loop has had its turns.

    Raises `RuntimeError` if that loop is closed.
    """

    __slots__ = ("_back", "_requests", "_seen", "_turns")

    def __init__(self, routes: asyncio.AbstractEventLoop, requests: RequestGauge, ready: Ready | None) -> None:
        self._requests = requests
        self._back = threading.Lock()  # held until it has come back
        self._back.acquire()
        self._turns = Turns(routes, requests, ready, self._back.release)
        self._seen: object = None
        routes.call_soon_threadsafe(self._turns.begin)

    @property
    def out(self) -> bool:
        return self._back.locked()

    def wait(self) -> None:
        """Until it is back, `LENT_SECONDS` at most. The thread stands still, so that nobody wants the GIL back.

        Not again if nothing has become of it meanwhile: a route that blocks its loop does not hold up consumers, too.
        A loop with many requests at once gets more time.
        """
        if self._progress() == self._seen:
            return
        if self._back.acquire(timeout=LENT_SECONDS):
            self._back.release()
        self._seen = self._progress()

    def _progress(self) -> object:
        return self._turns.made, self._requests.in_flight, self._requests.ended_at

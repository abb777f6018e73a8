"""Where do an app's consumers run: in the event loop of its routes, or in a thread with a loop of their own?

What consumers own (connections, tasks, partitions) belongs to that loop. `run` does work there for a caller in another
loop, with a copy of the caller's context variables, and so of its trace and execution context; `call` does the same for
a thread that has no event loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from ..exceptions import TransportError

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.000_5
"""The longest time that the routes' thread waits for the GIL when it has something to do (Python's default: 5 ms)."""

T = TypeVar("T")
Work = Callable[[], Awaitable[T]]


class Home(Protocol):
    """The event loop that consumers run in."""

    async def open(self) -> None:
        """Returns when the loop runs. Called once, before all else."""

    async def run(self, work: Work[T], timeout: float | None = None) -> T:
        """Does the work in that loop; returns its result or raises its error. Cancelling the call cancels the work.

        `timeout`: most seconds to wait for another loop. Work in the caller's own loop keeps time itself.

        Raises:
            TransportError: the loop does not answer, did not do it in time, or ended before the work was done.
        """
        ...

    def call(self, work: Work[T], timeout: float) -> T:
        """Like `run`, for a thread without a running event loop, which waits for up to `timeout` seconds.

        Raises:
            TransportError: the loop did not do it in time, or ended before the work was done.
        """
        ...

    @property
    def ended(self) -> bool:
        """The loop has ended: nothing can be done there any more. Never of the loop of the routes."""
        ...

    async def close(self, timeout: float) -> None:
        """Ends the loop within `timeout` seconds, unless it is that of the routes. Never raises.

        Whoever still waits for work in another loop or thread gets a `TransportError`.
        """


class _Home:
    """Brings work from other loops and threads to the loop that `_live_in` has named.

    `patience`: seconds after which a loop that has not begun some work counts as blocked.
    """

    name = ""  # of what has an end, in errors

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()  # guards `_closed` and `_waiting`
        self._closed = False
        self._waiting: set[Future[Any]] = set()  # work for other loops and threads

    @property
    def ended(self) -> bool:
        return False

    def _live_in(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def run(self, work: Work[T], timeout: float | None = None) -> T:
        loop = self._loop
        if loop is None or loop is asyncio.get_running_loop():
            return await work()
        call = _Call(work)
        future = asyncio.wrap_future(self._submit(call, loop))
        try:
            patience = self._patience if timeout is None else min(self._patience, timeout)
            await asyncio.wait([future], timeout=patience)
            if not call.begun and not future.done():
                raise TransportError(self._blocked(patience))
            _, late = await asyncio.wait([future], timeout=None if timeout is None else timeout - patience)
            if late:
                raise TransportError(f"it took longer than {timeout:g} s")
            if future.cancelled():  # not by our caller, so the loop has ended
                raise TransportError(self._ended_early())
            return future.result()
        finally:
            future.cancel()

    def call(self, work: Work[T], timeout: float) -> T:
        loop = self._loop
        if loop is None:
            raise TransportError(f"{self.name} has not started")
        call = _Call(work)
        future = self._submit(call, loop)
        try:
            wait([future], timeout)
            if not future.done():
                raise TransportError(f"it took longer than {timeout:g} s" if call.begun else self._blocked(timeout))
            if future.cancelled():
                raise TransportError(self._ended_early())
            return future.result()
        finally:
            future.cancel()

    def _submit(self, call: _Call[T], loop: asyncio.AbstractEventLoop) -> Future[T]:
        """The work gets a copy of the caller's context variables."""
        running = call.run()
        with self._lock:
            try:
                if self._closed:
                    raise RuntimeError
                future = asyncio.run_coroutine_threadsafe(running, loop)
            except RuntimeError:  # the loop is closed, or will be
                running.close()
                raise TransportError(f"{self.name} has ended") from None
            self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def _hang_up(self) -> None:
        """Tells all who wait that the end came first. Without this a thread would wait for a loop that has stopped."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()

    def _blocked(self, seconds: float) -> str:
        return f"{self.name} has not answered for {seconds:g} s: does a handler block it?"

    def _ended_early(self) -> str:
        return f"{self.name} ended before the work was done"


class SameLoop(_Home):
    """Consumers run in the loop of the routes. See `Home`."""

    name = "the app's event loop"

    async def open(self) -> None:
        self._live_in(asyncio.get_running_loop())

    async def close(self, timeout: float) -> None:
        self._hang_up()


class LoopThread(_Home):
    """A thread with an event loop of the same kind as the app's (uvloop if the app uses it). Cannot be opened again.

    See `Home`.
    """

    name = "the consumers' thread"

    def __init__(self, patience: float) -> None:
        super().__init__(patience)
        self._thread: threading.Thread | None = None
        self._leave: asyncio.Event | None = None
        self._opened: Future[None] = Future()
        self._ended: Future[None] = Future()

    @property
    def ended(self) -> bool:
        return self._ended.done()

    async def open(self) -> None:
        new_loop = type(asyncio.get_running_loop())
        arguments = (new_loop,)
        self._thread = threading.Thread(target=self._live, args=arguments, name="athomic-consumers", daemon=True)
        self._thread.start()
        await asyncio.wrap_future(self._opened)

    def _live(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        try:
            with _switching_often(), asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(self._until_left())
        except BaseException as error:
            self._fail(error)
        finally:
            self._ended.set_result(None)

    async def _until_left(self) -> None:
        self._leave = asyncio.Event()
        self._live_in(asyncio.get_running_loop())
        self._opened.set_result(None)
        await self._leave.wait()

    def _fail(self, error: BaseException) -> None:
        if self._opened.done():
            logger.error("the consumers' thread died of %s: no message is handled any more", type(error).__name__)
        else:
            self._opened.set_exception(error)

    async def close(self, timeout: float) -> None:
        if self._loop is None or self._leave is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._leave.set)
        except RuntimeError:
            return
        try:
            _, late = await asyncio.wait([asyncio.wrap_future(self._ended)], timeout=timeout)
        finally:
            self._hang_up()
        if late:
            logger.error(
                "the consumers' thread did not end within %g s and is abandoned: a handler may be blocking it", timeout
            )
        elif self._thread is not None:
            self._thread.join()


@contextmanager
def _switching_often() -> Iterator[None]:
    """Threads wait for the GIL less long than by Python's default."""
    before = sys.getswitchinterval()
    if before <= SWITCH_SECONDS:  # set by the user, or by another app that will reset it
        yield
        return
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class _Call(Generic[T]):
    """Work on its way to the loop. `begun` tells whether the loop has got to it."""

    def __init__(self, work: Work[T]) -> None:
        self._work = work
        self.begun = False

    async def run(self) -> T:
        self.begun = True
        return await self._work()

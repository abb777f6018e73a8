"""Where do an app's consumers run: in the event loop of its routes, or in a thread with a loop of their own?

What consumers own (connections, tasks, partitions) belongs to that loop. `run` does work there for a caller in another
loop, with a copy of the caller's context variables, and so of its trace and execution context.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

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

    async def run(self, work: Work[T]) -> T:
        """Does the work in that loop; returns its result or raises its error. Cancelling the call cancels the work.

        Raises:
            TransportError: the loop does not answer, or ended before the work was done.
        """
        ...

    async def close(self, timeout: float) -> None:
        """Ends the loop within `timeout` seconds, unless it is that of the routes. Never raises."""


class SameLoop:
    """Consumers run in the loop of the routes."""

    async def open(self) -> None:
        return

    async def run(self, work: Work[T]) -> T:
        return await work()

    async def close(self, timeout: float) -> None:
        return


class LoopThread:
    """A thread with an event loop of the same kind as the app's (uvloop if the app uses it). Cannot be opened again.

    `patience`: seconds after which a loop that has not begun some work counts as blocked.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._leave: asyncio.Event | None = None
        self._opened: Future[None] = Future()
        self._ended: Future[None] = Future()

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
        self._loop, self._leave = asyncio.get_running_loop(), asyncio.Event()
        self._opened.set_result(None)
        await self._leave.wait()

    def _fail(self, error: BaseException) -> None:
        if self._opened.done():
            logger.error("the consumers' thread died of %s: no message is handled any more", type(error).__name__)
        else:
            self._opened.set_exception(error)

    async def run(self, work: Work[T]) -> T:
        loop = self._loop
        if loop is None or loop is asyncio.get_running_loop():
            return await work()
        call = _Call(work)
        running = call.run()
        try:
            future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(running, loop))
        except RuntimeError:  # the loop is closed
            running.close()
            raise TransportError("the consumers' thread has ended") from None
        try:
            await asyncio.wait([future], timeout=self._patience)
            if not call.begun and not future.done():
                raise TransportError(
                    f"the consumers' thread has not answered for {self._patience:g} s: does a handler block it?"
                )
            await asyncio.wait([future])
            if future.cancelled():  # not by our caller, so the loop has ended
                raise TransportError("the consumers' thread ended before the work was done")
            return future.result()
        finally:
            future.cancel()

    async def close(self, timeout: float) -> None:
        if self._loop is None or self._leave is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._leave.set)
        except RuntimeError:
            return
        _, late = await asyncio.wait([asyncio.wrap_future(self._ended)], timeout=timeout)
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

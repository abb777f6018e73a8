"""Threads for sync handlers and dependencies.

A thread cannot be cut off, so a handler that hangs would hold up every deploy; these are daemon threads, which end with
the process. anyio's worker threads, which FastAPI uses for its routes, are none, nor are those of
`concurrent.futures`: with anyio 4.16 on Python 3.11 a process whose function slept for 6 s ended after those 6 s,
though its task had been abandoned and `asyncio.run` had returned; with `ThreadPoolExecutor`, after
`shutdown(wait=False)`, the same.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from ..exceptions import ThreadStartError

logger = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
"""A thread without work for so long ends."""

J = TypeVar("J")


class Seat:
    """The place of one thread."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        self.woken = threading.Lock()  # released when the thread, which is idle, shall look for a job
        self.woken.acquire()


class Roster(Generic[J]):
    """Which thread does which job. Decides only: threads and jobs are whatever the caller makes of them.

    All that is known of jobs and threads changes together, under one lock, and after each change: where jobs wait and
    threads are idle, one is on its way to the jobs, and wakes the next when it takes one (to wake them all would only
    make them wait for the GIL); there are as many idle and on their way as jobs wait, unless all of `size` are busy or
    the system gives no more; there is one at least.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._waiting: deque[J] = deque()
        self._coming: set[Seat] = set()  # of threads that were started or woken, and have not looked for a job yet
        self._idle: dict[Seat, None] = {}  # the last to become idle is the first to work, so that others may end
        self._seats = 0  # also of those that are coming

    def submit(self, job: J) -> Seat | None:
        """A seat: start a thread for it. None: there are threads enough."""
        with self._lock:
            self._waiting.append(job)
            if len(self._waiting) > len(self._idle) + len(self._coming) and self._seats < self._size:
                self._seats += 1
                seat = Seat()
                self._coming.add(seat)
                return seat
            self._wake_one()
            return None

    def _wake_one(self) -> None:
        if self._waiting and self._idle and not self._coming:
            seat, _ = self._idle.popitem()
            self._coming.add(seat)
            seat.woken.release()

    def start_failed(self, seat: Seat) -> list[J]:
        """The thread of this seat could not be started. Gives the jobs that nobody is there to do."""
        with self._lock:
            self._coming.discard(seat)
            self._seats -= 1
            self._wake_one()
            if self._seats:
                return []
            left = list(self._waiting)
            self._waiting.clear()
            return left

    def next_job(self, seat: Seat) -> J | None:
        """For a thread that has nothing to do. None: it is idle now, until it is woken."""
        with self._lock:
            self._coming.discard(seat)
            if not self._waiting:
                self._idle[seat] = None
                return None
            job = self._waiting.popleft()
            self._wake_one()
            return job

    def may_end(self, seat: Seat) -> bool:
        """Whether the thread, idle for long, ends. False: it was woken just now, or will be soon."""
        with self._lock:
            if self._waiting or seat not in self._idle:
                return False
            del self._idle[seat]
            self._seats -= 1
            return True

    def take_back(self, job: J) -> bool:
        """Whether no thread had taken the job; then none will."""
        with self._lock:
            try:
                self._waiting.remove(job)
            except ValueError:
                return False
            return True


class _Job:
    __slots__ = ("context", "function", "future", "loop")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.context: Context = copy_context()
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def do(self) -> None:
        """Does the job, unless nobody can be waiting for it any more."""
        if self.loop.is_closed():
            return
        result: Any = None
        error: BaseException | None = None
        try:
            result = self.context.run(self.function)
        except BaseException as caught:
            error = caught
        try:
            self.resolve(result, error)
        finally:
            del self, error  # its traceback holds this frame, and with it the message

    def resolve(self, result: Any, error: BaseException | None) -> None:
        try:
            self.loop.call_soon_threadsafe(_resolve, self.future, result, error)
        except RuntimeError:  # the loop was closed: nobody waits any more
            return


class HandlerThreads:
    """Up to `size` daemon threads, started when needed, which end when they were idle for `IDLE_SECONDS`."""

    def __init__(self, size: int, name: str = "athomic") -> None:
        self._name = name
        self._roster: Roster[_Job] = Roster(size)
        self._complained = False  # that no further thread could be started

    async def run(self, function: Callable[[], Any]) -> Any:
        """Runs the function in a thread, with a copy of the current context.

        A cancellation is passed on only when the function has returned: as long as it runs, it counts as running, and
        nothing takes its place. One that has not begun, because all threads are busy, never does.

        Raises:
            ThreadStartError: there is no thread, and none could be started.
        """
        job = _Job(function)
        self._submit(job)
        future = job.future
        cancelled: asyncio.CancelledError | None = None
        try:
            while not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError as error:
                    if self._roster.take_back(job):
                        raise
                    cancelled = error
            if cancelled is not None:
                future.exception()  # seen: nobody will ask for it
                raise cancelled
            return future.result()
        finally:
            del job, future, cancelled  # an error's traceback holds this frame

    def _submit(self, job: _Job) -> None:
        seat = self._roster.submit(job)
        if seat is None:
            return
        thread = threading.Thread(target=self._work, args=(seat,), name=f"{self._name}-thread", daemon=True)
        try:
            thread.start()
            self._complained = False
        except Exception as error:  # RuntimeError: the system gives no more threads, or Python is about to end
            self._do_without(seat, error)

    def _do_without(self, seat: Seat, error: Exception) -> None:
        """The jobs wait for the threads that are there. Where there is none, they fail."""
        if not self._complained:
            logger.warning(
                "%s: no further thread could be started (%s), its jobs wait for each other", self._name, error
            )
        self._complained = True
        for job in self._roster.start_failed(seat):
            failure = ThreadStartError(f"{self._name}: no thread could be started ({error})")
            failure.__cause__ = error
            job.resolve(None, failure)

    def _work(self, seat: Seat) -> None:
        while True:
            job = self._roster.next_job(seat)
            if job is not None:
                job.do()
                del job  # the thread may wait for long, and would keep the message
            elif not self._woken(seat):
                return

    def _woken(self, seat: Seat) -> bool:
        """Waits for something to do. False: there was nothing for so long that the thread ends."""
        while not seat.woken.acquire(timeout=IDLE_SECONDS):
            if self._roster.may_end(seat):
                return False
        return True


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if isinstance(error, StopIteration):  # asyncio takes none
        error = RuntimeError("a function raised StopIteration")
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)

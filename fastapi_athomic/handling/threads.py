"""Threads for sync handlers and dependencies.

A thread cannot be cancelled, so a handler that hangs would delay every deploy. These are daemon threads: the process
ends without waiting for them. Those of anyio, which FastAPI uses for its routes, and of `concurrent.futures` are not.
Measured with anyio 4.16 on Python 3.11: a process whose function slept for 6 s ended only after those 6 s, although its
task had been abandoned and `asyncio.run` had returned. The same with `ThreadPoolExecutor`, after
`shutdown(wait=False)`.
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
"""A thread that has had no work for this long ends."""

J = TypeVar("J")


class Seat:
    """The place of one thread in a roster."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        self.woken = threading.Lock()  # released to wake the thread: it looks for a job then
        self.woken.acquire()


class Roster(Generic[J]):
    """Decides which thread does which job. The caller starts the threads and does the jobs.

    One lock guards everything it knows of jobs and threads. After each change:
    - If jobs wait and threads are idle, one thread is on its way to the jobs. It wakes the next one when it takes one:
      to wake all at once would only make them wait for the GIL.
    - At least as many threads are idle or on their way as jobs wait, unless all of `size` are busy, or the system gives
      no more.
    - If jobs wait, there is at least one thread.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._waiting: deque[J] = deque()
        self._coming: set[Seat] = set()  # of threads on their way: started or woken, and without a job so far
        self._idle: dict[Seat, None] = {}  # the last to become idle works first, so that the others can end
        self._seats = 0  # how many threads there are, those on their way included

    def resize(self, size: int) -> Seat | None:
        """How many threads there may be from now on; those there are too many end when they are idle.

        Returns a seat as `submit` does.
        """
        with self._lock:
            self._size = size
            short = len(self._waiting) > len(self._idle) + len(self._coming) and self._seats < self._size
            return self._new_seat() if short else None

    def _new_seat(self) -> Seat:
        self._seats += 1
        seat = Seat()
        self._coming.add(seat)
        return seat

    def submit(self, job: J) -> Seat | None:
        """Takes in a job. Returns a seat if the caller must start a thread for it; None if there are threads enough."""
        with self._lock:
            self._waiting.append(job)
            if len(self._waiting) > len(self._idle) + len(self._coming) and self._seats < self._size:
                return self._new_seat()
            self._wake_one()
            return None

    def _wake_one(self) -> None:
        if self._waiting and self._idle and not self._coming:
            seat, _ = self._idle.popitem()
            self._coming.add(seat)
            seat.woken.release()

    def start_failed(self, seat: Seat) -> list[J]:
        """The thread of this seat could not be started. Returns the jobs that no thread is left to do."""
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
        """Called by a thread that is free. None: the thread is idle now, and must wait until it is woken."""
        with self._lock:
            self._coming.discard(seat)
            if not self._waiting:
                self._idle[seat] = None
                return None
            job = self._waiting.popleft()
            self._wake_one()
            return job

    def may_end(self, seat: Seat) -> bool:
        """Whether a thread that has been idle for long can end. False: it was just woken, or will be soon."""
        with self._lock:
            if self._waiting or seat not in self._idle:
                return False
            del self._idle[seat]
            self._seats -= 1
            return True

    def take_back(self, job: J) -> bool:
        """Withdraws a job. False: a thread has taken it already."""
        with self._lock:
            try:
                self._waiting.remove(job)
            except ValueError:
                return False
            return True


class _Job:
    """A function to be called in a thread, and the task that waits for its result.

    Only the event loop reads and changes what comes of it.
    """

    __slots__ = ("_error", "_result", "_waiter", "context", "done", "function", "loop")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.context: Context = copy_context()
        self.loop = asyncio.get_running_loop()
        self.done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Returns when the job is done. Can be cancelled, and called again: the job goes on.

        `asyncio.wait` would do the same, with two futures, and a turn of the loop more for each call.
        """
        if not self.done:
            self._waiter = self.loop.create_future()
            await self._waiter

    def result(self) -> Any:
        """What the function has returned. Raises what it has raised."""
        error, self._error = self._error, None  # its traceback would hold this object
        if error is not None:
            try:
                raise error
            finally:
                del error
        return self._result

    def do(self) -> None:
        """Does the job in the current thread, unless the event loop that waits for it is closed."""
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
            del self, error  # the error's traceback holds this frame, and with it the message

    def resolve(self, result: Any, error: BaseException | None) -> None:
        """Hands the result to the event loop. Can be called from any thread."""
        try:
            self.loop.call_soon_threadsafe(self._conclude, result, error)
        except RuntimeError:  # the loop was closed: nobody waits any more
            return

    def _conclude(self, result: Any, error: BaseException | None) -> None:
        if isinstance(error, StopIteration):  # a coroutine cannot raise it
            error = RuntimeError("a function raised StopIteration")
        self.done, self._result, self._error = True, result, error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class HandlerThreads:
    """Up to `size` daemon threads, started when needed, that end after `IDLE_SECONDS` without work."""

    def __init__(self, size: int, name: str = "athomic") -> None:
        self._name = name
        self._roster: Roster[_Job] = Roster(size)
        self._complained = False  # about a thread that could not be started

    async def run(self, function: Callable[[], Any], *, withdraw: bool = True) -> Any:
        """Runs the function in a thread, with a copy of the current context variables.

        If this call is cancelled while the function runs, it ends only when the function has returned, so that nothing
        else takes its place. A function that has not begun, because all threads are busy, is not run at all, unless
        `withdraw` is False: then it is waited for.

        Raises:
            ThreadStartError: no thread is running, and none could be started.
        """
        job = _Job(function)
        self._submit(job)
        cancelled: asyncio.CancelledError | None = None
        try:
            while not job.done:
                try:
                    await job.wait()
                except asyncio.CancelledError as error:
                    if withdraw and self._roster.take_back(job):
                        raise
                    cancelled = error
            if cancelled is not None:
                raise cancelled
            return job.result()
        finally:
            del job, cancelled  # the traceback of an error holds this frame

    def resize(self, size: int) -> None:
        """How many threads there may be from now on."""
        while (seat := self._roster.resize(size)) is not None:
            self._start(seat)

    def _submit(self, job: _Job) -> None:
        seat = self._roster.submit(job)
        if seat is not None:
            self._start(seat)

    def _start(self, seat: Seat) -> None:
        thread = threading.Thread(target=self._work, args=(seat,), name=f"{self._name}-thread", daemon=True)
        try:
            thread.start()
            self._complained = False
        except Exception as error:  # RuntimeError: the system gives no more threads, or Python is shutting down
            self._do_without(seat, error)

    def _do_without(self, seat: Seat, error: Exception) -> None:
        """A thread could not be started. The jobs wait for those that run; if there are none, the jobs fail."""
        if not self._complained:
            logger.warning(
                "%s: no further thread could be started (%s): its calls wait for the threads it has", self._name, error
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
                del job  # or the thread would keep the message while it is idle
            elif not self._woken(seat):
                return

    def _woken(self, seat: Seat) -> bool:
        """Waits until the thread is woken. False: it has been idle for too long, and ends."""
        while not seat.woken.acquire(timeout=IDLE_SECONDS):
            if self._roster.may_end(seat):
                return False
        return True

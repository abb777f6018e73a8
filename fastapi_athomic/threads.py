"""Threads for sync handlers and dependencies.

anyio's worker threads, which FastAPI uses for its routes, keep a process from ending while one of them runs. A thread
cannot be cut off, so a handler that hangs would hold up every deploy: these are daemon threads, which end with the
process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

IDLE_SECONDS = 30.0
"""A thread without work for so long ends."""


class _Job(NamedTuple):
    function: Callable[[], Any]
    context: Context
    future: asyncio.Future[Any]


class HandlerThreads:
    """Up to `size` daemon threads, started when needed."""

    def __init__(self, size: int, name: str = "athomic") -> None:
        self._size = size
        self._name = name
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._idle = threading.Semaphore(0)  # threads that wait and that no job counts on yet
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()

    async def run(self, function: Callable[[], Any]) -> Any:
        """Runs the function in a thread, with a copy of the current context.

        A cancellation is passed on only when the function has returned: as long as it runs, it counts as running, and
        nothing takes its place.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(function, copy_context(), future))
        self._have_a_thread()
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            future.exception()  # seen: nobody will ask for it
            raise cancelled
        return future.result()

    def _have_a_thread(self) -> None:
        if self._idle.acquire(blocking=False):
            return
        with self._lock:
            if len(self._threads) < self._size:
                thread = threading.Thread(target=self._work, name=f"{self._name}-thread", daemon=True)
                self._threads.add(thread)
                thread.start()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                if self._end():
                    return
                continue
            _finish(job)
            del job  # the thread may wait for long, and would keep the message
            self._idle.release()

    def _end(self) -> bool:
        """Whether this thread may end: a job may count on it already."""
        with self._lock:
            if not self._idle.acquire(blocking=False):
                return False
            self._threads.discard(threading.current_thread())
            return True


def _finish(job: _Job) -> None:
    result: Any = None
    error: BaseException | None = None
    try:
        result = job.context.run(job.function)
    except BaseException as caught:
        error = caught
    try:
        job.future.get_loop().call_soon_threadsafe(_resolve, job.future, result, error)
    except RuntimeError:  # the loop was closed: nobody waits any more
        return


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if isinstance(error, StopIteration):  # asyncio takes none
        error = RuntimeError("a function raised StopIteration")
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)

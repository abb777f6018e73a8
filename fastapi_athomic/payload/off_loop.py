"""Work on large payloads goes to a thread, so that the event loop stays free: libraries release the GIL meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import TypeVar

from .steps import Later

T = TypeVar("T")

MOST_THREADS = 4


class Threads:
    """A few threads that all pipelines of a process share. They start when they are needed.

    Who opens them closes them; the last one who does ends them.
    """

    def __init__(self, most: int = MOST_THREADS) -> None:
        self._most = most
        self._pool: ThreadPoolExecutor | None = None
        self._users = 0
        self._lock = Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        """In a child process: the threads are not there, and one of them may have held the lock."""
        self._pool, self._lock = None, Lock()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._most, "athomic-payload")
            return self._pool.submit(work)

    def open(self) -> None:
        with self._lock:
            self._users += 1

    def close(self) -> None:
        """Work that runs is finished, and so is what waits."""
        with self._lock:
            self._users = max(0, self._users - 1)
            if self._users > 0:
                return
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def later(self, work: Callable[[], T]) -> Later[T]:
        """The result of work that is done in a thread, each time that it is awaited."""
        return Later(partial(self._run, work))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self.submit(work))


threads = Threads(min(MOST_THREADS, os.cpu_count() or 1))
"""Of this process."""

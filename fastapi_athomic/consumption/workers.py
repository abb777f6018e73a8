"""The tasks that serve lanes: a pool of them, and what becomes of those that do not end."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ..loop.cancellation import Owner, forget_cancellation, is_interrupt

logger = logging.getLogger(__name__)

L = TypeVar("L")


class Worker:
    """One task of the pool, and since when it has been in a handler."""

    __slots__ = ("started_at", "task")

    def __init__(self) -> None:
        self.started_at: float | None = None
        self.task: asyncio.Task[None] | None = None


class WorkerPool(Generic[L]):
    """Up to `size` tasks, started when first needed, that serve lanes."""

    def __init__(self, size: int, serve: Callable[[Worker, L], Awaitable[None]], name: str) -> None:
        self._size = size
        self._serve = serve
        self._name = name
        self._ready: deque[L] = deque()
        self._idle: list[asyncio.Future[L]] = []
        self.workers: list[Worker] = []
        self._closed = False
        self._owner = Owner()
        self.failure: BaseException | None = None

    @property
    def waiting(self) -> bool:
        """Lanes wait for a worker."""
        return bool(self._ready)

    def oldest_start(self) -> float | None:
        """Since when the longest call runs, on the monotonic clock. May be asked from another thread."""
        starts = [worker.started_at for worker in self.workers]
        return min((start for start in starts if start is not None), default=None)

    def put(self, lane: L) -> None:
        if self._closed:
            return
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(lane)
                return
        self._ready.append(lane)
        if len(self.workers) < self._size:
            self._start_worker()

    def put_later(self, lane: L, delay: float) -> None:
        asyncio.get_running_loop().call_later(delay, self.put, lane)

    def _start_worker(self) -> None:
        worker = Worker()
        self.workers.append(worker)
        worker.task = asyncio.create_task(self._work(worker), name=f"{self._name}-{len(self.workers)}")
        worker.task.add_done_callback(self._worker_ended)

    async def _work(self, worker: Worker) -> None:
        ready, serve = self._ready, self._serve
        lane: L | None = None
        while not self._closed:
            try:
                lane = ready.popleft() if ready else await self._next_lane()
                await serve(worker, lane)
                lane = None
            except asyncio.CancelledError:
                if self._closed or self._owner.ends:
                    raise
                await self._go_on(lane)
            except (SystemExit, KeyboardInterrupt) as error:  # asyncio would stop the event loop for it
                if is_interrupt(error):
                    raise
                self.failure = self.failure or error
                return

    async def _go_on(self, lane: L | None) -> None:
        """A handler had cancelled its own task, too late for itself."""
        await forget_cancellation()
        if lane is not None:
            self.put(lane)

    async def _next_lane(self) -> L:
        waiter: asyncio.Future[L] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not self._closed:
                self._ready.appendleft(waiter.result())  # it was given a lane at the same time
            raise

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError("a handler was cancelled") if task.cancelled() else task.exception()
        if not self._closed:
            self.failure = self.failure or error

    async def close(self, grace: float) -> None:
        self._closed = True
        tasks = [worker.task for worker in self.workers if worker.task is not None and not worker.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, stubborn = await asyncio.wait(tasks, timeout=grace)
            for task in stubborn:
                _abandon(task)
        self._ready.clear()
        self._idle.clear()


def _abandon(task: asyncio.Task[None]) -> None:
    """A handler ignores its cancellation. `asyncio.run` would wait for it before the process may end."""
    logger.error("%s ignores its cancellation and is abandoned", task.get_name())
    asyncio.tasks._unregister_task(task)
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is known that it is pending

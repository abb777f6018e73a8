"""The tasks that serve lanes. A strategy says how a lane is served; the pool says by whom and when."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Generic, TypeVar

from ..loop.cancellation import Owner, forget_cancellation, is_interrupt

logger = logging.getLogger(__name__)

L = TypeVar("L")


class Worker:
    """One task of a pool. It is passed to the pool's `serve` function, which keeps `started_at` up to date."""

    __slots__ = ("started_at", "task")

    def __init__(self) -> None:
        self.started_at: float | None = None  # of the handler call, on the monotonic clock; None outside of one
        self.task: asyncio.Task[None] | None = None  # set by the pool


class WorkerPool(Generic[L]):
    """Up to `size` tasks, each started when it is first needed, that serve the lanes put into the pool.

    `resize` changes their number at any time: who is one too many ends when the lane that it serves has been served.
    `serve` is called with a worker and a lane. It returns when the lane is empty or has to wait, earlier if other lanes
    are `waiting`, at once if there is an `excess` of workers; it puts the lane back if there is more to do. The pool
    does not check whether a lane is in it already: the caller must not put it there twice.
    """

    def __init__(
        self, size: int, serve: Callable[[Worker, L], Awaitable[None]], name: str, wake: Callable[[], None]
    ) -> None:
        self.size = size  # `resize` changes it
        self._serve = serve
        self._name = name
        self._wake = wake  # called when there is a `failure`, or when the pool is `hungry` again
        self._ready: deque[L] = deque()
        self._idle: list[asyncio.Future[L | None]] = []  # of workers that wait for a lane
        self.workers: list[Worker] = []  # those that live; replaced or appended to, as other threads read it
        self._started = 0  # how many were started so far
        self._closed = False
        self._sated: int | None = None  # it was not `hungry` when it was last asked, with so many
        self.excess = False  # closed, or there are more workers than `size`: each looks before it goes on
        self._owner = Owner()
        self._context = copy_context()  # not that of the request, say, that resumes a consumer or wants more workers
        self._loop: asyncio.AbstractEventLoop | None = None  # of the workers
        self.failure: BaseException | None = None  # the first error that ended a worker

    @property
    def waiting(self) -> bool:
        """Whether lanes wait for a worker."""
        return bool(self._ready)

    def hungry(self, spare: int) -> bool:
        """Whether more than so many workers have nothing to do. If not, `wake` is called when they have not."""
        hungry = self.size - len(self.workers) + len(self._idle) > spare
        self._sated = None if hungry else spare
        return hungry

    def oldest_start(self) -> float | None:
        """When the longest-running handler call began, on the monotonic clock. Can be called from another thread."""
        starts = [worker.started_at for worker in self.workers]
        return min((start for start in starts if start is not None), default=None)

    def put(self, lane: L) -> None:
        """Has the lane served as soon as a worker is free. Does nothing once the pool is closed."""
        if self._closed:
            return
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(lane)
                return
        self._ready.append(lane)
        if len(self.workers) < self.size:
            self._start_worker()

    def put_later(self, lane: L, delay: float) -> None:
        """As `put`, after `delay` seconds."""
        asyncio.get_running_loop().call_later(delay, self.put, lane)

    def _start_worker(self) -> None:
        worker = Worker()
        self.workers.append(worker)
        self._started += 1
        worker.task = asyncio.create_task(
            self._work(worker), name=f"{self._name}-{self._started}", context=self._context.copy()
        )
        worker.task.add_done_callback(self._worker_ended)

    async def _work(self, worker: Worker) -> None:
        ready, serve = self._ready, self._serve
        lane: L | None = None
        while True:
            if self.excess and self._must_end(worker):
                return
            try:
                lane = ready.popleft() if ready else await self._next_lane()
                if lane is None:
                    continue
                await serve(worker, lane)
                lane = None
            except asyncio.CancelledError:
                if self._closed or self._owner.ends:
                    raise
                cut_off, lane = lane, None
                await self._go_on(cut_off)
            except (SystemExit, KeyboardInterrupt) as error:  # in a task, either would stop the event loop
                if is_interrupt(error):
                    raise
                self.failure = self.failure or error
                return

    async def _go_on(self, lane: L | None) -> None:
        """A handler cancelled its own task, and the cancellation came after it had returned."""
        await forget_cancellation()
        if lane is not None:
            self.put(lane)

    def resize(self, size: int) -> None:
        """From now on at most so many lanes are served at once; 1 or more."""
        self.size = size
        self.excess = self._closed or len(self.workers) > size
        for _ in range(len(self.workers) - size):
            self._wake_one()
        for _ in range(min(len(self._ready), size - len(self.workers))):
            self._start_worker()

    def _wake_one(self) -> None:
        """Has an idle worker, if there is one, see that it is one too many."""
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _must_end(self, worker: Worker) -> bool:
        if self._closed:
            return True
        if len(self.workers) > self.size:
            self.workers = [other for other in self.workers if other is not worker]
            self.excess = len(self.workers) > self.size
            return True
        self.excess = False
        return False

    async def _next_lane(self) -> L | None:
        """None: look whether there are too many workers."""
        if self._loop is None:  # in Python 3.11 it takes a call of the system to find it
            self._loop = asyncio.get_running_loop()
        waiter: asyncio.Future[L | None] = self._loop.create_future()
        self._idle.append(waiter)
        if self._sated is not None and self.hungry(self._sated):
            self._wake()
        try:
            return await waiter
        except asyncio.CancelledError:
            handed = waiter.result() if waiter.done() and not waiter.cancelled() else None
            if handed is not None and not self._closed:
                self._ready.appendleft(handed)  # just before it was cancelled
            raise

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError("a handler was cancelled") if task.cancelled() else task.exception()
        if not self._closed:
            self.failure = self.failure or error
        if self.failure is not None:
            self._wake()

    async def close(self, grace: float) -> None:
        """Cancels all workers and waits up to `grace` seconds; those that have not ended by then are abandoned."""
        self._closed = self.excess = True
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
    """Lets the process end although a handler ignores its cancellation. `asyncio.run` would wait for it.

    asyncio has no public way to forget a task.
    """
    logger.error("%s ignores its cancellation and is abandoned", task.get_name())
    asyncio.tasks._unregister_task(task)
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # we know that it is pending

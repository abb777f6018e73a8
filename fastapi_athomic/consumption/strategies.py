"""Consumption strategies: how messages get from the partitions to the processor.

Messages wait in lanes. A lane is what keeps an order (a partition, a key); one worker at a time serves it. A pool of
up to `concurrency` worker tasks takes lanes that have work, so there is no task per message, and what waits for a
retry occupies nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Generic, Protocol, TypedDict, TypeVar, Unpack

from ..failures.dlq import Judgement, Verdict
from ..handling.processors import SingleMessageProcessor
from ..loop.cancellation import Owner, forget_cancellation, is_interrupt
from ..loop.fairness import LoopShare
from ..messages import RawMessage
from ..observation.counters import Counters
from ..outcomes import FailureContext
from .partitions import PartitionState

logger = logging.getLogger(__name__)

LANE_TURN = 0.02
"""Seconds a worker stays with one lane while others wait."""


MOST_SPARE = 1_000
"""Empty lanes of one partition that are kept to be used again: each holds about a kilobyte."""


class Guard(Protocol):
    """Knows whether this process may still take itself for a member of the group."""

    trusted_until: float  # on the monotonic clock; `suspect` is asked by then

    def suspect(self, now: float) -> bool:
        """True if the process was away for too long.

        All partitions are closed then. `now` is on the monotonic clock.
        """
        ...


class ConsumptionStrategy(Protocol):
    """Takes messages from partitions to the handler, in the order it stands for."""

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        """Takes in messages of one partition, in offset order."""

    def reopen(self, partition: PartitionState) -> None:
        """Begins with a partition, or goes on with one that was closed for a while."""

    def release(self, partition: PartitionState) -> None:
        """Drops what has not started; what runs may finish."""

    def oldest_start(self) -> float | None:
        """When the longest-running handler call began, on the monotonic clock; None if none runs."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """Why a worker died, if one did."""
        ...

    async def close(self, grace: float) -> None:
        """Cancels what still runs and waits up to `grace` seconds for it.

        Nothing is concluded any more, whatever comes of it.
        """


class Lane:
    """Messages that must be handled one after the other."""

    __slots__ = ("attempt", "busy", "first_failed_at", "key", "letter", "partition", "queue")

    def __init__(self, partition: PartitionState) -> None:
        self.partition = partition
        self.key: bytes | None = None
        self.queue: deque[RawMessage] = deque()
        self.busy = False  # with a worker, waiting for one, or for a delay to pass
        self.attempt = 1  # of the first message
        self.first_failed_at = 0.0  # seconds since the epoch; 0: it has not failed
        self.letter: FailureContext | None = None  # the dead letter of the first message could not be written yet


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


class StrategyParts(TypedDict):
    """What every strategy is built from."""

    concurrency: int
    counters: Counters
    share: LoopShare
    guard: Guard
    name: str


class LaneStrategy:
    """One message at a time per lane. How messages find their lane is the subclass's only business."""

    def __init__(self, processor: SingleMessageProcessor, **parts: Unpack[StrategyParts]) -> None:
        self._processor = processor
        self._process = processor.process
        self._counters = parts["counters"]
        self._timings = self._counters.timings
        self._share = parts["share"]
        self._guard = parts["guard"]
        self.pool: WorkerPool[Lane] = WorkerPool(parts["concurrency"], self._serve, parts["name"])

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        raise NotImplementedError

    def lanes(self, partition: PartitionState) -> Iterable[Lane]:
        raise NotImplementedError

    def forget(self, lane: Lane) -> None:
        """The lane is empty and nobody serves it."""

    def release(self, partition: PartitionState) -> None:
        for lane in self.lanes(partition):
            lane.queue.clear()

    def reopen(self, partition: PartitionState) -> None:
        for lane in list(self.lanes(partition)):
            self._wake(lane)

    def oldest_start(self) -> float | None:
        return self.pool.oldest_start()

    @property
    def failure(self) -> BaseException | None:
        return self.pool.failure

    async def close(self, grace: float) -> None:
        self._processor.closed = True
        await self.pool.close(grace)

    def _wake(self, lane: Lane) -> None:
        if not lane.busy and lane.queue:
            lane.busy = True
            self.pool.put(lane)

    async def _serve(self, worker: Worker, lane: Lane) -> None:
        """Handles the lane's messages until it is empty, closed, has to wait, or others want the worker."""
        partition, queue, share, timings = lane.partition, lane.queue, self._share, self._timings
        process, guard, work_done = self._process, self._guard, partition.work_done
        processor = self._processor
        timestamps: list[int] = []  # of what was concluded since `since`
        since = now = look_up_at = monotonic()
        turn_ends = now + LANE_TURN
        if now > guard.trusted_until:
            guard.suspect(now)
        partition.running += 1
        try:
            while queue and partition.open:
                message = queue[0]
                if partition.delay is not None and (wait := partition.delay(message)) > 0:
                    self.pool.put_later(lane, wait)
                    return
                worker.started_at = now
                if lane.letter is None:
                    outcome = await process(message, lane.attempt, lane.first_failed_at, partition)
                else:
                    outcome = await processor.move(lane.letter)
                if processor.closed or outcome is None:
                    return  # given up meanwhile
                if not isinstance(outcome, Judgement):
                    self._counters.processed += 1
                    if lane.attempt > 1:
                        lane.attempt, lane.first_failed_at = 1, 0.0
                elif (delay := self._settle(lane, outcome)) is not None:
                    if monotonic() >= share.deadline:  # there may be many lanes, and no wait in their retries
                        await share.give_way()
                    self.pool.put_later(lane, delay)
                    return
                if queue:  # else the partition was released while the message ran; it is concluded all the same
                    queue.popleft()
                partition.conclude(message.offset)
                began, now = now, monotonic()
                if now < look_up_at:
                    timestamps.append(message.timestamp)
                    continue
                timings.note(began, now, message.timestamp)
                if timestamps:
                    timings.note_all(since, began, timestamps)
                if work_done.waiter is not None or len(partition.concluded) >= partition.settle_at:
                    partition.settle()
                if now >= share.deadline:
                    if now > guard.trusted_until and guard.suspect(now):
                        continue
                    if not share.turned(began, now):
                        await share.give_way()
                        now = monotonic()
                if not queue:
                    break
                if now >= turn_ends and self.pool.waiting:
                    self.pool.put(lane)
                    return
                since, look_up_at = now, timings.look_up_at(now, share.deadline)
            if len(partition.concluded) >= partition.settle_at:  # since nobody looked up
                partition.settle()
            self._leave(lane)
        finally:
            if timestamps:
                timings.note_all(since, now, timestamps)
            worker.started_at = None
            partition.finished_running()

    def _leave(self, lane: Lane) -> None:
        lane.busy = False
        if not lane.queue:
            self.forget(lane)

    def _settle(self, lane: Lane, judgement: Judgement) -> float | None:
        """Takes note of a failure. None: the message is concluded; else the seconds that its lane waits."""
        count_judgement(self._counters, judgement, again=lane.letter is not None)
        if judgement.settled:
            lane.attempt, lane.first_failed_at, lane.letter = 1, 0.0, None
            return None
        if judgement.verdict is Verdict.RETRY:
            lane.attempt += 1
            lane.first_failed_at = judgement.failure.first_failed_at
        else:
            lane.letter = judgement.failure
        return judgement.delay


class PartitionOrder(LaneStrategy):
    """First in, first out per partition; partitions side by side."""

    def __init__(self, processor: SingleMessageProcessor, **parts: Unpack[StrategyParts]) -> None:
        super().__init__(processor, **parts)
        self._lane: dict[PartitionState, Lane] = {}

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        lane = self._lane.get(partition)
        if lane is None:
            lane = self._lane[partition] = Lane(partition)
        lane.queue.extend(messages)
        self._wake(lane)

    def lanes(self, partition: PartitionState) -> Iterable[Lane]:
        lane = self._lane.get(partition)
        return () if lane is None else (lane,)

    def release(self, partition: PartitionState) -> None:
        super().release(partition)
        self._lane.pop(partition, None)


class KeyOrder(LaneStrategy):
    """First in, first out per key and partition; messages without a key keep the order of their partition."""

    def __init__(self, processor: SingleMessageProcessor, **parts: Unpack[StrategyParts]) -> None:
        super().__init__(processor, **parts)
        self._lanes: dict[PartitionState, dict[bytes | None, Lane]] = {}
        self._spare: dict[PartitionState, list[Lane]] = {}  # empty ones, to be used again

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        lanes, spare = self._lanes.setdefault(partition, {}), self._spare.setdefault(partition, [])
        for message in messages:
            key = message.key
            lane = lanes.get(key)
            if lane is None:
                lane = lanes[key] = spare.pop() if spare else Lane(partition)
                lane.key = key
            lane.queue.append(message)
            if not lane.busy:
                lane.busy = True
                self.pool.put(lane)

    def lanes(self, partition: PartitionState) -> Iterable[Lane]:
        return self._lanes.get(partition, {}).values()

    def forget(self, lane: Lane) -> None:
        lanes = self._lanes.get(lane.partition)
        if lanes is not None and lanes.get(lane.key) is lane:
            del lanes[lane.key]
            if len(spare := self._spare[lane.partition]) < MOST_SPARE:
                spare.append(lane)

    def release(self, partition: PartitionState) -> None:
        super().release(partition)
        self._lanes.pop(partition, None)
        self._spare.pop(partition, None)


class Unordered(LaneStrategy):
    """Every message for itself."""

    def __init__(self, processor: SingleMessageProcessor, **parts: Unpack[StrategyParts]) -> None:
        super().__init__(processor, **parts)
        self._waiting: dict[PartitionState, set[Lane]] = {}

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        waiting = self._waiting.setdefault(partition, set())
        for message in messages:
            lane = Lane(partition)
            lane.queue.append(message)
            waiting.add(lane)
            self._wake(lane)

    def lanes(self, partition: PartitionState) -> Iterable[Lane]:
        return self._waiting.get(partition, ())

    def forget(self, lane: Lane) -> None:
        waiting = self._waiting.get(lane.partition)
        if waiting is not None:
            waiting.discard(lane)

    def release(self, partition: PartitionState) -> None:
        super().release(partition)
        self._waiting.pop(partition, None)


def count_judgement(counters: Counters, judgement: Judgement, *, again: bool = False) -> None:
    """`again`: the failure was counted before, only its dead letter was late."""
    counters.failed += not again
    counters.retried += judgement.verdict is Verdict.RETRY
    counters.deferred += judgement.verdict is Verdict.DEFERRED
    counters.dead_lettered += judgement.verdict is Verdict.DEAD_LETTERED
    counters.skipped += judgement.verdict is Verdict.SKIPPED

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
from dataclasses import dataclass
from operator import itemgetter
from time import monotonic
from typing import Generic, Protocol, TypedDict, TypeVar, Unpack

from .counters import Counters
from .dlq import Judgement, Verdict
from .fairness import LoopShare
from .messages import RawMessage
from .outcomes import FailureContext
from .partitions import PartitionState
from .processors import BatchMessageProcessor, BatchReport, SingleMessageProcessor

logger = logging.getLogger(__name__)

LANE_TURN = 0.02
"""Seconds a worker stays with one lane while others wait."""


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
        """Cancels what still runs and waits up to `grace` seconds for it."""


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

_offset = itemgetter(RawMessage._fields.index("offset"))


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
        try:
            while True:
                lane = ready.popleft() if ready else await self._next_lane()
                await serve(worker, lane)
        except (SystemExit, KeyboardInterrupt) as error:  # asyncio would stop the event loop for it
            self.failure = self.failure or error

    async def _next_lane(self) -> L:
        waiter: asyncio.Future[L] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        return await waiter

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
        await self.pool.close(grace)

    def _wake(self, lane: Lane) -> None:
        if not lane.busy and lane.queue:
            lane.busy = True
            self.pool.put(lane)

    async def _serve(self, worker: Worker, lane: Lane) -> None:
        """Handles the lane's messages until it is empty, closed, has to wait, or others want the worker."""
        partition, queue, share, timings = lane.partition, lane.queue, self._share, self._timings
        process, guard, settle_at = self._process, self._guard, partition.settle_at
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
                    outcome = await process(message, lane.attempt, lane.first_failed_at)
                else:
                    outcome = await self._processor.move(lane.letter)
                if not isinstance(outcome, Judgement):
                    self._counters.processed += 1
                    if lane.attempt > 1:
                        lane.attempt, lane.first_failed_at = 1, 0.0
                elif not self._settle(lane, outcome):
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
                if len(partition.concluded) >= settle_at:
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

    def _settle(self, lane: Lane, judgement: Judgement) -> bool:
        """Takes note of a failure. True: the message is concluded; False: the lane waits for its delay."""
        count_judgement(self._counters, judgement, again=lane.letter is not None)
        if judgement.settled:
            lane.attempt, lane.first_failed_at, lane.letter = 1, 0.0, None
            return True
        if judgement.verdict is Verdict.RETRY:
            lane.attempt += 1
            lane.first_failed_at = judgement.failure.first_failed_at
        else:
            lane.letter = judgement.failure
        self.pool.put_later(lane, judgement.delay)
        return False


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
            self._spare[lane.partition].append(lane)

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


@dataclass(slots=True)
class BatchUnit:
    """Messages that go to the handler in one call."""

    messages: list[RawMessage]
    attempt: int = 1
    first_failed_at: float = 0.0
    halved: bool = False  # its whole has used up its attempts: what fails now is halved further


class BatchLane:
    """One partition's messages on their way into batches."""

    __slots__ = ("busy", "due", "linger", "partition", "queue", "work")

    def __init__(self, partition: PartitionState) -> None:
        self.partition = partition
        self.queue: deque[RawMessage] = deque()
        self.work: deque[BatchUnit | FailureContext] = deque()  # in order; a failure stands for its dead letter
        self.busy = False
        self.due = False  # the first message has waited long enough for company
        self.linger: asyncio.TimerHandle | None = None


class BatchStrategy:
    """Batches of one partition, one after the other; partitions side by side."""

    def __init__(
        self,
        processor: BatchMessageProcessor,
        *,
        batch_size: int,
        linger: float,
        **parts: Unpack[StrategyParts],
    ) -> None:
        self._processor = processor
        self._batch_size = batch_size
        self._linger = linger  # seconds
        self._counters = parts["counters"]
        self._share = parts["share"]
        self._guard = parts["guard"]
        self._lanes: dict[PartitionState, BatchLane] = {}
        self.pool: WorkerPool[BatchLane] = WorkerPool(parts["concurrency"], self._serve, parts["name"])

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = BatchLane(partition)
        lane.queue.extend(messages)
        self._wake(lane)

    def reopen(self, partition: PartitionState) -> None:
        lane = self._lanes.get(partition)
        if lane is not None:
            self._wake(lane)

    def release(self, partition: PartitionState) -> None:
        lane = self._lanes.pop(partition, None)
        if lane is not None:
            lane.queue.clear()
            lane.work.clear()
            if lane.linger is not None:
                lane.linger.cancel()

    def oldest_start(self) -> float | None:
        return self.pool.oldest_start()

    @property
    def failure(self) -> BaseException | None:
        return self.pool.failure

    async def close(self, grace: float) -> None:
        for partition in list(self._lanes):
            self.release(partition)
        await self.pool.close(grace)

    def _wake(self, lane: BatchLane) -> None:
        if lane.busy:
            return
        if lane.partition.delay is not None and lane.queue and not lane.work:
            self._wake_when_due(lane, lane.partition.delay(lane.queue[0]))
        elif lane.work or len(lane.queue) >= self._batch_size or (lane.queue and lane.due):
            lane.busy = True
            self.pool.put(lane)
        elif lane.queue and lane.linger is None:
            lane.linger = asyncio.get_running_loop().call_later(self._linger, self._lingered, lane)

    def _wake_when_due(self, lane: BatchLane, wait: float) -> None:
        """Of a retry topic: one message at a time, which it is for certain no other's fault that it failed."""
        if wait <= 0:
            lane.work.append(BatchUnit([lane.queue.popleft()]))
            lane.busy = True
            self.pool.put(lane)
        elif lane.linger is None:
            lane.linger = asyncio.get_running_loop().call_later(wait, self._lingered, lane)

    def _lingered(self, lane: BatchLane) -> None:
        lane.linger = None
        lane.due = True
        self._wake(lane)

    def _next(self, lane: BatchLane) -> BatchUnit | FailureContext | None:
        """What comes next, left standing in `work` until it is concluded."""
        queue = lane.queue
        if not lane.work and queue and lane.partition.delay is None and (lane.due or len(queue) >= self._batch_size):
            size = min(len(queue), self._batch_size)
            lane.work.append(BatchUnit([queue.popleft() for _ in range(size)]))
            lane.due = False
            if lane.linger is not None:
                lane.linger.cancel()
                lane.linger = None
        return lane.work[0] if lane.work else None

    async def _serve(self, worker: Worker, lane: BatchLane) -> None:
        partition = lane.partition
        self._guard.suspect(monotonic())
        while partition.open and (unit := self._next(lane)) is not None:
            worker.started_at = monotonic()
            partition.running += 1
            try:
                delay = await self._conclude(lane, unit)
            finally:
                worker.started_at = None
                partition.finished_running()
            if delay is not None:
                self.pool.put_later(lane, delay)
                return
            if not self._guard.suspect(monotonic()):
                await self._share.give_way()
            if self.pool.waiting:
                self.pool.put(lane)
                return
        lane.busy = False
        if partition.open:
            self._wake(lane)

    async def _conclude(self, lane: BatchLane, unit: BatchUnit | FailureContext) -> float | None:
        """Handles one unit and puts in its place what is left of it.

        Gives the seconds to wait before it goes on, if any.
        """
        if isinstance(unit, FailureContext):
            return await self._write_letter(lane, unit)
        began = monotonic()
        report = await self._processor.process(unit.messages, unit.attempt, unit.first_failed_at)
        self._counters.timings.note(began, monotonic(), unit.messages[0].timestamp)
        self._counters.processed += len(report.handled)
        lane.partition.conclude_all(map(_offset, report.handled))
        if lane.work:  # else the partition was released meanwhile
            lane.work.popleft()
        rest, delay = self._after(unit, report)
        if not lane.partition.revoked:
            lane.work.extendleft(reversed([*report.undecodable, *rest]))
        self._counters.failed += len(report.undecodable) + (report.failure is not None)
        return delay

    def _after(self, unit: BatchUnit, report: BatchReport) -> tuple[list[BatchUnit | FailureContext], float | None]:
        """What is to be done with the messages that the handler did not take, and after how many seconds."""
        failure, left = report.failure, report.left
        if failure is None:
            return [], None
        if not unit.halved:
            decision = self._processor.decide(failure)
            if decision.delay is not None:
                self._counters.retried += 1
                return [BatchUnit(left, unit.attempt + 1, failure.first_failed_at)], decision.delay
        if report.blamed or len(left) == 1:
            return [failure, *([BatchUnit(left[1:])] if left[1:] else [])], None
        middle = len(left) // 2
        return [
            BatchUnit(half, unit.attempt, failure.first_failed_at, halved=True)
            for half in (left[:middle], left[middle:])
        ], None

    async def _write_letter(self, lane: BatchLane, failure: FailureContext) -> float | None:
        judgement = await self._processor.move(failure)
        if not judgement.settled:
            return judgement.delay
        if lane.work:
            lane.work.popleft()
        count_judgement(self._counters, judgement, again=True)
        lane.partition.conclude(failure.message.offset)
        return None


def count_judgement(counters: Counters, judgement: Judgement, *, again: bool = False) -> None:
    """`again`: the failure was counted before, only its dead letter was late."""
    counters.failed += not again
    counters.retried += judgement.verdict is Verdict.RETRY
    counters.deferred += judgement.verdict is Verdict.DEFERRED
    counters.dead_lettered += judgement.verdict is Verdict.DEAD_LETTERED
    counters.skipped += judgement.verdict is Verdict.SKIPPED

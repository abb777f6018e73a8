"""The strategy that handles batches: several messages of one partition in one call of the handler.

A batch is handled when it is full, or when its first message has waited for the linger time. A batch that fails is
retried by the retry policy. If it still fails it is halved, and its halves too, until the message to blame is alone
and goes to the DLQ; the others are handled without it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from time import monotonic
from typing import Unpack

from ..handling.processors import BatchMessageProcessor, BatchReport
from ..messages import RawMessage
from ..outcomes import FailureContext
from .attempts import count_judgement
from .gate import Gate
from .partitions import PartitionState
from .strategies import StrategyParts
from .workers import Worker, WorkerPool

_offset = itemgetter(RawMessage._fields.index("offset"))


@dataclass(slots=True)
class BatchUnit:
    """Messages that go to the handler in one call."""

    messages: list[RawMessage]
    attempt: int = 1  # the number of the next attempt
    first_failed_at: float = 0.0  # seconds since the epoch; 0: it has not failed
    halved: bool = False  # part of a batch that used up its attempts: it is not retried, but halved again


class BatchLane:
    """The messages of one partition on their way into batches. Only its strategy changes it."""

    __slots__ = ("busy", "due", "linger", "partition", "queue", "work")

    def __init__(self, partition: PartitionState) -> None:
        self.partition = partition
        self.queue: deque[RawMessage] = deque()
        self.work: deque[BatchUnit | FailureContext] = deque()  # to be done in this order; a failure: its dead letter
        self.busy = False  # with a worker, or waiting for one, or for a delay to pass: not to be put into the pool
        self.due = False  # the linger time is over: the next batch need not be full
        self.linger: asyncio.TimerHandle | None = None  # sets `due`


class BatchStrategy:
    """Handles the batches of each partition one after the other, and several partitions at once."""

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
        self._linger = linger  # seconds that a batch may wait to get full
        self._counters = parts["counters"]
        self._share = parts["share"]
        self._guard = parts["guard"]
        self._lanes: dict[PartitionState, BatchLane] = {}
        self.pool: WorkerPool[BatchLane] = WorkerPool(
            parts["concurrency"], self._serve, parts["name"], self._guard.wake
        )
        self._gate: Gate[BatchLane] = Gate(parts["limits"], self.pool.put)

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
        self._processor.patience.let_go(partition.topic_partition)
        lane = self._lanes.pop(partition, None)
        if lane is not None:
            lane.queue.clear()
            lane.work.clear()
            if lane.linger is not None:
                lane.linger.cancel()
        self._gate.let_go()

    def resize(self, concurrency: int) -> None:
        self.pool.resize(concurrency)

    def settled(self) -> bool:
        return True

    def hungry(self, running: int, partitions: int, *, busy: bool) -> bool:
        return not busy  # else a batch may be handled before the broker has answered the next fetch

    def oldest_start(self) -> float | None:
        return self.pool.oldest_start()

    @property
    def failure(self) -> BaseException | None:
        return self.pool.failure

    async def close(self, grace: float) -> None:
        self._processor.closed = True
        for partition in list(self._lanes):
            self.release(partition)
        self._gate.close()
        await self.pool.close(grace)

    def _wake(self, lane: BatchLane) -> None:
        """Puts the lane into the pool if there is a batch to handle, or starts the timer that will."""
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
        """For a retry topic: each message alone and when it is due. If it fails again, no other message is to blame."""
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
        """What to do next; cuts a batch from the queue if one is due. It stays in `work` until it is concluded."""
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
        """Handles one unit after the other until none is left, the lane has to wait, or other lanes want the worker."""
        partition = lane.partition
        self._guard.suspect(monotonic())
        while partition.open and (unit := self._next(lane)) is not None:
            if self._gate.active and isinstance(unit, BatchUnit):
                if not (allowed := self._gate.admits(lane, len(unit.messages))):
                    return
                unit = _first(lane, unit, allowed)
            worker.started_at = monotonic()
            partition.running += 1
            try:
                delay = await self._conclude(lane, unit)
            finally:
                worker.started_at = None
                partition.finished_running()
                if self._gate.active:
                    self._gate.left(lane)
            if delay is not None:
                if monotonic() >= self._share.deadline:
                    await self._share.give_way()
                self.pool.put_later(lane, delay)
                return
            await self._share.give_way()
            self._guard.suspect(monotonic())
            if self.pool.waiting or self.pool.excess:
                self.pool.put(lane)
                return
        lane.busy = False
        if self._gate.active:
            self._gate.left(lane)
        if partition.open:
            self._wake(lane)

    async def _conclude(self, lane: BatchLane, unit: BatchUnit | FailureContext) -> float | None:
        """Handles one unit; what is left of it takes its place at the head of `work`.

        Returns the seconds that the lane has to wait, if any.
        """
        if isinstance(unit, FailureContext):
            return await self._write_letter(lane, unit)
        began = monotonic()
        report = await self._processor.process(unit.messages, unit.attempt, unit.first_failed_at)
        if self._processor.closed or report.gone:  # cut off by `close` or a revoke: nothing is concluded
            return None
        if report.waits is not None:  # the unit stays where it is
            return report.waits
        if self._gate.active and report.handled and report.failure is None:
            self._gate.succeeded(lane)
        self._counters.timings.note(began, monotonic(), unit.messages[0].timestamp)
        self._counters.processed += len(report.handled)
        lane.partition.conclude_all(map(_offset, report.handled))
        lane.partition.settle()
        if lane.work:  # empty if the partition was released meanwhile
            lane.work.popleft()
        rest, delay = self._after(lane, unit, report)
        if not lane.partition.revoked:
            lane.work.extendleft(reversed([*report.undecodable, *rest]))
        self._counters.failed += len(report.undecodable) + (report.failure is not None)
        return delay

    def _after(
        self, lane: BatchLane, unit: BatchUnit, report: BatchReport
    ) -> tuple[list[BatchUnit | FailureContext], float | None]:
        """What to do with the messages that were not handled, and the seconds to wait before it."""
        failure, left = report.failure, report.left
        if failure is None:
            return [], None
        decision = self._processor.decide(failure)
        if decision.free:
            self._counters.retried += 1
            self._processor.log.excused(failure, len(left))
            return [BatchUnit(left, unit.attempt, unit.first_failed_at, unit.halved)], 0.0
        if not unit.halved and decision.delay is not None:
            self._counters.retried += 1
            if not lane.partition.revoked:
                self._processor.log.again(failure, decision.delay, len(left))
            return [BatchUnit(left, unit.attempt + 1, failure.first_failed_at)], decision.delay
        if report.blamed or len(left) == 1:
            return [failure, *([BatchUnit(left[1:])] if left[1:] else [])], None
        self._processor.log.halved(failure, len(left), again=unit.halved)
        middle = len(left) // 2
        return [
            BatchUnit(half, unit.attempt, failure.first_failed_at, halved=True)
            for half in (left[:middle], left[middle:])
        ], None

    async def _write_letter(self, lane: BatchLane, failure: FailureContext) -> float | None:
        """Writes a dead letter and concludes its offset. Returns the seconds to wait if it could not be written."""
        judgement = await self._processor.move(failure)
        if self._processor.closed:
            return None
        if not judgement.settled:
            return judgement.delay
        if lane.work:
            lane.work.popleft()
        count_judgement(self._counters, judgement, again=True)
        lane.partition.conclude(failure.message.offset)
        lane.partition.settle()
        return None


def _first(lane: BatchLane, unit: BatchUnit, count: int) -> BatchUnit:
    """The first so many messages of the unit at the head of the lane, which become a unit of their own."""
    if count >= len(unit.messages):
        return unit
    parts = unit.messages[:count], unit.messages[count:]
    lane.work.popleft()
    lane.work.extendleft(replace(unit, messages=part) for part in reversed(parts))
    first = lane.work[0]
    assert isinstance(first, BatchUnit)
    return first

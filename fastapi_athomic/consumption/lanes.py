"""Consumption strategies: how messages get from the partitions to the processor.

Messages wait in lanes. A lane is what keeps an order (a partition, a key); one worker at a time serves it. A pool of
up to `concurrency` worker tasks takes lanes that have work, so there is no task per message, and what waits for a
retry occupies nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Unpack

from ..failures.dlq import Judgement
from ..handling.processors import SingleMessageProcessor
from ..messages import RawMessage
from .attempts import AttemptState
from .partitions import PartitionState
from .strategies import StrategyParts
from .workers import Worker, WorkerPool

LANE_TURN = 0.02
"""Seconds a worker stays with one lane while others wait."""

MOST_SPARE = 1_000
"""Empty lanes of one partition that are kept to be used again: each holds about a kilobyte."""


class Lane(AttemptState):
    """Messages that must be handled one after the other."""

    __slots__ = ("busy", "key", "partition", "queue")

    def __init__(self, partition: PartitionState) -> None:
        self.partition = partition
        self.key: bytes | None = None
        self.queue: deque[RawMessage] = deque()
        self.busy = False  # with a worker, waiting for one, or for a delay to pass
        self.attempt, self.first_failed_at, self.letter = 1, 0.0, None  # no call: `Unordered` makes many lanes


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
                        lane.begin_anew()
                elif (delay := lane.note_failure(outcome, self._counters)) is not None:
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

"""Strategies that handle one message at a time: in the order of partitions, of keys, or in none.

Messages wait in lanes. A lane keeps the order of one partition or one key: one worker at a time serves it. A pool of up
to `concurrency` worker tasks serves the lanes that have work. So there is no task per message, and a lane that waits
for a retry occupies no worker.

`create_strategy` chooses by the subscription's options, between these strategies and that of `batches`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Unpack

from ..failures.dlq import Judgement
from ..handling.processors import BatchMessageProcessor, ProcessorParts, SingleMessageProcessor
from ..messages import RawMessage
from ..subscriptions import Subscription
from .attempts import AttemptState
from .batches import BatchStrategy
from .gate import Gate
from .partitions import PartitionState
from .strategies import ConsumptionStrategy, StrategyParts
from .workers import Worker, WorkerPool

LANE_TURN = 0.02
"""Seconds that a worker stays with one lane while others wait for a worker."""

FREE, FREE_IF_BUSY = 32, 2
"""More messages are read ahead if more than one in so many workers is free, and as many if the thread is busy."""

MOST_SPARE = 1_000
"""How many empty lanes of a partition are kept for reuse. Each takes about a kilobyte."""


class Lane(AttemptState):
    """Messages that must be handled one after the other. Only the strategy changes it.

    The first message stays in `queue` until it is concluded.
    """

    __slots__ = ("busy", "key", "partition", "queue")

    def __init__(self, partition: PartitionState) -> None:
        self.partition = partition
        self.key: bytes | None = None  # set by `KeyOrder`, again each time the lane is reused
        self.queue: deque[RawMessage] = deque()
        self.busy = False  # with a worker, or waiting for one, or for a delay to pass: not to be put into the pool
        self.attempt, self.first_failed_at, self.letter = 1, 0.0, None  # `begin_anew`, without the call


class LaneStrategy:
    """Handles one message at a time of each lane. Subclasses decide which lane a message goes to."""

    def __init__(self, processor: SingleMessageProcessor, **parts: Unpack[StrategyParts]) -> None:
        self._processor = processor
        self._process = processor.process
        self._counters = parts["counters"]
        self._timings = self._counters.timings
        self._share = parts["share"]
        self._guard = parts["guard"]
        self.pool: WorkerPool[Lane] = WorkerPool(parts["concurrency"], self._serve, parts["name"], self._guard.wake)
        self._gate: Gate[Lane] = Gate(parts["limits"], self.pool.put)

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        """Puts messages of one partition into their lanes, in the order of their offsets."""
        raise NotImplementedError

    def lanes(self, partition: PartitionState) -> Iterable[Lane]:
        """The lanes of a partition, at least those that have messages."""
        raise NotImplementedError

    def forget(self, lane: Lane) -> None:
        """Called when a lane is empty and no worker serves it any more."""

    def release(self, partition: PartitionState) -> None:
        self._processor.patience.let_go(partition.topic_partition)
        for lane in self.lanes(partition):
            lane.queue.clear()
        self._gate.let_go()

    def reopen(self, partition: PartitionState) -> None:
        for lane in list(self.lanes(partition)):
            self._wake(lane)

    def resize(self, concurrency: int) -> None:
        self.pool.resize(concurrency)

    def settled(self) -> bool:
        return True

    def hungry(self, running: int, partitions: int, *, busy: bool) -> bool:
        """True if less than half of its fair share of the calls is its own: other keys must not wait for a hot one.

        Or if workers are free: a few, or most of them where the thread is busy, as more calls would wait for it.
        """
        size = self.pool.size
        return 2 * running * partitions < size or self.pool.hungry(size // (FREE_IF_BUSY if busy else FREE))

    def oldest_start(self) -> float | None:
        return self.pool.oldest_start()

    @property
    def failure(self) -> BaseException | None:
        return self.pool.failure

    async def close(self, grace: float) -> None:
        self._processor.closed = True
        self._gate.close()
        await self.pool.close(grace)

    def _wake(self, lane: Lane) -> None:
        if not lane.busy and lane.queue:
            lane.busy = True
            self.pool.put(lane)

    async def _serve(self, worker: Worker, lane: Lane) -> None:
        """Handles messages of a lane until it is empty or has to wait, its partition closes, or others want the worker.

        The hot path: long on purpose, since each function split off would be one more call per message. For a message
        that succeeds, no Python function is called but the processor's. Attributes are looked up before the loop,
        offsets (`settle`) and timestamps are passed on many at a time, and the guard and the share are asked only when
        it is time to (`look_up_at`). tests/unit/test_hot_path.py counts the calls.
        """
        partition, queue, share, timings = lane.partition, lane.queue, self._share, self._timings
        process, guard, work_done = self._process, self._guard, partition.work_done
        processor, gate = self._processor, self._gate
        timestamps: list[int] = []  # of the messages concluded since `since`
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
                if gate.active and lane.letter is None and not gate.admits(lane):
                    return
                worker.started_at = now
                if lane.letter is None:
                    outcome = await process(message, lane.attempt, lane.first_failed_at, partition)
                else:
                    outcome = await processor.move(lane.letter)
                if processor.closed or outcome is None:
                    return  # cut off by `close`, or revoked: not ours to conclude
                if not isinstance(outcome, Judgement):
                    self._counters.processed += 1
                    if gate.active:
                        gate.succeeded(lane)
                    if lane.attempt > 1:
                        lane.begin_anew()
                elif (delay := lane.note_failure(outcome, self._counters)) is not None:
                    if monotonic() >= share.deadline:  # many lanes may retry, all without a delay
                        await share.give_way()
                    self.pool.put_later(lane, delay)
                    return
                if queue:  # empty if the partition was released while the message ran; its offset counts all the same
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
                if now >= share.deadline and not share.turned(began, now):
                    await share.give_way()
                    now = monotonic()
                if now > guard.trusted_until and guard.suspect(now):
                    continue
                if not queue:
                    break
                if self.pool.excess or (now >= turn_ends and self.pool.waiting):
                    self.pool.put(lane)
                    return
                since, look_up_at = now, timings.look_up_at(now, share.deadline)
            if work_done.waiter is not None or len(partition.concluded) >= partition.settle_at:  # since the last look
                partition.settle()
            self._leave(lane)
        finally:
            if timestamps:
                timings.note_all(since, now, timestamps)
            worker.started_at = None
            partition.finished_running()
            if gate.active:
                gate.left(lane)

    def _leave(self, lane: Lane) -> None:
        """No worker serves the lane any more."""
        lane.busy = False
        if not lane.queue:
            self.forget(lane)


class PartitionOrder(LaneStrategy):
    """Keeps the order of each partition: one lane per partition."""

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
    """Keeps the order of each key within a partition: one lane per key. Messages without a key share a lane."""

    def __init__(self, processor: SingleMessageProcessor, **parts: Unpack[StrategyParts]) -> None:
        super().__init__(processor, **parts)
        self._lanes: dict[PartitionState, dict[bytes | None, Lane]] = {}
        self._spare: dict[PartitionState, list[Lane]] = {}  # empty lanes, for reuse

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
    """Keeps no order: a lane per message."""

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


STRATEGIES: Mapping[str, type[LaneStrategy]] = {"partition": PartitionOrder, "key": KeyOrder, "none": Unordered}


def create_strategy(
    subscription: Subscription, processor_parts: ProcessorParts, **parts: Unpack[StrategyParts]
) -> ConsumptionStrategy:
    """The strategy of a subscription without sequence numbers, with the processor that it works with."""
    if subscription.batch_size is not None:
        return BatchStrategy(
            BatchMessageProcessor(processor_parts),
            batch_size=subscription.batch_size,
            linger=subscription.batch_linger_ms / 1000,
            **parts,
        )
    return STRATEGIES[subscription.ordering](SingleMessageProcessor(processor_parts), **parts)

"""Ordered consumption: each aggregate's messages in the order of their sequence numbers, each once.

A message is decoded when it comes, to know where in its sequence it stands. The next in line is handled; what came
early is put into the waiting room of the state store, and its offset may be committed then; what is late or double is
skipped. An offset is concluded only after the store has taken note (promises P1 and P17). The conversation with the
store is the `Ledger`'s business.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Unpack

from ..complaints import Complaints
from ..consumption.partitions import PartitionState
from ..consumption.strategies import LANE_TURN, StrategyParts, Worker, WorkerPool, count_judgement
from ..decorators import Sequencing
from ..exceptions import SequenceGapError
from ..failures.dlq import Judgement, Verdict
from ..handling.processors import OrderedMessageProcessor
from ..loop.cancellation import is_interrupt
from ..loop.fairness import LoopShare
from ..messages import RawMessage
from ..observation.counters import Counters
from ..observation.gauges import SequenceGauge
from ..outcomes import FailureContext, Stage
from ..retry import RetryPolicy
from ..stores.base import Member, StateStore, Waiting
from .aggregates import NOTHING_KNOWN, Aggregate, Burial, Item
from .fields import SequenceReader
from .ledger import Ledger
from .packing import unpack

logger = logging.getLogger(__name__)

SHORTEST_REST = 1.0
"""Seconds a blocked aggregate rests at least before its message is tried again."""


class Refusals:
    """Messages of one partition that have no place in any sequence, on their way to the DLQ."""

    __slots__ = ("busy", "letters", "partition")

    def __init__(self, partition: PartitionState) -> None:
        self.partition = partition
        self.letters: deque[FailureContext] = deque()
        self.busy = False


Lane = Aggregate | Refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedParts:
    """What ordered consumption needs beside what every strategy has."""

    sequencing: Sequencing
    retry: RetryPolicy
    store: StateStore
    member: Member
    gauge: SequenceGauge
    linger: float  # seconds that what is handled may wait for company on its way to the store


class OrderedStrategy:
    """Up to `concurrency` aggregates at once, one message at a time of each."""

    def __init__(
        self, processor: OrderedMessageProcessor, ordered: OrderedParts, **parts: Unpack[StrategyParts]
    ) -> None:
        self._processor = processor
        self._sequencing = ordered.sequencing
        self._rest_seconds = max(SHORTEST_REST, ordered.retry.max_delay)
        self._last_attempt = max(1, ordered.retry.max_attempts)
        self._read = SequenceReader(ordered.sequencing).read
        self._counters: Counters = parts["counters"]
        self._timings = self._counters.timings
        self._share: LoopShare = parts["share"]
        self._guard = parts["guard"]
        self._name = parts["name"]
        self._complaints = Complaints()
        self.pool: WorkerPool[Lane] = WorkerPool(parts["concurrency"], self._serve, parts["name"])
        self.ledger = Ledger(
            ordered.store,
            ordered.member,
            self,
            ordered.gauge,
            self._counters,
            linger=ordered.linger,
            on_gap=ordered.sequencing.on_gap,
        )
        self._partitions: dict[PartitionState, Refusals] = {}
        self._intake: deque[tuple[PartitionState, Sequence[RawMessage]]] = deque()
        self._arrived = asyncio.Event()
        self._sorting = False
        self._queued = 0  # lanes with a worker, or waiting for one
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._failure: BaseException | None = None

    # --- what the session tells

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        self._know(partition)
        self._intake.append((partition, messages))
        self._arrived.set()

    def reopen(self, partition: PartitionState) -> None:
        self._know(partition)
        for aggregate in list(self.ledger.aggregates.values()):
            self.ledger.look_at(aggregate)
        self._enqueue_refusals(self._partitions[partition])

    def release(self, partition: PartitionState) -> None:
        refusals = self._partitions.pop(partition, None)
        if refusals is None:
            return
        refusals.letters.clear()
        for aggregate in list(self.ledger.aggregates.values()):
            gone = [item for item in aggregate.items.values() if item.partition is partition]
            for item in gone:
                if item is not aggregate.running:
                    del aggregate.items[item.sequence]
            aggregate.late = deque(item for item in aggregate.late if item.partition is not partition)
            if gone:
                aggregate.known = NOTHING_KNOWN  # one of them may wait in the store too
                self.ledger.look_at(aggregate)
        if not self.active():
            self.ledger.release_idle()

    def oldest_start(self) -> float | None:
        return self.pool.oldest_start()

    @property
    def failure(self) -> BaseException | None:
        return self.pool.failure or self._failure

    async def close(self, grace: float) -> None:
        self._closed = self._processor.closed = True
        await self.pool.close(grace / 2)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace / 4)
        await self.ledger.close(grace)

    def _know(self, partition: PartitionState) -> None:
        if partition not in self._partitions:
            self._partitions[partition] = Refusals(partition)
        if not self._tasks and not self._closed:
            self._start(self._take_in(), "intake")
            self._start(self.ledger.keep(), "ledger")

    def _start(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(work, name=f"{self._name}-{what}")
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not self._closed and not task.cancelled():
            self._failure = self._failure or task.exception()

    # --- what the ledger asks and tells

    def active(self) -> bool:
        return not self._closed and self._host() is not None

    def _host(self) -> PartitionState | None:
        """A partition whose drain waits for what belongs to none."""
        for partition in self._partitions:
            if partition.open:
                return partition
        return None

    def goes_on(self, aggregate: Aggregate) -> bool:
        now = monotonic()
        if self._closed or not aggregate.held(now):
            return False
        if aggregate.burials:
            startable = self._host() is not None
        else:
            item = aggregate.next_item()
            startable = item is not None and self._may_start(aggregate, item, now)
        if startable:
            aggregate.busy = True
            self._enqueue(aggregate)
        return startable

    def _may_start(self, aggregate: Aggregate, item: Item, now: float) -> bool:
        if aggregate.rests_until > now or not aggregate.held(now):
            return False
        return item.partition.open if item.partition is not None else self._host() is not None

    def found(self, aggregate: Aggregate, waiting: Waiting) -> None:
        self._judge_gap(aggregate, waiting)
        if aggregate.burials:
            return
        known = max(aggregate.known, aggregate.last)
        for number, packed in waiting.messages:
            if number > known + 1:
                break
            if number > known and number not in aggregate.items:
                self._take(aggregate, number, unpack(packed))
            known = max(known, number)
        aggregate.known = known

    def _take(self, aggregate: Aggregate, number: int, message: RawMessage) -> None:
        try:
            value = self._processor.decode(message)
        except BaseException as error:  # it could be decoded when it was parked
            if is_interrupt(error):
                raise
            failure = self._processor.refusal(message, error)
            aggregate.burials.append(Burial(number, failure, for_gap=False))
            return
        aggregate.items[number] = Item(number, message, value, None)

    def duplicate(self, aggregate: Aggregate, item: Item) -> None:
        """Late ones that a person sent back from the DLQ are handled all the same: their number was passed over."""
        if item.partition is None:
            return
        if item.sequence <= aggregate.last and self._processor.is_redriven(item.message):
            aggregate.late.append(item)
            return
        self._counters.skipped += 1
        self._counters.duplicates += 1
        item.partition.conclude(item.message.offset)
        item.partition.settle()

    # --- taking in

    async def _take_in(self) -> None:
        intake, share = self._intake, self._share
        while True:
            while intake:
                partition, messages = intake.popleft()
                self._sorting = True
                for message in messages:
                    if partition not in self._partitions:
                        break
                    self._sort_in(partition, message)
                    if (now := monotonic()) >= share.deadline and not share.turned(now, now):
                        await share.give_way()
                partition.settle()
                self._sorting = False
            self._hurry()
            self._arrived.clear()
            await self._arrived.wait()

    def _hurry(self) -> None:
        """The store is told at once when there is nothing else to do."""
        if not (self._queued or self._intake or self._sorting):
            self.ledger.hurry()

    def _sort_in(self, partition: PartitionState, message: RawMessage) -> None:
        try:
            value = self._processor.decode(message)
            key, number = self._read(value)
        except BaseException as error:
            if is_interrupt(error):
                raise
            refusals = self._partitions[partition]
            refusals.letters.append(self._processor.refusal(message, error))
            self._counters.failed += 1
            self._enqueue_refusals(refusals)
            return
        aggregate = self.ledger.aggregate(key)
        item = Item(number, message, value, partition)
        if number <= aggregate.last or number in aggregate.items:
            self.duplicate(aggregate, item)
        else:
            aggregate.items[number] = item
        if not aggregate.busy:
            self.ledger.look_at(aggregate)

    # --- serving

    def _enqueue(self, lane: Lane) -> None:
        self._queued += 1
        self.pool.put(lane)

    def _enqueue_later(self, lane: Lane, delay: float) -> None:
        asyncio.get_running_loop().call_later(delay, self._enqueue, lane)

    def _enqueue_refusals(self, refusals: Refusals) -> None:
        if refusals.letters and not refusals.busy and refusals.partition.open:
            refusals.busy = True
            self._enqueue(refusals)

    async def _serve(self, worker: Worker, lane: Lane) -> None:
        self._guard.suspect(monotonic())
        try:
            if isinstance(lane, Refusals):
                await self._refuse(worker, lane)
            elif lane.burials:
                await self._bury(worker, lane)
            else:
                await self._serve_aggregate(worker, lane)
        except asyncio.CancelledError:
            self._queued += 1  # it is put back, unless all ends
            raise
        finally:
            worker.started_at = None
            self._queued -= 1
            self._hurry()

    async def _serve_aggregate(self, worker: Worker, aggregate: Aggregate) -> None:
        """Handles what comes next until something is missing, or it has to wait, or others want the worker."""
        share, pool = self._share, self.pool
        now = monotonic()
        turn_ends = now + LANE_TURN
        while (item := aggregate.next_item()) is not None and self._may_start(aggregate, item, now):
            worker.started_at = now
            if (delay := await self._handle(aggregate, item)) is not None:
                if monotonic() >= share.deadline:
                    await share.give_way()
                self._enqueue_later(aggregate, delay)
                return
            now, began = monotonic(), now
            self._timings.note(began, now, item.message.timestamp)
            if now >= share.deadline and not self._guard.suspect(now) and not share.turned(began, now):
                await share.give_way()
                now = monotonic()
            if now >= turn_ends and pool.waiting:
                self._enqueue(aggregate)
                return
        self._leave(aggregate)

    def _leave(self, aggregate: Aggregate) -> None:
        aggregate.busy = False
        self.ledger.look_at(aggregate)

    async def _handle(self, aggregate: Aggregate, item: Item) -> float | None:
        """One attempt. Gives the seconds that the aggregate has to wait before the next, if any."""
        aggregate.begin(item)
        if aggregate.blocked:
            aggregate.attempt = self._last_attempt  # one more, whenever it has rested
        aggregate.running = item
        token = aggregate.token
        item.host = host = item.partition or self._host()
        if host is not None:
            host.running += 1
        try:
            outcome = await self._attempt(aggregate, item)
        except BaseException:
            self._stopped_running(host)
            raise
        finally:
            aggregate.running = None
        if self._closed:
            self._stopped_running(host)
            raise asyncio.CancelledError("given up meanwhile")
        if isinstance(outcome, FailureContext):
            self._stopped_running(host)
            self._block(aggregate, item, outcome)
            return None
        if not isinstance(outcome, Judgement):
            self._counters.processed += 1
        elif (delay := self._settle(aggregate, outcome)) is not None:
            self._stopped_running(host)
            return delay
        self._conclude(aggregate, item, host, ours=aggregate.token == token)
        return None

    async def _attempt(self, aggregate: Aggregate, item: Item) -> Any:
        if aggregate.letter is not None:
            return await self._processor.move(aggregate.letter)
        hold = self._sequencing.on_failure == "block" and item.sequence > aggregate.last
        return await self._processor.handle(
            item.message, item.value, aggregate.attempt, aggregate.first_failed_at, hold=hold
        )

    def _conclude(self, aggregate: Aggregate, item: Item, host: PartitionState | None, *, ours: bool) -> None:
        """Handled, or dead-lettered. Its offset is concluded when the store knows; at once, if that has no need to."""
        aggregate.tried = None
        if aggregate.late and aggregate.late[0] is item:
            aggregate.late.popleft()
            if item.partition is not None:
                item.partition.conclude(item.message.offset)
                item.partition.settle()
            self._stopped_running(host)
        elif not ours or item.sequence != aggregate.last + 1:  # taken over meanwhile: what the store says counts
            self._stopped_running(host)
            if item.sequence <= aggregate.last and aggregate.items.pop(item.sequence, None) is not None:
                self.duplicate(aggregate, item)
        else:
            aggregate.items.pop(item.sequence, None)
            aggregate.last = item.sequence
            aggregate.unwritten.append(item)
            self.ledger.mark(aggregate)
            if aggregate.blocked:
                self.ledger.unblock(aggregate)

    def _stopped_running(self, host: PartitionState | None) -> None:
        if host is not None:
            host.finished_running()

    def _settle(self, aggregate: Aggregate, judgement: Judgement) -> float | None:
        """Takes note of a failure. None: the message is concluded; else the seconds that the aggregate waits."""
        count_judgement(self._counters, judgement, again=aggregate.letter is not None)
        if judgement.settled:
            return None
        if judgement.verdict is Verdict.RETRY:
            aggregate.attempt += 1
            aggregate.first_failed_at = judgement.failure.first_failed_at
        else:
            aggregate.letter = judgement.failure
        return judgement.delay

    # --- what does not go its way

    def _block(self, aggregate: Aggregate, item: Item, failure: FailureContext) -> None:
        """Its attempts are used up, and nothing may overtake it: all that the aggregate has waits in the store."""
        self._counters.failed += 1
        self.ledger.block(aggregate, self._rest_seconds)
        aggregate.tried = None
        held_back = self._complaints.due(type(failure.error).__name__)
        if held_back is not None:
            more = f" ({held_back} more like it were not logged)" if held_back else ""
            logger.error("%s: %r blocks its aggregate%s", failure.handler_id, failure, more)

    def _judge_gap(self, aggregate: Aggregate, waiting: Waiting) -> None:
        """A number is missing for too long."""
        if not aggregate.overdue or aggregate.busy or aggregate.unwritten or aggregate.next_item() is not None:
            return
        missing = waiting.lowest > aggregate.last + 1
        if not missing or waiting.seconds < self._sequencing.gap_timeout:
            aggregate.overdue = False
        elif self._sequencing.on_gap == "skip":
            aggregate.overdue = False
            self._give_up(aggregate, min([waiting.lowest, *aggregate.items]))
        elif waiting.messages:
            aggregate.overdue = False
            for number, packed in waiting.messages:
                failure = self._processor.refusal(unpack(packed), SequenceGapError(), Stage.HANDLER)
                aggregate.burials.append(Burial(number, failure, for_gap=True))
        else:
            self.ledger.mark(aggregate)  # it was claimed: what waits is still to be read

    def _give_up(self, aggregate: Aggregate, lowest: int) -> None:
        """Goes on with the lowest that waits; what is missing before it is late from now on."""
        given_up = lowest - 1 - aggregate.last
        self._counters.given_up += given_up
        aggregate.last = lowest - 1
        logger.warning("%s: %d sequence numbers of an aggregate are given up", self._name, given_up)
        self.ledger.mark(aggregate)

    async def _bury(self, worker: Worker, aggregate: Aggregate) -> None:
        """Writes dead letters for what waits in the store, until what is missing has come after all."""
        while aggregate.burials and aggregate.held(monotonic()) and (host := self._host()) is not None:
            burial = aggregate.burials[0]
            if burial.for_gap and aggregate.last + 1 in aggregate.items:
                aggregate.burials.clear()
                break
            judgement = await self._move(worker, host, burial.failure)
            if not judgement.settled:
                self._enqueue_later(aggregate, judgement.delay)
                return
            count_judgement(self._counters, judgement, again=True)
            if aggregate.burials and aggregate.burials[0] is burial:
                aggregate.burials.popleft()
                aggregate.buried.append(burial.sequence)
        if aggregate.buried:
            self.ledger.mark(aggregate)
        self._leave(aggregate)

    async def _refuse(self, worker: Worker, refusals: Refusals) -> None:
        partition = refusals.partition
        while refusals.letters and partition.open:
            failure = refusals.letters[0]
            judgement = await self._move(worker, partition, failure)
            if not judgement.settled:
                self._enqueue_later(refusals, judgement.delay)
                return
            count_judgement(self._counters, judgement, again=True)
            if refusals.letters:  # else the partition was released meanwhile
                refusals.letters.popleft()
            partition.conclude(failure.message.offset)
            partition.settle()
        refusals.busy = False

    async def _move(self, worker: Worker, host: PartitionState, failure: FailureContext) -> Judgement:
        worker.started_at = monotonic()
        host.running += 1
        try:
            return await self._processor.move(failure)
        finally:
            host.finished_running()

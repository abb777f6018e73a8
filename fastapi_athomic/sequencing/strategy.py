"""Ordered consumption: each aggregate's messages in the order of their sequence numbers, each once.

A session uses the strategy here, which `ordered_consumer` stands for. A message goes this way: `Intake` decodes it and
puts it in its place in its aggregate. If it is next, `Serving` passes it to a worker and `Attempts` calls the handler.
If it is early, the `Ledger` parks it in the waiting room of the state store, and `WaitingRoomReader` takes it back when
its turn comes. If it is late or a duplicate, `Duplicates` skips it. Its offset is concluded when the store has
acknowledged it (promises P1 and P17).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, Unpack

from ..consumption.gate import Gate
from ..consumption.partitions import PartitionState
from ..consumption.strategies import StrategyParts
from ..handling.processors import OrderedMessageProcessor
from ..messages import RawMessage
from ..observation.gauges import SequenceGauge
from ..retry import RetryPolicy
from ..stores.base import Member, StateStore
from ..subscriptions import Sequencing
from .assignment import Assignment
from .attempts import Attempts, AttemptsParts
from .burials import Burials
from .calls import Agenda
from .duplicates import Duplicates
from .holdings import Holdings
from .intake import Intake, IntakeParts
from .ledger import Ledger, LedgerParts
from .serving import Lane, Serving
from .waiting_room import WaitingRoomReader


class OrderedParts(NamedTuple):
    """What ordered consumption is built from, besides what every strategy is built from."""

    sequencing: Sequencing
    retry: RetryPolicy
    store: StateStore
    member: Member
    gauge: SequenceGauge
    linger: float  # seconds; after a message is handled, the store is told within this time


class OrderedStrategy:
    """A `ConsumptionStrategy`: up to `concurrency` aggregates at once, and one message at a time of each."""

    def __init__(
        self, processor: OrderedMessageProcessor, ordered: OrderedParts, **parts: Unpack[StrategyParts]
    ) -> None:
        self._processor = processor
        self._name = parts["name"]
        self._guard = parts["guard"]
        self._counters = counters = parts["counters"]
        sequencing = ordered.sequencing
        self._assignment = assignment = Assignment()
        self._agenda = agenda = Agenda(ordered.linger)
        self._holdings = holdings = Holdings(ordered.member, agenda, assignment, ordered.gauge)
        duplicates = Duplicates(processor, counters)
        self._gate = gate = Gate[Lane](parts["limits"], lambda lane: self._serving.enqueue(lane))
        attempts = Attempts(
            AttemptsParts(
                processor=processor,
                sequencing=sequencing,
                retry=ordered.retry,
                assignment=assignment,
                agenda=agenda,
                holdings=holdings,
                duplicates=duplicates,
                counters=counters,
                gate=gate,
            )
        )
        burials = Burials(processor, assignment, agenda, counters)
        self._serving = serving = Serving(attempts, burials, assignment, agenda, holdings, gate, **parts)
        self.pool = serving.pool
        self._intake = Intake(
            IntakeParts(
                processor=processor,
                sequencing=sequencing,
                assignment=assignment,
                agenda=agenda,
                holdings=holdings,
                serving=serving,
                duplicates=duplicates,
                share=parts["share"],
            )
        )
        self._ledger = Ledger(
            LedgerParts(
                store=ordered.store,
                member=ordered.member,
                on_gap=sequencing.on_gap,
                gauge=ordered.gauge,
                counters=counters,
                assignment=assignment,
                agenda=agenda,
                holdings=holdings,
                dispatch=serving.dispatch,
                found=WaitingRoomReader(processor, sequencing, agenda, counters, parts["name"]).found,
                duplicate=duplicates.add,
            )
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        self._know(partition)
        self._intake.accept(partition, messages)

    def reopen(self, partition: PartitionState) -> None:
        self._know(partition)
        for aggregate in list(self._holdings.aggregates.values()):
            self._serving.dispatch(aggregate)
        self._serving.enqueue_refusals(self._assignment.refusals[partition])

    def release(self, partition: PartitionState) -> None:
        self._processor.patience.let_go(partition.topic_partition)
        if not self._assignment.remove(partition):
            return
        for aggregate in list(self._holdings.aggregates.values()):
            if aggregate.drop(partition):
                self._serving.dispatch(aggregate)
        self._gate.let_go()
        if not self._assignment.active():
            self._processor.patience.let_go(None)  # what was taken from the waiting room, too
            self._holdings.release_idle()

    def resize(self, concurrency: int) -> None:
        self.pool.resize(concurrency)

    def settled(self) -> bool:
        """A message from the waiting room has its offset committed already, and may be in its handler."""
        aggregates = self._holdings.aggregates.values()
        return not self._agenda.hindered and not any(aggregate.busy or aggregate.unwritten for aggregate in aggregates)

    def hungry(self, running: int, partitions: int, *, busy: bool) -> bool:
        return True  # it is not asked: for an ordered consumer nothing is `enough`

    def oldest_start(self) -> float | None:
        return self.pool.oldest_start()

    @property
    def failure(self) -> BaseException | None:
        return self.pool.failure or self._failure

    async def close(self, grace: float) -> None:
        self._assignment.closed = self._processor.closed = True
        self._gate.close()
        await self.pool.close(grace / 2)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace / 4)
        await self._ledger.close(grace)

    def _know(self, partition: PartitionState) -> None:
        """Notes that the partition is ours. The first one starts the tasks."""
        self._assignment.add(partition)
        if not self._tasks and not self._assignment.closed:
            self._start(self._intake.run(), "intake")
            self._start(self._ledger.keep(), "ledger")

    def _start(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(work, name=f"{self._name}-{what}")
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not self._assignment.closed and not task.cancelled():
            self._failure = self._failure or task.exception()
            self._guard.wake()

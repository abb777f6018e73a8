"""Dead letters of messages that are never handled: buried from the waiting room, or refused when they came."""

from __future__ import annotations

from time import monotonic

from ..consumption.attempts import count_judgement
from ..consumption.partitions import PartitionState
from ..consumption.workers import Worker
from ..failures.dlq import Judgement
from ..handling.processors import OrderedMessageProcessor
from ..observation.counters import Counters
from ..outcomes import FailureContext
from .aggregates import Aggregate
from .assignment import Assignment, Refusals
from .calls import Agenda


class Burials:
    """Writes the dead letters.

    Both methods return None when they are done, or when nothing may start any more. If a letter cannot be written,
    they return the seconds to wait before the next try.
    """

    def __init__(
        self, processor: OrderedMessageProcessor, assignment: Assignment, agenda: Agenda, counters: Counters
    ) -> None:
        self._processor = processor
        self._assignment = assignment
        self._agenda = agenda
        self._counters = counters

    async def bury(self, worker: Worker, aggregate: Aggregate) -> float | None:
        """For messages from an aggregate's waiting room. Stops if the missing message comes after all."""
        while aggregate.burials and (host := self._assignment.host()) is not None:
            now = monotonic()
            if not aggregate.held(now) or now >= self._agenda.silent_from:
                break
            burial = aggregate.burials[0]
            if burial.for_gap and aggregate.last + 1 in aggregate.items:
                aggregate.burials.clear()
                break
            judgement = await self._move(worker, host, burial.failure)
            if not judgement.settled:
                return judgement.delay
            count_judgement(self._counters, judgement, again=True)
            if aggregate.burials and aggregate.burials[0] is burial:
                aggregate.burials.popleft()
                aggregate.buried.append(burial.sequence)
        if aggregate.buried:
            self._agenda.mark(aggregate)
        return None

    async def refuse(self, worker: Worker, refusals: Refusals) -> float | None:
        """For messages of one partition that have no place in any sequence. Concludes their offsets."""
        partition = refusals.partition
        while refusals.letters and partition.open:
            failure = refusals.letters[0]
            judgement = await self._move(worker, partition, failure)
            if not judgement.settled:
                return judgement.delay
            count_judgement(self._counters, judgement, again=True)
            if refusals.letters:  # else the partition was released meanwhile
                refusals.letters.popleft()
            partition.conclude(failure.message.offset)
            partition.settle()
        return None

    async def _move(self, worker: Worker, host: PartitionState, failure: FailureContext) -> Judgement:
        worker.started_at = monotonic()
        host.running += 1
        try:
            return await self._processor.move(failure)
        finally:
            host.finished_running()

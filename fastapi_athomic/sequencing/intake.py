"""Takes in messages from the partitions, and puts each one in its place in its aggregate.

A message is decoded here, long before its turn perhaps, because its aggregate key and sequence number are in its
payload.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from time import monotonic

from ..consumption.partitions import PartitionState
from ..handling.processors import OrderedMessageProcessor
from ..loop.cancellation import is_interrupt
from ..loop.fairness import LoopShare
from ..messages import RawMessage
from .aggregates import Item
from .assignment import Assignment
from .calls import Agenda
from .duplicates import Duplicates
from .fields import SequenceReader
from .holdings import Holdings
from .serving import Serving


class Intake:
    """Sorts in what the session hands over. It gives the event loop back in between, as handlers do."""

    def __init__(
        self,
        processor: OrderedMessageProcessor,
        reader: SequenceReader,
        assignment: Assignment,
        agenda: Agenda,
        holdings: Holdings,
        serving: Serving,
        duplicates: Duplicates,
        share: LoopShare,
    ) -> None:
        self._processor = processor
        self._read = reader.read
        self._assignment = assignment
        self._agenda = agenda
        self._holdings = holdings
        self._serving = serving
        self._duplicates = duplicates
        self._share = share
        self._intake: deque[tuple[PartitionState, Sequence[RawMessage]]] = deque()
        self._arrived = asyncio.Event()

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        """Messages of one partition, in offset order, to be sorted in soon."""
        self._agenda.batches += 1
        self._intake.append((partition, messages))
        self._arrived.set()

    async def run(self) -> None:
        """Sorts in what was accepted. Runs until it is cancelled."""
        intake, share = self._intake, self._share
        while True:
            while intake:
                partition, messages = intake.popleft()
                for message in messages:
                    if partition not in self._assignment.refusals:
                        break
                    self._sort_in(partition, message)
                    if (now := monotonic()) >= share.deadline and not share.turned(now, now):
                        await share.give_way()
                partition.settle()
                self._agenda.batches -= 1
            self._agenda.hurry()
            self._arrived.clear()
            await self._arrived.wait()

    def _sort_in(self, partition: PartitionState, message: RawMessage) -> None:
        try:
            value = self._processor.decode(message)
            key, number = self._read(value)
        except BaseException as error:
            if is_interrupt(error):
                raise
            refusals = self._assignment.refusals[partition]
            self._serving.refuse(refusals, self._processor.refusal(message, error))
            return
        aggregate = self._holdings.aggregate(key)
        item = Item(number, message, value, partition)
        if number <= aggregate.last or number in aggregate.items:
            self._duplicates.add(aggregate, item)
        else:
            aggregate.items[number] = item
        if not aggregate.busy:
            self._serving.dispatch(aggregate)

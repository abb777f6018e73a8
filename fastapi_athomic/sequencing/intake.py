"""Takes in messages from the partitions, and puts each one in its place in its aggregate.

A message is decoded here, perhaps long before its turn, because its aggregate key and sequence number are in its
payload.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

from ..consumption.partitions import PartitionState
from ..exceptions import PayloadDecodeError
from ..handling.patience import GONE
from ..handling.processors import OrderedMessageProcessor
from ..loop.fairness import LoopShare
from ..messages import RawMessage
from ..payload.steps import Later
from ..stores.base import GREATEST
from ..subscriptions import Sequencing
from .aggregates import Item
from .assignment import Assignment
from .calls import Agenda
from .duplicates import Duplicates
from .holdings import Holdings
from .serving import Serving

STEP = "sequence"
"""Errors name this step, as they name the steps of the payload pipeline."""


class SequenceReader:
    """Reads the aggregate key and the sequence number: attributes of an object, or keys of a mapping."""

    def __init__(self, sequencing: Sequencing) -> None:
        self._key_field = sequencing.aggregate_key_field
        self._number_field = sequencing.sequence_id_field

    def read(self, value: Any) -> tuple[bytes, int]:
        """Returns the aggregate key and the sequence number.

        The key is a string, an integer, a UUID or bytes. Only its text counts: 1 and "1" are the same aggregate.

        Raises:
            PayloadDecodeError: a field is missing or has a wrong type. The error names the field, never its value.
        """
        if isinstance(value, Mapping):
            key, number = value.get(self._key_field), value.get(self._number_field)
        else:
            key, number = getattr(value, self._key_field, None), getattr(value, self._number_field, None)
        if type(number) is not int or not -GREATEST <= number <= GREATEST:
            raise PayloadDecodeError(f"{self._number_field} is not a whole number below 2**53", step=STEP)
        if isinstance(key, str):
            return key.encode("utf-8", "surrogatepass"), number
        if isinstance(key, bytes):
            return key, number
        if isinstance(key, int | UUID) and not isinstance(key, bool):
            return str(key).encode(), number
        raise PayloadDecodeError(f"{self._key_field} is no text, whole number, UUID or bytes", step=STEP)


class IntakeParts(NamedTuple):
    """What the intake is built from."""

    processor: OrderedMessageProcessor
    sequencing: Sequencing
    assignment: Assignment
    agenda: Agenda
    holdings: Holdings
    serving: Serving
    duplicates: Duplicates
    share: LoopShare


class Intake:
    """Puts the messages that the session hands over in their places. Yields to the event loop in between."""

    def __init__(self, parts: IntakeParts) -> None:
        self._processor = parts.processor
        self._read = SequenceReader(parts.sequencing).read
        self._assignment = parts.assignment
        self._agenda = parts.agenda
        self._holdings = parts.holdings
        self._serving = parts.serving
        self._duplicates = parts.duplicates
        self._share = parts.share
        self._intake: deque[tuple[PartitionState, Sequence[RawMessage]]] = deque()
        self._arrived = asyncio.Event()

    def accept(self, partition: PartitionState, messages: Sequence[RawMessage]) -> None:
        """Takes messages of one partition, in offset order. `run` sorts them in soon."""
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
                    await self._sort_in(partition, message)
                    if (now := monotonic()) >= share.deadline and not share.turned(now, now):
                        await share.give_way()
                partition.settle()
                self._agenda.batches -= 1
            self._agenda.hurry()
            self._arrived.clear()
            await self._arrived.wait()

    async def _sort_in(self, partition: PartitionState, message: RawMessage) -> None:
        try:
            value = self._processor.decode(message)
            if isinstance(value, Later):
                value = await self._processor.patience.until_there(message, value)
                if value is GONE or partition not in self._assignment.refusals:  # it was taken away meanwhile
                    return
            key, number = self._read(value[0] if self._processor.keyed else value)
        except BaseException as error:
            if self._processor.ended_by(error):
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

"""Messages whose number is done already, or that are there twice."""

from __future__ import annotations

from ..handling.processors import OrderedMessageProcessor
from ..observation.counters import Counters
from .aggregates import Aggregate, Item


class Duplicates:
    """Skips such messages, except those that somebody has redriven from the DLQ."""

    def __init__(self, processor: OrderedMessageProcessor, counters: Counters) -> None:
        self._processor = processor
        self._counters = counters

    def add(self, aggregate: Aggregate, item: Item) -> None:
        """Skips the item, or keeps it in `Aggregate.late`. Call this only after removing the item from its aggregate.

        A redriven message is handled although its number is done: the aggregate went on when the message failed. All
        others are skipped, and their offsets are concluded.
        """
        if item.partition is None:
            return
        if item.sequence <= aggregate.last and self._processor.is_redriven(item.message):
            aggregate.late.append(item)
            return
        self._counters.skipped += 1
        self._counters.duplicates += 1
        item.partition.conclude(item.message.offset)
        item.partition.settle()

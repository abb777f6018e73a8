"""Messages whose number is done, or waits already."""

from __future__ import annotations

from ..handling.processors import OrderedMessageProcessor
from ..observation.counters import Counters
from .aggregates import Aggregate, Item


class Duplicates:
    """Skips them, but for those that a person sent back."""

    def __init__(self, processor: OrderedMessageProcessor, counters: Counters) -> None:
        self._processor = processor
        self._counters = counters

    def add(self, aggregate: Aggregate, item: Item) -> None:
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

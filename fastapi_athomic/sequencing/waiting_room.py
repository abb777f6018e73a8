"""Takes back what waits in the store: messages whose turn has come. Decides what happens when one is missing."""

from __future__ import annotations

import logging

from ..exceptions import SequenceGapError
from ..handling.processors import OrderedMessageProcessor
from ..loop.cancellation import is_interrupt
from ..messages import RawMessage
from ..observation.counters import Counters
from ..outcomes import Stage
from ..stores.base import Waiting
from ..subscriptions import Sequencing
from .aggregates import Aggregate, Burial, Item
from .calls import Agenda
from .packing import unpack

logger = logging.getLogger(__name__)


class WaitingRoomReader:
    """Reads what the store found in an aggregate's waiting room."""

    def __init__(
        self,
        processor: OrderedMessageProcessor,
        sequencing: Sequencing,
        agenda: Agenda,
        counters: Counters,
        name: str,
    ) -> None:
        self._processor = processor
        self._sequencing = sequencing
        self._agenda = agenda
        self._counters = counters
        self._name = name

    def found(self, aggregate: Aggregate, waiting: Waiting) -> None:
        """Takes the store's answer about what waits for this aggregate, whose lease is ours."""
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
        """Its turn comes. It could be decoded when it was parked, but perhaps another release of the app did that.

        The value may be a `Later`, which is waited for when the message is handled.
        """
        try:
            value = self._processor.decode(message)
        except BaseException as error:
            if is_interrupt(error):
                raise
            failure = self._processor.refusal(message, error)
            aggregate.burials.append(Burial(number, failure, for_gap=False))
            return
        aggregate.items[number] = Item(number, message, value, None)

    def _judge_gap(self, aggregate: Aggregate, waiting: Waiting) -> None:
        """Does what `on_gap` says, if a number before the waiting messages has been missing for too long."""
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
            self._agenda.mark(aggregate)  # the answer to a claim has no messages behind a gap: ask for them

    def _give_up(self, aggregate: Aggregate, lowest: int) -> None:
        """Goes on with the lowest number that waits. The missing ones before it count as late from now on."""
        given_up = lowest - 1 - aggregate.last
        self._counters.given_up += given_up
        aggregate.last = lowest - 1
        logger.warning(
            "%s: %d sequence numbers of an aggregate were missing for longer than gap_timeout, and are given up",
            self._name,
            given_up,
        )
        self._agenda.mark(aggregate)

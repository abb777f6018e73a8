"""One attempt at the next message of an aggregate, and what follows from it."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from ..consumption.gate import Gate
from ..consumption.partitions import PartitionState
from ..failures.dlq import Judgement
from ..handling.processors import OrderedMessageProcessor
from ..observation.counters import Counters
from ..outcomes import FailureContext
from ..retry import RetryPolicy
from ..subscriptions import Sequencing
from .aggregates import Aggregate, Item
from .assignment import Assignment
from .calls import Agenda
from .duplicates import Duplicates
from .holdings import Holdings

SHORTEST_REST = 1.0
"""Seconds. A blocked aggregate rests at least this long before its message is tried again."""


class AttemptsParts(NamedTuple):
    """What the attempts are built from."""

    processor: OrderedMessageProcessor
    sequencing: Sequencing
    retry: RetryPolicy
    assignment: Assignment
    agenda: Agenda
    holdings: Holdings
    duplicates: Duplicates
    counters: Counters
    gate: Gate[Any]


class Attempts:
    """Calls the handler. Then the message is done, is tried again, is dead-lettered, or blocks its aggregate."""

    def __init__(self, parts: AttemptsParts) -> None:
        self._processor = parts.processor
        self._blocks = parts.sequencing.on_failure == "block"
        self._rest_seconds = max(SHORTEST_REST, parts.retry.longest_delay)
        self._last_attempt = max(1, parts.retry.max_attempts)
        self._assignment = parts.assignment
        self._agenda = parts.agenda
        self._holdings = parts.holdings
        self._duplicates = parts.duplicates
        self._counters = parts.counters
        self._gate = parts.gate

    async def make(self, aggregate: Aggregate, item: Item) -> float | None:
        """Makes one attempt. Returns the seconds until the next attempt at this message; None if none is due."""
        aggregate.begin(item)
        if aggregate.blocked:
            aggregate.attempt = self._last_attempt  # one attempt after each rest
        aggregate.running = item
        token = aggregate.token
        item.host = host = item.partition or self._assignment.host()
        if host is not None:
            host.running += 1
        try:
            outcome = await self._attempt(aggregate, item)
        except BaseException:
            self._stopped_running(host)
            raise
        finally:
            aggregate.running = None
        if self._assignment.closed:
            self._stopped_running(host)
            raise asyncio.CancelledError("the consumer is closing")
        if outcome is None:
            self._stopped_running(host)
            self._let_go(aggregate, item)
            return None
        if isinstance(outcome, FailureContext):
            self._stopped_running(host)
            self._block(aggregate, item, outcome)
            return None
        if not isinstance(outcome, Judgement):
            self._counters.processed += 1
            if self._gate.active:
                self._gate.succeeded(aggregate)
        elif (delay := aggregate.note_failure(outcome, self._counters)) is not None:
            self._stopped_running(host)
            return delay
        self._conclude(aggregate, item, host, ours=aggregate.token == token)
        return None

    async def _attempt(self, aggregate: Aggregate, item: Item) -> Any:
        if aggregate.letter is not None:
            return await self._processor.move(aggregate.letter)
        hold = self._blocks and item.sequence > aggregate.last
        return await self._processor.handle(
            item.message, item.value, aggregate.attempt, aggregate.first_failed_at, hold=hold
        )

    def _conclude(self, aggregate: Aggregate, item: Item, host: PartitionState | None, *, ours: bool) -> None:
        """The message is handled or dead-lettered.

        Its offset is concluded when the store has acknowledged that; at once, if there is nothing to tell the store.
        """
        aggregate.tried = None
        if aggregate.late and aggregate.late[0] is item:
            aggregate.late.popleft()
            if item.partition is not None:
                item.partition.conclude(item.message.offset)
                item.partition.settle()
            self._stopped_running(host)
        elif not ours or item.sequence != aggregate.last + 1:  # the lease was lost meanwhile: the store decides
            self._stopped_running(host)
            if item.sequence <= aggregate.last and aggregate.items.pop(item.sequence, None) is not None:
                self._duplicates.add(aggregate, item)
        else:
            aggregate.items.pop(item.sequence, None)
            aggregate.last = item.sequence
            aggregate.unwritten.append(item)
            self._agenda.mark(aggregate)
            if aggregate.blocked:
                self._holdings.unblock(aggregate)

    def _let_go(self, aggregate: Aggregate, item: Item) -> None:
        """Its partition was taken away while its payload was waited for: its next owner handles it."""
        gone = item.partition is not None and item.partition not in self._assignment.refusals
        if gone and aggregate.items.get(item.sequence) is item:
            del aggregate.items[item.sequence]

    def _stopped_running(self, host: PartitionState | None) -> None:
        if host is not None:
            host.finished_running()

    def _block(self, aggregate: Aggregate, item: Item, failure: FailureContext) -> None:
        """Its attempts are used up and nothing may overtake it, so all messages of the aggregate wait in the store."""
        self._counters.failed += 1
        self._processor.log.blocks(failure, self._rest_seconds, first=not aggregate.blocked)
        self._holdings.block(aggregate, self._rest_seconds)
        aggregate.tried = None

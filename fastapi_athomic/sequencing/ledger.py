"""The conversation with the state store: sends what is handled, parked and claimed, and acts on the answers.

The offset of a message that is handled or parked is concluded here, when the store has acknowledged it (promises P1
and P17).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from time import monotonic
from typing import NamedTuple

from ..complaints import Complaints
from ..consumption.partitions import PartitionState
from ..exceptions import StateStoreError
from ..observation.counters import Counters
from ..observation.gauges import SequenceGauge
from ..observation.reasons import ReasonCode, lasting
from ..stores.base import Claim, Member, Parked, Reply, StateStore, Take, Waiting
from ..subscriptions import OnGap
from .aggregates import Aggregate, Item
from .assignment import Assignment
from .calls import Agenda, PendingCall, Written
from .holdings import Holdings
from .survey import Survey

logger = logging.getLogger(__name__)

CALL_AGGREGATES = 250
"""Most writes and claims in one call. Such a call occupies the store and our event loop for a few milliseconds.

Aggregates that only park are not counted: `CALL_BYTES` limits them.
"""
CALL_BYTES = 4_000_000
"""Most bytes of parked messages in one call; the last aggregate may exceed it."""
TICK_SECONDS = 0.1
"""While we hold aggregates, we call at least this often: to renew leases, and to hear what others parked for us."""
CERTAIN = 0.8
"""We rely on a lease for this share of it. The rest allows for clocks that differ, and the way to the store."""
FULL_SECONDS = 1.0
"""Seconds after which an aggregate that is full or refused tries again."""
SLOW_SECONDS = 1.0
"""A call that took longer is told of in the log."""
FIRST_DELAY, MAX_DELAY = 0.05, 2.0
"""Seconds between two calls while the store does not answer. They double from the first to the second."""


class LedgerParts(NamedTuple):
    """What the ledger is built from."""

    store: StateStore
    member: Member
    on_gap: OnGap
    gauge: SequenceGauge
    counters: Counters
    assignment: Assignment
    agenda: Agenda
    holdings: Holdings
    dispatch: Callable[[Aggregate], None]  # the aggregate has changed: passes it on to whoever acts next
    found: Callable[[Aggregate, Waiting], None]  # takes what waits for the aggregate in the store
    duplicate: Callable[[Aggregate, Item], None]  # for a number that is done, or waits in the store already


class Ledger:
    """One member's conversation with the store: one call at a time."""

    def __init__(self, parts: LedgerParts) -> None:
        self._store = parts.store
        self._member = parts.member
        self._on_gap = parts.on_gap
        self._gauge = parts.gauge
        self._counters = parts.counters
        self._assignment = parts.assignment
        self._agenda = parts.agenda
        self._holdings = parts.holdings
        self._dispatch = parts.dispatch
        self._found = parts.found
        self._duplicate = parts.duplicate
        self._survey = Survey(parts.gauge, parts.holdings, parts.agenda, parts.on_gap)
        self._called_at = 0.0
        self._delay = FIRST_DELAY
        self._complaints = Complaints(burst=1)

    # --- calls

    async def keep(self) -> None:
        """Sends a call whenever one is due. Runs until it is cancelled."""
        seconds = self._survey.seconds
        while True:
            await self._agenda.wait(min(TICK_SECONDS, seconds) if self._holdings.aggregates else seconds)
            self._look_around(monotonic())
            asked = self._gather()
            if asked is not None:
                await self._ask(asked)

    async def _ask(self, asked: PendingCall) -> None:
        began = monotonic()
        self._agenda.asked(began)
        try:
            reply = await self._store.call(self._member, asked.call)
        except StateStoreError as error:
            self._agenda.failed()
            self._excuse(error, asked)
            await asyncio.sleep(self._delay)
            self._delay = min(self._delay * 2, MAX_DELAY)
            self._agenda.wake()
            return
        hindered = self._agenda.answered()
        self._note_seconds(monotonic() - began)
        if self._gauge.trouble is not None:
            logger.info("group %s: the state store answers again", self._member.group_id)
            self._gauge.trouble = None
        self._delay = FIRST_DELAY
        self._called_at = began
        self._apply(asked, reply, began + self._member.lease * CERTAIN)
        for aggregate in hindered:
            self._dispatch(aggregate)

    def _note_seconds(self, seconds: float) -> None:
        if seconds < SLOW_SECONDS:
            return
        if (more := self._complaints.due("slow")) is not None:
            logger.warning(
                "group %s: the state store took %.1f s to answer, or the event loop was blocked; no message started "
                "meanwhile (%d more since the last such warning)",
                self._member.group_id,
                seconds,
                more,
            )

    def _excuse(self, error: StateStoreError, asked: PendingCall) -> None:
        """The call failed. Concludes nothing, and has the next call ask the same again; repeating it is harmless."""
        if self._gauge.trouble is None:
            logger.warning(
                "group %s: %s; handled and early messages are not committed until it answers",
                self._member.group_id,
                error,
            )
        self._gauge.trouble = lasting(self._gauge.trouble, ReasonCode.STORE_UNREACHABLE, str(error))
        self._agenda.dirty.update(dict.fromkeys(asked.about()))

    def _look_around(self, now: float) -> None:
        """Does what is due by time: renews leases and gives them back, has blocked aggregates tried again."""
        active = self._assignment.active()
        self._holdings.give_back_idle(now, active=active)
        for aggregate in list(self._holdings.blocked):
            if not active:
                self._holdings.unblock(aggregate)  # whoever has the partitions now may try
                self._dispatch(aggregate)
            elif aggregate.rests_until <= now and not aggregate.busy:
                self._agenda.mark(aggregate)
        self._holdings.renew(now)

    def _gather(self) -> PendingCall | None:
        """The next call, or None if there is nothing to ask."""
        now = monotonic()
        agenda = self._agenda
        agenda.stop_timer()
        asked = PendingCall()
        dirty = agenda.dirty
        room = CALL_BYTES
        while dirty and len(asked.written) + len(asked.claimed) < CALL_AGGREGATES and room > 0:
            aggregate = next(iter(dirty))
            del dirty[aggregate]
            if aggregate.token is not None:
                self._ask_write(aggregate, now, asked)
            elif not aggregate.refused:
                if self._assignment.active():
                    asked.claim(aggregate)
                continue
            room -= asked.park(aggregate)
        if dirty:
            agenda.wake()
        if self._survey.due(now) and self._assignment.active():
            asked.call.scan = self._survey.scan(now)
        due = asked.written or asked.claimed or asked.parked or asked.call.scan is not None
        if due or (self._holdings.aggregates and now - self._called_at >= TICK_SECONDS):
            return asked
        return None

    def _ask_write(self, aggregate: Aggregate, now: float, asked: PendingCall) -> None:
        release = aggregate.releasing and aggregate.idle
        aggregate.releasing = release
        asked.write(aggregate, self._take(aggregate, now), release=release)

    def _take(self, aggregate: Aggregate, now: float) -> Take:
        """Which of its waiting messages we want to read."""
        if aggregate.burials or aggregate.buried or aggregate.rests_until > now:
            return Take.NOTHING
        return Take.ANY if aggregate.overdue and self._on_gap == "dead_letter" else Take.NEXT

    # --- answers

    def _apply(self, asked: PendingCall, reply: Reply, valid_until: float) -> None:
        settled: set[PartitionState] = set()
        for written, counts in zip(asked.written, reply.written, strict=True):
            if counts:
                self._acknowledge(written, valid_until, settled)
            else:
                self._lose(written.aggregate)
        for aggregate, claim in zip(asked.claimed, reply.claimed, strict=True):
            self._claimed(aggregate, claim, valid_until)
        for (aggregate, item), became in zip(asked.parked, reply.parked, strict=True):
            self._parked(aggregate, item, became, settled)
        for key, waiting in reply.waiting.items():
            if (found := self._holdings.aggregates.get(key)) is not None and found.token is not None:
                self._found(found, waiting)
        for aggregate in asked.about():
            self._dispatch(aggregate)
        for partition in settled:
            partition.settle()
        self._knocked(reply.knocked)
        if reply.overview is not None:
            self._survey.note(reply.overview)

    def _acknowledge(self, written: Written, valid_until: float, settled: set[PartitionState]) -> None:
        """The store has recorded the write: now the offsets may be committed."""
        aggregate, last, handled, buried, released = written
        if released:
            aggregate.give_up_lease()
        else:
            aggregate.valid_until = valid_until
        for item in aggregate.acknowledge(last, handled, buried):
            if item.partition is not None:
                item.partition.conclude(item.message.offset)
                settled.add(item.partition)
            if item.host is not None:
                item.host.finished_running()

    def _lose(self, aggregate: Aggregate) -> None:
        logger.info(
            "group %s: our lease of an aggregate is gone: it ended and another member took over, or the store lost it",
            self._member.group_id,
        )
        if aggregate.blocked:
            self._holdings.unblock(aggregate)
        for item in aggregate.lose():
            if item.host is not None:
                item.host.finished_running()

    def _claimed(self, aggregate: Aggregate, claim: Claim | None, valid_until: float) -> None:
        if claim is None:
            aggregate.refused = True
            if aggregate.late:
                self._later(aggregate)
            return
        done = aggregate.grant(claim, valid_until)
        if aggregate.last > claim.last:  # the store has lost what it once acknowledged: write it again
            self._agenda.mark(aggregate)
        for item in done:
            self._duplicate(aggregate, item)

    def _parked(self, aggregate: Aggregate, item: Item, became: Parked, settled: set[PartitionState]) -> None:
        if aggregate.items.get(item.sequence) is not item or aggregate.running is item:
            return  # its turn came meanwhile
        if became is Parked.FULL:
            if not aggregate.full:
                self._holdings.note_full(aggregate)
                self._later(aggregate)
            return
        aggregate.left_for_store(item)
        self._holdings.note_room(aggregate)
        if became is not Parked.PARKED:
            self._duplicate(aggregate, item)
            if aggregate.refused and aggregate.late:
                self._later(aggregate)
            return
        self._counters.parked += 1
        if item.partition is not None:
            item.partition.conclude(item.message.offset)
            settled.add(item.partition)

    def _later(self, aggregate: Aggregate) -> None:
        asyncio.get_running_loop().call_later(FULL_SECONDS, self._try_again, aggregate)

    def _try_again(self, aggregate: Aggregate) -> None:
        """There may be room now, or the member that had the aggregate may be gone."""
        self._holdings.note_room(aggregate)
        aggregate.refused = False
        if aggregate.key in self._holdings.aggregates:
            self._dispatch(aggregate)

    def _knocked(self, keys: Iterable[bytes]) -> None:
        """Messages were parked for these aggregates, which are ours or nobody's: asks for them at once."""
        for key in keys:
            self._agenda.mark(self._holdings.aggregate(key))
        if keys:
            self._agenda.wake()

    # --- the end

    async def close(self, seconds: float) -> None:
        """Writes what is handled and gives back all leases, as far as `seconds` allow."""
        self._agenda.stop_timer()
        try:
            async with asyncio.timeout(seconds):
                await self._give_back()
        except (StateStoreError, TimeoutError) as error:
            logger.warning(
                "group %s: leases could not be given back (%r): other members wait until they end",
                self._member.group_id,
                error,
            )

    async def _give_back(self) -> None:
        held = [aggregate for aggregate in self._holdings.aggregates.values() if aggregate.token is not None]
        for start in range(0, len(held), CALL_AGGREGATES):
            asked = PendingCall()
            for aggregate in held[start : start + CALL_AGGREGATES]:
                if aggregate.token is not None:  # else it was lost during an earlier call
                    asked.write(aggregate, Take.NOTHING, release=True)
            reply = await self._store.call(self._member, asked.call)
            for written, counts in zip(asked.written, reply.written, strict=True):
                if counts:
                    self._acknowledge(written, 0.0, set())

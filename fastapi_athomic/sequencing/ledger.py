"""The books of ordered consumption: what is handled, parked and claimed is written to the state store, many at once.

While one call is on its way, the next one accumulates. A call leaves as soon as there is nothing else to do, and at
the latest after `linger` seconds; so a backlog costs less than a round trip per fetched batch, and a lone message
waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import NamedTuple, Protocol

from ..consumption.partitions import PartitionState
from ..decorators import OnGap
from ..exceptions import StateStoreError
from ..observation.counters import Counters
from ..observation.gauges import SequenceGauge
from ..stores.base import (
    Call,
    Claim,
    Drop,
    Member,
    Overview,
    Park,
    Parked,
    Reply,
    Scan,
    StateStore,
    Take,
    Waiting,
    Write,
)
from .aggregates import Aggregate, Item
from .packing import pack

logger = logging.getLogger(__name__)

CALL_AGGREGATES = 250
"""So many at most in one call: it keeps the store, and our event loop, from everybody else for a few ms."""
CALL_BYTES = 4_000_000
"""Of messages to be parked in one call; the last one may exceed it."""
TICK_SECONDS = 0.1
"""So often the books are looked through while aggregates are held: for leases, and for what others parked for us."""
SCAN_SECONDS = 1.0
SCAN_LIMIT = 100
IDLE = 0.4
"""Aggregates that had nothing to do for this share of a lease are given back."""
MAX_IDLE = 10_000
CERTAIN = 0.8
"""Share of a lease in which we rely on it: clocks and the way to the store cost some."""
RENEW = 0.4
"""A lease of which less than this share is left is renewed, while there is work."""
FULL_SECONDS = 1.0
"""A message that found no room tries again after this time."""
FIRST_DELAY, MAX_DELAY = 0.05, 2.0
"""Seconds between two calls while the store is away."""


class Office(Protocol):
    """What the ledger reports to."""

    def active(self) -> bool:
        """New work may start."""
        ...

    def goes_on(self, aggregate: Aggregate) -> bool:
        """It may have work now. False: there is nothing that could start."""
        ...

    def found(self, aggregate: Aggregate, waiting: Waiting) -> None:
        """This waits for it in the store."""

    def duplicate(self, aggregate: Aggregate, item: Item) -> None:
        """Its number is done, or another message with this number is there."""


class Ledger:
    """All aggregates that one member works on, and its conversation with the store."""

    def __init__(
        self,
        store: StateStore,
        member: Member,
        office: Office,
        gauge: SequenceGauge,
        counters: Counters,
        *,
        linger: float,
        on_gap: OnGap,
    ) -> None:
        self._store = store
        self.member = member
        self._office = office
        self._gauge = gauge
        self._counters = counters
        self._linger = linger
        self._on_gap = on_gap
        self.aggregates: dict[bytes, Aggregate] = {}
        self._idle: dict[Aggregate, float] = {}  # since when, the longest first
        self._blocked: set[Aggregate] = set()
        self._dirty: dict[Aggregate, None] = {}  # to be part of the next call
        self._woken = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._scan_seconds = min(SCAN_SECONDS, max(0.02, gauge.gap_timeout / 4))
        self._scan_at = self._renew_at = self._called_at = 0.0
        self._scan_start = 0
        self._delay = FIRST_DELAY

    # --- what the strategy tells

    def aggregate(self, key: bytes) -> Aggregate:
        found = self.aggregates.get(key)
        if found is None:
            found = self.aggregates[key] = Aggregate(key, self.member.before_first)
        elif self._idle:
            self._idle.pop(found, None)
        return found

    def mark(self, aggregate: Aggregate) -> None:
        """It has something for the store."""
        self._dirty[aggregate] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger, self._woken.set)

    def hurry(self) -> None:
        """There is nothing else to do."""
        if self._dirty:
            self._woken.set()

    def look_at(self, aggregate: Aggregate) -> None:
        """After anything has happened to it: who is next to have it, the strategy, the store or nobody?"""
        if aggregate.busy or self._office.goes_on(aggregate):
            return
        if aggregate.idle:
            self._rest(aggregate)
        elif self._needs_store(aggregate):
            self.mark(aggregate)

    def _needs_store(self, aggregate: Aggregate) -> bool:
        if aggregate.token is None and not aggregate.refused:
            return self._office.active()
        if aggregate.unwritten or aggregate.buried:
            return True
        if aggregate.early_items():
            return not aggregate.full
        return aggregate.token is not None and not aggregate.held(monotonic()) and self._office.active()

    def _rest(self, aggregate: Aggregate) -> None:
        if aggregate.token is None:
            self._forget(aggregate)
        elif self._office.active():
            self._idle[aggregate] = monotonic()
        else:
            self._release(aggregate)

    def _forget(self, aggregate: Aggregate) -> None:
        self._not_full(aggregate)
        self._idle.pop(aggregate, None)
        self._dirty.pop(aggregate, None)
        self.aggregates.pop(aggregate.key, None)

    def _release(self, aggregate: Aggregate) -> None:
        aggregate.releasing = True
        self.mark(aggregate)

    def release_idle(self) -> None:
        """Nothing will come for them: others may have them."""
        for aggregate in list(self._idle):
            self._release(aggregate)
        self._idle.clear()
        self.hurry()

    def block(self, aggregate: Aggregate, seconds: float) -> None:
        """Its next message has failed for good: all that it has waits in the store, for `seconds`."""
        aggregate.rests_until = monotonic() + seconds
        aggregate.blocked = True
        aggregate.forget_taken()
        self._blocked.add(aggregate)
        self._gauge.blocked = len(self._blocked)

    def unblock(self, aggregate: Aggregate) -> None:
        aggregate.blocked = False
        self._blocked.discard(aggregate)
        self._gauge.blocked = len(self._blocked)

    # --- the conversation

    async def keep(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._wait()
            self._look_around(monotonic())
            call, asked = self._gather()
            if call is None:
                continue
            await self._ask(call, asked)

    async def _wait(self) -> None:
        patience = min(TICK_SECONDS, self._scan_seconds) if self.aggregates else self._scan_seconds
        try:
            async with asyncio.timeout(patience):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    async def _ask(self, call: Call, asked: Asked) -> None:
        began = monotonic()
        try:
            reply = await self._store.call(self.member, call)
        except StateStoreError as error:
            self._excuse(error, asked)
            await asyncio.sleep(self._delay)
            self._delay = min(self._delay * 2, MAX_DELAY)
            self._woken.set()
            return
        if self._gauge.trouble is not None:
            logger.info("%s: the state store answers again", self.member.group_id)
            self._gauge.trouble = None
        self._delay = FIRST_DELAY
        self._called_at = began
        self._apply(asked, reply, began + self.member.lease * CERTAIN)

    def _excuse(self, error: StateStoreError, asked: Asked) -> None:
        """Nothing is concluded; all of it is asked again, which changes nothing if it was done."""
        if self._gauge.trouble is None:
            logger.warning("%s: %s", self.member.group_id, error)
        self._gauge.trouble = str(error)
        self._dirty.update(dict.fromkeys(asked.all()))

    def _look_around(self, now: float) -> None:
        """Leases to renew, idle ones to give back, blocked ones to try again, rooms of others to look into."""
        active = self._office.active()
        while self._idle:
            aggregate, since = next(iter(self._idle.items()))
            if active and now - since < self.member.lease * IDLE and len(self._idle) <= MAX_IDLE:
                break
            del self._idle[aggregate]
            self._release(aggregate)
        for aggregate in list(self._blocked):
            if not active:
                self.unblock(aggregate)  # whoever has the partitions may try
                self.look_at(aggregate)
            elif aggregate.rests_until <= now and not aggregate.busy:
                self.mark(aggregate)
        if now >= self._renew_at:
            self._renew_at = now + self.member.lease / 10
            self._renew(now)

    def _renew(self, now: float) -> None:
        soon = now + self.member.lease * RENEW
        for aggregate in self.aggregates.values():
            if aggregate.token is not None and aggregate.valid_until < soon and not aggregate.idle:
                self._dirty[aggregate] = None

    def _gather(self) -> tuple[Call | None, Asked]:
        now = monotonic()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        call, asked = Call(), Asked()
        room = CALL_BYTES
        while self._dirty and len(asked.written) + len(asked.claimed) < CALL_AGGREGATES and room > 0:
            aggregate = next(iter(self._dirty))
            del self._dirty[aggregate]
            if aggregate.token is not None:
                self._ask_write(aggregate, now, call, asked)
            elif not aggregate.refused:
                if self._office.active():
                    call.claims.append(aggregate.key)
                    asked.claimed.append(aggregate)
                continue
            room -= self._ask_parks(aggregate, call, asked)
        if self._dirty:
            self._woken.set()
        if now >= self._scan_at and self._office.active():
            self._scan_at = now + self._scan_seconds
            call.scan = Scan(self._gauge.gap_timeout, SCAN_LIMIT, self._scan_start)
        due = asked.written or asked.claimed or call.parks or call.scan is not None
        if due or (self.aggregates and now - self._called_at >= TICK_SECONDS):
            return call, asked
        return None, asked

    def _ask_write(self, aggregate: Aggregate, now: float, call: Call, asked: Asked) -> None:
        assert aggregate.token is not None
        release = aggregate.releasing and aggregate.idle
        aggregate.releasing = release
        last = aggregate.last if aggregate.last > aggregate.acknowledged else None
        call.writes.append(
            Write(aggregate.key, aggregate.token, last, aggregate.known, self._take(aggregate, now), release)
        )
        call.drops += [Drop(aggregate.key, number) for number in aggregate.buried]
        asked.written.append(_written(aggregate, release))

    def _take(self, aggregate: Aggregate, now: float) -> Take:
        if aggregate.burials or aggregate.buried or aggregate.rests_until > now:
            return Take.NOTHING
        return Take.ANY if aggregate.overdue and self._on_gap == "dead_letter" else Take.NEXT

    def _ask_parks(self, aggregate: Aggregate, call: Call, asked: Asked) -> int:
        """Gives the bytes."""
        size = 0
        for item in aggregate.early_items():
            packed = pack(item.message)
            size += len(packed)
            call.parks.append(Park(aggregate.key, item.sequence, packed))
            asked.parked.append((aggregate, item))
        return size

    # --- the answers

    def _apply(self, asked: Asked, reply: Reply, valid_until: float) -> None:
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
            if (found := self.aggregates.get(key)) is not None and found.token is not None:
                self._office.found(found, waiting)
        for aggregate in asked.all():
            self.look_at(aggregate)
        for partition in settled:
            partition.settle()
        self._knocked(reply.knocked)
        if reply.overview is not None:
            self._survey(reply.overview)

    def _acknowledge(self, written: Written, valid_until: float, settled: set[PartitionState]) -> None:
        """The store knows: now the offsets may be committed."""
        aggregate, last, handled, buried, released = written
        if released:
            aggregate.token, aggregate.valid_until, aggregate.releasing = None, 0.0, False
        else:
            aggregate.valid_until = valid_until
        aggregate.acknowledged = last
        if buried:
            del aggregate.buried[:buried]
        items = aggregate.unwritten[:handled]
        del aggregate.unwritten[:handled]
        for item in items:
            if item.partition is not None:
                item.partition.conclude(item.message.offset)
                settled.add(item.partition)
            if item.host is not None:
                item.host.finished_running()

    def _lose(self, aggregate: Aggregate) -> None:
        logger.info("%s: an aggregate was taken over by another member", self.member.group_id)
        if aggregate.blocked:
            self.unblock(aggregate)
        for item in aggregate.lose():
            if item.host is not None:
                item.host.finished_running()

    def _claimed(self, aggregate: Aggregate, claim: Claim | None, valid_until: float) -> None:
        if claim is None:
            aggregate.refused = True
            if aggregate.late:
                self._later(aggregate)
            return
        aggregate.token, aggregate.valid_until = claim.token, valid_until
        # a store that has lost its newest data does not know what it once acknowledged: it is told again
        aggregate.last, aggregate.acknowledged = max(claim.last, aggregate.acknowledged), claim.last
        if aggregate.last > claim.last:
            self.mark(aggregate)
        for item in [item for number, item in aggregate.items.items() if number <= aggregate.last]:
            if item is not aggregate.running:
                del aggregate.items[item.sequence]
                self._office.duplicate(aggregate, item)

    def _parked(self, aggregate: Aggregate, item: Item, became: Parked, settled: set[PartitionState]) -> None:
        if aggregate.items.get(item.sequence) is not item or aggregate.running is item:
            return  # its turn came meanwhile
        if became is Parked.FULL:
            if not aggregate.full:
                aggregate.full = True
                self._gauge.full += 1
                self._later(aggregate)
            return
        del aggregate.items[item.sequence]
        aggregate.known = min(aggregate.known, item.sequence - 1)
        self._not_full(aggregate)
        if became is not Parked.PARKED:
            self._office.duplicate(aggregate, item)
            if aggregate.refused and aggregate.late:
                self._later(aggregate)
            return
        self._counters.parked += 1
        if item.partition is not None:
            item.partition.conclude(item.message.offset)
            settled.add(item.partition)

    def _not_full(self, aggregate: Aggregate) -> None:
        if aggregate.full:
            aggregate.full = False
            self._gauge.full -= 1

    def _later(self, aggregate: Aggregate) -> None:
        asyncio.get_running_loop().call_later(FULL_SECONDS, self._try_again, aggregate)

    def _try_again(self, aggregate: Aggregate) -> None:
        """There may be room now, or who had it may be gone."""
        self._not_full(aggregate)
        aggregate.refused = False
        if aggregate.key in self.aggregates:
            self.look_at(aggregate)

    def _knocked(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.mark(self.aggregate(key))
        if keys:
            self._woken.set()

    def _survey(self, overview: Overview) -> None:
        gauge = self._gauge
        gauge.waiting, gauge.parked = overview.waiting, overview.parked
        gauge.overdue, gauge.oldest_gap = overview.overdue_count, overview.oldest_gap
        self._scan_start += SCAN_LIMIT
        if self._scan_start >= overview.waiting:
            self._scan_start = 0
        for key in overview.ready:
            known = self.aggregates.get(key)
            if known is None or known.token is None or known in self._idle:
                self.mark(self.aggregate(key))
        self._note_overdue(overview.overdue)

    def _note_overdue(self, keys: Sequence[bytes]) -> None:
        if self._on_gap == "wait":
            return
        for key in keys:
            aggregate = self.aggregate(key)
            aggregate.overdue = True
            self.mark(aggregate)

    # --- the end

    async def close(self, seconds: float) -> None:
        """Writes what is handled and gives all leases back, as far as that works within `seconds`."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with asyncio.timeout(seconds):
                await self._give_back()
        except (StateStoreError, TimeoutError) as error:
            logger.warning("%s: leases are left to end by themselves: %r", self.member.group_id, error)

    async def _give_back(self) -> None:
        held = [aggregate for aggregate in self.aggregates.values() if aggregate.token is not None]
        for start in range(0, len(held), CALL_AGGREGATES):
            call, asked = Call(), Asked()
            for aggregate in held[start : start + CALL_AGGREGATES]:
                last = aggregate.last if aggregate.last > aggregate.acknowledged else None
                call.writes.append(Write(aggregate.key, aggregate.token or 0, last, take=Take.NOTHING, release=True))
                call.drops += [Drop(aggregate.key, number) for number in aggregate.buried]
                asked.written.append(_written(aggregate, True))
            reply = await self._store.call(self.member, call)
            for written, counts in zip(asked.written, reply.written, strict=True):
                if counts:
                    self._acknowledge(written, 0.0, set())


class Written(NamedTuple):
    """What a write tells the store of an aggregate, which goes on meanwhile."""

    aggregate: Aggregate
    last: int
    handled: int  # so many of its unwritten ones
    buried: int
    released: bool


def _written(aggregate: Aggregate, release: bool) -> Written:
    return Written(aggregate, aggregate.last, len(aggregate.unwritten), len(aggregate.buried), release)


class Asked:
    """Whom a call is about, in its order."""

    __slots__ = ("claimed", "parked", "written")

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.claimed: list[Aggregate] = []
        self.parked: list[tuple[Aggregate, Item]] = []

    def all(self) -> list[Aggregate]:
        """Each once."""
        found = dict.fromkeys(written.aggregate for written in self.written)
        found.update(dict.fromkeys(self.claimed))
        found.update(dict.fromkeys(aggregate for aggregate, _ in self.parked))
        return list(found)

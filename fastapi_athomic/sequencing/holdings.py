"""The aggregates that this process works on, and which of their leases are renewed or given back."""

from __future__ import annotations

from time import monotonic

from ..observation.gauges import SequenceGauge
from ..stores.base import Member
from .aggregates import Aggregate
from .assignment import Assignment
from .calls import Agenda

IDLE = 0.4
"""An aggregate that had nothing to do for this share of a lease is given back."""
MAX_IDLE = 10_000
"""If more aggregates than this have nothing to do, those that have waited longest are given back at once."""
RENEW = 0.4
"""A lease is renewed when less than this share of it is left, as long as the aggregate has work."""


class Holdings:
    """All aggregates that this process knows. One without a lease and without work is forgotten."""

    def __init__(self, member: Member, agenda: Agenda, assignment: Assignment, gauge: SequenceGauge) -> None:
        self._member = member
        self._agenda = agenda
        self._assignment = assignment
        self._gauge = gauge
        self.aggregates: dict[bytes, Aggregate] = {}  # by key; only the methods here change it
        self.blocked: set[Aggregate] = set()  # likewise
        self._idle: dict[Aggregate, float] = {}  # leases without work, and since when; the longest first
        self._renew_at = 0.0

    def aggregate(self, key: bytes) -> Aggregate:
        """The aggregate of this key, which is about to get work."""
        found = self.aggregates.get(key)
        if found is None:
            found = self.aggregates[key] = Aggregate(key, self._member.before_first)
        elif self._idle:
            self._idle.pop(found, None)
        return found

    # --- leases without work

    def keep_idle(self, aggregate: Aggregate) -> None:
        """The aggregate has nothing to do. Its lease is kept for a while, as more messages may come."""
        if aggregate.token is None:
            self._forget(aggregate)
        elif self._assignment.active():
            self._idle[aggregate] = monotonic()
        else:
            self._release(aggregate)

    def is_idle(self, aggregate: Aggregate) -> bool:
        """It has a lease and nothing to do."""
        return aggregate in self._idle

    def _forget(self, aggregate: Aggregate) -> None:
        self.note_room(aggregate)
        self._idle.pop(aggregate, None)
        self._agenda.dirty.pop(aggregate, None)
        self._agenda.hindered.pop(aggregate, None)
        if self.aggregates.get(aggregate.key) is aggregate:  # else it was forgotten, and its key has come again
            del self.aggregates[aggregate.key]

    def _release(self, aggregate: Aggregate) -> None:
        aggregate.releasing = True
        self._agenda.mark(aggregate)

    def release_idle(self) -> None:
        """Gives back all leases without work at once: no partition is left that could bring some."""
        for aggregate in list(self._idle):
            self._release(aggregate)
        self._idle.clear()
        if self._agenda.dirty:
            self._agenda.wake()

    def give_back_idle(self, now: float, *, active: bool) -> None:
        """Gives back leases that had no work for too long; all of them, if we are not `active`."""
        while self._idle:
            aggregate, since = next(iter(self._idle.items()))
            if active and now - since < self._member.lease * IDLE and len(self._idle) <= MAX_IDLE:
                break
            del self._idle[aggregate]
            self._release(aggregate)

    def renew(self, now: float) -> None:
        """Adds to the next call the aggregates whose lease ends soon. `now` is on the monotonic clock."""
        if now < self._renew_at:
            return
        self._renew_at = now + self._member.lease / 10
        soon = now + self._member.lease * RENEW
        for aggregate in self.aggregates.values():
            if aggregate.token is not None and aggregate.valid_until < soon and not aggregate.idle:
                self._agenda.dirty[aggregate] = None

    # --- aggregates that cannot go on

    def block(self, aggregate: Aggregate, seconds: float) -> None:
        """Its next message has used up its attempts: all its messages wait in the store, for `seconds` at least."""
        aggregate.rests_until = monotonic() + seconds
        aggregate.blocked = True
        aggregate.forget_taken()
        self.blocked.add(aggregate)
        self._gauge.note_blocked(len(self.blocked))

    def unblock(self, aggregate: Aggregate) -> None:
        """Its next message was handled, or another process may try."""
        aggregate.blocked = False
        self.blocked.discard(aggregate)
        self._gauge.note_blocked(len(self.blocked))

    def note_full(self, aggregate: Aggregate) -> None:
        """The waiting room of the aggregate is full. Only for one that is not noted as `full` yet."""
        aggregate.full = True
        self._gauge.note_full(self._gauge.full + 1)

    def note_room(self, aggregate: Aggregate) -> None:
        """The waiting room of the aggregate has room again, or may have."""
        if aggregate.full:
            aggregate.full = False
            self._gauge.note_full(self._gauge.full - 1)

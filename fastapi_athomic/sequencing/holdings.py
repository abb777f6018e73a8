"""All aggregates that one member works on, and the leases it has of them."""

from __future__ import annotations

from time import monotonic

from ..observation.gauges import SequenceGauge
from ..stores.base import Member
from .aggregates import Aggregate
from .assignment import Assignment
from .calls import Agenda

IDLE = 0.4
"""Aggregates that had nothing to do for this share of a lease are given back."""
MAX_IDLE = 10_000
RENEW = 0.4
"""A lease of which less than this share is left is renewed, while there is work."""


class Holdings:
    """All aggregates that one member works on."""

    def __init__(self, member: Member, agenda: Agenda, assignment: Assignment, gauge: SequenceGauge) -> None:
        self._member = member
        self._agenda = agenda
        self._assignment = assignment
        self._gauge = gauge
        self.aggregates: dict[bytes, Aggregate] = {}
        self.blocked: set[Aggregate] = set()
        self._idle: dict[Aggregate, float] = {}  # since when, the longest first
        self._renew_at = 0.0

    def aggregate(self, key: bytes) -> Aggregate:
        found = self.aggregates.get(key)
        if found is None:
            found = self.aggregates[key] = Aggregate(key, self._member.before_first)
        elif self._idle:
            self._idle.pop(found, None)
        return found

    # --- leases without work

    def rest(self, aggregate: Aggregate) -> None:
        if aggregate.token is None:
            self._forget(aggregate)
        elif self._assignment.active():
            self._idle[aggregate] = monotonic()
        else:
            self._release(aggregate)

    def rests(self, aggregate: Aggregate) -> bool:
        return aggregate in self._idle

    def _forget(self, aggregate: Aggregate) -> None:
        self.not_full(aggregate)
        self._idle.pop(aggregate, None)
        self._agenda.dirty.pop(aggregate, None)
        self.aggregates.pop(aggregate.key, None)

    def _release(self, aggregate: Aggregate) -> None:
        aggregate.releasing = True
        self._agenda.mark(aggregate)

    def release_idle(self) -> None:
        """Nothing will come for them: others may have them."""
        for aggregate in list(self._idle):
            self._release(aggregate)
        self._idle.clear()
        if self._agenda.dirty:
            self._agenda.wake()

    def give_back_idle(self, now: float, *, active: bool) -> None:
        while self._idle:
            aggregate, since = next(iter(self._idle.items()))
            if active and now - since < self._member.lease * IDLE and len(self._idle) <= MAX_IDLE:
                break
            del self._idle[aggregate]
            self._release(aggregate)

    def renew(self, now: float) -> None:
        if now < self._renew_at:
            return
        self._renew_at = now + self._member.lease / 10
        soon = now + self._member.lease * RENEW
        for aggregate in self.aggregates.values():
            if aggregate.token is not None and aggregate.valid_until < soon and not aggregate.idle:
                self._agenda.dirty[aggregate] = None

    # --- aggregates that cannot go on

    def block(self, aggregate: Aggregate, seconds: float) -> None:
        """Its next message has failed for good: all that it has waits in the store, for `seconds`."""
        aggregate.rests_until = monotonic() + seconds
        aggregate.blocked = True
        aggregate.forget_taken()
        self.blocked.add(aggregate)
        self._gauge.blocked = len(self.blocked)

    def unblock(self, aggregate: Aggregate) -> None:
        aggregate.blocked = False
        self.blocked.discard(aggregate)
        self._gauge.blocked = len(self.blocked)

    def full(self, aggregate: Aggregate) -> None:
        aggregate.full = True
        self._gauge.full += 1

    def not_full(self, aggregate: Aggregate) -> None:
        if aggregate.full:
            aggregate.full = False
            self._gauge.full -= 1

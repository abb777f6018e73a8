"""Numbers about the aggregates of one ordered consumer, for its status and its health."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..clock import utc_now
from .reasons import Reason, ReasonCode, ago
from .status import OrderedStatus


@dataclass(slots=True, kw_only=True)
class SequenceGauge:
    """Written by `sequencing`, read by the consumer's status and health.

    `waiting`, `parked`, `overdue` and `oldest_gap` are of the whole group, as the state store last reported them.
    """

    gap_timeout: float  # seconds
    waiting: int = 0  # aggregates with messages in their waiting room
    parked: int = 0  # messages in all waiting rooms
    overdue: int = 0  # aggregates for which a number has been missing for longer than `gap_timeout`
    oldest_gap: float = 0.0  # seconds, for the number that has been missing longest
    blocked: int = 0  # aggregates of this process whose next message has used up its attempts
    full: int = 0  # aggregates of this process whose waiting room has no room for their messages
    trouble: Reason | None = None  # why the state store does not answer; None: it does
    blocked_since: datetime | None = None
    full_since: datetime | None = None

    def note_blocked(self, count: int) -> None:
        """So many aggregates are blocked now."""
        self.blocked_since = (self.blocked_since or utc_now()) if count else None
        self.blocked = count

    def note_full(self, count: int) -> None:
        """The waiting rooms of so many aggregates are full now."""
        self.full_since = (self.full_since or utc_now()) if count else None
        self.full = count

    def reasons(self) -> list[Reason]:
        """Why the consumer is degraded. Aggregate keys are payload, so aggregates are counted and not named."""
        found = []
        if self.trouble is not None:
            found.append(self.trouble)
        if self.overdue:
            said = f"{self.overdue} aggregates wait for a missing number, the oldest for {self.oldest_gap:.0f} s"
            since = ago(self.oldest_gap)
            found.append(
                Reason(code=ReasonCode.SEQUENCE_GAP, message=said, since=since, limit_seconds=self.gap_timeout)
            )
        if self.blocked:
            said = f"{self.blocked} aggregates are blocked by a message that failed"
            found.append(Reason(code=ReasonCode.AGGREGATES_BLOCKED, message=said, since=self.blocked_since))
        if self.full:
            said = f"the waiting room is full for {self.full} aggregates"
            found.append(Reason(code=ReasonCode.WAITING_ROOM_FULL, message=said, since=self.full_since))
        return found

    def status(self) -> OrderedStatus:
        """What the consumer's status shows of it."""
        return OrderedStatus(
            aggregates_waiting=self.waiting,
            parked=self.parked,
            blocked=self.blocked,
            full=self.full,
            oldest_gap_seconds=round(self.oldest_gap, 3),
        )

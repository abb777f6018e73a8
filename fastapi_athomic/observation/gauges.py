"""What is known of the sequences of one ordered consumer."""

from __future__ import annotations

from dataclasses import dataclass

from .status import OrderedStatus


@dataclass(slots=True, kw_only=True)
class SequenceGauge:
    """Written by the strategy of an ordered consumer, read by its status and its health."""

    gap_timeout: float  # seconds
    waiting: int = 0  # aggregates of the group with something in their waiting room
    parked: int = 0  # messages in all waiting rooms of the group
    overdue: int = 0  # aggregates for which a number has been missing for longer than `gap_timeout`
    oldest_gap: float = 0.0  # seconds
    blocked: int = 0  # aggregates of this process whose next message failed
    full: int = 0  # aggregates of this process whose messages found no room
    trouble: str | None = None  # why the state store does not answer

    def reasons(self) -> list[str]:
        """What somebody should look at. Aggregates are payload: they are counted, not named."""
        found = []
        if self.trouble is not None:
            found.append(self.trouble)
        if self.overdue:
            found.append(f"{self.overdue} aggregates wait for a missing number, the oldest for {self.oldest_gap:.0f} s")
        if self.blocked:
            found.append(f"{self.blocked} aggregates are blocked by a message that failed")
        if self.full:
            found.append(f"the waiting room is full for {self.full} aggregates")
        return found

    def status(self) -> OrderedStatus:
        return OrderedStatus(
            aggregates_waiting=self.waiting,
            parked=self.parked,
            blocked=self.blocked,
            full=self.full,
            oldest_gap_seconds=round(self.oldest_gap, 3),
        )

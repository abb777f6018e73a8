"""Where a message stands in its sequence, and what is known of the sequences of one ordered consumer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from .decorators import Sequencing
from .exceptions import PayloadDecodeError
from .status import OrderedStatus
from .stores.base import GREATEST

STEP = "sequence"
"""The step that errors name, beside those of the payload pipeline."""


class SequenceReader:
    """Finds the aggregate and the sequence number of a decoded message: attributes of an object, or keys of a dict."""

    def __init__(self, sequencing: Sequencing) -> None:
        self._key_field = sequencing.aggregate_key_field
        self._number_field = sequencing.sequence_id_field

    def read(self, value: Any) -> tuple[bytes, int]:
        """Keys that are text, whole numbers, UUIDs or bytes are told apart by their text alone: 1 is "1".

        Raises:
            PayloadDecodeError: a field is missing or of no use; it names the field, never its value.
        """
        if isinstance(value, Mapping):
            key, number = value.get(self._key_field), value.get(self._number_field)
        else:
            key, number = getattr(value, self._key_field, None), getattr(value, self._number_field, None)
        if type(number) is not int or not -GREATEST <= number <= GREATEST:
            raise PayloadDecodeError(f"{self._number_field} is not a whole number below 2**53", step=STEP)
        if isinstance(key, str):
            return key.encode("utf-8", "surrogatepass"), number
        if isinstance(key, bytes):
            return key, number
        if isinstance(key, int | UUID) and not isinstance(key, bool):
            return str(key).encode(), number
        raise PayloadDecodeError(f"{self._key_field} is no text, whole number, UUID or bytes", step=STEP)


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

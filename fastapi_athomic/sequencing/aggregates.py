"""One aggregate at work: what waits for it in memory, how far it is, and whether it is ours."""

from __future__ import annotations

from collections import deque
from typing import Any

from ..consumption.partitions import PartitionState
from ..messages import RawMessage
from ..outcomes import FailureContext
from ..stores.base import GREATEST

NOTHING_KNOWN = -GREATEST


class Item:
    """A message with its place in the sequence."""

    __slots__ = ("host", "message", "partition", "sequence", "value")

    def __init__(self, sequence: int, message: RawMessage, value: Any, partition: PartitionState | None) -> None:
        self.sequence = sequence
        self.message = message
        self.value = value  # decoded
        self.partition = partition  # None: it comes from the waiting room, its offset is committed
        self.host: PartitionState | None = partition  # whose drain waits for it while it runs


class Burial:
    """A message on its way from the waiting room to the DLQ."""

    __slots__ = ("failure", "for_gap", "sequence")

    def __init__(self, sequence: int, failure: FailureContext, *, for_gap: bool) -> None:
        self.sequence = sequence
        self.failure = failure
        self.for_gap = for_gap  # else it cannot be decoded


class Aggregate:
    """Served by one worker at a time. `last` runs ahead of the store, which knows it up to `acknowledged`."""

    __slots__ = (
        "acknowledged",
        "attempt",
        "blocked",
        "burials",
        "buried",
        "busy",
        "first_failed_at",
        "full",
        "items",
        "key",
        "known",
        "last",
        "late",
        "letter",
        "overdue",
        "refused",
        "releasing",
        "rests_until",
        "running",
        "token",
        "tried",
        "unwritten",
        "valid_until",
    )

    def __init__(self, key: bytes, before_first: int) -> None:
        self.key = key
        self.last = before_first  # handled, dead-lettered or given up; true at least, others may know of more
        self.acknowledged = before_first  # by the store
        self.items: dict[int, Item] = {}  # by sequence number, all beyond `last`
        self.late: deque[Item] = deque()  # sent back from the DLQ after their number had been passed
        self.unwritten: list[Item] = []  # handled, and not yet known to the store
        self.known = NOTHING_KNOWN  # what waits in the store up to this number is in `items`
        # --- the lease
        self.token: int | None = None
        self.valid_until = 0.0  # on the monotonic clock, with a reserve
        self.refused = False  # another process has it: what we have goes to its waiting room
        self.releasing = False  # the lease is on its way back
        # --- the message at work
        self.busy = False  # with a worker, waiting for one, or for a delay to pass
        self.running: Item | None = None
        self.tried: Item | None = None  # the one that the attempt is about
        self.attempt = 1
        self.first_failed_at = 0.0  # seconds since the epoch; 0: it has not failed
        self.letter: FailureContext | None = None  # its dead letter could not be written yet
        # --- trouble
        self.blocked = False  # its next message has used up its attempts
        self.rests_until = float("-inf")  # monotonic; before, a blocked one is not tried again
        self.full = False  # its messages found no room in the store
        self.overdue = False  # something is missing for too long
        self.burials: deque[Burial] = deque()
        self.buried: list[int] = []  # dead-lettered, to be removed from the waiting room

    def held(self, now: float) -> bool:
        """It is ours for certain. A process that was frozen must ask again before it goes on."""
        return self.token is not None and now < self.valid_until and not self.releasing

    def next_item(self) -> Item | None:
        if self.late:
            return self.late[0]
        return self.items.get(self.last + 1)

    def early_items(self) -> list[Item]:
        """What cannot be handled now, and is better off in the waiting room."""
        if self.refused or self.blocked:
            return [item for item in self.items.values() if item.partition is not None and item is not self.running]
        if self.busy or self.last + 1 in self.items:
            return []
        return [item for item in self.items.values() if item.partition is not None]

    @property
    def idle(self) -> bool:
        return not (self.busy or self.items or self.late or self.unwritten or self.blocked or self.burials)

    def begin(self, item: Item) -> None:
        """The attempts are counted anew with each message."""
        if self.tried is not item:
            self.tried, self.attempt, self.first_failed_at, self.letter = item, 1, 0.0, None

    def lose(self) -> list[Item]:
        """The lease is lost. What was handled and not written is to be judged again by whoever claims it.

        Gives what was handled.
        """
        self.token, self.valid_until, self.releasing = None, 0.0, False
        unwritten, self.unwritten = self.unwritten, []
        self.last, self.known = self.acknowledged, NOTHING_KNOWN
        self.burials.clear()
        self.buried.clear()
        kept = [*unwritten, *self.items.values()]
        self.items = {item.sequence: item for item in kept if item.partition is not None and not item.partition.revoked}
        return unwritten

    def forget_taken(self) -> None:
        """What came from the waiting room stays there for now."""
        self.items = {number: item for number, item in self.items.items() if item.partition is not None}
        self.known = NOTHING_KNOWN

"""One aggregate as this process knows it: its messages in memory, how far it has come, and whether it is ours.

This is data that all other modules of the folder work on. `Aggregate` says which of them writes which field.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from ..consumption.attempts import AttemptState
from ..consumption.partitions import PartitionState
from ..messages import RawMessage
from ..outcomes import FailureContext
from ..stores.base import GREATEST, Claim

NOTHING_KNOWN = -GREATEST
"""Value of `Aggregate.known` when we must read again what waits in the store."""


class Item:
    """A message with its place in the sequence."""

    __slots__ = ("host", "message", "partition", "sequence", "value")

    def __init__(self, sequence: int, message: RawMessage, value: Any, partition: PartitionState | None) -> None:
        self.sequence = sequence
        self.message = message
        self.value = value  # decoded
        self.partition = partition  # None: it was read from the waiting room, its offset is concluded already
        self.host: PartitionState | None = partition
        """The partition whose drain waits until this message is written to the store. `Attempts` sets it."""


class Burial:
    """A message that goes from the waiting room to the DLQ without being handled."""

    __slots__ = ("failure", "for_gap", "sequence")

    def __init__(self, sequence: int, failure: FailureContext, *, for_gap: bool) -> None:
        self.sequence = sequence
        self.failure = failure
        self.for_gap = for_gap  # a number before it is missing; otherwise it cannot be decoded


class Aggregate(AttemptState):
    """The messages and the lease of one aggregate key.

    The lease is in one of five states, which follow from `token`, `valid_until`, `releasing` and `refused`:

    | state     | fields                      | meaning                      | ends with                              |
    |-----------|-----------------------------|------------------------------|----------------------------------------|
    | unclaimed | no token, not `refused`     | the next call claims it      | the store's answer: held or refused    |
    | refused   | no token, `refused`         | another member has it: park  | nothing left to park, or another try   |
    | held      | token, now < `valid_until`  | messages may be handled      | time, `releasing`, or a rejected write |
    | in doubt  | token, now >= `valid_until` | no message starts            | a write: held again, or unclaimed      |
    | releasing | token, `releasing`          | no message starts            | a write: unclaimed; or new work: held  |

    An aggregate that has nothing to do and no token is forgotten. Three hindrances are independent of the lease:
    `blocked`, `full` and `overdue`.

    Fields are public within the folder. The comment over each group says who writes them. Methods change several
    fields together; single fields are set directly, because that happens for each message.
    """

    __slots__ = (
        "acknowledged",
        "blocked",
        "burials",
        "buried",
        "busy",
        "full",
        "items",
        "key",
        "known",
        "last",
        "late",
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
        # --- progress. `Attempts` and `WaitingRoomReader` raise `last`; the methods here change the rest
        self.last = before_first  # handled, dead-lettered or given up; another member may be further
        self.acknowledged = before_first  # what the store knows of `last`
        # --- messages in memory. `Intake` and `WaitingRoomReader` add to `items`, `Duplicates` to `late`. `Attempts`
        # moves what is done to `unwritten`; the ledger removes from there what the store has acknowledged
        self.items: dict[int, Item] = {}  # by sequence number; all beyond `last`, but for one that is running
        self.late: deque[Item] = deque()  # redriven from the DLQ after `last` had passed their number
        self.unwritten: list[Item] = []  # handled, but the store does not know it yet
        # --- what waits in the store. `WaitingRoomReader` raises it, whoever removes items lowers it
        self.known = NOTHING_KNOWN  # what waits in the store up to this number is in `items` as well
        # --- the lease, see the table. The ledger sets `refused`, the ledger and `Holdings` set `releasing`
        self.token: int | None = None
        self.valid_until = 0.0  # on the monotonic clock; earlier than in the store, to be safe
        self.refused = False
        self.releasing = False
        # --- the worker. `Serving` sets `busy`, `Attempts` all others
        self.busy = False  # with a worker, waiting for one, or waiting for a delay to pass
        self.running: Item | None = None  # in the handler now
        self.tried: Item | None = None  # the message that `AttemptState` is about
        self.begin_anew()
        # --- hindrances. `Holdings` sets `blocked` and `full`. `Survey` sets `overdue`, `WaitingRoomReader` clears it
        self.blocked = False  # its next message has used up its attempts
        self.rests_until = float("-inf")  # monotonic; a blocked aggregate is not tried again before
        self.full = False  # its waiting room has no room for its messages
        self.overdue = False  # a number has been missing for longer than `gap_timeout`
        # --- dead letters without an attempt. `WaitingRoomReader` adds to `burials`, `Burials` moves them to `buried`
        self.burials: deque[Burial] = deque()
        self.buried: list[int] = []  # numbers that are dead-lettered, and have to be removed from the waiting room

    def held(self, now: float) -> bool:
        """The lease is certainly ours. A process that was frozen has to renew it before it goes on."""
        return self.token is not None and now < self.valid_until and not self.releasing

    def next_item(self) -> Item | None:
        """The message to be handled next, if it is in memory."""
        if self.late:
            return self.late[0]
        return self.items.get(self.last + 1)

    def early_items(self) -> list[Item]:
        """Messages that cannot be handled now and belong in the waiting room."""
        if self.refused or self.blocked:
            return [item for item in self.items.values() if item.partition is not None and item is not self.running]
        if self.busy or self.last + 1 in self.items:
            return []
        return [item for item in self.items.values() if item.partition is not None]

    @property
    def idle(self) -> bool:
        """No message is left to handle, park or write."""
        return not (self.busy or self.items or self.late or self.unwritten or self.blocked or self.burials)

    # --- the lease

    def grant(self, claim: Claim, valid_until: float) -> list[Item]:
        """The store has granted us the lease. Removes and returns the items whose number is done.

        A store that has lost its newest data may know less than it once acknowledged. `last` does not go back for that.
        """
        self.token, self.valid_until = claim.token, valid_until
        self.last, self.acknowledged = max(claim.last, self.acknowledged), claim.last
        done = [item for number, item in self.items.items() if number <= self.last and item is not self.running]
        for item in done:
            del self.items[item.sequence]
        return done

    def acknowledge(self, last: int, handled: int, buried: int) -> list[Item]:
        """The store has recorded `last` and this many of the handled and buried messages. Returns the handled ones."""
        self.acknowledged = last
        if buried:
            del self.buried[:buried]
        items = self.unwritten[:handled]
        del self.unwritten[:handled]
        return items

    def give_up_lease(self) -> None:
        """We have given the lease back, or lost it."""
        self.token, self.valid_until, self.releasing = None, 0.0, False

    def lose(self) -> list[Item]:
        """The lease is lost. Returns what was handled and not written: it counts as not handled.

        Whoever claims the aggregate next decides about these messages from the store's data.
        """
        self.give_up_lease()
        unwritten, self.unwritten = self.unwritten, []
        self.last, self.known = self.acknowledged, NOTHING_KNOWN
        self.burials.clear()
        self.buried.clear()
        kept = [*unwritten, *self.items.values()]
        self.items = {item.sequence: item for item in kept if item.partition is not None and not item.partition.revoked}
        return unwritten

    # --- messages

    def begin(self, item: Item) -> None:
        """An attempt at this message starts. Attempts are counted from one for each message."""
        if self.tried is not item:
            self.tried, self.attempt, self.first_failed_at, self.letter = item, 1, 0.0, None  # no call: once a message

    def left_for_store(self, item: Item) -> None:
        """The store has this message or its number: forgets it here, to be read back when needed."""
        del self.items[item.sequence]
        self.known = min(self.known, item.sequence - 1)

    def forget_taken(self) -> None:
        """Forgets the messages that were read from the waiting room; they still wait there."""
        self.items = {number: item for number, item in self.items.items() if item.partition is not None}
        self.known = NOTHING_KNOWN

    def drop(self, partition: PartitionState) -> bool:
        """Forgets the messages of a partition that is not ours any more. True if `items` held any of them."""
        gone = [item for item in self.items.values() if item.partition is partition]
        for item in gone:
            if item is not self.running:
                del self.items[item.sequence]
        self.late = deque(item for item in self.late if item.partition is not partition)
        if gone:
            self.known = NOTHING_KNOWN  # one of them may wait in the store too
        return bool(gone)

"""One partition as one member of a group reads it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from ...messages import RawMessage, TopicPartition
from .damage import NothingThereError
from .prefetch import Batches, RawRecords, Unreadable, split


class Owner(Protocol):
    """The member whose partition it is."""

    ready: OrderedDict[TopicPartition, Reading]  # partitions of which something is buffered
    max_batch_bytes: int  # to which a batch may unpack

    def on_arrival(self) -> None:
        """Something has been fetched, or is wrong."""

    def on_unreadable(self, place: TopicPartition, where: Unreadable) -> None:
        """The next record of a partition cannot be read."""

    def unpack_later(self, unpack: Callable[[], None], then: Callable[[], None]) -> None:
        """Calls `unpack` in a thread, then `then` in the event loop."""


class Reading:
    """From where a partition is read next, what has been fetched of it, and where it ends.

    The fetch hub fetches it while it is `wanted`: it has a position, is not stopped, and nothing of it is buffered.
    """

    __slots__ = (
        "carried",
        "empty_answers",
        "highwater",
        "last_stable",
        "misplaced",
        "owner",
        "place",
        "position",
        "records",
        "stopped",
        "topic_id",
    )

    def __init__(self, place: TopicPartition, owner: Owner) -> None:
        self.place = place
        self.owner = owner
        self.position: int | None = None  # the offset that is taken next; None: not known yet
        self.stopped = True  # nothing is fetched, nor given out
        self.records: RawRecords | None = None  # fetched, and not taken yet
        self.highwater: int | None = None
        self.last_stable: int | None = None  # -1: the broker does not tell
        self.empty_answers = 0  # in a row, although the log has more
        self.carried: Carried | None = None  # the fetch that asks for it. The fetch hub's
        self.misplaced = False  # its position is not in the log
        self.topic_id = b""  # of the topic in whose log its position is; empty: unknown

    @property
    def wanted(self) -> bool:
        """It is to be fetched."""
        return self.records is None and not self.stopped and self.position is not None

    @property
    def end(self) -> int | None:
        """The end of what may be read; None: unknown."""
        known = self.last_stable is not None and self.last_stable >= 0
        return self.last_stable if known else self.highwater

    @property
    def lags(self) -> bool:
        """The log has more than has been taken."""
        return self.position is not None and self.end is not None and self.position < self.end

    def put(self, batches: Batches, aborted: Sequence[tuple[int, int]] = ()) -> RawRecords:
        """These batches come next."""
        assert self.position is not None
        self.records = RawRecords(
            *(self.place, batches, self.position),
            aborted=aborted,
            end=self.highwater,
            on_unreadable=self.owner.on_unreadable,
            unpack_later=self.owner.unpack_later,
        )
        self.owner.ready[self.place] = self
        return self.records

    def arrived(self, data: bytes, aborted: Sequence[tuple[int, int]]) -> None:
        """These bytes have been fetched from its position."""
        batches = split(data, self.owner.max_batch_bytes)
        if batches.whole or batches.damage is not None:
            self.put(batches, aborted)
        else:  # the one that comes next is cut off: its length is wrong (KIP-74)
            self.hold(NothingThereError())

    def hold(self, error: Exception) -> None:
        """Its next message cannot be read: nothing is fetched until others take the place of `records`."""
        self.put(Batches(())).hold(error)

    def take(self, limit: int) -> list[RawMessage]:
        """The next messages, `limit` at most, of those that are buffered."""
        if self.records is None or self.stopped:
            return []
        records = self.records
        messages = records.take(limit)
        if self.records is records:  # else they were replaced meanwhile
            self.position = records.next_fetch_offset
            if not records.more:
                self.drop_records()
        return messages

    def drop_records(self) -> None:
        """Forgets what is buffered."""
        self.records = None
        self.owner.ready.pop(self.place, None)

    def misplace(self) -> None:
        """The log does not have its position, or is another one: nothing is fetched until the next seek."""
        self.stopped = self.misplaced = True


class Carrier(Protocol):
    """What fetches partitions."""

    def drop(self, reading: Reading) -> None:
        """Asks for it no more."""


class Carried:
    """A partition in a fetch: the offset that is asked for, and who wants it.

    Members of several groups may read the same partition. As long as they are equally far, one fetch serves them all.
    """

    __slots__ = ("lane", "offset", "place", "readers")

    def __init__(self, lane: Carrier, place: TopicPartition, offset: int) -> None:
        self.lane, self.place, self.offset = lane, place, offset
        self.readers: list[Reading] = []

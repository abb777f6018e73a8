"""One assigned partition: what was received, what runs, what is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from operator import itemgetter

from ..messages import RawMessage, TopicPartition
from .offsets import UNSTAMPED, OffsetTracker, Stamp

_offset = itemgetter(RawMessage._fields.index("offset"))
_value = itemgetter(RawMessage._fields.index("value"))


SETTLE_AT = 50
"""Concluded offsets are told to the tracker together."""


class WorkDone:
    """Wakes the one who waits for something to be done. Costs a look at `waiter` while nobody does."""

    __slots__ = ("waiter",)

    def __init__(self) -> None:
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Returns when the next message is concluded, after `seconds` at the latest."""
        loop = asyncio.get_running_loop()
        self.waiter = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self.waiter
        finally:
            timer.cancel()
            self.waiter = None


class PartitionState:
    """Belongs to one assignment.

    When the partition goes, the state goes with it: what finishes later is fenced, it commits nothing.
    """

    __slots__ = (
        "_chunks",
        "_drained",
        "_max_bytes",
        "_most_left",
        "_received",
        "_tracker",
        "conclude",
        "conclude_all",
        "concluded",
        "delay",
        "has_room",
        "high_offset",
        "leaving",
        "low_mark",
        "open",
        "paused",
        "revoked",
        "running",
        "seeking",
        "settle_at",
        "skip",
        "stamp",
        "topic_partition",
        "work_done",
    )

    def __init__(
        self,
        topic_partition: TopicPartition,
        committed: int | None,
        *,
        low_mark: int,
        max_bytes: float = float("inf"),
        has_room: Callable[[], None],
        work_done: WorkDone,
        stamp: Stamp = UNSTAMPED,
        skip: frozenset[int] = frozenset(),
        delay: Callable[[RawMessage], float] | None = None,
    ) -> None:
        self.topic_partition = topic_partition
        self._most_left = low_mark
        self._max_bytes = max_bytes
        self._set_low_mark(0.0)
        self.has_room = has_room  # called when no more than `low_mark` messages are buffered again
        self.work_done = work_done  # who wants to commit may wait for it; `settle` wakes him
        self.stamp = stamp
        self._tracker = OffsetTracker(committed, stamp, done_before=skip)
        self._chunks: deque[tuple[int, int, int, int]] = deque()  # of each fetch: first and last offset, their times
        self.concluded: list[int] = []  # offsets that the tracker does not know yet
        self.conclude: Callable[[int], None] = self.concluded.append
        self.conclude_all: Callable[[Iterable[int]], None] = self.concluded.extend
        """These offsets are handled, dead-lettered or skipped by a rule. Bound methods of a list: they cost least."""
        self.skip = skip  # done before, by whoever had the partition (noted in the commit)
        self.delay = delay  # of a retry topic: seconds until a message is due
        self.open = True  # new work may start
        self.paused = False  # by an operator
        self.revoked = False
        self.leaving = False  # on its way to another member: nothing new starts, whoever reopens
        self.seeking = False  # to another offset; the same
        self._received = 0  # to be handled, and not concluded as far as the tracker knows
        self.running = 0  # in a handler now
        self.high_offset = -1  # the last offset received
        self._drained: asyncio.Future[None] | None = None

    def _set_low_mark(self, average_size: float) -> None:
        """More is taken in when no more than `low_mark` messages are left: so many that bytes are no worry, either."""
        room = self._max_bytes / average_size if average_size else float("inf")
        self.low_mark = self._most_left if self._most_left < room else ceil(room) - 1
        self.settle_at = max(1, min(SETTLE_AT, self.low_mark // 4))  # concluded offsets, then the tracker is told

    def receive(self, messages: Sequence[RawMessage]) -> Sequence[RawMessage]:
        """Takes in what was fetched; gives back what is to be handled."""
        self._tracker.received(map(_offset, messages))
        self.high_offset = messages[-1].offset
        self._note_age(messages[0], messages[-1])
        self._set_low_mark(sum(map(len, filter(None, map(_value, messages)))) / len(messages))
        if self.skip:
            messages = self._without_done(messages)
        self._received += len(messages)
        return messages

    def _note_age(self, first: RawMessage, last: RawMessage) -> None:
        chunks, unfinished = self._chunks, self.unfinished
        while chunks and unfinished is not None and chunks[0][1] < unfinished:
            chunks.popleft()
        chunks.append((first.offset, last.offset, first.timestamp, last.timestamp))

    def _without_done(self, messages: Sequence[RawMessage]) -> Sequence[RawMessage]:
        kept = []
        for message in messages:
            if message.offset in self.skip:
                self._tracker.done(message.offset)
            else:
                kept.append(message)
        if self.high_offset >= max(self.skip):
            self.skip = frozenset()
        return kept

    def settle(self) -> None:
        """Tells the tracker what was concluded: after each slice of work, and whenever somebody wants to know."""
        concluded = self.concluded
        if not concluded:
            return
        before = self._received
        self._received = left = before - len(concluded)
        self._tracker.done_all(concluded)
        concluded.clear()
        if self.work_done.waiter is not None:
            self.work_done.wake()
        if before > self.low_mark >= left:
            self.has_room()

    @property
    def tracker(self) -> OffsetTracker:
        """Up to date."""
        self.settle()
        return self._tracker

    @property
    def buffered(self) -> int:
        """Received, and not yet concluded. May be asked from another thread."""
        return max(0, self._received - len(self.concluded))

    @property
    def committed(self) -> int | None:
        """May be asked from another thread."""
        return self._tracker.committed

    @property
    def unfinished(self) -> int | None:
        """The lowest offset that is not concluded: what a commit would say now. May be asked from another thread."""
        return self._tracker.position

    @property
    def oldest_timestamp(self) -> float | None:
        """Of the oldest message in hand that is not concluded, in milliseconds since the epoch; None: there is none.

        Within the messages that were fetched together it is estimated. May be asked from another thread.
        """
        unfinished = self.unfinished
        for first, last, begins, ends in list(self._chunks):
            if unfinished is None or unfinished <= first:
                return begins
            if unfinished <= last:
                return begins + (ends - begins) * (unfinished - first) / (last - first)
        return None

    def finished_running(self, count: int = 1) -> None:
        self.running -= count
        if self._drained is not None and not self.running and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Returns when nothing of this partition runs any more. Set `open` to False before."""
        if self.running:
            if self._drained is None or self._drained.done():
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

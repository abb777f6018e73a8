"""One assigned partition: what was received, what runs, what is done, and whether new work may start."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from math import ceil
from operator import itemgetter
from time import monotonic
from typing import Literal, NamedTuple

from ..exceptions import AthomicError
from ..messages import RawMessage, TopicPartition
from .notes import UNSTAMPED, Stamp
from .offsets import OffsetTracker

_offset = itemgetter(RawMessage._fields.index("offset"))
_value = itemgetter(RawMessage._fields.index("value"))


SETTLE_AT = 50
"""Concluded offsets that are collected before `settle` passes them to the tracker."""


class WorkDone:
    """Counts what there is to commit, and wakes the committer when that is enough.

    Strategies read `waiter` for each message: None while nobody waits, so that this costs one attribute. While
    somebody does, they settle each message at once.
    """

    __slots__ = ("_enough", "_loop", "count", "waiter")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # of the task that waits
        self.count = 0  # offsets that were passed to trackers; the committer sets it back
        self.waiter: asyncio.Future[None] | None = None
        self._enough = 0  # the count at which the waiter is woken

    def note(self, count: int) -> None:
        """So many more offsets may be committed."""
        self.count += count
        if self.waiter is not None and self.count >= self._enough:
            self.wake()

    def wake(self) -> None:
        """Ends the wait, whatever the count is."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done() and not waiter.get_loop().is_closed():
            waiter.set_result(None)

    async def wait(self, enough: int, seconds: float | None = None) -> None:
        """Returns when `count` is `enough`, after so many `seconds` at the latest. For one task at a time."""
        if self.count >= enough:
            return
        if (loop := self._loop) is None:  # in Python 3.11 it takes a call of the system to find it
            loop = self._loop = asyncio.get_running_loop()
        self._enough, self.waiter = enough, loop.create_future()
        timer = loop.call_later(seconds, self.wake) if seconds is not None else None
        try:
            await self.waiter
        finally:
            self.waiter = None
            if timer is not None:
                timer.cancel()


class PartitionStage(StrEnum):
    """The stages of a `PartitionState`, from its assignment on. Unrelated to `outcomes.Stage`, where an error arose."""

    OPEN = "open"  # new work may start
    HELD = "held"  # nothing new starts until every `Hold` has been lifted
    LEAVING = "leaving"  # on its way to another member: nothing new starts, what runs may finish and is committed
    REVOKED = "revoked"  # fenced: what still runs commits nothing


TRANSITIONS: dict[PartitionStage, frozenset[PartitionStage]] = {
    PartitionStage.OPEN: frozenset({PartitionStage.HELD, PartitionStage.LEAVING, PartitionStage.REVOKED}),
    PartitionStage.HELD: frozenset({PartitionStage.OPEN, PartitionStage.LEAVING, PartitionStage.REVOKED}),
    PartitionStage.LEAVING: frozenset({PartitionStage.REVOKED}),
    PartitionStage.REVOKED: frozenset(),
}

Hold = Literal["paused", "doubt", "seek"]
"""Why a partition is held: an operator paused it; it is not certain that this process is still a member of the group;
a seek waits until running handlers have finished."""


def _no_delay(topic: str) -> None:
    """No topic is a retry topic."""


class PartitionParts(NamedTuple):
    """What all partitions of a session share."""

    low_mark: int  # more is fetched when at most this many messages are left
    has_room: Callable[[], None]  # called when a partition that had no room for more has some again
    work_done: WorkDone  # told when messages have been concluded
    most_span: float = float("inf")  # offsets from the first that is not concluded to the last received, about
    max_bytes: float = float("inf")  # of the values of one partition's messages, about
    enough: float = float("inf")  # if more messages than this wait for their turn, `hungry` is asked, too
    hungry: Callable[[int], bool] = lambda running: True  # whether to fetch more, with so many messages in a handler
    delay_of: Callable[[str], Callable[[RawMessage], float] | None] = _no_delay
    """Of a retry topic: how many seconds until a message is due. None for other topics."""


class PartitionState:
    """One partition from its assignment until it goes to another member, or its position is reset.

    Whoever gets the partition next gets a new state; what still finishes on this one is fenced, it commits nothing.

    For strategies. They touch these once per message or more, so these are plain attributes: a call would cost more
    than the work it stands for.

    - Read `open` (new work may start), `revoked` (results are void), `delay`, `topic_partition`, and `work_done`,
      `concluded` and `settle_at`, which say together when `settle` is due.
    - Add to `running` directly when a handler starts; call `finished_running` when it ends, which also wakes `drained`.
    - Call `conclude` or `conclude_all` for offsets that are handled, dead-lettered or skipped by a rule, and `settle`
      after each slice of work.

    For the session, which alone changes the stage (see `TRANSITIONS`):

    - `hold` and `lift` for a while, `leave` when the group takes the partition, `revoke` when it has taken it;
      `drained` waits until nothing runs.
    - `receive` takes in what was fetched; `tracker` (which settles first), `buffered`, `unfinished`, `high_offset`,
      `skips_to`, `stamp` and the other properties say how far it is, and `has_room` whether to fetch more.
    """

    __slots__ = (
        "_average_size",
        "_chunks",
        "_drained",
        "_enough",
        "_full",
        "_has_room",
        "_holds",
        "_hungry",
        "_max_bytes",
        "_most_left",
        "_most_span",
        "_received",
        "_skip",
        "_tracker",
        "conclude",
        "conclude_all",
        "concluded",
        "delay",
        "high_offset",
        "low_mark",
        "open",
        "revoked",
        "running",
        "settle_at",
        "stage",
        "stamp",
        "topic_partition",
        "work_done",
    )

    def __init__(
        self,
        topic_partition: TopicPartition,
        parts: PartitionParts,
        *,
        committed: int | None,
        stamp: Stamp = UNSTAMPED,
        skip: frozenset[int] = frozenset(),
    ) -> None:
        self.topic_partition = topic_partition
        self.stage = PartitionStage.OPEN
        self.open = True  # whether `stage` is OPEN, for strategies, which ask once per message
        self.revoked = False  # whether `stage` is REVOKED
        self._holds: set[Hold] = set()
        self._most_left = parts.low_mark
        self._most_span = parts.most_span
        self._max_bytes = parts.max_bytes
        self._enough, self._hungry = parts.enough, parts.hungry
        self._set_low_mark(0.0)
        self._full = False  # it had no room when it was last asked
        self._has_room = parts.has_room
        self.work_done = parts.work_done
        self.stamp = stamp
        self._tracker = OffsetTracker(committed, stamp, done_before=skip)
        self._chunks: deque[tuple[int, int, int, int, float]] = deque()
        """Per fetch: first and last offset, their timestamps, and when it came, on the monotonic clock."""
        self.concluded: list[int] = []  # offsets that the tracker does not know yet
        self.conclude: Callable[[int], None] = self.concluded.append  # a list's own method: it costs least
        self.conclude_all: Callable[[Iterable[int]], None] = self.concluded.extend
        self._skip = skip  # offsets that were done before, by whoever had the partition (noted in the commit)
        self.delay = parts.delay_of(topic_partition.topic)  # of a retry topic: seconds until a message is due
        self._received = 0  # to be handled, and not concluded as far as the tracker knows
        self.running = 0  # messages in a handler now
        self.high_offset = -1  # the last offset received
        self._drained: asyncio.Future[None] | None = None

    # --- stages

    def hold(self, reason: Hold) -> None:
        """Nothing new starts until the reason has been lifted. Has no effect once leaving or revoked."""
        self._holds.add(reason)
        if self.stage is PartitionStage.OPEN:
            self._become(PartitionStage.HELD)

    def lift(self, reason: Hold) -> None:
        """Opens the partition if nothing else holds it. Has no effect once leaving or revoked."""
        self._holds.discard(reason)
        if self.stage is PartitionStage.HELD and not self._holds:
            self._become(PartitionStage.OPEN)

    def leave(self) -> None:
        """The partition goes to another member. Nothing new starts, even without a hold. Raises if it was revoked."""
        self._become(PartitionStage.LEAVING)

    def revoke(self) -> None:
        """The partition belongs to another member, or is read from another offset: running handlers commit nothing."""
        self._become(PartitionStage.REVOKED)

    def _become(self, stage: PartitionStage) -> None:
        if stage is self.stage:
            return
        if stage not in TRANSITIONS[self.stage]:
            raise AthomicError(f"partition {self.topic_partition} cannot go from {self.stage} to {stage}")
        self.stage = stage
        self.open, self.revoked = stage is PartitionStage.OPEN, stage is PartitionStage.REVOKED

    @property
    def paused(self) -> bool:
        """An operator paused it."""
        return "paused" in self._holds

    # --- messages

    def set_most_left(self, low_mark: int, enough: float) -> None:
        """More is fetched when at most so many messages are left, and wait; see `PartitionParts`."""
        self._most_left, self._enough = low_mark, enough
        self._set_low_mark(self._average_size)

    def _set_low_mark(self, average_size: float) -> None:
        """Sets `low_mark`, the number of messages left at which more is fetched: low enough for `max_bytes`, too."""
        self._average_size = average_size
        room = self._max_bytes / average_size if average_size else float("inf")
        self.low_mark = self._most_left if self._most_left < room else ceil(room) - 1
        self.settle_at = max(1, min(SETTLE_AT, self.low_mark // 4))  # this many concluded offsets make `settle` due

    def receive(self, messages: Sequence[RawMessage]) -> Sequence[RawMessage]:
        """Takes in what was fetched; returns what is to be handled, without what the last owner has done."""
        self._tracker.received(map(_offset, messages))
        self.high_offset = messages[-1].offset
        self._note_age(messages[0], messages[-1])
        self._set_low_mark(sum(map(len, filter(None, map(_value, messages)))) / len(messages))
        if self._skip:
            messages = self._without_done(messages)
            self.work_done.note(1)  # without those it may be time to commit, and nobody handles them
        self._received += len(messages)
        return messages

    def skips_to(self, position: int | None) -> bool:
        """Whether offsets without a message lie between the last message received and the next one, at `position`."""
        return position is not None and position > self.high_offset + 1

    def _note_age(self, first: RawMessage, last: RawMessage) -> None:
        chunks, unfinished = self._chunks, self.unfinished
        while chunks and unfinished is not None and chunks[0][1] < unfinished:
            chunks.popleft()
        chunks.append((first.offset, last.offset, first.timestamp, last.timestamp, monotonic()))

    def _without_done(self, messages: Sequence[RawMessage]) -> Sequence[RawMessage]:
        kept = []
        for message in messages:
            if message.offset in self._skip:
                self._tracker.done(message.offset)
            else:
                kept.append(message)
        if self.high_offset >= max(self._skip):
            self._skip = frozenset()
        return kept

    def settle(self) -> None:
        """Passes concluded offsets to the tracker; tells the committer, and the poll loop if there is room again.

        It commits nothing: an offset is `OffsetTracker.settled` only after a commit.
        """
        concluded = self.concluded
        if not concluded:
            return
        count = len(concluded)
        self._received -= count
        self._tracker.done_all(concluded)
        concluded.clear()
        self.work_done.note(count)
        if self._full and self.has_room():
            self._has_room()

    def has_room(self) -> bool:
        """Whether to fetch more. If not, the function of that name in `PartitionParts` is called when there is room.

        Not at once where `hungry` said no for another reason than that all calls run: at the next `settle`.
        """
        if self.revoked:
            return False
        left = self._received - len(self.concluded)
        self._full = (
            left > self.low_mark
            or (left - self.running > self._enough and not self._hungry(self.running))
            or (self._tracker.span >= self._most_span and self.tracker.span >= self._most_span)  # `tracker` settles
        )
        return not self._full

    @property
    def tracker(self) -> OffsetTracker:
        """How far this partition may be committed, with all that was concluded so far: reading this calls `settle`.

        Only for the consumers' event loop. Other threads read `buffered`, `committed` and `unfinished`.
        """
        self.settle()
        return self._tracker

    @property
    def buffered(self) -> int:
        """Received, and not yet concluded. May be asked from another thread."""
        return max(0, self._received - len(self.concluded))

    @property
    def committed(self) -> int | None:
        """The offset that was committed last. May be asked from another thread."""
        return self._tracker.committed

    @property
    def unfinished(self) -> int | None:
        """The lowest offset that is not concluded: what would be committed now. May be asked from another thread."""
        return self._tracker.position

    @property
    def oldest_timestamp(self) -> float | None:
        """The timestamp of the oldest message that is fetched and not concluded, in milliseconds since the epoch.

        None if there is none. Estimated from the first and the last of the messages that were fetched together. May be
        asked from another thread.
        """
        unfinished = self.unfinished
        for first, last, begins, ends, _ in list(self._chunks):
            if unfinished is None or unfinished <= first:
                return begins
            if unfinished <= last:
                return begins + (ends - begins) * (unfinished - first) / (last - first)
        return None

    @property
    def oldest_arrival(self) -> float | None:
        """When the oldest of the messages was fetched that wait for their turn, on the monotonic clock, or later.

        None if none waits, or none may start now. It takes the lowest offsets for those that run, so the true one may
        have waited longer. May be asked from another thread.
        """
        unfinished, running = self.unfinished, self.running
        if not self.open or self.delay is not None or unfinished is None or self.buffered <= running:
            return None
        waits = unfinished + running
        return next((arrival for _, last, _, _, arrival in list(self._chunks) if waits <= last), None)

    def finished_running(self, count: int = 1) -> None:
        """This many messages are no longer in a handler."""
        self.running -= count
        if self._drained is not None and not self.running and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self) -> None:
        """Returns when no handler runs for this partition. Call it only when nothing new may start."""
        if self.running:
            if self._drained is None or self._drained.done():
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

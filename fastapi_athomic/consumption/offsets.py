"""Which offsets of a partition are done, and how far it may be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from ..transports.base import CommittedOffset
from .notes import NOTE_SPAN, UNSTAMPED, Stamp, bitmap, encode_note

MAP_SPAN = 4 * NOTE_SPAN
"""Offsets further above the first are left out of the note: a log may have gaps of any size, a bitmap may not."""


class OffsetTracker:
    """Follows one partition from fetch to commit.

    Offsets are received in ascending order, with or without gaps (compaction, transaction markers), and become done
    in any order. Done here is what strategies call concluded (promise P1). `position` is what may be committed: all
    offsets below it are done.
    """

    __slots__ = (
        "_base",
        "_before",
        "_before_base",
        "_bits",
        "_committed",
        "_done",
        "_pending",
        "_stamp",
        "position",
    )

    def __init__(
        self, committed: int | None = None, stamp: Stamp = UNSTAMPED, *, done_before: Collection[int] = ()
    ) -> None:
        self._pending: deque[int] = deque()  # received, from the first that is not done
        self._done: set[int] = set()  # done, but something before it is not
        self._base = self._bits = 0  # `_done` as a bitmap, bit 0 for `_base`: a commit has no time to build it
        self.position = committed  # None: nothing was ever committed, and nothing is done yet
        self._stamp = stamp
        # What the last owner noted as done, as a bitmap. It is noted again until the position has passed it: the next
        # rebalance may come before these offsets are received here.
        self._before_base = committed or 0
        self._before = bitmap(offset - self._before_base for offset in done_before)
        self._committed = CommittedOffset(committed, self.note()) if committed is not None else None

    def received(self, offsets: Iterable[int]) -> None:
        """These offsets were fetched, in ascending order."""
        self._pending.extend(offsets)

    def done(self, offset: int) -> None:
        """`done_all` for one offset."""
        self.done_all((offset,))

    def done_all(self, offsets: Iterable[int]) -> None:
        """These offsets, which were received before, need not be handled again."""
        pending, done = self._pending, self._done
        for offset in offsets:
            if pending and pending[0] == offset:
                pending.popleft()
                self.position = offset + 1
                continue
            if not done:
                self._base, self._bits = pending[0] if pending else offset, 0
            done.add(offset)
            if 0 <= (distance := offset - self._base) < MAP_SPAN:
                self._bits |= 1 << distance
        if done:
            self._advance()

    def _advance(self) -> None:
        pending, done = self._pending, self._done
        while pending and pending[0] in done:
            offset = pending.popleft()
            done.discard(offset)
            self.position = offset + 1

    def advance(self, position: int) -> bool:
        """All messages to come are at `position` or above. True if that moves what may be committed."""
        if self._pending or (self.position is not None and position <= self.position):
            return False
        self.position = position
        return True

    @property
    def outstanding(self) -> int:
        """Received, but not yet done."""
        return len(self._pending) - len(self._done)

    @property
    def span(self) -> int:
        """The number of offsets that a note has to cover."""
        return self._pending[-1] - self._pending[0] + 1 if self._pending else 0

    def done_above(self) -> frozenset[int]:
        """The offsets at `position` or above that are done, as this process or its predecessor noted."""
        first = self.position or 0
        before = {self._before_base + n for n in range(self._before.bit_length()) if self._before >> n & 1}
        return frozenset(offset for offset in self._done | before if offset >= first)

    @property
    def committed(self) -> int | None:
        """The offset that was committed last, as far as this process knows."""
        return self._committed.offset if self._committed else None

    @property
    def resume_offset(self) -> int | None:
        """What may be committed at any time without losing a message, even before anything is done. None: unknown."""
        if self.position is not None:
            return self.position
        return self._pending[0] if self._pending else None

    @property
    def settled(self) -> bool:
        """Nothing is outstanding, and all that is done is committed."""
        return not self._pending and self.position == self.committed

    def due(self) -> CommittedOffset | None:
        """What to commit now, with its note. None if nothing has changed since the last commit."""
        offset = self.resume_offset if self._done else self.position
        if offset is None:
            return None
        if not self._done and not self._before and offset == self.committed:  # then the note is the same, too
            return None
        due = CommittedOffset(offset, self.note())
        return None if due == self._committed else due

    def committed_as(self, offset: CommittedOffset) -> None:
        """The broker has accepted this commit."""
        self._committed = offset

    def note(self) -> str:
        """The metadata for a commit of `resume_offset`: what is done above it, if that fits, and the stamp."""
        offset = self.resume_offset
        if offset is None:
            return ""
        bits = self._done_before(offset) | self._done_above(offset) if self._done or self._before else 0
        return encode_note(bits, self._stamp, offset)

    def _done_before(self, offset: int) -> int:
        if offset > self._before_base:
            self._before >>= offset - self._before_base
            self._before_base = offset
        return self._before

    def _done_above(self, offset: int) -> int:
        if not self._done:
            return 0
        if offset > self._base:
            self._bits >>= offset - self._base
            self._base = offset
        missing = self._base - offset  # offsets that are not in the log
        return self._bits << missing if missing < MAP_SPAN else 0

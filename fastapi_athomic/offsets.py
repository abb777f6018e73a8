"""Which offsets of a partition are done, and how far it may be committed."""

from __future__ import annotations

import base64
import binascii
import logging
import zlib
from collections import deque
from collections.abc import Iterable

from .transports.base import CommittedOffset

logger = logging.getLogger(__name__)

NOTE_PREFIX = "a1:"
NOTE_LIMIT = 4_096
"""Bytes of commit metadata a broker takes (Kafka's `offset.metadata.max.bytes`)."""
NOTE_SPAN = 22_000
"""Offsets one note can always tell apart: one bit each, in base64, below `NOTE_LIMIT` even if nothing compresses."""
MAP_SPAN = 4 * NOTE_SPAN
"""Offsets further away are left out of notes: where so many are missing in the log, a bitmap would be endless."""


class OffsetTracker:
    """Follows one partition from fetch to commit.

    Offsets are received in ascending order, with or without gaps (compaction, transaction markers), and become done
    in any order. `position` is what may be committed: all below it is done, in the sense of promise P1.
    """

    __slots__ = ("_base", "_bits", "_committed", "_done", "_pending", "position")

    def __init__(self, committed: int | None = None) -> None:
        self._pending: deque[int] = deque()  # received, from the first that is not done
        self._done: set[int] = set()  # done, but something before it is not
        self._base = self._bits = 0  # the same as a bitmap, bit 0 for `_base`: a commit has no time to make one
        self.position = committed  # None: nothing was ever committed, and nothing is done yet
        self._committed = CommittedOffset(committed) if committed is not None else None

    def received(self, offsets: Iterable[int]) -> None:
        self._pending.extend(offsets)

    def done(self, offset: int) -> None:
        self.done_all((offset,))

    def done_all(self, offsets: Iterable[int]) -> None:
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

    @property
    def outstanding(self) -> int:
        """Received, but not yet done."""
        return len(self._pending) - len(self._done)

    @property
    def span(self) -> int:
        """How many offsets a note would have to tell apart."""
        return self._pending[-1] - self._pending[0] + 1 if self._pending else 0

    @property
    def committed(self) -> int | None:
        return self._committed.offset if self._committed else None

    @property
    def resume_offset(self) -> int | None:
        """What may be committed at any time without a loss, also before anything is done; None: nothing is known."""
        if self.position is not None:
            return self.position
        return self._pending[0] if self._pending else None

    @property
    def settled(self) -> bool:
        """Nothing is outstanding, and all that is done is committed."""
        return not self._pending and self.position == self.committed

    def due(self) -> CommittedOffset | None:
        """What is to be committed now, with a note of what is done above it; None if that has not changed."""
        offset = self.resume_offset if self._done else self.position
        if offset is None:
            return None
        due = CommittedOffset(offset, self.note())
        return None if due == self._committed else due

    def committed_as(self, offset: CommittedOffset) -> None:
        self._committed = offset

    def note(self) -> str:
        """What is done above `resume_offset`; empty if nothing is, or if it would not fit."""
        offset = self.resume_offset
        if not self._done or offset is None:
            return ""
        if offset > self._base:
            self._bits >>= offset - self._base
            self._base = offset
        missing = self._base - offset  # offsets that are not in the log
        return encode_note(self._bits << missing) if missing < MAP_SPAN else ""


def encode_note(done: int) -> str:
    """What is done above a position, as text: `a1:`, then base64 of the zlib-packed bitmap, bit 0 for the position.

    Empty when it would exceed `NOTE_LIMIT`, or nothing is done.
    """
    packed = zlib.compress(done.to_bytes((done.bit_length() + 7) // 8, "little"), 1)
    note = NOTE_PREFIX + base64.b64encode(packed).decode("ascii")
    return note if done and len(note) <= NOTE_LIMIT else ""


def decode_note(position: int, note: str) -> frozenset[int]:
    """The offsets done above `position`.

    Foreign or broken notes give none, with a warning: they only cost repetition.
    """
    if not note:
        return frozenset()
    try:
        if not note.startswith(NOTE_PREFIX):
            raise ValueError("written by something else")
        packed = base64.b64decode(note[len(NOTE_PREFIX) :], validate=True)
        unpacker = zlib.decompressobj()
        bits = int.from_bytes(unpacker.decompress(packed, NOTE_SPAN), "little")
        if not unpacker.eof:
            raise ValueError("too long or cut off")
    except (ValueError, binascii.Error, zlib.error) as error:
        logger.warning("commit metadata ignored: %s", error)
        return frozenset()
    return frozenset(position + distance for distance, bit in enumerate(reversed(bin(bits)[2:])) if bit == "1")

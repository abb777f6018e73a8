"""Which offsets of a partition are done, how far it may be committed, and what is written beside a committed offset.

A commit holds one offset, and up to 4 kB of metadata. The metadata is used for a note: which offsets above the
committed one are done already (so that they are not repeated after a rebalance), and a stamp that says to which topic
the offset belongs.
"""

from __future__ import annotations

import base64
import binascii
import logging
import struct
import zlib
from collections import deque
from collections.abc import Collection, Iterable
from typing import NamedTuple

from ..transports.base import CommittedOffset

logger = logging.getLogger(__name__)

NOTE_PREFIX = "a1:"
NOTE_LIMIT = 4_096
"""Bytes of commit metadata that a broker accepts (Kafka's `offset.metadata.max.bytes`)."""
NOTE_SPAN = 22_000
"""So many offsets always fit into a note: one bit each, in base64, below `NOTE_LIMIT` even if nothing compresses."""
MAP_SPAN = 4 * NOTE_SPAN
"""Offsets further above the first are left out of the note: a log may have gaps of any size, a bitmap may not."""

_STAMP = struct.Struct(">16sII8sQ")
_NO_ID = bytes(16)
_NO_CLUSTER = bytes(8)
_BROKEN = (ValueError, binascii.Error, zlib.error, struct.error)


class Stamp(NamedTuple):
    """What a commit says about its topic."""

    topic_id: bytes = b""  # of the topic that the offset belongs to; empty: unknown
    partitions: int = 0  # how many the topic had when the group began; 0: the topic came later
    began: int = 0  # when the group began, in seconds since the epoch; 0: this and `partitions` are unknown
    cluster: bytes = b""  # 8 bytes that identify the Kafka cluster; empty: unknown


UNSTAMPED = Stamp()


class OffsetTracker:
    """Follows one partition from fetch to commit.

    Offsets are received in ascending order, with or without gaps (compaction, transaction markers), and become done
    in any order. `position` is what may be committed: all below it is done, in the sense of promise P1.
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
        self._base = self._bits = 0  # the same as a bitmap, bit 0 for `_base`: a commit has no time to build it
        self.position = committed  # None: nothing was ever committed, and nothing is done yet
        self._stamp = stamp
        # What the last owner noted as done, as a bitmap. It is noted again until the position has passed it: the next
        # rebalance may come before these offsets are received here.
        self._before_base = committed or 0
        self._before = bitmap(offset - self._before_base for offset in done_before)
        self._committed = CommittedOffset(committed, self.note()) if committed is not None else None

    def received(self, offsets: Iterable[int]) -> None:
        """These were fetched, in ascending order."""
        self._pending.extend(offsets)

    def done(self, offset: int) -> None:
        """See `done_all`."""
        self.done_all((offset,))

    def done_all(self, offsets: Iterable[int]) -> None:
        """These, which were received before, need not be handled again."""
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


def bitmap(places: Iterable[int]) -> int:
    """A number whose bits at these places are 1."""
    bits = bytearray()
    for place in places:
        byte, bit = divmod(place, 8)
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits)))
        bits[byte] |= 1 << bit
    return int.from_bytes(bits, "little")


def encode_note(done: int, stamp: Stamp = UNSTAMPED, position: int = 0) -> str:
    """The text of a note: `a1:`, then base64 of the zlib-packed bitmap `done`, whose bit 0 stands for the position.

    The stamp follows the packed bitmap, where earlier versions do not look: topic id, partitions and time as one binary
    number each, then cluster and position. The bitmap is left empty if the note would exceed `NOTE_LIMIT` with it. The
    note is empty if there is nothing to say.
    """
    if not done and stamp == UNSTAMPED:
        return ""
    packed = zlib.compress(done.to_bytes((done.bit_length() + 7) // 8, "little"), 1)
    if stamp != UNSTAMPED:
        topic_id, cluster = stamp.topic_id or _NO_ID, stamp.cluster or _NO_CLUSTER
        packed += _STAMP.pack(topic_id, stamp.partitions, stamp.began, cluster, position)
    note = NOTE_PREFIX + base64.b64encode(packed).decode("ascii")
    return note if len(note) <= NOTE_LIMIT else encode_note(0, stamp, position)


def own_words(commit: CommittedOffset, cluster: bytes) -> CommittedOffset:
    """The commit, without its metadata if that was written for another offset or in another cluster.

    Tools that mirror a cluster or move the offsets of a group copy the metadata along. Only the offset counts then:
    what was done above another offset, in another log, says nothing about this one.
    """
    try:
        _, stamp = _unpack(commit.metadata)
        *_, written_in, position = _STAMP.unpack(stamp)
    except _BROKEN:
        return commit
    elsewhere = bool(cluster) and written_in not in (cluster, _NO_CLUSTER)
    return CommittedOffset(commit.offset) if elsewhere or position != commit.offset else commit


def decode_note(position: int, note: str) -> frozenset[int]:
    """The offsets above `position` that the note calls done.

    A note that is foreign or broken gives none, with a warning: those messages are handled again, nothing is lost.
    """
    if not note:
        return frozenset()
    try:
        bits, _ = _unpack(note)
    except (ValueError, binascii.Error, zlib.error) as error:
        logger.warning(
            "the metadata of a committed offset cannot be read (%s): messages above that offset which were handled "
            "before will be handled again",
            error,
        )
        return frozenset()
    return frozenset(position + distance for distance, bit in enumerate(reversed(bin(bits)[2:])) if bit == "1")


def decode_stamp(note: str) -> Stamp:
    """What the note says about its topic; `UNSTAMPED` if it is foreign, broken, or of an earlier version."""
    try:
        _, stamp = _unpack(note)
        topic_id, partitions, began, cluster, _ = _STAMP.unpack(stamp)
    except _BROKEN:
        return UNSTAMPED
    known_id, known_cluster = topic_id if topic_id != _NO_ID else b"", cluster if cluster != _NO_CLUSTER else b""
    return Stamp(known_id, partitions, began, known_cluster)


def _unpack(note: str) -> tuple[int, bytes]:
    """The bitmap, and the bytes behind it. Raises one of `_BROKEN`."""
    if not note.startswith(NOTE_PREFIX):
        raise ValueError("written by something else")
    packed = base64.b64decode(note[len(NOTE_PREFIX) :], validate=True)
    unpacker = zlib.decompressobj()
    bits = int.from_bytes(unpacker.decompress(packed, NOTE_SPAN), "little")
    if not unpacker.eof:
        raise ValueError("too long or cut off")
    return bits, unpacker.unused_data

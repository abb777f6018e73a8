"""What is written beside a committed offset: a note of what is done above it, with a stamp.

A commit holds one offset, and up to 4 kB of metadata. The metadata holds a note: which offsets above the committed one
are done already, so that they are not repeated after a rebalance, and a stamp that says to which topic the offset
belongs.
"""

from __future__ import annotations

import base64
import binascii
import logging
import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from ..transports.base import CommittedOffset

logger = logging.getLogger(__name__)

NOTE_PREFIX = "a1:"
NOTE_LIMIT = 4_096
"""Bytes of commit metadata that a broker accepts (Kafka's `offset.metadata.max.bytes`)."""
NOTE_SPAN = 22_000
"""This many offsets always fit into a note: one bit each, in base64, below `NOTE_LIMIT` even if nothing compresses."""

_STAMP = struct.Struct(">16sII8sQ")
_NO_ID = bytes(16)
_NO_CLUSTER = bytes(8)
_NOTHING_DONE = zlib.compress(b"")
"""An empty bitmap, packed. It is in nearly every note, and packing even nothing clears a quarter of a megabyte."""
_BROKEN = (ValueError, binascii.Error, zlib.error, struct.error)


class Stamp(NamedTuple):
    """What a commit says about its topic."""

    topic_id: bytes = b""  # of the topic that the offset belongs to; empty: unknown
    partitions: int = 0  # how many the topic had when the group began; 0: the topic came later
    began: int = 0  # when the group began, in seconds since the epoch; 0: this and `partitions` are unknown
    cluster: bytes = b""  # 8 bytes that identify the Kafka cluster; empty: unknown


UNSTAMPED = Stamp()


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

    The stamp follows the packed bitmap, where earlier versions of this package do not look: topic id, partitions and
    time as one binary number each, then cluster and position. The bitmap is left empty if the note would exceed
    `NOTE_LIMIT` with it. The note is empty if there is nothing to say.
    """
    if not done and stamp == UNSTAMPED:
        return ""
    packed = zlib.compress(done.to_bytes((done.bit_length() + 7) // 8, "little"), 1) if done else _NOTHING_DONE
    if stamp != UNSTAMPED:
        topic_id, cluster = stamp.topic_id or _NO_ID, stamp.cluster or _NO_CLUSTER
        packed += _STAMP.pack(topic_id, stamp.partitions, stamp.began, cluster, position)
    note = NOTE_PREFIX + base64.b64encode(packed).decode("ascii")
    return note if len(note) <= NOTE_LIMIT else encode_note(0, stamp, position)


def without_foreign_metadata(commit: CommittedOffset, cluster: bytes) -> CommittedOffset:
    """The commit, without its metadata if that was written for another offset, or in another cluster.

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

    A note that is broken, or written by another program, gives none, with a warning: those messages are handled
    again, nothing is lost.
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
    """What the note says about its topic; `UNSTAMPED` if it is broken, of another program or an earlier version."""
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

"""Markers: messages behind dead letters, in the same partition of the DLQ topic, that say which of them are settled.

There is no other record of it. docs/dead-letters.md lists the headers of a marker.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import inf
from uuid import uuid4

from ..messages import MessageHeaders, OutgoingMessage, RawMessage
from .letter_headers import (
    ORIGIN,
    PREFIX,
    REASON,
    RESOLUTION,
    RESOLVED_AT,
    RESOLVED_IDS,
    RESOLVED_OFFSETS,
    moment_text,
)
from .letters import DeadLetter

MAX_OFFSETS = 1_000
"""At most this many offsets of one range in a marker are read: anybody can write one, a real one settles far fewer."""


def is_marker(message: RawMessage) -> bool:
    """The message settles letters and is none itself. (If a marker is consumed and fails, the letter has an origin.)"""
    names = {name for name, _ in message.headers}
    return RESOLUTION in names and ORIGIN[0] not in names


def marker(topic: str, letters: Sequence[DeadLetter], resolution: str, reason: str, at: float) -> OutgoingMessage:
    """A message for `topic` that settles these letters, all of one partition. `at`: seconds since the epoch.

    It has a key of its own, so that a compacted topic takes it and keeps it.
    """
    headers = (
        (RESOLUTION, resolution.encode()),
        (RESOLVED_IDS, ",".join(letter.id for letter in letters).encode()),
        (RESOLVED_OFFSETS, encode_offsets(letter.offset for letter in letters).encode()),  # for earlier versions
        (REASON, reason.encode()),
        (RESOLVED_AT, moment_text(at).encode()),
    )
    return OutgoingMessage(topic, f"{PREFIX}marker-{uuid4().hex}".encode(), b"", headers, letters[0].partition)


class Settled:
    """The letters that the markers of a partition settle."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._offsets: set[int] = set()

    def note(self, message: RawMessage) -> None:
        """Takes in a message if it is a marker.

        A marker of an earlier version has offsets only; they settle letters that stand before it.
        """
        if not is_marker(message):
            return
        headers = MessageHeaders(message.headers)
        if RESOLVED_IDS in headers:
            self._ids.update((headers.text(RESOLVED_IDS) or "").split(","))
        else:
            offsets = decode_offsets(headers.text(RESOLVED_OFFSETS) or "")
            self._offsets.update(offset for offset in offsets if offset < message.offset)

    def __contains__(self, letter: DeadLetter) -> bool:
        return letter.id in self._ids or letter.offset in self._offsets


def encode_offsets(offsets: Iterable[int]) -> str:
    """`[1, 2, 3, 7]` as `1-3,7`."""
    ordered = sorted(set(offsets))
    starts = [b for a, b in pairwise([-inf, *ordered]) if b != a + 1]
    ends = [a for a, b in pairwise([*ordered, inf]) if b != a + 1]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def decode_offsets(text: str) -> set[int]:
    """The reverse of `encode_offsets`; empty if the text makes no sense."""
    found: set[int] = set()
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            found.update(range(int(first), min(int(last or first), int(first) + MAX_OFFSETS) + 1))
    except ValueError:
        return set()
    return found

"""Raw messages as bytes, as they wait in a state store. Nothing is lost on the way there and back."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..messages import RawMessage

VERSION = 1
_HEAD = struct.Struct(">BiqqI")  # version, partition, offset, timestamp, number of headers
_LENGTH = struct.Struct(">i")  # -1: null


def pack(message: RawMessage) -> bytes:
    """A head of fixed size; then topic, key, value, and name and value of each header, each preceded by its length."""
    head = _HEAD.pack(VERSION, message.partition, message.offset, message.timestamp, len(message.headers))
    parts = [message.topic.encode(), message.key, message.value]
    for name, value in message.headers:
        parts += (name.encode("utf-8", "surrogatepass"), value)
    return head + b"".join(_LENGTH.pack(-1) if part is None else _LENGTH.pack(len(part)) + part for part in parts)


def unpack(packed: bytes) -> RawMessage:
    """The message that `pack` was given. Raises `ValueError` if another version of this format has written it."""
    version, partition, offset, timestamp, count = _HEAD.unpack_from(packed)
    if version != VERSION:
        raise ValueError(f"a parked message has format version {version}, this release reads version {VERSION}")
    parts = _parts(packed)
    topic, key, value = next(parts), next(parts), next(parts)
    headers = tuple(((next(parts) or b"").decode("utf-8", "surrogatepass"), next(parts)) for _ in range(count))
    return RawMessage((topic or b"").decode(), partition, offset, timestamp, key, value, headers)


def _parts(packed: bytes) -> Iterator[bytes | None]:
    at = _HEAD.size
    while at < len(packed):
        (length,) = _LENGTH.unpack_from(packed, at)
        at += _LENGTH.size
        if length < 0:
            yield None
        else:
            yield packed[at : at + length]
            at += length

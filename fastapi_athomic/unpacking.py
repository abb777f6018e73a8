"""Unpacking compressed data of others: all of it, and never more than a limit.

What the data says about its own size is not believed. Frames are walked through before they are unpacked: that tells
where each of them ends (concatenated frames belong together, and nothing may stand between or behind them), and the
most that they can hold, so that memory is taken for no more. Much of it is mapped: only pages that are written count.

Formats: gzip RFC 1952, zstd RFC 8878, lz4 https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md, snappy
https://github.com/google/snappy/blob/main/format_description.txt and the blocks of xerial's library around it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from mmap import mmap
from typing import Literal, NamedTuple

import cramjam

Codec = Literal["gzip", "snappy", "lz4", "zstd"]

GZIP_MAGIC, ZSTD_MAGIC, LZ4_MAGIC = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
SKIPPABLE_MAGIC = b"\x2a\x4d\x18"
"""After a byte from 0x50 to 0x5f: a frame of zstd or lz4 that holds something for others."""
XERIAL_MAGIC = b"\x82SNAPPY\0"

_XERIAL_HEAD = 16
_GZIP_RATIO, _LZ4_RATIO = 1032, 255
"""The most that deflate and lz4 can pack into one byte."""
_ZSTD_BLOCK = 128 * 1024
_RAW, _RUN, _RESERVED = 0, 1, 3
_GZIP_WRAPPING = 31
_ON_HEAP = 8 << 20
"""Above so many bytes, memory is mapped: it is taken page by page, and given back at once."""
_SMALL, _FEW = 64 * 1024, 256 * 1024
"""zlib takes less time than cramjam for gzip of so many bytes that unpacks to so many."""
_NO_ROOM = "failed to write whole buffer"
"""What Rust's standard library says when the place for the output is full."""


class UnpackError(Exception):
    """The data is damaged, incomplete, or of another format."""


class TooLargeError(UnpackError):
    """The data unpacks to more than is allowed."""


class _Frame(NamedTuple):
    """One of several that follow one another."""

    start: int
    end: int
    most: int  # bytes that it can hold


def unpack(codec: Codec, data: bytes | memoryview, limit: int, head: bytes = b"") -> memoryview:
    """`head`, and behind it what is in `data`: `limit` bytes at most.

    Raises:
        TooLargeError: there is more in it.
        UnpackError: nothing that can be read, or something that does not belong to it.
    """
    data = memoryview(data)
    try:
        if codec == "gzip":
            return _gunzip(data, limit, head)
        frames = list(_WALKS[codec](data))
        most = sum(frame.most for frame in frames)
        if codec == "snappy" and most > limit:  # there it is no estimate
            raise _too_large(limit)
        return _fill(_INTO[codec], data, frames, min(limit, most), limit, head)
    except UnpackError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except (struct.error, IndexError):
        problem = "it is not complete"
    except BaseException as error:  # of decompressors; one in Rust may panic
        problem = _sentence(error)
    raise UnpackError(problem)


def at_most(codec: Codec, data: bytes | memoryview) -> int:
    """How many bytes `data` can hold, by its structure; it may be fewer. 0 if it has none."""
    data = memoryview(data)
    if codec == "gzip":
        return len(data) * _GZIP_RATIO
    try:
        return sum(frame.most for frame in _WALKS[codec](data))
    except (UnpackError, struct.error, IndexError):
        return 0


def _fill(
    into: Callable[..., int], data: memoryview, frames: list[_Frame], room: int, limit: int, head: bytes
) -> memoryview:
    """Unpacks frame after frame into one place."""
    place = memoryview(bytearray(len(head) + room) if room <= _ON_HEAP else mmap(-1, len(head) + room))
    place[: len(head)] = head
    at = len(head)
    for frame in frames:
        try:
            at += into(data[frame.start : frame.end], place[at:])
        except cramjam.DecompressionError as error:
            if room == limit and _NO_ROOM in str(error):
                raise _too_large(limit) from None
            raise
    return place[:at]


def _gunzip(data: memoryview, limit: int, head: bytes) -> memoryview:
    if len(data) <= _SMALL:
        allowed = min(limit, _FEW)
        member = zlib.decompressobj(_GZIP_WRAPPING)
        found = member.decompress(data, allowed + 1)
        if len(found) <= allowed:
            if not member.eof:
                raise UnpackError("it is not complete")
            if not member.unused_data:
                return memoryview(head + found if head else found)
        elif allowed == limit:
            raise _too_large(limit)
    # zlib would need the memory twice, and copy what follows each of many tiny members
    whole = _Frame(0, len(data), len(data) * _GZIP_RATIO)
    return _fill(cramjam.gzip.decompress_into, data, [whole], min(limit, whole.most), limit, head)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"it unpacks to more than {limit} bytes")


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]


# --- where frames end, and the most that is in them


def _zstd_frames(data: memoryview) -> Iterator[_Frame]:
    if not data:
        raise UnpackError("it is empty")
    at = 0
    while at < len(data):
        start = at
        if (skipped := _skipped(data, at)) is not None:
            at = skipped
            continue
        if data[at : at + 4] != ZSTD_MAGIC:
            raise UnpackError("it is no zstd" if not at else "something stands behind it")
        descriptor = data[at + 4]
        single = descriptor >> 5 & 1
        size_bytes = (single, 2, 4, 8)[descriptor >> 6]
        at += 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
        if single:
            size = int.from_bytes(data[at : at + size_bytes], "little") + (256 if size_bytes == 2 else 0)
            window = size
        else:
            base = 1 << (10 + (data[start + 5] >> 3))
            window = base + (base >> 3) * (data[start + 5] & 7)
        at += size_bytes
        most, largest, last = 0, min(window, _ZSTD_BLOCK), 0
        while not last:
            block = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            last, kind, size = block & 1, block >> 1 & 3, block >> 3
            if kind == _RESERVED:
                raise UnpackError("a block has no known type")
            most += largest if kind > _RUN else size
            at += 3 + (1 if kind == _RUN else size)
        at += 4 if descriptor & 4 else 0
        if at > len(data):
            raise UnpackError("it is not complete")
        yield _Frame(start, at, most)


def _lz4_frames(data: memoryview) -> Iterator[_Frame]:
    if not data:
        raise UnpackError("it is empty")
    at = 0
    while at < len(data):
        start = at
        if (skipped := _skipped(data, at)) is not None:
            at = skipped
            continue
        if data[at : at + 4] != LZ4_MAGIC:
            raise UnpackError("it is no lz4" if not at else "something stands behind it")
        flags, largest = data[at + 4], 1 << (8 + 2 * (data[at + 5] >> 4 & 7))
        at += 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
        most, checksum = 0, 4 if flags & 16 else 0
        while (block := _UINT.unpack_from(data, at)[0]) != 0:
            size = block & 0x7FFFFFFF
            most += min(size if block >> 31 else size * _LZ4_RATIO, largest)
            at += 4 + size + checksum
        at += 4 + (4 if flags & 4 else 0)
        if at > len(data):
            raise UnpackError("it is not complete")
        yield _Frame(start, at, most)


def _skipped(data: memoryview, at: int) -> int | None:
    """The end of a skippable frame; None: here is none."""
    if data[at] & 0xF0 != 0x50 or data[at + 1 : at + 4] != SKIPPABLE_MAGIC:
        return None
    end = at + 8 + int(_UINT.unpack_from(data, at + 4)[0])
    if end > len(data):
        raise UnpackError("it is not complete")
    return end


def _snappy_blocks(data: memoryview) -> Iterator[_Frame]:
    if len(data) < _XERIAL_HEAD or data[: len(XERIAL_MAGIC)] != XERIAL_MAGIC:
        yield _Frame(0, len(data), _snappy_length(data))
        return
    at = _XERIAL_HEAD
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start])
        if at > len(data):
            raise UnpackError("it is not complete")
        yield _Frame(start, at, _snappy_length(data[start:at]))


def _snappy_length(data: memoryview) -> int:
    """A block begins with its length, which the decompressor checks."""
    length = shift = 0
    for byte in data[:5]:
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length
        shift += 7
    raise UnpackError("it is no snappy")


_UINT = struct.Struct("<I")
_WALKS: dict[str, Callable[[memoryview], Iterator[_Frame]]] = {
    "zstd": _zstd_frames,
    "lz4": _lz4_frames,
    "snappy": _snappy_blocks,
}
_INTO: dict[str, Callable[..., int]] = {
    "zstd": cramjam.zstd.decompress_into,
    "lz4": cramjam.lz4.decompress_into,
    "snappy": cramjam.snappy.decompress_raw_into,
}

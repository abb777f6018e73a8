"""Compressed data as others write it, for tests."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable

import cramjam
import lz4.frame
import zstandard
from aiokafka import codec

from fastapi_athomic.unpacking import Codec

SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"other"
"""A frame of zstd or lz4 with something for others in it."""


def zstd_stream(data: bytes, level: int = 3) -> bytes:
    """As the command line writes it of a pipe: the size is not known, a checksum is there."""
    stream = zstandard.ZstdCompressor(level, write_checksum=True).compressobj()
    parts = [stream.compress(data[at : at + 1000]) for at in range(0, len(data), 1000)]
    return b"".join((*parts, stream.flush()))


def zstd_flushed(data: bytes) -> bytes:
    """Many small blocks."""
    stream = zstandard.ZstdCompressor().compressobj()
    parts = [
        stream.compress(data[at : at + 100]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for at in range(0, len(data), 100)
    ]
    return b"".join((*parts, stream.flush()))


def lz4_linked(data: bytes) -> bytes:
    """Blocks that refer to those before them, all checksums, no size."""
    packed: bytes = lz4.frame.compress(
        data,
        block_size=lz4.frame.BLOCKSIZE_MAX64KB,
        block_linked=True,
        content_checksum=True,
        block_checksum=True,
        store_size=False,
    )
    return packed


def lz4_independent(data: bytes) -> bytes:
    packed: bytes = lz4.frame.compress(data, block_size=lz4.frame.BLOCKSIZE_MAX64KB, block_linked=False)
    return packed


def gzip_with_names(data: bytes) -> bytes:
    """With all optional fields of the header: extra, name, comment, checksum of the header."""
    head = b"\x1f\x8b\x08\x1e" + bytes(6) + struct.pack("<H", 4) + b"extr" + b"name\0" + b"comment\0"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    raw = zlib.compressobj(9, wbits=-15)
    return head + raw.compress(data) + raw.flush() + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


PEERS: dict[str, tuple[Codec, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip with names": ("gzip", gzip_with_names),
    "gzip of Rust": ("gzip", lambda data: bytes(cramjam.gzip.compress(data))),
    "zstd": ("zstd", zstandard.compress),
    "zstd stream": ("zstd", zstd_stream),
    "zstd flushed": ("zstd", zstd_flushed),
    "zstd 19": ("zstd", lambda data: zstd_stream(data, 19)),
    "lz4": ("lz4", lz4.frame.compress),
    "lz4 linked": ("lz4", lz4_linked),
    "lz4 independent": ("lz4", lz4_independent),
    "lz4 of Kafka": ("lz4", codec.lz4_encode),
}
"""What others write: the codec, and how."""


def bomb(name: str, megabytes: int) -> bytes:
    """Zeros, so many million of them, in a thousandth of that or less (lz4: 255th)."""
    zeros = bytes(1_000_000)
    if name == "lz4":
        lz4_stream = lz4.frame.LZ4FrameCompressor()
        parts = [lz4_stream.begin(), *(lz4_stream.compress(zeros) for _ in range(megabytes)), lz4_stream.flush()]
        return b"".join(parts)
    stream = zlib.compressobj(9, wbits=31) if name == "gzip" else zstandard.ZstdCompressor().compressobj()
    return b"".join([*(stream.compress(zeros) for _ in range(megabytes)), stream.flush()])

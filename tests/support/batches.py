"""Record batches with large records, as a producer may write them, put together without holding them unpacked."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import zstandard
from aiokafka.record.util import calc_crc32c, encode_varint

_HEAD = struct.Struct(">qiibIhiqqqhii")
_TIME = 1_700_000_000_000


def batch_of_zeros(codec: str, records: int, size: int, base: int = 0) -> bytes:
    """So many records, each with `size` zeros as its value, in a batch of format 2."""
    packer: Any = zlib.compressobj(9, wbits=31) if codec == "gzip" else zstandard.ZstdCompressor().compressobj()
    value, parts = bytes(size), []
    for number in range(records):
        head = b"\0" + _varint(0) + _varint(number) + _varint(-1) + _varint(size)
        parts += [packer.compress(_varint(len(head) + size + 1) + head), packer.compress(value), packer.compress(b"\0")]
    body = b"".join((*parts, packer.flush()))
    number = {"gzip": 1, "zstd": 4}[codec]
    batch = bytearray(_HEAD.pack(base, 0, 0, 2, 0, number, records - 1, _TIME, _TIME, -1, -1, -1, records) + body)
    batch[8:12] = struct.pack(">i", len(batch) - 12)
    batch[17:21] = struct.pack(">I", calc_crc32c(bytes(batch[21:])))
    return bytes(batch)


def _varint(number: int) -> bytes:
    out = bytearray()
    encode_varint(number, out.append)
    return bytes(out)

"""Compressed batches: unpacked when their records are wanted, never to more than `kafka.max_batch_bytes`.

aiokafka unpacks whatever it gets, on the event loop: a batch of 1 MB may hold a gigabyte. What it makes of a batch can
be neither bounded nor moved, so it gets batches that are unpacked already.

Record batch format (magic 2) and the older ones: https://kafka.apache.org/documentation/#messageformat
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatch

from ...unpacking import Codec, TooLargeError, UnpackError, at_most, unpack
from .damage import PackingError, TooLargeBatchError

LARGE = 1024 * 1024
"""Bytes: what unpacks to more is unpacked in a thread. That takes the event loop about a millisecond."""
AT_ONCE = 4 * LARGE
"""Bytes of records that are taken from a batch at once: copying more would hold up the event loop."""
CODECS: dict[int, Codec] = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
"""By their numbers in a batch's attributes."""

_WORTH_A_LOOK = 64 * 1024
"""Bytes of a batch: before a larger one is unpacked, it is asked how much is in it."""
ALL = 1 << 31
"""More records than there can be."""

_LENGTH, _LENGTH_END, _MAGIC, _OLD_ATTRIBUTES, _ATTRIBUTES = 8, 12, 16, 17, 22
_COUNT, _RECORDS = 57, 61
"""Where the number of records stands, and where they begin."""
_CODEC_MASK = 0x07
_OLD_KEY = (18, 26)
"""Where the key's length stands in messages of format 0 and 1. The key follows, then the value's length."""


def end_of_batch(data: bytes, at: int) -> int:
    """Where the batch that begins at `at` ends."""
    return at + _LENGTH_END + int.from_bytes(data[at + _LENGTH : at + _LENGTH_END])


def codec_at(data: bytes, at: int) -> Codec | None:
    """With what the batch that begins at `at` is compressed. None: with nothing, or nothing that we know."""
    attributes = data[at + _ATTRIBUTES] if data[at + _MAGIC] > 1 else data[at + _OLD_ATTRIBUTES]
    return CODECS.get(attributes & _CODEC_MASK)


def unpacked(codec: Codec, data: bytes | memoryview, limit: int, head: bytes = b"") -> memoryview:
    """The records of a batch, behind `head`. Raises `TooLargeBatchError` and `PackingError`."""
    try:
        return unpack(codec, data, limit, head)
    except TooLargeError:
        problem: Exception = TooLargeBatchError(len(data), limit)
    except UnpackError:
        problem = PackingError(f"a batch cannot be unpacked ({codec})")
    raise problem


class PackedBatch:
    """A compressed batch. Has the attributes of aiokafka's batches that `prefetch` uses.

    `batch`: aiokafka's, of the same bytes, which it has not unpacked.
    """

    __slots__ = (
        "_batch",
        "_codec",
        "_data",
        "_limit",
        "_problem",
        "_records",
        "at_once",
        "base_offset",
        "is_control_batch",
        "is_transactional",
        "next_offset",
        "producer_id",
        "validate_crc",
    )

    def __init__(self, batch: Any, data: memoryview, codec: Codec, limit: int) -> None:
        self._batch, self._data, self._codec, self._limit = batch, data, codec, limit
        self._records: Any = None  # a batch that is unpacked
        self._problem: Exception | None = None
        self.at_once = ALL  # so many records, as far as is known
        self.base_offset: int | None = getattr(batch, "base_offset", None)
        self.next_offset: int = batch.next_offset
        self.is_control_batch: bool = batch.is_control_batch
        self.is_transactional: bool = batch.is_transactional
        self.producer_id: int | None = batch.producer_id
        self.validate_crc = batch.validate_crc

    def unpack_if_small(self) -> bool:
        """Whether it is unpacked now, or cannot be. False: it is for a thread."""
        if self._records is not None or self._problem is not None:
            return True
        if self._limit <= LARGE:
            self._unpack(self._limit)
            return True
        if len(self._data) > _WORTH_A_LOOK and self._seems_large():
            return False
        self._unpack(LARGE)
        if self._is_too_large():
            self._problem = None
            return False
        return True

    def _is_too_large(self) -> bool:
        return isinstance(self._problem, TooLargeBatchError)

    def _seems_large(self) -> bool:
        """By what it says of itself. gzip says it in its last four bytes, the others in their structure."""
        if self._codec == "gzip":
            return int.from_bytes(self._data[-4:], "little") > LARGE
        return at_most(self._codec, self._packed()) > LARGE

    def unpack(self) -> None:
        """For a thread. Never raises: what is wrong is raised when the records are wanted."""
        self._unpack(self._limit)

    def __iter__(self) -> Iterator[Any]:
        """Once only: what is unpacked is not kept beyond that."""
        if self._problem is not None:
            raise self._problem
        records, self._records = self._records, None
        return iter(records)

    def _unpack(self, limit: int) -> None:
        try:
            if self._data[_MAGIC] > 1:
                head = bytearray(self._data[:_RECORDS])
                head[_ATTRIBUTES] &= ~_CODEC_MASK
                whole = unpacked(self._codec, self._packed(), limit, bytes(head))
                self._records = DefaultRecordBatch(whole)
                if len(whole) > AT_ONCE:
                    count = int.from_bytes(self._data[_COUNT:_RECORDS])
                    self.at_once = max(1, AT_ONCE * count // len(whole))
            else:  # aiokafka unpacks these again: there are hardly any left
                if self._codec == "gzip" or at_most(self._codec, self._packed()) > limit:
                    unpacked(self._codec, self._packed(), limit)
                self._records = self._batch
        except TooLargeBatchError:
            self._problem = TooLargeBatchError(len(self._data), self._limit)
        except Exception as error:
            self._problem = error

    def _packed(self) -> memoryview:
        magic = self._data[_MAGIC]
        if magic > 1:
            return self._data[_RECORDS:]
        key = _OLD_KEY[magic]
        key_length = int.from_bytes(self._data[key : key + 4], signed=True)
        return self._data[key + 4 + max(key_length, 0) + 4 :]

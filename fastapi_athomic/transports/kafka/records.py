"""Records that aiokafka cannot read or write: those with header names that are not UTF-8.

For Kafka's protocol a header name is a string, but brokers do not check it, and clients other than Java's write any
bytes. aiokafka fails on such a record each time, so the partition would stand still. Here the name is decoded with
`surrogateescape`, which keeps its bytes, and encoded the same way.

Record batch format (magic 2): https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from aiokafka.errors import UnsupportedCodecError
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c, decode_varint

from ...messages import Headers, OutgoingMessage, RawMessage, TopicPartition
from ...settings import KafkaSettings
from .packed import CODECS, unpacked

_BATCH = struct.Struct(">qiibIhiqqqhii")
_LENGTH_END = 12  # base offset and length come first; the length counts what follows
_CRC_END = 21  # the checksum covers everything from here on
_MAGIC = 2
_CODEC_MASK, _APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_NUMBERS: dict[str, int] = {"none": 0} | {name: number for number, name in CODECS.items()}
MAX_BATCH_BYTES: int = KafkaSettings.model_fields["max_batch_bytes"].default


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """A batch whose records have been read. Has the attributes of aiokafka's batches that `prefetch` uses."""

    messages: list[RawMessage]
    next_offset: int
    is_control_batch: bool  # it has no records for the application
    producer_id: None = None  # so that `prefetch` does not check again whether it was aborted

    def __iter__(self) -> Iterator[RawMessage]:
        return iter(self.messages)

    def validate_crc(self) -> bool:
        return True


def decode_batch(
    data: bytes,
    topic_partition: TopicPartition,
    offset: int,
    aborted: Collection[tuple[int, int]] = (),
    max_batch_bytes: int = MAX_BATCH_BYTES,
) -> DecodedBatch:
    """The first batch of a fetch from `offset`, up to the first record that cannot be read.

    If that is the first one, raises whatever is wrong with it. `aborted` are the aborted transactions that the
    response names: producer id and first offset of each. It may unpack to `max_batch_bytes`.
    """
    batch = next(_split(memoryview(data)), None)
    if batch is None:
        raise ValueError("no batch")
    if batch.is_control or batch.is_one_of(aborted):
        return DecodedBatch([], batch.next_offset, is_control_batch=True)
    messages: list[RawMessage] = []
    try:
        messages.extend(
            message for message in batch.records(topic_partition, max_batch_bytes) if message.offset >= offset
        )
    except Exception:  # `messages` has those before it
        if not messages:
            raise
        return DecodedBatch(messages, messages[-1].offset + 1, is_control_batch=False)
    return DecodedBatch(messages, batch.next_offset, is_control_batch=False)


def decode_records(
    batches: bytes, topic_partition: TopicPartition, offset: int, max_batch_bytes: int = MAX_BATCH_BYTES
) -> list[RawMessage]:
    """All records at or after `offset`. Raises whatever is wrong with a damaged batch.

    A batch may unpack to `max_batch_bytes`.
    """
    found = (
        batch.records(topic_partition, max_batch_bytes) for batch in _split(memoryview(batches)) if not batch.is_control
    )
    return [message for records in found for message in records if message.offset >= offset]


def end_of(batches: bytes, offset: int) -> int:
    """The offset after the last complete batch, control records and compacted ones included.

    `offset` itself if there is no complete batch.
    """
    for batch in _split(memoryview(batches)):
        offset = max(offset, batch.next_offset)
    return offset


def _split(data: memoryview) -> Iterator[_Batch]:
    """The complete batches: the broker cuts off the last one at the request's limit."""
    while len(data) >= _BATCH.size:
        length = _LENGTH_END + int.from_bytes(data[_LENGTH_END - 4 : _LENGTH_END])
        if len(data) < length:
            return
        yield _Batch(data[:length])
        data = data[length:]


class _Batch:
    """One batch. Raises `ValueError` if the checksum is wrong."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._base_offset, _, _, magic, crc, self._attributes, last, self._first_time, self._max_time, *more = (
            _BATCH.unpack_from(data)
        )
        self._producer_id, _, _, self._count = more
        if magic != _MAGIC or calc_crc32c(data[_CRC_END:].tobytes()) != crc:
            raise ValueError("damaged batch")
        self.next_offset = self._base_offset + last + 1
        self.is_control = bool(self._attributes & _CONTROL)

    def is_one_of(self, aborted: Collection[tuple[int, int]]) -> bool:
        """Whether it belongs to a transaction that was aborted (KIP-98)."""
        return bool(self._attributes & _TRANSACTIONAL) and any(
            producer_id == self._producer_id and first <= self._base_offset for producer_id, first in aborted
        )

    def records(self, topic_partition: TopicPartition, max_batch_bytes: int) -> Iterator[RawMessage]:
        body = self._data[_BATCH.size :]
        if number := self._attributes & _CODEC_MASK:
            if number not in CODECS:
                raise UnsupportedCodecError(f"Unknown compression codec {number:#04x}")
            body = unpacked(CODECS[number], body, max_batch_bytes)
        reader = _Reader(body)
        for _ in range(self._count):
            delta, offset_delta, key, value, headers = reader.record()
            timestamp = self._max_time if self._attributes & _APPEND_TIME else self._first_time + delta
            yield RawMessage(*topic_partition, self._base_offset + offset_delta, timestamp, key, value, headers)


class _Reader:
    """Reads records field by field, one record after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = bytearray(data)
        self._at = 0

    def record(self) -> tuple[int, int, bytes | None, bytes | None, Headers]:
        """Timestamp delta, offset delta, key, value, headers."""
        self._number()  # the record's length
        self._at += 1  # its attributes, unused
        times_and_offset = self._number(), self._number()
        key, value = self._bytes(), self._bytes()
        return *times_and_offset, key, value, tuple(self._header() for _ in range(self._number()))

    def _header(self) -> tuple[str, bytes | None]:
        name = self._bytes() or b""
        return name.decode("utf-8", "surrogateescape"), self._bytes()

    def _number(self) -> int:
        number, self._at = decode_varint(self._data, self._at)
        return int(number)

    def _bytes(self) -> bytes | None:
        size = self._number()
        if size < 0:
            return None
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise ValueError("damaged record")
        return bytes(self._data[start : self._at])


class _Name(str):
    """A header name that encodes to the bytes it was decoded from."""

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:
        return super().encode("utf-8", "surrogateescape")


class Sequence(NamedTuple):
    """What identifies a batch, so that the broker writes it once (KIP-98)."""

    producer_id: int
    producer_epoch: int
    number: int  # how many records this producer wrote to the partition before


def encode_record(message: OutgoingMessage, sequence: Sequence, compression: str) -> bytes:
    """A batch with this one record, for a produce request. Compressed only if that makes it smaller."""
    builder = _DefaultRecordBatchBuilderPy(
        magic=_MAGIC,
        compression_type=_NUMBERS[compression],
        is_transactional=0,
        producer_id=sequence.producer_id,
        producer_epoch=sequence.producer_epoch,
        base_sequence=sequence.number,
        batch_size=0,  # not used: the first record always fits
    )
    headers = [(_Name(name), value) for name, value in message.headers]
    builder.append(0, message.timestamp, message.key, message.value, headers)
    return bytes(builder.build())

"""Records that aiokafka cannot read or write: those with header names that are not UTF-8.

Kafka's protocol calls a header name a string, brokers do not check it, and clients other than Java's write any bytes.
aiokafka fails on such a record for ever, and the partition would stand still. Here the name is decoded with
`surrogateescape`, so that its bytes survive, and is encoded back the same way.

Record batch format (magic 2): https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from aiokafka import codec
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c, decode_varint

from ..messages import Headers, OutgoingMessage, RawMessage, TopicPartition

_BATCH = struct.Struct(">qiibIhiqqqhii")
_LENGTH_END = 12  # base offset and length come first; the length counts what follows
_CRC_END = 21  # the checksum covers all from here
_MAGIC = 2
_CODEC_MASK, _APPEND_TIME, _CONTROL = 0x07, 0x08, 0x20
_DECODERS = {1: codec.gzip_decode, 2: codec.snappy_decode, 3: codec.lz4_decode, 4: codec.zstd_decode}


def decode_record(batches: bytes, topic_partition: TopicPartition, offset: int) -> RawMessage | None:
    """The first record at or after `offset` in what the broker sent; None where there is none, or it is damaged."""
    try:
        for message in _records(memoryview(batches), topic_partition):
            if message.offset >= offset:
                return message
    except Exception:  # whatever a damaged batch, or a decompressor on one, comes up with
        return None
    return None


def decode_records(batches: bytes, topic_partition: TopicPartition, offset: int) -> list[RawMessage]:
    """All records at or after `offset`. Raises whatever a damaged batch, or a decompressor on one, comes up with."""
    return [message for message in _records(memoryview(batches), topic_partition) if message.offset >= offset]


def _records(data: memoryview, topic_partition: TopicPartition) -> Iterator[RawMessage]:
    while len(data) >= _BATCH.size:
        base_offset, length, _, magic, crc, attributes, _, first_time, max_time, *_, count = _BATCH.unpack_from(data)
        if len(data) < _LENGTH_END + length:  # the broker cuts off what exceeds the limit of the request
            return
        batch, data = data[: _LENGTH_END + length], data[_LENGTH_END + length :]
        if magic != _MAGIC or calc_crc32c(batch[_CRC_END:].tobytes()) != crc:
            raise ValueError("damaged batch")
        if attributes & _CONTROL:
            continue
        body = batch[_BATCH.size :].tobytes()
        if decoder := _DECODERS.get(attributes & _CODEC_MASK):
            body = bytes(decoder(body))
        reader = _Reader(body)
        for _ in range(count):
            delta, offset_delta, key, value, headers = reader.record()
            timestamp = max_time if attributes & _APPEND_TIME else first_time + delta
            yield RawMessage(*topic_partition, base_offset + offset_delta, timestamp, key, value, headers)


class _Reader:
    """Reads the fields of one record after the other."""

    def __init__(self, data: bytes) -> None:
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
    """A header name that gives back the bytes it was decoded from."""

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:
        return super().encode("utf-8", "surrogateescape")


def encode_record(message: OutgoingMessage, limit: int) -> bytes | None:
    """A batch of this one record, ready for a produce request; None where it is larger than `limit` bytes."""
    builder = _DefaultRecordBatchBuilderPy(
        magic=_MAGIC,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=limit,
    )
    headers = [(_Name(name), value) for name, value in message.headers]
    builder.append(0, message.timestamp, message.key, message.value, headers)
    batch = bytes(builder.build())
    return batch if len(batch) <= limit else None

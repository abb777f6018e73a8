"""Compressed batches that unpack to much: bounded, and in a thread."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from aiokafka import codec as kafka_codec
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from fastapi_athomic.transports.kafka.damage import PackingError, TooLargeBatchError
from fastapi_athomic.transports.kafka.packed import AT_ONCE, CODECS, LARGE
from fastapi_athomic.transports.kafka.records import decode_batch, decode_records
from tests.support.batches import batch_of_zeros
from tests.support.compressed import SKIPPABLE

from .test_prefetch import MINE, START, Fetched, batch

NUMBERS: dict[str, int] = {name: number for number, name in CODECS.items()}


def large(codec: str, size: int = 3 * LARGE) -> bytes:
    """One record, of bytes that hardly repeat."""
    builder = DefaultRecordBatchBuilder(2, NUMBERS[codec], 0, -1, -1, -1, 1 << 26)
    builder.append(0, 1_700_000_000_000, None, b"".join(number.to_bytes(4) for number in range(size // 4)), [])
    return at(bytes(builder.build()), START)


def at(data: bytes, offset: int) -> bytes:
    return struct.pack(">q", offset) + data[8:]


def repacked(data: bytes, pack: Callable[[bytes], bytes], codec: str) -> bytes:
    """A batch that is not compressed, compressed by `pack`."""
    changed = bytearray(data[:61]) + pack(data[61:])
    changed[22] |= NUMBERS[codec]
    changed[8:12] = struct.pack(">i", len(changed) - 12)
    changed[17:21] = struct.pack(">I", calc_crc32c(bytes(changed[21:])))
    return bytes(changed)


@pytest.mark.parametrize("codec", NUMBERS)
def test_what_unpacks_to_much_is_unpacked_in_a_thread(codec: str) -> None:
    fetched = Fetched(batch(START, range(1), compression=NUMBERS[codec]) + at(large(codec), START + 1))
    found, _ = fetched.take(10)
    assert [message.offset for message in found] == [START]
    assert fetched.take(10) == ([], START + 1), "it waits, and nothing is fetched meanwhile"
    assert fetched.more()
    ((unpack, then),) = fetched.for_a_thread
    unpack()
    assert fetched.take(10) == ([], START + 1)
    then()
    ((message,), position) = fetched.take(10)
    assert (len(message.value or b""), position) == (3 * LARGE, START + 2)
    assert not fetched.more()
    assert len(fetched.for_a_thread) == 1
    assert fetched.unreadable == []


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_batch_that_unpacks_to_more_than_allowed_holds_its_partition(codec: str) -> None:
    bomb = at(batch_of_zeros(codec, 20, 1_000_000), START + 1)
    fetched = Fetched(batch(START, range(1)) + bomb, max_batch_bytes=10_000_000)
    tracemalloc.start()
    assert len(fetched.take(10)[0]) == 1
    ((unpack, then),) = fetched.for_a_thread
    unpack()
    then()
    assert fetched.take(10) == ([], START + 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000, "what is large is mapped, and no more of that than allowed"
    ((offset, cause, beyond, damaged),) = fetched.unreadable
    assert (offset, beyond, damaged) == (START + 1, START + 21, True)
    assert cause == (
        f"a batch of {len(bomb):,} bytes unpacks to more than 10,000,000: kafka.max_batch_bytes "
        "(ATHOMIC_KAFKA__MAX_BATCH_BYTES) allows no more"
    )


@pytest.mark.parametrize("codec", NUMBERS)
def test_a_low_limit_is_exact(codec: str) -> None:
    data = batch(START, range(6), compression=NUMBERS[codec])
    size = len(batch(START, range(6))) - 61
    assert len(Fetched(data, max_batch_bytes=size).take(10)[0]) == 6
    fetched = Fetched(data, max_batch_bytes=size - 1)
    assert fetched.take(10) == ([], START)
    assert f"unpacks to more than {size - 1}" in fetched.unreadable[0].cause
    assert len(decode_batch(data, MINE, START, max_batch_bytes=size).messages) == 6
    assert len(decode_records(data, MINE, START, size)) == 6
    with pytest.raises(TooLargeBatchError):
        decode_batch(data, MINE, START, max_batch_bytes=size - 1)
    with pytest.raises(TooLargeBatchError):
        decode_records(data, MINE, START, size - 1)


def test_a_gzip_that_says_less_than_its_size_is_unpacked_in_a_thread_all_the_same() -> None:
    batch = at(batch_of_zeros("gzip", 3, 1_000_000), START)
    records = gzip.decompress(batch[61:])
    data = bytearray(batch[:61] + gzip.compress(records[:-5]) + gzip.compress(records[-5:]))  # the second says 5
    data[8:12] = struct.pack(">i", len(data) - 12)
    data[17:21] = struct.pack(">I", calc_crc32c(bytes(data[21:])))
    fetched = Fetched(bytes(data))
    assert fetched.take(10) == ([], START)
    ((unpack, then),) = fetched.for_a_thread
    unpack()
    then()
    assert [len(message.value or b"") for message in fetched.take(10)[0]] == [1_000_000] * 3


def test_of_large_records_few_are_taken_at_once() -> None:
    fetched = Fetched(at(batch_of_zeros("zstd", 20, 1_000_000), START))
    assert fetched.take(100) == ([], START)
    ((unpack, then),) = fetched.for_a_thread
    unpack()
    then()
    taken = [found for found, _ in fetched.takes(100)]
    assert max(sum(len(message.value or b"") for message in found) for found in taken) <= AT_ONCE
    assert [message.offset for found in taken for message in found] == list(range(START, START + 20))


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_frames_in_a_row_are_one_batch(codec: str) -> None:
    packs: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda data: zlib.compress(data, wbits=31),
        "lz4": lambda data: bytes(kafka_codec.lz4_encode(data)) + SKIPPABLE,
        "zstd": lambda data: SKIPPABLE + bytes(kafka_codec.zstd_encode(data)),
    }
    pack, plain = packs[codec], batch(START, range(6))
    data = repacked(plain, lambda body: pack(body[:50]) + pack(body[50:]), codec)
    assert Fetched(data).take(10) == Fetched(plain).take(10)
    assert decode_records(data, MINE, START) == decode_records(plain, MINE, START)


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_what_stands_behind_the_last_frame_is_not_ignored(codec: str) -> None:
    data = bytearray(batch(START, range(6), compression=NUMBERS[codec])) + b"\0\0\0"
    data[8:12] = struct.pack(">i", len(data) - 12)
    data[17:21] = struct.pack(">I", calc_crc32c(bytes(data[21:])))
    fetched = Fetched(bytes(data))
    assert fetched.take(10) == ([], START)
    assert fetched.unreadable[0].cause == f"a batch cannot be unpacked ({codec})"
    with pytest.raises(PackingError):
        decode_records(bytes(data), MINE, START)


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", ["gzip", "snappy"])
def test_the_old_formats_are_bounded_too(codec: str, magic: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, NUMBERS[codec], 1 << 24)
    for offset in range(3):
        builder.append(offset, 1_700_000_000_000, b"key", bytes(100_000))
    data = at(bytes(builder.build()), START + 2 if magic else 2)
    fetched = Fetched(data, max_batch_bytes=1_000_000)
    assert len(fetched.take(10)[0]) == (3 if magic else 0)
    fetched = Fetched(data, max_batch_bytes=200_000)
    assert fetched.take(10) == ([], START)
    assert "unpacks to more than 200,000" in fetched.unreadable[0].cause


def test_a_position_that_moves_meanwhile_makes_what_is_unpacked_useless() -> None:
    fetched = Fetched(large("zstd"))
    fetched.take(10)
    fetched.reading.drop_records()  # as a seek does
    fetched.reading.position = START + 5
    assert fetched.take(10) == ([], START + 5)
    assert not fetched.more()
    ((unpack, then),) = fetched.for_a_thread
    unpack()
    then()
    assert fetched.take(10) == ([], START + 5)

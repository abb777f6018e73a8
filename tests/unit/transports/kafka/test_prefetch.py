"""What is unpacked from a fetch, compared with what aiokafka makes of the same bytes."""

from __future__ import annotations

import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import pytest
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic.messages import RawMessage, TopicPartition
from fastapi_athomic.transports.kafka import prefetch
from fastapi_athomic.transports.kafka.prefetch import Unreadable
from fastapi_athomic.transports.kafka.reading import Reading
from fastapi_athomic.transports.kafka.records import MAX_BATCH_BYTES, decode_batch

PARTITION = KafkaPartition("orders", 3)
MINE = TopicPartition(*PARTITION)
GZIP = 1
CONTROL = 0x20
ABORT, COMMIT = b"\0\0\0\0", b"\0\0\0\1"
START = 100


def batch(
    base: int,
    offsets: Sequence[int],
    *,
    keys: Sequence[bytes | None] = (b"key",),
    compression: int = 0,
    producer: int = -1,
    transactional: bool = False,
    control: bool = False,
    compacted: int = 0,
) -> bytes:
    """A record batch of format 2, as a broker gives it out that has `base` as its first offset (KIP-98).

    `compacted`: so many records at its end are not there any more.
    """
    builder = DefaultRecordBatchBuilder(2, compression, int(transactional), producer, 0, 0, 1 << 20)
    for number, offset in enumerate(offsets):
        headers = [] if number % 2 else [("name", b"value"), ("empty", None)]
        value = None if number % 3 == 2 else b"value %d" % (base + offset)
        builder.append(offset, 1_700_000_000_000 + offset, keys[number % len(keys)], value, headers)
    data = bytearray(builder.build())
    data[:8] = struct.pack(">q", base)
    if control:
        data[22] |= CONTROL
    data[23:27] = struct.pack(">i", max(offsets) + compacted)
    data[17:21] = struct.pack(">I", calc_crc32c(bytes(data[21:])))
    return bytes(data)


def legacy(offsets: Iterable[int]) -> bytes:
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    for offset in offsets:
        builder.append(offset, 1_700_000_000_000, b"key", b"value %d" % offset)
    return bytes(builder.build())


class Owner:
    """The member whose partition is read."""

    def __init__(self, max_batch_bytes: int) -> None:
        self.ready: OrderedDict[TopicPartition, Reading] = OrderedDict()
        self.max_batch_bytes = max_batch_bytes
        self.unreadable: list[Unreadable] = []
        self.for_a_thread: list[tuple[Callable[[], None], Callable[[], None]]] = []

    def on_arrival(self) -> None: ...

    def on_unreadable(self, place: TopicPartition, where: Unreadable) -> None:
        assert place == MINE
        self.unreadable.append(where)

    def unpack_later(self, unpack: Callable[[], None], then: Callable[[], None]) -> None:
        self.for_a_thread.append((unpack, then))


class Fetched:
    """The answer to a fetch, as our member reads it."""

    def __init__(
        self, data: bytes, *, aborted: Sequence[tuple[int, int]] = (), max_batch_bytes: int = MAX_BATCH_BYTES
    ) -> None:
        self.owner = Owner(max_batch_bytes)
        self.unreadable, self.for_a_thread = self.owner.unreadable, self.owner.for_a_thread
        self.reading = Reading(MINE, self.owner)
        self.reading.position, self.reading.highwater, self.reading.stopped = START, 1000, False
        self.reading.arrived(data, aborted)

    def more(self) -> bool:
        """False: the hub asks the broker."""
        assert (self.reading.records is not None) is (MINE in self.owner.ready)
        return not self.reading.wanted

    def take(self, limit: int) -> tuple[list[RawMessage], int | None]:
        return self.reading.take(limit), self.reading.position

    def takes(self, limit: int) -> list[tuple[list[RawMessage], int | None]]:
        found = []
        while self.more():
            before = self.reading.position
            messages, position = self.take(limit)
            found.append((messages, position))
            assert messages or position != before or not self.more(), f"reading stands still at {position}"
        return found


def theirs(data: bytes, limit: int, aborted: Sequence[tuple[int, int]] = ()) -> list[tuple[list[RawMessage], int]]:
    """What aiokafka makes of the same answer."""
    records = PartitionRecords(PARTITION, MemoryRecords(data), list(aborted), START, None, None, True, READ_COMMITTED)
    found = []
    while True:
        taken = [*islice(records, limit)]
        found.append((as_messages(taken), records.next_fetch_offset))
        if len(taken) < limit:
            return found


def as_messages(records: Iterable[Any]) -> list[RawMessage]:
    return [
        RawMessage(found.topic, found.partition, found.offset, found.timestamp, found.key, found.value, found.headers)
        for found in records
    ]


CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
FETCHES = {
    "one batch": (batch(100, range(7)), 7),
    "several batches": (batch(100, range(3)) + batch(103, range(4)) + batch(107, range(1)), 8),
    "a batch that begins before the position": (batch(95, range(9)) + batch(104, range(2)), 6),
    "compacted batches": (batch(100, (0, 3, 4, 8)) + batch(120, (1, 2)), 6),
    "a batch without its last records": (batch(100, (0, 1), compacted=2), 2),
    "batches without their last records": (batch(100, (0, 1), compacted=2) + batch(104, (1, 2), compacted=1), 4),
    "a compressed batch that begins before": (batch(98, range(6), compression=GZIP), 4),
    "keys and none": (batch(100, range(6), keys=(b"a", None, b"")), 6),
    **{name: (batch(100, range(6), compression=codec), 6) for name, codec in CODECS.items()},
    "old records, a batch each": (legacy((100, 101, 105)), 3),
    "a transaction with its end": (
        batch(100, range(3), producer=7, transactional=True)
        + batch(103, (0,), keys=(COMMIT,), producer=7, transactional=True, control=True),
        3,
    ),
    "only the end of a transaction": (
        batch(100, (0,), keys=(COMMIT,), producer=7, transactional=True, control=True),
        0,
    ),
}
ABORTED = (
    batch(100, range(3), producer=7, transactional=True)  # to be left out
    + batch(103, range(2), producer=8, transactional=True)
    + batch(105, (0,), keys=(ABORT,), producer=7, transactional=True, control=True)
    + batch(106, range(2), producer=7, transactional=True)  # another transaction of the same producer
    + batch(108, (0,), keys=(COMMIT,), producer=7, transactional=True, control=True)
    + batch(109, range(1))
)


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
@pytest.mark.parametrize(("data", "count"), FETCHES.values(), ids=FETCHES)
def test_what_aiokafka_gives_out(data: bytes, count: int, limit: int) -> None:
    ours = Fetched(data).takes(limit)
    assert theirs(data, limit) == ours
    assert sum(len(messages) for messages, _ in ours) == count
    assert all(type(message) is RawMessage for messages, _ in ours for message in messages)


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_what_was_aborted_is_left_out(limit: int) -> None:
    aborted = [(7, 100)]
    ours = Fetched(ABORTED, aborted=aborted).takes(limit)
    assert theirs(ABORTED, limit, aborted) == ours
    assert [message.offset for messages, _ in ours for message in messages] == [103, 104, 106, 107, 109]


class Batch(NamedTuple):
    kind: Literal["plain", "packed", "committed", "aborted"]
    records: int  # that are still there
    compacted: int  # at its end
    gap: int  # offsets that are missing before it


BATCHES = st.builds(
    Batch,
    kind=st.sampled_from(("plain", "packed", "committed", "aborted")),
    records=st.integers(1, 4),
    compacted=st.integers(0, 2),
    gap=st.integers(0, 3),
)


def log_of(plan: Sequence[Batch]) -> tuple[bytes, list[tuple[int, int]]]:
    """What the broker answers, and its list of aborted transactions."""
    data, aborted, base = b"", [], START
    for number, (kind, records, compacted, gap) in enumerate(plan):
        base += gap
        transactional = kind in ("committed", "aborted")
        producer = number if transactional else -1
        compression = GZIP if kind == "packed" else 0
        options: dict[str, Any] = {"producer": producer, "transactional": transactional}
        data += batch(base, range(records), compression=compression, compacted=compacted, **options)
        aborted += [(producer, base)] if kind == "aborted" else []
        base += records + compacted
        if transactional:
            data += batch(base, (0,), keys=(ABORT if kind == "aborted" else COMMIT,), control=True, **options)
            base += 1
    return data, aborted


@given(st.lists(BATCHES, min_size=1, max_size=6), st.integers(1, 5))
def test_p01_whatever_is_fetched_ours_gives_out_what_aiokafka_does(plan: list[Batch], limit: int) -> None:
    data, aborted = log_of(plan)
    assert theirs(data, limit, aborted) == Fetched(data, aborted=aborted).takes(limit)


def test_batches_before_the_position_do_not_turn_it_back() -> None:
    fetched = Fetched(legacy((98, 99, 100, 101)))
    assert [[message.offset for message in messages] for messages, _ in fetched.takes(1)] == [[100], [101], []]
    assert fetched.reading.position == 102


def test_nothing_is_given_out_while_it_is_stopped() -> None:
    fetched = Fetched(batch(100, range(7)))
    assert len(fetched.take(2)[0]) == 2
    fetched.reading.stopped = True
    assert fetched.take(2) == ([], 102)
    fetched.reading.stopped = False
    assert [message.offset for message in fetched.take(2)[0]] == [102, 103]


def test_nothing_is_given_out_that_was_dropped() -> None:
    fetched = Fetched(batch(100, range(7)))
    assert len(fetched.take(2)[0]) == 2
    fetched.reading.drop_records()
    assert fetched.take(2) == ([], 102)
    assert not fetched.more()


def damaged(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def with_checksum(data: bytes) -> bytes:
    return data[:17] + struct.pack(">I", calc_crc32c(data[21:])) + data[21:]


def packed_wrongly(data: bytes) -> bytes:
    """It says that it is packed with zstd."""
    return with_checksum(data[:22] + bytes([data[22] | 4]) + data[23:])


def moved(data: bytes, base: int) -> bytes:
    """The checksum does not cover the first eight bytes."""
    return struct.pack(">q", base) + data[8:]


def with_unknown_codec(data: bytes) -> bytes:
    return with_checksum(data[:22] + bytes([data[22] | 5]) + data[23:])


DAMAGES = {
    "a flipped bit": (damaged(batch(102, range(2))), "a batch has the wrong checksum"),
    "an unknown codec": (with_unknown_codec(batch(102, range(2))), "UnsupportedCodecError: Unknown compression codec"),
    "offsets beyond the end": (moved(batch(102, range(2)), 102 + (1 << 32)), "offsets that it cannot have"),
    "offsets long past": (moved(batch(102, range(2)), 6), "offsets that it cannot have"),
    "packed wrongly": (packed_wrongly(batch(102, range(2))), "a batch cannot be unpacked ("),
}


@pytest.mark.parametrize("limit", [2, 10])
@pytest.mark.parametrize(("data", "cause"), DAMAGES.values(), ids=DAMAGES)
def test_p21_fault_06_a_partition_is_held_at_what_cannot_be_read(data: bytes, cause: str, limit: int) -> None:
    """What comes before it is given out, nothing is raised, and nothing is fetched until something is done about it."""
    fetched = Fetched(batch(100, range(2)) + data + batch(104, range(2)))
    assert [message.offset for message in fetched.take(limit)[0]] == [100, 101]
    if limit == 2:
        assert fetched.take(limit) == ([], 102)
    ((offset, said, beyond, _),) = fetched.unreadable
    assert (offset, beyond) == (102, 104)
    assert cause in said
    assert fetched.take(limit) == ([], 102)
    assert fetched.more(), "so that it is not fetched"
    assert len(fetched.unreadable) == 1


class Broken:
    """Batches whose second one cannot even be told from the next."""

    def __init__(self, data: bytes) -> None:
        self._batches = MemoryRecords(data)

    def has_next(self) -> bool:
        return True

    def next_batch(self) -> Any:
        if self._batches.has_next():
            return self._batches.next_batch()
        raise ValueError("the length of a batch is wrong")


def test_what_cannot_be_split_into_batches_is_said_when_its_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "MemoryRecords", Broken)
    fetched = Fetched(batch(100, range(2)))
    assert [message.offset for message in fetched.take(2)[0]] == [100, 101]
    assert fetched.unreadable == []
    assert fetched.take(2) == ([], 102)
    assert fetched.unreadable == [Unreadable(102, "ValueError", None)]


def test_a_batch_that_is_cut_off_holds_the_partition_if_nothing_comes_before_it() -> None:
    """The first batch comes whole, however large it is (KIP-74): its length must be wrong."""
    whole = batch(100, range(2))
    assert [message.offset for message in Fetched(whole + batch(102, range(9))[:-5]).take(9)[0]] == [100, 101]
    fetched = Fetched(whole[:-5])
    assert "the broker gives nothing" in fetched.unreadable[0].cause
    assert fetched.more(), "so that it is not fetched"


def with_broken_record(data: bytes) -> bytes:
    """The last one says that it is longer than it is."""
    at = data.rindex(b"value")
    return with_checksum(data[: at - 1] + b"\x7e" + data[at:])


@pytest.mark.parametrize("codec", [0, *CODECS.values()])
def test_our_own_parser_reads_what_aiokafka_reads(codec: int) -> None:
    data = batch(98, range(6), compression=codec, compacted=2)
    expected = Fetched(data).take(1000)
    found = decode_batch(data, MINE, START)
    assert ([*found], found.next_offset) == expected


def test_p19_fault_06_our_own_parser_leaves_out_what_was_aborted() -> None:
    """A batch that was damaged on the way is read again by it."""
    aborted, after = batch(103, range(2), producer=7, transactional=True), batch(106, range(1))
    found = decode_batch(aborted + after, MINE, 103, [(7, 100)])
    assert ([*found], found.next_offset, found.is_control_batch) == ([], 105, True)
    for others in ([], [(8, 100)], [(7, 104)]):
        assert len([*decode_batch(aborted + after, MINE, 103, others)]) == 2
    end = batch(105, (0,), keys=(ABORT,), producer=7, transactional=True, control=True)
    assert [*decode_batch(end, MINE, 105)] == []


def test_p21_fault_06_our_own_parser_gives_what_comes_before_a_broken_record() -> None:
    data = with_broken_record(batch(START, range(5)))
    found = decode_batch(data, MINE, START)
    assert [message.offset for message in found] == [100, 101, 102, 103]
    assert found.next_offset == 104
    with pytest.raises(ValueError, match="damaged record"):
        decode_batch(data, MINE, 104)


def test_unpacking_leaves_nothing_to_the_garbage_collector() -> None:
    fetched = Fetched(batch(100, range(2)))
    records = fetched.reading.records
    fetched.takes(1)
    assert sys.getrefcount(records) == 2

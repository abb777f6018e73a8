"""What is unpacked from a fetch, compared with what aiokafka makes of the same bytes."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pytest
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchError, FetchResult, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from fastapi_athomic.messages import RawMessage, TopicPartition
from fastapi_athomic.transports.kafka.prefetch import Prefetched, Unreadable
from fastapi_athomic.transports.kafka.records import MAX_BATCH_BYTES, decode_batch
from tests.support.clock import set_clock

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


@dataclass
class State:
    """Of the partition, as far as it matters here."""

    position: int = START
    paused: bool = False
    highwater: int = 1000

    def consumed_to(self, position: int) -> None:
        self.position = position


@dataclass
class Assignment:
    state: State
    active: bool = True

    def state_value(self, partition: KafkaPartition) -> State:
        assert partition == PARTITION
        return self.state


class Fetched:
    """The answer to a fetch, taken from aiokafka's buffer or from ours."""

    def __init__(
        self,
        data: bytes | Broken,
        *,
        ours: bool,
        aborted: Sequence[tuple[int, int]] = (),
        max_batch_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        batches = MemoryRecords(data) if isinstance(data, bytes) else data
        records = PartitionRecords(PARTITION, batches, list(aborted), START, None, None, True, READ_COMMITTED)
        self.state = State()
        self.assignment = Assignment(self.state)
        self.result = FetchResult(PARTITION, partition_records=records, assignment=self.assignment, backoff=0)
        self.unreadable: list[Unreadable] = []
        note = lambda _, place: self.unreadable.append(place)  # noqa: E731
        self.for_a_thread: list[tuple[Callable[[], None], Callable[[], None]]] = []
        buffer: dict[KafkaPartition, Any] = {}
        if ours:
            later = lambda *work: self.for_a_thread.append(work)  # noqa: E731
            buffer = own = Prefetched(lambda: None, note, later, max_batch_bytes)
            own.arrived = {PARTITION: data} if isinstance(data, bytes) else {}
        buffer[PARTITION] = self.result
        assert type(buffer[PARTITION]) is FetchResult  # the fetcher asks for that

    def take(self, limit: int) -> tuple[list[Any], int]:
        return self.result.getall(limit), self.state.position

    def takes(self, limit: int) -> list[tuple[list[Any], int]]:
        found = []
        while self.result.has_more():
            found.append(self.take(limit))
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
    theirs, ours = Fetched(data, ours=False).takes(limit), Fetched(data, ours=True).takes(limit)
    assert [(as_messages(records), position) for records, position in theirs] == ours
    assert sum(len(messages) for messages, _ in ours) == count
    assert all(type(message) is RawMessage for messages, _ in ours for message in messages)


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_what_was_aborted_is_left_out(limit: int) -> None:
    aborted = [(7, 100)]
    theirs = Fetched(ABORTED, ours=False, aborted=aborted).takes(limit)
    ours = Fetched(ABORTED, ours=True, aborted=aborted).takes(limit)
    assert [(as_messages(records), position) for records, position in theirs] == ours
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
STEPS = st.one_of(st.integers(1, 5), st.sampled_from(("seek", "pause", "revoke")))


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


@given(st.lists(BATCHES, min_size=1, max_size=6), st.lists(STEPS, min_size=1, max_size=12))
def test_p01_whatever_is_fetched_and_happens_meanwhile_ours_gives_out_what_aiokafka_does(
    plan: list[Batch], steps: list[int | str]
) -> None:
    data, aborted = log_of(plan)
    both = [Fetched(data, ours=ours, aborted=aborted) for ours in (False, True)]
    for step in steps:
        seen = []
        for fetched in both:
            if step == "seek":
                fetched.state.position += 1
            elif step == "pause":
                fetched.state.paused = True
            elif step == "revoke":
                fetched.assignment.active = False
            elif fetched.result.has_more():
                records, position = fetched.take(int(step))
                seen.append((records if fetched is both[1] else as_messages(records), position))
        if seen:
            assert seen == [seen[0]] * 2
        assert both[0].state.position == both[1].state.position


def test_batches_before_the_position_do_not_turn_it_back() -> None:
    fetched = Fetched(legacy((98, 99, 100, 101)), ours=True)
    assert [[message.offset for message in messages] for messages, _ in fetched.takes(1)] == [[100], [101], []]
    assert fetched.state.position == 102


@pytest.mark.parametrize("change", ["position", "paused", "assignment"])
def test_nothing_is_given_out_after_a_change(change: str) -> None:
    fetched = Fetched(batch(100, range(7)), ours=True)
    assert len(fetched.take(2)[0]) == 2
    if change == "position":
        fetched.state.position = 100
    elif change == "paused":
        fetched.state.paused = True
    else:
        fetched.assignment.active = False
    position = fetched.state.position
    assert fetched.take(2) == ([], position)
    assert not fetched.result.has_more()  # so that the fetcher asks the broker again


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
    fetched = Fetched(batch(100, range(2)) + data + batch(104, range(2)), ours=True)
    assert [message.offset for message in fetched.take(limit)[0]] == [100, 101]
    if limit == 2:
        assert fetched.take(limit) == ([], 102)
    ((offset, said, beyond, _),) = fetched.unreadable
    assert (offset, beyond) == (102, 104)
    assert cause in said
    assert fetched.take(limit) == ([], 102)
    assert fetched.result.has_more(), "so that the fetcher leaves the partition out"
    fetched.state.position = 104  # somebody seeks
    assert fetched.take(limit) == ([], 104)
    assert not fetched.result.has_more(), "so that the fetcher asks the broker for that"
    assert len(fetched.unreadable) == 1


@pytest.mark.parametrize(
    ("taken", "after", "left"),
    [(0, 1.0, float("inf")), (2, 1.0, 4.0), (5, 1.0, 1.0), (10, 1.0, 0.0), (5, 2.0, 2.0), (5, 2.01, float("inf"))],
)
def test_when_a_buffer_runs_dry(taken: int, after: float, left: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One second after it came, some of it is taken."""
    now = 50.0
    set_clock(monkeypatch, lambda: now, "transports.kafka.prefetch")
    fetched = Fetched(batch(95, range(9)) + batch(104, range(6)), ours=True)
    records = fetched.result._partition_records
    now += 1
    if taken:
        fetched.take(taken)
    assert records.seconds_left(50 + after) == pytest.approx(left)


class Broken:
    """Batches whose second one cannot even be told from the next."""

    def __init__(self) -> None:
        self._batches = MemoryRecords(batch(100, range(2)))

    def has_next(self) -> bool:
        return True

    def next_batch(self) -> Any:
        if self._batches.has_next():
            return self._batches.next_batch()
        raise ValueError("the length of a batch is wrong")


def test_what_cannot_be_split_into_batches_is_said_when_its_turn_comes() -> None:
    fetched = Fetched(Broken(), ours=True)
    assert [message.offset for message in fetched.take(2)[0]] == [100, 101]
    assert fetched.unreadable == []
    assert fetched.take(2) == ([], 102)
    assert fetched.unreadable == [Unreadable(102, "ValueError", None)]


def with_broken_record(data: bytes) -> bytes:
    """The last one says that it is longer than it is."""
    at = data.rindex(b"value")
    return with_checksum(data[: at - 1] + b"\x7e" + data[at:])


@pytest.mark.parametrize("codec", [0, *CODECS.values()])
def test_our_own_parser_reads_what_aiokafka_reads(codec: int) -> None:
    data = batch(98, range(6), compression=codec, compacted=2)
    expected = Fetched(data, ours=True).take(1000)
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


def test_somebody_is_told_of_what_arrives() -> None:
    told: list[object] = []
    buffer = Prefetched(lambda: told.append(buffer.get(PARTITION)), lambda *_: None, lambda *_: None, MAX_BATCH_BYTES)
    buffer[PARTITION] = error = FetchError(error=ValueError(), backoff=0)
    assert told == [error]


def test_unpacking_leaves_nothing_to_the_garbage_collector() -> None:
    fetched = Fetched(batch(100, range(2)), ours=True)
    records = fetched.result._partition_records
    fetched.takes(1)
    assert sys.getrefcount(records) == 5  # ours, its own of the call, the result, and the two methods that stand in
    del fetched.result._partition_records, fetched.result.getall, fetched.result.has_more
    assert sys.getrefcount(records) == 2

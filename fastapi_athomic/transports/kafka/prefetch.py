"""The records that aiokafka has prefetched, unpacked straight into `RawMessage`s.

aiokafka makes a `ConsumerRecord` of each record, a frozen dataclass with sizes and checksums that nobody needs. Making
it, and copying it into a `RawMessage`, would be a third of the cost of receiving a message. The private parts of
aiokafka that are used here are listed in the folder's `__init__`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import dropwhile, islice
from time import monotonic
from typing import Any, NamedTuple

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import TopicAuthorizationFailedError, UnsupportedCodecError
from aiokafka.record.memory_records import MemoryRecords

from ...messages import RawMessage
from ...rights import missing_right
from .damage import DamagedError, WrongChecksumError, WrongOffsetsError
from .packed import ALL, PackedBatch, codec_at, end_of_batch

IDLE_SECONDS = 1.0
"""A buffer from which nothing was taken for this long counts as not being consumed."""

_new = tuple.__new__


class Unreadable(NamedTuple):
    """A place in a partition that cannot be read."""

    offset: int
    cause: str
    beyond: int | None  # the offset at which the next batch begins, if known
    damaged: bool = False  # what was read is not what was written


OnUnreadable = Callable[[KafkaPartition, Unreadable], None]
UnpackLater = Callable[[Callable[[], None], Callable[[], None]], None]
"""Does its first argument in a thread, then calls the second one in the event loop."""


class RawRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka is not typed
    """The buffered records of one partition, unpacked when they are taken, as many at once as are wanted.

    Replaces aiokafka's generator, which unpacks one record at a time.
    """

    _assignment: Any
    _batches: deque[Any]  # still to come
    _damage: Exception | None = None  # why what follows `_batches` cannot be split into batches
    _batch: Iterator[Any] | None = None  # the rest of the one that is being unpacked
    _at_once = ALL  # how many records are taken from it at most, before others have their turn
    _batch_ends = 0  # the offset after it
    _more = True  # False: the fetcher may drop this and ask the broker again
    _unpacking = False  # a thread is at it: gives out nothing
    _held = False  # the next record cannot be read: gives out nothing, and keeps the fetcher from fetching
    _last: Any = None  # the batch whose unpacking began last
    next_fetch_offset: int
    _first: int
    _ends: int
    _end: float  # the partition's high watermark
    _taken_at: float  # on the monotonic clock
    _on_unreadable: OnUnreadable
    _unpack_later: UnpackLater

    def hand_over(
        self,
        result: FetchResult,
        on_unreadable: OnUnreadable,
        unpack_later: UnpackLater,
        data: bytes | None,
        max_batch_bytes: int,
    ) -> None:
        """Takes the place of `result`'s own methods. Called by `Prefetched`, once, right after the class was changed.

        The class of `result` has to stay: the fetcher asks for exactly that one. `data` is what `result` was made of;
        None: its batches are not compressed.
        """
        self._assignment = result._assignment
        self._on_unreadable, self._unpack_later = on_unreadable, unpack_later
        self._records_iterator = None  # aiokafka's generator, which refers to us: a cycle
        result.getall, result.has_more = self.take, self.has_more
        self._batches = deque()
        at = 0
        try:
            while self._records.has_next():
                batch = self._records.next_batch()
                if data is not None:
                    end = end_of_batch(data, at)
                    if (codec := codec_at(data, at)) is not None:
                        batch = PackedBatch(batch, memoryview(data)[at:end], codec, max_batch_bytes)
                    at = end
                self._batches.append(batch)
        except Exception as error:  # raised when the batches before it have been taken
            self._damage = error
        highwater = self._assignment.state_value(self._tp).highwater
        self._end = highwater if highwater is not None else float("inf")
        self._arrived_at = self._taken_at = monotonic()
        self._first = self.next_fetch_offset
        self._ends = self._batches[-1].next_offset if self._batches else self._first

    def seconds_left(self, now: float) -> float:
        """Seconds until all is taken, at the pace since it arrived. Infinity if nobody takes anything."""
        position = self.next_fetch_offset
        taken = position - self._first
        if self._held or not taken or now - self._taken_at > IDLE_SECONDS:
            return float("inf")
        return (self._ends - position) * (now - self._arrived_at) / taken

    def has_more(self) -> bool:
        """Stands in for `FetchResult.has_more`. False: the fetcher drops this and asks the broker for more."""
        return self._more

    def take(self, limit: int) -> list[RawMessage]:
        """The next messages, `limit` at most. Stands in for `FetchResult.getall`.

        Empty if the position has changed, or the partition is paused or no longer ours; the fetcher asks the broker
        again then. Also empty from the first record on that cannot be read: `on_unreadable` is called, and nothing of
        the partition is fetched until `EagerFetcher.refetch` or a new position. Never raises: the messages that this
        `getmany` took from other partitions would be lost.
        """
        taken: list[RawMessage] = []
        state = self._assignment.state_value(self._tp) if self._assignment.active else None
        if not self._more or state is None or state.paused or state.position != self.next_fetch_offset:
            self._more = False
            return taken
        if self._held or self._unpacking:
            return taken
        try:
            self._take(taken, limit)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # from aiokafka's parser, or from a decompressor in Rust that panics
            self.hold(error)
        self._taken_at = monotonic()
        state.consumed_to(self.next_fetch_offset)
        return taken

    def _take(self, taken: list[RawMessage], limit: int) -> None:
        while (batch := self._batch or self._next_batch()) is not None:
            room = min(limit - len(taken), self._at_once)
            unpacked = self._unpack(batch, room)
            taken += unpacked
            exhausted = len(unpacked) < room
            self._batch = None if exhausted else batch
            self.next_fetch_offset = self._batch_ends if exhausted else unpacked[-1].offset + 1
            if not exhausted:
                return
        self._more = self._unpacking

    def hold(self, error: BaseException) -> None:
        """Stops at the current position, and reports why."""
        self._held, beyond = True, self._beyond()
        self._batch = self._last = None
        self._batches.clear()
        self._on_unreadable(
            self._tp,
            Unreadable(self.next_fetch_offset, _cause(error, self._tp.topic), beyond, isinstance(error, DamagedError)),
        )

    def _beyond(self) -> int | None:
        """The offset at which the batch after `_last` begins, if known.

        Taken from that batch if it has arrived: the header of the damaged one may be damaged too.
        """
        following = getattr(self._batches[0], "base_offset", None) if self._batches else None
        if following is None and self._last is not None:
            following = self._last.next_offset
        return following if following is not None and following > self.next_fetch_offset else None

    def _unpack(self, batch: Iterator[Any], limit: int) -> list[RawMessage]:
        topic, number = self._tp
        return [
            _new(
                RawMessage,
                (topic, number, record.offset, record.timestamp, record.key, record.value, tuple(record.headers)),
            )
            for record in islice(batch, limit)
        ]

    def _next_batch(self) -> Iterator[Any] | None:
        """The next batch with records for the application, from the wanted offset on: a batch may begin before it.

        Skips control batches, which end transactions, and aborted batches (KIP-98). None: there is none, or a thread
        unpacks it first.
        """
        while self._batches:
            batch = self._last = self._batches.popleft()
            if self._check_crcs and not batch.validate_crc():
                raise WrongChecksumError
            # the checksum does not cover the base offset (the old formats, without producer ids, cannot be checked)
            if batch.producer_id is not None and not self.next_fetch_offset < batch.next_offset <= self._end:
                raise WrongOffsetsError
            if self._is_aborted(batch) or batch.is_control_batch:
                self.next_fetch_offset = batch.next_offset
                continue
            self._at_once = ALL
            if type(batch) is PackedBatch:
                if not batch.unpack_if_small():
                    self._batches.appendleft(batch)
                    self._unpacking = True
                    self._unpack_later(batch.unpack, self._unpacked)
                    return None
                self._at_once = batch.at_once
            # after the whole batch, even if its last records were compacted away; and never back
            self._batch_ends = max(batch.next_offset, self.next_fetch_offset)
            return dropwhile(self._is_before, batch)
        if self._damage is not None:
            raise self._damage
        return None

    def _unpacked(self) -> None:
        self._unpacking = False

    def _is_before(self, record: Any) -> bool:
        return bool(record.offset < self.next_fetch_offset)

    def _is_aborted(self, batch: Any) -> bool:
        if self._isolation_level != READ_COMMITTED or batch.producer_id is None:
            return False
        self._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch:
            if self._contains_abort_marker(batch):
                self._aborted_producers.discard(batch.producer_id)
            return False
        return batch.is_transactional and batch.producer_id in self._aborted_producers


def _cause(error: BaseException, topic: str) -> str:
    """The cause for people, without texts that may quote a record."""
    if isinstance(error, DamagedError):
        return str(error)
    if isinstance(error, TopicAuthorizationFailedError):
        return missing_right("Read", "Topic", topic)
    if isinstance(error, UnsupportedCodecError):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


class Prefetched(OrderedDict[KafkaPartition, Any]):
    """The buffer of a fetcher. What is put into it comes out as `RawMessage`s; `on_arrival` is called each time.

    Args:
        on_arrival: something can be taken.
        on_unreadable: the next record of a partition cannot be read.
        unpack_later: does work in a thread, and makes the fetcher look again when it is done.
        max_batch_bytes: to which a batch may unpack.
    """

    def __init__(
        self,
        on_arrival: Callable[[], None],
        on_unreadable: OnUnreadable,
        unpack_later: UnpackLater,
        max_batch_bytes: int,
    ) -> None:
        super().__init__()
        self._on_arrival = on_arrival
        self._on_unreadable = on_unreadable
        self._unpack_later = unpack_later
        self._max_batch_bytes = max_batch_bytes
        self.arrived: dict[KafkaPartition, bytes] = {}
        """The batches in a response, before aiokafka puts what it makes of them into the buffer: it does so at once."""

    def __setitem__(self, partition: KafkaPartition, result: Any) -> None:
        if isinstance(result, FetchResult):
            records = result._partition_records
            records.__class__ = RawRecords
            data = self.arrived.pop(partition, None) if isinstance(records._records, MemoryRecords) else None
            records.hand_over(result, self._on_unreadable, self._unpack_later, data, self._max_batch_bytes)
        super().__setitem__(partition, result)
        self._on_arrival()

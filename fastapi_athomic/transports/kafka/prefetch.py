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

from ...messages import RawMessage
from ...rights import missing_right

IDLE_SECONDS = 1.0
"""A buffer from which nothing was taken for this long counts as not being consumed."""

_new = tuple.__new__


class DamagedError(Exception):
    """What was read is not what was written. The docstring of a subclass is its text in the health report."""


class WrongChecksumError(DamagedError):
    """a batch has the wrong checksum"""


class WrongOffsetsError(DamagedError):
    """a batch has offsets that it cannot have"""


class Unreadable(NamedTuple):
    """A place in a partition that cannot be read."""

    offset: int
    cause: str
    beyond: int | None  # the offset at which the next batch begins, if known
    damaged: bool = False  # what was read is not what was written


OnUnreadable = Callable[[KafkaPartition, Unreadable], None]


class RawRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka is not typed
    """The buffered records of one partition, unpacked when they are taken, as many at once as are wanted.

    Replaces aiokafka's generator, which unpacks one record at a time.
    """

    _assignment: Any
    _batches: deque[Any]  # still to come
    _damage: Exception | None = None  # why what follows `_batches` cannot be split into batches
    _batch: Iterator[Any] | None = None  # the rest of the one that is being unpacked
    _batch_ends = 0  # the offset after it
    _more = True  # False: the fetcher may drop this and ask the broker again
    _held = False  # the next record cannot be read: gives out nothing, and keeps the fetcher from fetching
    _last: Any = None  # the batch whose unpacking began last
    next_fetch_offset: int
    _first: int
    _ends: int
    _end: float  # the partition's high watermark
    _taken_at: float  # on the monotonic clock
    _on_unreadable: OnUnreadable

    def hand_over(self, result: FetchResult, on_unreadable: OnUnreadable) -> None:
        """Takes the place of `result`'s own methods. Called by `Prefetched`, once, right after the class was changed.

        The class of `result` has to stay: the fetcher asks for exactly that one.
        """
        self._assignment = result._assignment
        self._on_unreadable = on_unreadable
        self._records_iterator = None  # aiokafka's generator, which refers to us: a cycle
        result.getall, result.has_more = self.take, self.has_more
        self._batches = deque()
        try:
            while self._records.has_next():
                self._batches.append(self._records.next_batch())
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
        if self._held:
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
        while (room := limit - len(taken)) and (batch := self._batch or self._next_batch()) is not None:
            unpacked = self._unpack(batch, room)
            taken += unpacked
            exhausted = len(unpacked) < room
            self._batch = None if exhausted else batch
            self.next_fetch_offset = self._batch_ends if exhausted else unpacked[-1].offset + 1
        self._more = not room

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

        Skips control batches, which end transactions, and aborted batches (KIP-98).
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
            # after the whole batch, even if its last records were compacted away; and never back
            self._batch_ends = max(batch.next_offset, self.next_fetch_offset)
            return dropwhile(self._is_before, batch)
        if self._damage is not None:
            raise self._damage
        return None

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
        return str(error.__doc__)
    if isinstance(error, TopicAuthorizationFailedError):
        return missing_right("Read", "Topic", topic)
    if isinstance(error, UnsupportedCodecError):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


class Prefetched(OrderedDict[KafkaPartition, Any]):
    """The buffer of a fetcher. What is put into it comes out as `RawMessage`s; `on_arrival` is called each time."""

    def __init__(self, on_arrival: Callable[[], None], on_unreadable: OnUnreadable) -> None:
        super().__init__()
        self._on_arrival = on_arrival
        self._on_unreadable = on_unreadable

    def __setitem__(self, partition: KafkaPartition, result: Any) -> None:
        if isinstance(result, FetchResult):
            records = result._partition_records
            records.__class__ = RawRecords
            records.hand_over(result, self._on_unreadable)
        super().__setitem__(partition, result)
        self._on_arrival()

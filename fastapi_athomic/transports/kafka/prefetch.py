"""aiokafka's prefetched records, handed out as `RawMessage`s without a detour.

aiokafka makes a `ConsumerRecord` of each record, a frozen dataclass with sizes and checksums nobody asked for; with the
copy into a `RawMessage` that is a third of all it costs to receive a message. All use of the private parts of its
fetcher is here; written for 0.14.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import dropwhile, islice
from time import monotonic
from typing import Any, NamedTuple

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import UnsupportedCodecError

from ...messages import RawMessage

IDLE_SECONDS = 1.0
"""Nothing was taken for so long: nobody consumes it."""

_new = tuple.__new__


class DamagedError(Exception):
    """Not what was written."""


class WrongChecksumError(DamagedError):
    """a batch has the wrong checksum"""


class WrongOffsetsError(DamagedError):
    """a batch has offsets that it cannot have"""


class Unreadable(NamedTuple):
    """A place that cannot be read."""

    offset: int
    cause: str
    beyond: int | None  # where the next batch begins, as far as that can be told
    damaged: bool = False  # what is there is not what was written


OnUnreadable = Callable[[KafkaPartition, Unreadable], None]


class RawRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka is not typed
    """The records of one partition, unpacked when they are taken: as many together as are wanted.

    aiokafka's generator, which unpacks one at a time, is left unused.
    """

    _assignment: Any
    _batches: deque[Any]  # still to come
    _damage: Exception | None = None  # of what follows them
    _batch: Iterator[Any] | None = None  # what is left of the one that is being unpacked
    _batch_ends = 0  # the offset after it
    _more = True
    _held = False  # the next record cannot be read: nothing is given out, and nothing fetched
    _last: Any = None  # the batch that was begun last
    next_fetch_offset: int
    _first: int
    _ends: int
    _end: float  # of the partition
    _taken_at: float  # on the monotonic clock
    _on_unreadable: OnUnreadable

    def hand_over(self, result: FetchResult, on_unreadable: OnUnreadable) -> None:
        """Stands in for `result`, whose class has to stay: the fetcher asks for that very one."""
        self._assignment = result._assignment
        self._on_unreadable = on_unreadable
        self._records_iterator = None  # the generator, which refers to us
        result.getall, result.has_more = self.take, self.has_more
        self._batches = deque()
        try:
            while self._records.has_next():
                self._batches.append(self._records.next_batch())
        except Exception as error:  # raised when its turn comes
            self._damage = error
        highwater = self._assignment.state_value(self._tp).highwater
        self._end = highwater if highwater is not None else float("inf")
        self._arrived_at = self._taken_at = monotonic()
        self._first = self.next_fetch_offset
        self._ends = self._batches[-1].next_offset if self._batches else self._first

    def seconds_left(self, now: float) -> float:
        """Until all is taken, if it goes on as it did since the broker sent it. Never, if nobody takes anything."""
        position = self.next_fetch_offset
        taken = position - self._first
        if self._held or not taken or now - self._taken_at > IDLE_SECONDS:
            return float("inf")
        return (self._ends - position) * (now - self._arrived_at) / taken

    def has_more(self) -> bool:
        return self._more

    def take(self, limit: int) -> list[RawMessage]:
        """The next messages, `limit` at most.

        None if the position was changed meanwhile, or the partition is paused or not ours any more; then the fetcher
        asks the broker again. None either from a record on that cannot be read: until somebody does something about it,
        who is told, nothing of the partition is asked for. Never raises: what was taken of others would be lost.
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
        except BaseException as error:  # of aiokafka's parser, or of a decompressor in Rust that panics
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
        self._held, beyond = True, self._beyond()
        self._batch = self._last = None
        self._batches.clear()
        self._on_unreadable(
            self._tp, Unreadable(self.next_fetch_offset, _cause(error), beyond, isinstance(error, DamagedError))
        )

    def _beyond(self) -> int | None:
        """Where the batch after the one that was begun last begins: said by that one if it came, too.

        The header of a damaged one may be damaged as well.
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
        """The next one with records for the application, from the offset that was asked for: a batch may begin before.

        The ends of transactions (control batches) and what was aborted are left out (KIP-98).
        """
        while self._batches:
            batch = self._last = self._batches.popleft()
            if self._check_crcs and not batch.validate_crc():
                raise WrongChecksumError
            # the checksum does not cover where a batch begins (old formats, which have no producer, say too little)
            if batch.producer_id is not None and not self.next_fetch_offset < batch.next_offset <= self._end:
                raise WrongOffsetsError
            if self._is_aborted(batch) or batch.is_control_batch:
                self.next_fetch_offset = batch.next_offset
                continue
            # also where its last records were compacted away, and never back
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


def _cause(error: BaseException) -> str:
    """Without texts that may quote what is in a record."""
    if isinstance(error, DamagedError):
        return str(error.__doc__)
    if isinstance(error, UnsupportedCodecError):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


class Prefetched(OrderedDict[KafkaPartition, Any]):
    """The buffer of a fetcher: what is put into it comes out as `RawMessage`s, and `on_arrival` is called."""

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

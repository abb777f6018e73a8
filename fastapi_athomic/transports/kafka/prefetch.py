"""The records that aiokafka has prefetched, unpacked straight into `RawMessage`s.

aiokafka makes a `ConsumerRecord` of each record, a frozen dataclass with sizes and checksums that nobody needs. Making
it, and copying it into a `RawMessage`, would be a third of the cost of receiving a message. The private parts of
aiokafka that are used here are listed in the folder's `__init__`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import dropwhile, islice
from operator import itemgetter
from typing import Any, NamedTuple

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import TopicAuthorizationFailedError, UnsupportedCodecError
from aiokafka.record.memory_records import MemoryRecords

from ...messages import RawMessage, TopicPartition
from ...rights import missing_right
from .damage import DamagedError, WrongChecksumError, WrongOffsetsError
from .packed import ALL, PackedBatch, codec_at, end_of_batch

_new = tuple.__new__


class Unreadable(NamedTuple):
    """A place in a partition that cannot be read."""

    offset: int
    cause: str
    beyond: int | None  # the offset at which the next batch begins, if known
    damaged: bool = False  # what was read is not what was written


OnUnreadable = Callable[[TopicPartition, Unreadable], None]
UnpackLater = Callable[[Callable[[], None], Callable[[], None]], None]
"""Does its first argument in a thread, then calls the second one in the event loop."""


class Batches(NamedTuple):
    """The record batches in one answer, and why what follows them cannot be split into batches."""

    whole: Sequence[Any]
    damage: Exception | None = None


def split(data: bytes, max_batch_bytes: int) -> Batches:
    """The batches of one partition in the answer to a fetch. Unpacks none of them.

    The last one may be cut off; it is left out.
    """
    records, batches, at = MemoryRecords(data), [], 0
    try:
        while records.has_next():
            batch = records.next_batch()
            end = end_of_batch(data, at)
            if (codec := codec_at(data, at)) is not None:
                batch = PackedBatch(batch, memoryview(data)[at:end], codec, max_batch_bytes)
            at = end
            batches.append(batch)
    except Exception as error:  # raised when the batches before it have been taken
        return Batches(batches, error)
    return Batches(batches)


class RawRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka is not typed
    """The buffered records of one partition, unpacked when they are taken, as many at once as are wanted.

    Replaces aiokafka's generator, which unpacks one record at a time. What it uses of `PartitionRecords` is how that
    keeps account of aborted transactions.

    Args:
        place: the partition.
        batches: what `split` made of the answer to a fetch, or batches that were read otherwise.
        start: the wanted offset; the first batch may begin before it.
        aborted: transactions among them: id of the producer, first offset.
        end: the partition's high watermark, if known.
        on_unreadable: called with the place that cannot be read.
        unpack_later: does work in a thread, and makes the member look again when it is done.
    """

    def __init__(
        self,
        place: TopicPartition,
        batches: Batches,
        start: int,
        *,
        aborted: Sequence[tuple[int, int]] = (),
        end: int | None = None,
        on_unreadable: OnUnreadable,
        unpack_later: UnpackLater,
    ) -> None:
        self._aborted_transactions = sorted(aborted, key=itemgetter(1))  # aiokafka's
        self._aborted_producers: set[int] = set()  # aiokafka's
        self._place = place
        self._batches = deque(batches.whole)  # still to come
        self._damage = batches.damage
        self._end = end if end is not None else float("inf")
        self._on_unreadable, self._unpack_later = on_unreadable, unpack_later
        self._batch: Iterator[Any] | None = None  # the rest of the one that is being unpacked
        self._at_once = ALL  # how many records are taken from it at most, before others have their turn
        self._batch_ends = 0  # the offset after it
        self._more = True
        self._unpacking = False  # a thread is at it: gives out nothing
        self._held = False  # the next record cannot be read: gives out nothing
        self._last: Any = None  # the batch whose unpacking began last
        self.next_fetch_offset = start

    @property
    def more(self) -> bool:
        """False: everything has been taken, the broker has to be asked for more."""
        return self._more

    def take(self, limit: int) -> list[RawMessage]:
        """The next messages, `limit` at most; `next_fetch_offset` is behind them, and behind what nobody gets to see.

        Empty from the first record on that cannot be read: `on_unreadable` is called, and it stays like that until
        others take its place. Never raises: the messages that the same call took from other partitions would be lost.
        """
        taken: list[RawMessage] = []
        if self._held or self._unpacking:
            return taken
        try:
            self._take(taken, limit)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # from aiokafka's parser, or from a decompressor in Rust that panics
            self.hold(error)
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
            if not self._batches and self._damage is None:
                break
        self._more = self._unpacking

    def hold(self, error: BaseException) -> None:
        """Stops at the current position, and reports why."""
        self._held, beyond = True, self._beyond()
        self._batch = self._last = None
        self._batches.clear()
        cause, damaged = _cause(error, self._place.topic), isinstance(error, DamagedError)
        self._on_unreadable(self._place, Unreadable(self.next_fetch_offset, cause, beyond, damaged))

    def _beyond(self) -> int | None:
        """The offset at which the batch after `_last` begins, if known.

        Taken from that batch if it has arrived: the header of the damaged one may be damaged too.
        """
        following = getattr(self._batches[0], "base_offset", None) if self._batches else None
        if following is None and self._last is not None:
            following = self._last.next_offset
        return following if following is not None and following > self.next_fetch_offset else None

    def _unpack(self, batch: Iterator[Any], limit: int) -> list[RawMessage]:
        topic, number = self._place
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
            if not batch.validate_crc():
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
            begins_there = getattr(batch, "base_offset", None) == self.next_fetch_offset
            # in any case one iterator for all that is taken: aiokafka's batches make no second one
            return islice(batch, None) if begins_there else dropwhile(self._is_before, batch)
        if self._damage is not None:
            raise self._damage
        return None

    def _unpacked(self) -> None:
        self._unpacking = False

    def _is_before(self, record: Any) -> bool:
        return bool(record.offset < self.next_fetch_offset)

    def _is_aborted(self, batch: Any) -> bool:
        if batch.producer_id is None:
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

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
from typing import Any, NamedTuple, cast

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import (
    NoError,
    NoOffsetForPartitionError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
    for_code,
)

from ...messages import RawMessage

PARTIAL_WAIT_MS = 20
"""How long the broker may keep a request that leaves out partitions which are being consumed, at least."""
IDLE_SECONDS = 1.0
"""Nothing was taken for so long: nobody consumes it."""
WAITED_FOR = 0.5
"""Of the time until the first of them will have to be asked for again."""

EMPTY_ANSWERS = 10
"""In a row, before a partition is held for them: some seconds, as the broker waits for something to come."""
POSITION_ERRORS = (OffsetOutOfRangeError, NoOffsetForPartitionError)
"""Another position is needed, then the partition can be read."""
SEEN_TO = frozenset(
    kind.errno
    for kind in (
        NoError,
        NotLeaderForPartitionError,
        UnknownTopicOrPartitionError,
        OffsetOutOfRangeError,
        TopicAuthorizationFailedError,
    )
)
"""Codes in the answer to a fetch that aiokafka does something about."""

_new = tuple.__new__


class DamagedError(Exception):
    """Not what was written."""


class WrongChecksumError(DamagedError):
    """a batch has the wrong checksum"""


class WrongOffsetsError(DamagedError):
    """a batch has offsets that it cannot have"""


class NothingThereError(DamagedError):
    """the broker gives nothing, though the partition does not end here"""


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


class Batches:
    """Stands for aiokafka's `MemoryRecords`, with batches that were read in another way."""

    def __init__(self, *batches: Any) -> None:
        self._batches = deque(batches)

    def has_next(self) -> bool:
        return bool(self._batches)

    def next_batch(self) -> Any:
        return self._batches.popleft()


class EagerFetcher(Fetcher):  # type: ignore[misc]  # aiokafka is not typed
    """Does not let partitions with a backlog wait for empty ones.

    There is one request per node on its way, and it leaves out what is buffered already. Where the others are empty
    (a retry topic, say) the broker keeps it for `fetch_max_wait`; a partition whose buffer runs dry meanwhile would
    have to wait for that.

    What the broker says of one partition is no error of the consumer: the partition is held.
    """

    _empty: dict[KafkaPartition, int]  # answers in a row that held nothing, though there should be something

    def put(self, partition: KafkaPartition, *batches: Any) -> RawRecords | None:
        """Fills the buffer of a partition from its position on. None: it is not ours."""
        subscription = self._subscriptions.subscription
        assignment = subscription.assignment if subscription is not None else None
        state = assignment.state_value(partition) if assignment is not None and assignment.active else None
        if state is None or not state.has_valid_position:
            return None
        found = (Batches(*batches), None, state.position, None, None, True, self._isolation_level)
        records = PartitionRecords(partition, *found)
        self._records[partition] = FetchResult(partition, partition_records=records, assignment=assignment, backoff=0)
        for waiter in self._fetch_waiters:
            self._notify(waiter)
        return cast(RawRecords, records)

    def hold(self, partition: KafkaPartition, error: Exception) -> None:
        """Nothing is fetched from the partition before `refetch`, or another position."""
        if partition not in self._records and (records := self.put(partition)) is not None:
            records.hold(error)

    def refetch(self, partition: KafkaPartition) -> None:
        self._records.pop(partition, None)
        self._notify(self._wait_consume_future)

    def look_at(self, response: Any) -> None:
        """At the answer to a fetch: for what aiokafka does nothing about but ask again, at once and without end."""
        found = [
            (KafkaPartition(topic, partition), code, data)
            for topic, partitions in response.topics
            for partition, code, *data in partitions
        ]
        nothing = not any(data[-1] for _, _, data in found)
        for partition, code, data in found:
            if code and code not in SEEN_TO:
                self.hold(partition, for_code(code)())
            if nothing and not code and self._has_more(partition, min(data[0], data[1])):
                self._note_empty(partition)
            else:
                self._empty.pop(partition, None)

    def _has_more(self, partition: KafkaPartition, end: int) -> bool:
        assignment = self._subscriptions.subscription.assignment
        state = assignment.state_value(partition) if assignment is not None else None
        return state is not None and state.has_valid_position and state.position < end

    def _note_empty(self, partition: KafkaPartition) -> None:
        """Where the length of a batch on disk is wrong, the broker finds no end of it and says nothing."""
        self._empty[partition] = times = self._empty.get(partition, 0) + 1
        if times >= EMPTY_ANSWERS:
            del self._empty[partition]
            self.hold(partition, NothingThereError())

    def _set_error(self, partition: KafkaPartition, error: Exception) -> None:
        if isinstance(error, POSITION_ERRORS):
            super()._set_error(partition, error)
            return
        self.hold(partition, error)
        if isinstance(error, RecordTooLargeError):  # aiokafka goes one further now, as if a message were skipped
            state = self._subscriptions.subscription.assignment.state_value(partition)
            state.consumed_to(state.position - 1)

    def _get_actions_per_node(self, assignment: Any) -> tuple[list[tuple[int, Any]], Any, Any, Any, Any]:
        requests, *others = super()._get_actions_per_node(assignment)
        for node, request in requests if self._records else ():
            wait = max(PARTIAL_WAIT_MS, self._seconds_left(node) * 1000 * WAITED_FOR)
            request._max_wait_ms = round(min(wait, request._max_wait_ms))
        return (requests, *others)

    def _seconds_left(self, node: int) -> float:
        """Until the first of the buffers runs dry that are filled from `node`.

        aiokafka asks for more only when they are some time old, so their pace is known.
        """
        now = monotonic()
        left = [
            result._partition_records.seconds_left(now)
            for partition, result in self._records.items()
            if isinstance(result, FetchResult) and self._select_read_replica(partition) == node
        ]
        return min(left, default=float("inf"))

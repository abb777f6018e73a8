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
from typing import Any

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException

from ..messages import RawMessage

PARTIAL_WAIT_MS = 20
"""How long the broker may keep a request that leaves out partitions which are being consumed, at least."""
IDLE_SECONDS = 1.0
"""Nothing was taken for so long: nobody consumes it."""
WAITED_FOR = 0.5
"""Of the time until the first of them will have to be asked for again."""

_new = tuple.__new__


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
    next_fetch_offset: int
    _first: int
    _ends: int
    _taken_at: float  # on the monotonic clock

    def hand_over(self, result: FetchResult) -> None:
        """Stands in for `result`, whose class has to stay: the fetcher asks for that very one."""
        self._assignment = result._assignment
        self._records_iterator = None  # the generator, which refers to us
        result.getall, result.has_more = self.take, self.has_more
        self._batches = deque()
        try:
            while self._records.has_next():
                self._batches.append(self._records.next_batch())
        except Exception as error:  # raised when its turn comes
            self._damage = error
        self._arrived_at = self._taken_at = monotonic()
        self._first = self.next_fetch_offset
        self._ends = self._batches[-1].next_offset if self._batches else self._first

    def seconds_left(self, now: float) -> float:
        """Until all is taken, if it goes on as it did since the broker sent it. Never, if nobody takes anything."""
        position = self.next_fetch_offset
        taken = position - self._first
        if not taken or now - self._taken_at > IDLE_SECONDS:
            return float("inf")
        return (self._ends - position) * (now - self._arrived_at) / taken

    def has_more(self) -> bool:
        return self._more

    def take(self, limit: int) -> list[RawMessage]:
        """The next messages, `limit` at most.

        None if the position was changed meanwhile, or the partition is paused or not ours any more. Raises what is
        wrong with a record; then the fetcher asks the broker again.
        """
        taken: list[RawMessage] = []
        state = self._assignment.state_value(self._tp) if self._assignment.active else None
        if not self._more or state is None or state.paused or state.position != self.next_fetch_offset:
            self._more = False
            return taken
        self._more = False  # if this fails
        while (room := limit - len(taken)) and (batch := self._batch or self._next_batch()) is not None:
            unpacked = self._unpack(batch, room)
            taken += unpacked
            exhausted = len(unpacked) < room
            self._batch = None if exhausted else batch
            self.next_fetch_offset = self._batch_ends if exhausted else unpacked[-1].offset + 1
        self._more = not room
        self._taken_at = monotonic()
        state.consumed_to(self.next_fetch_offset)
        return taken

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
            batch = self._batches.popleft()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"{self._tp.topic}[{self._tp.partition}]: a batch has the wrong CRC")
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


class Prefetched(OrderedDict[KafkaPartition, Any]):
    """The buffer of a fetcher: what is put into it comes out as `RawMessage`s, and `on_arrival` is called."""

    def __init__(self, on_arrival: Callable[[], None]) -> None:
        super().__init__()
        self._on_arrival = on_arrival

    def __setitem__(self, partition: KafkaPartition, result: Any) -> None:
        if isinstance(result, FetchResult):
            records = result._partition_records
            records.__class__ = RawRecords
            records.hand_over(result)
        super().__setitem__(partition, result)
        self._on_arrival()


class EagerFetcher(Fetcher):  # type: ignore[misc]  # aiokafka is not typed
    """Does not let partitions with a backlog wait for empty ones.

    There is one request per node on its way, and it leaves out what is buffered already. Where the others are empty
    (a retry topic, say) the broker keeps it for `fetch_max_wait`; a partition whose buffer runs dry meanwhile would
    have to wait for that.
    """

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

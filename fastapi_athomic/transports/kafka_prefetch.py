"""aiokafka's prefetched records, handed out as `RawMessage`s without a detour.

aiokafka makes a `ConsumerRecord` of each record, a frozen dataclass with sizes and checksums nobody asked for; with the
copy into a `RawMessage` that is a third of all it costs to receive a message. All use of the private parts of its
fetcher is here; written for 0.14.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import dropwhile, islice
from types import MappingProxyType
from typing import Any

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException

from ..messages import RawMessage

PARTIAL_WAIT_MS = 20
"""How long the broker may keep a request that leaves out partitions which are being consumed."""

_new = tuple.__new__


class RawRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka is not typed
    """The records of one partition, unpacked when they are taken: as many together as are wanted.

    aiokafka's generator, which unpacks one at a time, is left unused.
    """

    _assignment: Any
    _batch: Iterator[Any] | None = None  # what is left of the one that is being unpacked
    _batch_ends = 0  # the offset after it
    _more = True
    next_fetch_offset: int

    def hand_over(self, result: FetchResult) -> None:
        """Stands in for `result`, whose class has to stay: the fetcher asks for that very one."""
        self._assignment = result._assignment
        self._records_iterator = None  # the generator, which refers to us
        result.getall, result.has_more = self.take, self.has_more

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
        while self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"{self._tp.topic}[{self._tp.partition}]: a batch has the wrong CRC")
            if self._is_aborted(batch) or batch.is_control_batch:
                self.next_fetch_offset = batch.next_offset
                continue
            # also where its last records were compacted away, and never back
            self._batch_ends = max(batch.next_offset, self.next_fetch_offset)
            return dropwhile(self._is_before, batch)
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
    """The buffer of a fetcher: what is put into it comes out as `RawMessage`s."""

    def __setitem__(self, partition: KafkaPartition, result: Any) -> None:
        if isinstance(result, FetchResult):
            records = result._partition_records
            records.__class__ = RawRecords
            records.hand_over(result)
        super().__setitem__(partition, result)


class EagerFetcher(Fetcher):  # type: ignore[misc]  # aiokafka is not typed
    """Does not let partitions with a backlog wait for empty ones.

    There is one request per node on its way, and it leaves out what is buffered already. Where the others are empty
    (a retry topic, say) the broker keeps it for `fetch_max_wait`; a partition whose buffer runs dry meanwhile would
    have to wait for that.
    """

    _taken_to: Mapping[KafkaPartition, int] = MappingProxyType({})

    def _get_actions_per_node(self, assignment: Any) -> tuple[list[tuple[int, Any]], Any, Any, Any, Any]:
        requests, *others = super()._get_actions_per_node(assignment)
        if self._records and requests and self._is_consumed(assignment):
            busy = {self._select_read_replica(partition) for partition in self._records}
            for node, request in requests:
                if node in busy:
                    request._max_wait_ms = min(PARTIAL_WAIT_MS, request._max_wait_ms)
        return (requests, *others)

    def _is_consumed(self, assignment: Any) -> bool:
        """Whether anything was taken from the buffers since the last request."""
        before, self._taken_to = (
            self._taken_to,
            {partition: assignment.state_value(partition).position for partition in self._records},
        )
        return before != self._taken_to

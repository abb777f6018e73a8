"""aiokafka's prefetched records, handed out as `RawMessage`s without a detour.

aiokafka makes a `ConsumerRecord` of each record, a frozen dataclass with sizes and checksums nobody asked for; with the
copy into a `RawMessage` that is a third of all it costs to receive a message. All use of the private parts of its
fetcher is here; written for 0.14.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords

from ..messages import RawMessage

PARTIAL_WAIT_MS = 20
"""How long the broker may keep a request that leaves out partitions which are being consumed."""

_new = tuple.__new__


class RawRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka is not typed
    """The records of one partition, unpacked when they are taken."""

    def __iter__(self) -> Iterator[RawMessage]:
        return self._records_iterator or iter(())

    def _consumer_record(self, partition: KafkaPartition, record: Any) -> RawMessage:
        topic, number = partition
        return _new(
            RawMessage,
            (topic, number, record.offset, record.timestamp, record.key, record.value, tuple(record.headers)),
        )


class Prefetched(OrderedDict[KafkaPartition, Any]):
    """The buffer of a fetcher: what is put into it comes out as `RawMessage`s."""

    def __setitem__(self, partition: KafkaPartition, result: Any) -> None:
        if isinstance(result, FetchResult):
            result._partition_records.__class__ = RawRecords
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

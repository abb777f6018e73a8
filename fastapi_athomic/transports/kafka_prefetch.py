"""aiokafka's prefetched records, handed out as `RawMessage`s without a detour.

aiokafka makes a `ConsumerRecord` of each record, a frozen dataclass with sizes and checksums nobody asked for; with the
copy into a `RawMessage` that is a third of all it costs to receive a message. All use of the private parts of its
fetcher is here; written for 0.14.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords

from ..messages import RawMessage

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

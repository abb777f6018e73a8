"""aiokafka's fetcher: partitions with a backlog do not wait for empty ones, and a fault holds one partition only.

The private parts of aiokafka that are used here are listed in the folder's `__init__`.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any, cast

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import (
    NoError,
    NoOffsetForPartitionError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from .damage import NothingThereError
from .prefetch import Prefetched, RawRecords

PARTIAL_WAIT_MS = 20
"""The broker may always wait for data for so many milliseconds, also while buffered partitions are being consumed."""
WAITED_FOR = 0.5
"""The broker may wait for this share of the time until the first buffer is empty."""

EMPTY_ANSWERS = 10
"""Empty answers in a row before a partition is held for them. They take some seconds: the broker waits for data."""
POSITION_ERRORS = (OffsetOutOfRangeError, NoOffsetForPartitionError)
"""The partition can be read from another position."""
HANDLED_BY_AIOKAFKA = frozenset(
    kind.errno
    for kind in (
        NoError,
        NotLeaderForPartitionError,
        UnknownTopicOrPartitionError,
        OffsetOutOfRangeError,
        TopicAuthorizationFailedError,
    )
)
"""Error codes in a fetch response that aiokafka handles itself."""


class Batches:
    """Stands in for aiokafka's `MemoryRecords`, with batches that were not parsed by aiokafka."""

    def __init__(self, *batches: Any) -> None:
        self._batches = deque(batches)

    def has_next(self) -> bool:
        return bool(self._batches)

    def next_batch(self) -> Any:
        return self._batches.popleft()


class EagerFetcher(Fetcher):  # type: ignore[misc]  # aiokafka is not typed
    """Does not let partitions with a backlog wait for empty ones.

    aiokafka has one fetch request per broker under way, and leaves out partitions that are buffered already. If the
    rest are empty (a retry topic, say), the broker holds the request for `fetch_max_wait`, and a partition whose
    buffer runs dry meanwhile would have to wait. This one shortens that wait.

    An error that the broker reports for one partition does not stop the consumer: the partition is held.
    """

    _empty: dict[KafkaPartition, int]  # how many answers in a row were empty although the log has more

    @classmethod
    def take_over(cls, fetcher: Fetcher, buffer: Prefetched) -> EagerFetcher:
        """Turns the fetcher that aiokafka's consumer has created into one of these, before it fetches anything."""
        fetcher.__class__ = cls
        fetcher._records = buffer
        fetcher._empty = {}
        return cast(EagerFetcher, fetcher)

    def put(self, partition: KafkaPartition, *batches: Any) -> RawRecords | None:
        """Puts batches into the buffer of a partition, from its position on. None if it is not assigned."""
        subscription = self._subscriptions.subscription
        assignment = subscription.assignment if subscription is not None else None
        state = assignment.state_value(partition) if assignment is not None and assignment.active else None
        if state is None or not state.has_valid_position:
            return None
        found = (Batches(*batches), None, state.position, None, None, True, self._isolation_level)
        records = PartitionRecords(partition, *found)
        self._records[partition] = FetchResult(partition, partition_records=records, assignment=assignment, backoff=0)
        self.look_again()
        return cast(RawRecords, records)

    def look_again(self) -> None:
        """Wakes a `getmany` that waits: there is something to be taken."""
        for waiter in self._fetch_waiters:
            self._notify(waiter)

    def hold(self, partition: KafkaPartition, error: Exception) -> None:
        """Fetches nothing from the partition until `refetch` or a new position. The error is reported as the cause."""
        if partition not in self._records and (records := self.put(partition)) is not None:
            records.hold(error)

    def refetch(self, partition: KafkaPartition) -> None:
        """Drops what is buffered of the partition and fetches it again."""
        self._records.pop(partition, None)
        self._notify(self._wait_consume_future)

    def look_at(self, response: Any) -> None:
        """Called with a response to a fetch request, right before aiokafka reads it.

        Holds the partitions that aiokafka would ask for again at once, without end.
        """
        found = [
            (KafkaPartition(topic, partition), code, data)
            for topic, partitions in response.topics
            for partition, code, *data in partitions
        ]
        self._records.arrived = {partition: data[-1] for partition, code, data in found if not code and data[-1]}
        nothing = not any(data[-1] for _, _, data in found)
        for partition, code, data in found:
            if code and code not in HANDLED_BY_AIOKAFKA:
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
        """Counts empty answers. If the length of a batch on disk is wrong, the broker finds no whole batch."""
        self._empty[partition] = times = self._empty.get(partition, 0) + 1
        if times >= EMPTY_ANSWERS:
            del self._empty[partition]
            self.hold(partition, NothingThereError())

    def _set_error(self, partition: KafkaPartition, error: Exception) -> None:
        if isinstance(error, POSITION_ERRORS):
            super()._set_error(partition, error)
            return
        self.hold(partition, error)
        if isinstance(error, RecordTooLargeError):  # aiokafka adds one to the position next, to skip the message
            state = self._subscriptions.subscription.assignment.state_value(partition)
            state.consumed_to(state.position - 1)

    def _get_actions_per_node(self, assignment: Any) -> tuple[list[tuple[int, Any]], Any, Any, Any, Any]:
        requests, *others = super()._get_actions_per_node(assignment)
        for node, request in requests if self._records else ():
            wait = max(PARTIAL_WAIT_MS, self._seconds_left(node) * 1000 * WAITED_FOR)
            request._max_wait_ms = round(min(wait, request._max_wait_ms))
        return (requests, *others)

    def _seconds_left(self, node: int) -> float:
        """Seconds until the first of the buffers that are filled from `node` runs dry.

        aiokafka sends the next request only when they are some time old, so their pace is known.
        """
        now = monotonic()
        left = [
            result._partition_records.seconds_left(now)
            for partition, result in self._records.items()
            if isinstance(result, FetchResult) and self._select_read_replica(partition) == node
        ]
        return min(left, default=float("inf"))

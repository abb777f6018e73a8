"""aiokafka's consumer as one member of a group, with what its public interface lacks.

It reads from where `seek` says, commits only as the member it is, and reads a batch by our own parser where aiokafka's
fails. The private parts of aiokafka that are used here are listed in the folder's `__init__`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import unwrap
from time import monotonic
from types import SimpleNamespace
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, KafkaError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.fetch import FetchRequest

from ...messages import TopicPartition
from ...settings import AthomicSettings
from ..base import CommittedOffset, ConsumerConfig, TopicInfo
from .client import KafkaClient
from .coordinator import GroupMembership
from .damage import WrongOffsetsError
from .fetcher import EagerFetcher
from .options import RETRY_SECONDS, milliseconds
from .prefetch import OnUnreadable, Prefetched
from .records import decode_batch
from .topics import ask_for_topics

REBALANCE_MARGIN = 5.0
"""Seconds by which the rebalance timeout exceeds the time that a member's drain and last commit may take."""
METADATA_MAX_AGE = 30.0
"""Seconds between two metadata requests of a consumer. Until the next one it does not notice new partitions."""
METADATA_MAX_AGE_FOR_PATTERN = 5.0
"""The same for a consumer with a pattern, and for new topics that match it."""
HIGHWATER_IN_FETCH, ABORTED_IN_FETCH_4, ABORTED_IN_FETCH_11 = 0, -2, -3
"""Indexes, in a partition's part of a fetch response, of the high watermark and of the aborted transactions.

The last two depend on the version of the request: below 11, and from 11 on.
"""


ASSIGNORS = {
    "roundrobin": RoundRobinPartitionAssignor,  # spreads each topic over all members, small retry topics too
    "range": RangePartitionAssignor,
    "sticky": StickyPartitionAssignor,
}


def consumer_options(
    settings: AthomicSettings, config: ConsumerConfig, connection: Mapping[str, Any], instance_id: str | None
) -> dict[str, Any]:
    """The arguments of `AIOKafkaConsumer`."""
    kafka = settings.kafka
    rebalance_timeout = config.drain_timeout + settings.request_timeout + REBALANCE_MARGIN
    return {
        **connection,
        "client_id": config.client_id,
        "group_id": config.group_id,
        "group_instance_id": instance_id,
        "auto_offset_reset": "none",  # `seek` sets the positions
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        # the broker answers a JoinGroup request only when the other members have drained
        "request_timeout_ms": milliseconds(max(kafka.request_timeout, rebalance_timeout + REBALANCE_MARGIN)),
        "rebalance_timeout_ms": milliseconds(rebalance_timeout),
        "session_timeout_ms": milliseconds(kafka.session_timeout),
        "heartbeat_interval_ms": milliseconds(kafka.heartbeat_interval),
        "max_poll_interval_ms": milliseconds(kafka.max_poll_interval),
        "fetch_max_wait_ms": milliseconds(kafka.fetch_max_wait),
        "fetch_max_bytes": kafka.fetch_max_bytes,
        "max_partition_fetch_bytes": kafka.max_partition_fetch_bytes,
        "max_poll_records": config.max_poll_messages,
        "metadata_max_age_ms": milliseconds(METADATA_MAX_AGE_FOR_PATTERN if config.pattern else METADATA_MAX_AGE),
        "partition_assignment_strategy": tuple(ASSIGNORS[name] for name in kafka.partition_assignment_strategy),
    }


class _SubscriptionState(SubscriptionState):  # type: ignore[misc]  # aiokafka is not typed
    """Keeps the clock for `max_poll_interval` right when a `getmany` raises or is cancelled.

    aiokafka's own clock would stand still from then on.
    """

    @contextmanager
    def fetch_context(self) -> Iterator[None]:
        self._fetch_count += 1
        try:
            yield
        finally:
            self._fetch_count -= 1
            self._last_fetch_ended = monotonic()

    def assign_from_subscribed(self, assignment: Any) -> None:
        """Pauses new partitions until `seek`: aiokafka would look up their positions at once and fetch from there."""
        super().assign_from_subscribed(assignment)
        for partition in assignment:
            state = self._assigned_state(partition)
            state.seek(0)
            state.pause()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberHooks:
    """What a group member calls, on its event loop."""

    on_arrival: Callable[[], None]  # messages, or an error, have been fetched
    on_twin: Callable[[str], None]  # another process uses this `group_instance_id` too
    on_unreadable: OnUnreadable  # the next record of a partition cannot be read


class GroupMember(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka is not typed
    """aiokafka's consumer with what its public interface lacks.

    Automatic instrumentation wraps the class's `getmany` and makes a span of each poll, and of each message in it.
    This class calls the original (see `producer_clients.Client`).
    """

    getmany = unwrap(AIOKafkaConsumer.getmany)

    def __init__(self, hooks: MemberHooks, max_batch_bytes: int, **options: Any) -> None:
        super().__init__(**options)
        self._max_batch_bytes = max_batch_bytes
        self._unpacking = ThreadPoolExecutor(1, "athomic-unpacking")  # one: so only one large batch is unpacked at once
        KafkaClient.take_over(self._client)
        self._hooks = hooks
        self._client.makes_topics = False  # asking for a topic that an operator has deleted would create it again
        self._subscription = _SubscriptionState(loop=self._loop)

    async def start(self) -> None:
        await super().start()
        # nothing is subscribed to yet, so nothing has been fetched
        buffer = Prefetched(
            self._hooks.on_arrival, self._hooks.on_unreadable, self._unpack_later, self._max_batch_bytes
        )
        self._client.on_fetched = EagerFetcher.take_over(self._fetcher, buffer).look_at
        GroupMembership.take_over(self._coordinator, self._hooks.on_twin)

    async def stop(self) -> None:
        self._unpacking.shutdown(wait=False, cancel_futures=True)
        await super().stop()

    def _unpack_later(self, unpack: Callable[[], None], then: Callable[[], None]) -> None:
        def done(_: object) -> None:
            then()
            self._fetcher.look_again()
            self._hooks.on_arrival()

        self._loop.run_in_executor(self._unpacking, unpack).add_done_callback(done)

    def subscribe_to_pattern(self, matches: Callable[[str], Any], listener: ConsumerRebalanceListener) -> None:
        """Subscribes to topics whose whole name `matches`. aiokafka's `subscribe` matches the beginning of names."""
        self._subscription.subscribe_pattern(SimpleNamespace(match=matches), listener)
        self._client.set_topics([])

    async def look_for_topics(self) -> None:
        """Returns when a broker has said which topics there are."""
        await self._client.force_metadata_update()

    async def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Commits as a member of the current generation, or raises `CommitFailedError`.

        Works also while aiokafka has replaced the assignment but not revoked the old one yet, as it does when a
        pattern matches a new topic. aiokafka's own `commit` retries as a member of whatever generation it is in by
        then, to which the partitions need not belong, and retries without end if a topic was deleted.
        """
        coordinator = self._coordinator
        generation = coordinator.generation
        while True:
            await coordinator.ensure_coordinator_known()
            if generation < 0 or coordinator.generation != generation:
                raise CommitFailedError
            try:
                async with coordinator._commit_lock:
                    await asyncio.shield(coordinator._do_commit_offsets(None, offsets))
                return
            except UnknownTopicOrPartitionError:
                raise
            except KafkaError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    async def committed_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Any]:
        """The offsets with their metadata. aiokafka's `committed` drops it, and asks for one partition at a time."""
        return await self._coordinator.fetch_committed_offsets(list(partitions))  # type: ignore[no-any-return]

    def note_traffic(self) -> None:
        """Messages have come: it matters how soon this member hears of a rebalance."""
        self._coordinator.note_traffic()

    def state_of(self, partition: TopicPartition) -> Any:
        """aiokafka's state of a partition; None if it is not assigned."""
        subscription = self._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        return assignment.state_value(partition) if assignment is not None else None

    def known_position(self, partition: TopicPartition) -> int | None:
        """`position` without waiting; None before `seek`, and while the partition is on hold."""
        state = self.state_of(partition)
        return state.position if state is not None and state.has_valid_position and not state.paused else None

    def hold(self, partition: KafkaPartition) -> None:
        """Fetches nothing from the partition until `release`."""
        if (state := self.state_of(partition)) is not None:
            state.pause()

    def release(self, partition: KafkaPartition) -> None:
        """Fetches from the partition again, after `hold` or after it was assigned."""
        if (state := self.state_of(partition)) is not None:
            state.resume()

    async def bounds(self, partitions: Collection[KafkaPartition]) -> dict[KafkaPartition, tuple[int, int]]:
        """The first offset and the last stable offset of each."""
        first = await self._fetcher.beginning_offsets(partitions, None)
        end = await self._fetcher.end_offsets(partitions, None)
        return {partition: (first[partition], end[partition]) for partition in partitions}

    async def learn_ends(self, partitions: Collection[KafkaPartition]) -> None:
        """Asks for the last stable offsets of partitions that are not fetched, and keeps them as a fetch would."""
        ends = await self._fetcher.end_offsets(partitions, None)
        for partition, end in ends.items():
            if (state := self.state_of(partition)) is not None:
                state.highwater = state.lso = end

    async def topics(self) -> dict[str, TopicInfo | None]:
        """The topics it is subscribed to, as a broker knows them now. If they have changed, updates the metadata."""
        found = await ask_for_topics(self._client, sorted(self._subscription.topics))
        for name, info in found.items():
            known = self._client.cluster.partitions_for_topic(name) or ()
            if len(known) != (info.partitions if info is not None else 0):
                self._client.force_metadata_update()
        return found

    async def read_otherwise(self, partition: KafkaPartition, offset: int, limit: int) -> None:
        """Puts the batch at `offset` into the buffer, read by our own parser. Raises whatever is wrong with it."""
        leader = self._client.cluster.leader_for_partition(partition)
        wanted = [(partition.topic, [(partition.partition, offset, limit)])]
        response = await self._client.send(leader, FetchRequest(0, 1, limit, READ_COMMITTED, wanted))
        ((_, ((_, code, *found),)),) = response.topics
        if code:
            raise for_code(code)(partition.topic)
        aborted = found[ABORTED_IN_FETCH_11 if response.API_VERSION >= 11 else ABORTED_IN_FETCH_4] or ()
        decode = partial(
            decode_batch, bytes(found[-1]), TopicPartition(*partition), offset, aborted, self._max_batch_bytes
        )
        batch = await self._loop.run_in_executor(self._unpacking, decode)
        if not offset < batch.next_offset <= found[HIGHWATER_IN_FETCH]:
            raise WrongOffsetsError
        if self.known_position(partition) == offset:
            self._fetcher.put(partition, batch)

    def refetch(self, partition: KafkaPartition) -> None:
        """Drops what is buffered of the partition and fetches it again."""
        self._fetcher.refetch(partition)

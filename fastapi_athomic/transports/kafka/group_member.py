"""One member of a group: what aiokafka's group coordinator says, and what the fetch hub fetches.

It reads from where `seek` says, commits only as the member it is, and reads a batch by our own parser where aiokafka's
fails. The private parts of aiokafka that are used here are listed in the folder's `__init__`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from types import SimpleNamespace
from typing import Any, NamedTuple

from aiokafka import ConsumerRebalanceListener
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, ConsumerStoppedError, KafkaError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.fetch import FetchRequest

from ...messages import RawMessage, TopicPartition
from ...settings import AthomicSettings
from ..base import BEGINNING, END, CommittedOffset, Confirmation, ConsumerConfig, TopicInfo
from .boundary import abandon
from .client_log import client_context
from .damage import WrongOffsetsError
from .mixed_group import MixedMembership
from .offsets import offsets_of
from .options import RETRY_SECONDS, milliseconds
from .prefetch import Batches, OnUnreadable, Unreadable
from .reading import Reading
from .records import decode_batch
from .shared_client import MemberClient, SharedClient

REBALANCE_MARGIN = 5.0
"""Seconds by which the rebalance timeout exceeds the time that a member's drain and last commit may take."""
TEARDOWN_SECONDS = 0.3
"""Seconds of the time for closing that are reserved to end a coordinator that does not stop."""
HIGHWATER_IN_FETCH, ABORTED_IN_FETCH_4, ABORTED_IN_FETCH_11 = 0, -2, -3
"""Indexes, in a partition's part of a fetch response, of the high watermark and of the aborted transactions.

The last two depend on the version of the request: below 11, and from 11 on.
"""


ASSIGNORS = {
    "roundrobin": RoundRobinPartitionAssignor,  # spreads each topic over all members, small retry topics too
    "range": RangePartitionAssignor,
    "sticky": StickyPartitionAssignor,
}


class MemberOptions(NamedTuple):
    """How a member takes part in its group."""

    coordinator: Mapping[str, Any]  # arguments of aiokafka's `GroupCoordinator`
    join_timeout_ms: int  # for the answer to a JoinGroup
    client_id: str
    max_batch_bytes: int

    @classmethod
    def of(cls, settings: AthomicSettings, config: ConsumerConfig, instance_id: str | None) -> MemberOptions:
        kafka = settings.kafka
        rebalance_timeout = config.drain_timeout + settings.request_timeout + REBALANCE_MARGIN
        return cls(
            coordinator={
                "group_id": config.group_id,
                "group_instance_id": instance_id,
                "enable_auto_commit": False,
                "retry_backoff_ms": milliseconds(RETRY_SECONDS),
                "rebalance_timeout_ms": milliseconds(rebalance_timeout),
                "session_timeout_ms": milliseconds(kafka.session_timeout),
                "heartbeat_interval_ms": milliseconds(kafka.heartbeat_interval),
                "max_poll_interval_ms": milliseconds(kafka.max_poll_interval),
                "assignors": tuple(ASSIGNORS[name] for name in kafka.partition_assignment_strategy),
            },
            # the broker answers a JoinGroup request only when the other members have drained
            join_timeout_ms=milliseconds(max(kafka.request_timeout, rebalance_timeout + REBALANCE_MARGIN)),
            client_id=config.client_id,
            max_batch_bytes=kafka.max_batch_bytes,
        )


class _SubscriptionState(SubscriptionState):  # type: ignore[misc]  # aiokafka is not typed
    """Says when the coordinator has met an error that `check` raises."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        super().__init__()
        self.register_fetch_waiters(())
        self._on_error = on_error

    def abort_waiters(self, exc: Any) -> None:
        super().abort_waiters(exc)
        self._on_error()

    def note_fetch(self) -> None:
        """The application takes messages, or would: that counts as progress for `max_poll_interval`."""
        self._last_fetch_ended = monotonic()


class MemberHooks(NamedTuple):
    """What a group member calls, on its event loop."""

    on_arrival: Callable[[], None]  # messages, or an error, have been fetched
    on_twin: Callable[[str], None]  # another process uses this `group_instance_id` too
    on_unreadable: OnUnreadable  # the next record of a partition cannot be read
    is_source: Callable[[str], bool]  # the topic is not one of retry or redrive, as far as that is known


class GroupMember:
    """A member, from its creation to `close`. See `reading.Owner` for what the fetch hub calls.

    Args:
        shared: its client, which must not be closed before the member.
    """

    def __init__(self, hooks: MemberHooks, shared: SharedClient, options: MemberOptions) -> None:
        self.max_batch_bytes = options.max_batch_bytes
        self.ready: OrderedDict[TopicPartition, Reading] = OrderedDict()
        self._hooks = hooks
        self._readings: dict[TopicPartition, Reading] = {}
        self._new_client = partial(MemberClient, shared, options.join_timeout_ms, options.client_id)
        self._client = self._new_client()
        self._hub = shared.hub
        self._loop = asyncio.get_running_loop()
        self._unpacking = ThreadPoolExecutor(1, "athomic-unpacking")  # one: so only one large batch is unpacked at once
        self._closed = False
        self._subscription = _SubscriptionState(self.on_arrival)
        self._coordinator: Any = client_context().run(
            partial(GroupCoordinator, self._client, self._subscription, **options.coordinator)
        )
        self._on_metadata = self._coordinator._handle_metadata_update
        MixedMembership.take_over_with(self._coordinator, hooks.on_twin, hooks.is_source, self._new_client)

    async def close(self, seconds: float) -> None:
        """Leaves the group, within about so many seconds. Never raises."""
        if self._closed:
            return
        self._closed = True
        self._unpacking.shutdown(wait=False, cancel_futures=True)
        self.assign(())
        leaving = self._loop.create_task(self._coordinator.close(), context=client_context())
        try:
            await asyncio.wait({leaving}, timeout=max(0.0, seconds - TEARDOWN_SECONDS))
        finally:
            abandon(leaving)
            coordinator = self._coordinator
            tasks = (coordinator._coordination_task, coordinator._heartbeat_task, coordinator._commit_refresh_task)
            left = [task for task in tasks if task is not None]
            for task in left:
                abandon(task)
            self._client.cluster.remove_listener(self._on_metadata)
            self._client.leave()
            coordinator.let_side_go()
            if left:
                await asyncio.wait(left, timeout=TEARDOWN_SECONDS)

    # --- what the fetch hub calls

    def on_arrival(self) -> None:
        self._hooks.on_arrival()

    def on_unreadable(self, place: TopicPartition, where: Unreadable) -> None:
        self._hooks.on_unreadable(place, where)

    def unpack_later(self, unpack: Callable[[], None], then: Callable[[], None]) -> None:
        def done(_: object) -> None:
            then()
            self.on_arrival()

        self._loop.run_in_executor(self._unpacking, unpack).add_done_callback(done)

    # --- the group

    def subscribe(self, topics: Iterable[str], listener: ConsumerRebalanceListener) -> None:
        """Follow these topics."""
        self._subscription.subscribe(set(topics), listener)
        self._client.set_topics(self._subscription.topics)

    def subscribe_to_pattern(self, matches: Callable[[str], Any], listener: ConsumerRebalanceListener) -> None:
        """Follow the topics whose whole name `matches`. aiokafka's `subscribe` matches the beginning of names."""
        self._subscription.subscribe_pattern(SimpleNamespace(match=matches), listener)
        self._client.set_topics([])

    async def look_for_topics(self) -> None:
        """Returns when a broker has said which topics there are."""
        await self._client.force_metadata_update()

    async def topics(self) -> dict[str, TopicInfo | None]:
        """The topics it is subscribed to, as a broker knows them now. If they have changed, updates the metadata."""
        found = await self._client.shared.describe(sorted(self._subscription.topics))
        for name, info in found.items():
            known = self._client.cluster.partitions_for_topic(name) or ()
            if len(known) != (info.partitions if info is not None else 0):
                self._client.force_metadata_update()
        return found

    def check(self) -> None:
        """Raises what the group's coordinator has met and cannot overcome. Call it with each look for messages."""
        if self._closed:
            raise ConsumerStoppedError
        self._subscription.note_fetch()
        self._coordinator.check_errors()

    @property
    def generation(self) -> int:
        """The generation of the group that this member belongs to; negative: none."""
        return int(self._coordinator.generation)

    async def commit_at_once(self, offsets: Mapping[TopicPartition, CommittedOffset], seconds: float) -> bool:
        """Commits with one request, if that fits into so many seconds. False: it did not work, see `commit_now`.

        Each step to a commit that has to be awaited costs as much as the commit. For most there is only the answer.
        """
        if self._closed or seconds < self._client.shared.coordination_timeout:
            return False
        return bool(await self._coordinator.commit_open(offsets))

    async def commit_now(self, offsets: Mapping[TopicPartition, CommittedOffset], generation: int) -> None:
        """Commits as a member of this generation, or raises `CommitFailedError`.

        Works also while aiokafka has replaced the assignment but not revoked the old one yet, as it does when a
        pattern matches a new topic. aiokafka's own `commit` retries as a member of whatever generation it is in by
        then, to which the partitions need not belong, and retries without end if a topic was deleted.
        """
        coordinator = self._coordinator
        while True:
            await coordinator.ensure_coordinator_known()
            if generation < 0 or coordinator.generation != generation:
                raise CommitFailedError
            try:
                async with coordinator._commit_lock:
                    await coordinator._do_commit_offsets(None, offsets)
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

    def confirmation(self) -> Confirmation:
        """The last time that the coordinator said that this is a member."""
        return self._coordinator.confirmation()  # type: ignore[no-any-return]

    def note_traffic(self) -> None:
        """Messages have come: it matters how soon this member hears of a rebalance."""
        self._coordinator.note_traffic()

    # --- partitions

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are ours, and no others. Nothing is fetched of them before `seek` and `release`."""
        for reading in self._readings.values():
            self._hub.forget(reading)
            reading.stopped = True
        self.ready.clear()
        self._readings = {place: Reading(place, self) for place in partitions}

    def reading(self, place: TopicPartition) -> Reading | None:
        """How far a partition is; None if it is not ours."""
        return self._readings.get(place)

    def take(self, places: Collection[TopicPartition], limit: int) -> dict[TopicPartition, list[RawMessage]]:
        """The next messages of these partitions, `limit` at most. Partitions of which more is left are last next time.

        If more is left of one that gives out few at once, `on_arrival` is called.
        """
        found: dict[TopicPartition, list[RawMessage]] = {}
        if not self.ready:
            return found
        wanted = places if isinstance(places, set | frozenset | dict) or len(self.ready) < 2 else set(places)
        more = False
        for place in list(self.ready):
            if place not in wanted:
                continue
            reading = self._readings[place]
            messages = reading.take(limit)
            if reading.wanted:
                self._hub.want(reading)
            if messages:
                found[place] = messages
                limit -= len(messages)
                if place in self.ready:
                    self.ready.move_to_end(place)
                    more = True
                if limit <= 0:
                    return found
        if more:
            self.on_arrival()
        return found

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Read from there. Drops what is buffered."""
        reading = self._readings[place]
        self._hub.forget(reading)
        reading.drop_records()
        reading.position, reading.misplaced, reading.empty_answers = offset, False, 0
        reading.topic_id = self._client.shared.topic_ids.get(place.topic, b"")
        if reading.wanted:
            self._hub.want(reading)

    def release(self, place: TopicPartition) -> None:
        """Fetch from the partition, if it is ours and has a position."""
        if (reading := self._readings.get(place)) is not None and reading.stopped:
            reading.stopped = False
            if reading.wanted:
                self._hub.want(reading)

    def misplaced(self) -> frozenset[TopicPartition]:
        """Partitions whose position is not in the log."""
        return frozenset(place for place, reading in self._readings.items() if reading.misplaced)

    def known_position(self, place: TopicPartition) -> int | None:
        """The offset that is taken next; None before `seek`, and while the partition is stopped."""
        reading = self._readings.get(place)
        return reading.position if reading is not None and not reading.stopped else None

    async def bounds(self, places: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """The first offset and the last stable offset of each."""
        client = self._client.shared
        first, end = await asyncio.gather(offsets_of(client, places, BEGINNING), offsets_of(client, places, END))
        return {place: (first[place], end[place]) for place in places}

    async def learn_ends(self, places: Collection[TopicPartition]) -> None:
        """Asks for the last stable offsets of partitions that are not fetched, and keeps them as a fetch would."""
        ends = await offsets_of(self._client.shared, places, END)
        for place, end in ends.items():
            if (reading := self._readings.get(place)) is not None:
                reading.highwater = reading.last_stable = end

    async def read_otherwise(self, place: TopicPartition, offset: int, limit: int) -> None:
        """Puts the batch at `offset` into the buffer, read by our own parser. Raises whatever is wrong with it."""
        client = self._client.shared
        leader = client.cluster.leader_for_partition(place)
        wanted = [(place.topic, [(place.partition, offset, limit)])]
        response = await client.send(leader, FetchRequest(0, 1, limit, READ_COMMITTED, wanted))
        ((_, ((_, code, *found),)),) = response.topics
        if code:
            raise for_code(code)(place.topic)
        aborted = found[ABORTED_IN_FETCH_11 if response.API_VERSION >= 11 else ABORTED_IN_FETCH_4] or ()
        decode = partial(decode_batch, bytes(found[-1]), place, offset, aborted, self.max_batch_bytes)
        batch = await self._loop.run_in_executor(self._unpacking, decode)
        if not offset < batch.next_offset <= found[HIGHWATER_IN_FETCH]:
            raise WrongOffsetsError
        reading = self._readings.get(place)
        if reading is not None and not reading.stopped and reading.position == offset:
            self._hub.forget(reading)
            reading.put(Batches((batch,)))
            self.on_arrival()

    def refetch(self, place: TopicPartition) -> None:
        """Drops what is buffered of the partition and fetches it again."""
        if (reading := self._readings.get(place)) is not None:
            self._hub.forget(reading)
            reading.drop_records()
            if reading.wanted:
                self._hub.want(reading)

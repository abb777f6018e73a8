"""The consumer of `kafka://`: rebalances, fair fetching, offsets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic
from typing import Any

from aiokafka import ConsumerRebalanceListener
from aiokafka.errors import ConsumerStoppedError, KafkaError

from ...exceptions import TransportClosedError, TransportError
from ...messages import RawMessage, TopicPartition
from ...settings import AthomicSettings
from ..base import BEGINNING, CommittedOffset, Confirmation, ConsumerConfig, RebalanceListener, TopicInfo
from .boundary import translate, within
from .group_member import GroupMember, MemberHooks, MemberOptions
from .shared_client import SharedClients
from .static_membership import group_instance_id, twin_of
from .unfetched import UnfetchedEnds
from .unreadable import UnreadablePartitions

logger = logging.getLogger(__name__)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """Passes aiokafka's rebalance callbacks on to `KafkaConsumer.revoked` and `assigned`."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        await self._consumer.revoked()

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        await self._consumer.assigned(frozenset(TopicPartition(*partition) for partition in assigned))


class KafkaConsumer:
    """One group member, see `TransportConsumer`.

    Rebalances are eager: all partitions are revoked, then the new ones are assigned.

    `twins` are the static member ids that other processes use too. All consumers of an app share the set: this one
    adds its own id when it finds out, and joins without it from then on.
    """

    def __init__(
        self,
        config: ConsumerConfig,
        listener: RebalanceListener,
        settings: AthomicSettings,
        clients: SharedClients,
        twins: set[str],
    ) -> None:
        self._config = config
        self._listener = listener
        self._settings = settings
        self._clients = clients
        self._twins = twins
        self._instance_id = group_instance_id(settings, config)
        self._member: GroupMember | None = None
        self._owned: frozenset[TopicPartition] = frozenset()
        self._placed: set[TopicPartition] = set()  # the owned partitions that had a `seek`
        self._may_fetch = False  # `on_assigned` has returned
        self._unfetched = UnfetchedEnds(self._learn_ends)
        self._unreadable = UnreadablePartitions(self._name, self._known_position, self._read_otherwise, self._refetch)

    async def start(self) -> None:
        if self._member is not None:
            raise TransportError(f"{self._name} has been started already")
        instance_id = None if self._instance_id in self._twins else self._instance_id
        options = MemberOptions.of(self._settings, self._config, instance_id)
        hooks = MemberHooks(
            on_arrival=self._listener.on_arrival,
            on_twin=self._twins.add,
            on_unreadable=self._unreadable.note,
            is_source=self._is_source,
        )
        client = await self._clients.enter(f"connecting {self._name}")  # until `stop`
        try:
            member = self._member = GroupMember(hooks, client, options)
        except BaseException:
            await self._clients.leave(0.0)
            raise
        if self._config.pattern is not None:
            member.subscribe_to_pattern(self._config.pattern.fullmatch, _Listener(self))
        else:
            member.subscribe([*self._config.topics, *self._config.followed], _Listener(self))

    def _is_source(self, topic: str) -> bool:
        return self._config.pattern is not None or topic in self._config.topics

    async def follow(self, topics: Collection[str]) -> None:
        member = self._running()
        if self._config.pattern is not None:
            await within(
                member.look_for_topics(), self._settings.request_timeout, f"looking for topics of {self._name}"
            )
        else:
            member.subscribe([*self._config.topics, *topics], _Listener(self))

    async def stop(self, timeout: float) -> None:
        member, self._member = self._member, None
        if member is not None:
            self._let_go()
            self._owned = frozenset()
            self._unreadable.close()
            self._unfetched.close()
            self._listener.on_arrival()  # `poll` says now that this is closed
            end = monotonic() + timeout
            try:
                await member.close(timeout)
            finally:  # also if this is cancelled: nobody else would close the client that all share
                await self._clients.leave(max(0.0, end - monotonic()))

    # --- rebalances

    async def revoked(self) -> None:
        """aiokafka calls this when a rebalance begins. The group waits until it returns."""
        self._may_fetch = False
        if self._owned:
            await self._tell(self._listener.on_revoked, self._owned)
        self._let_go()
        self._owned = frozenset()

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """aiokafka calls this when it has a new assignment."""
        if self._member is None:  # stopped while it joined
            return
        self._let_go()
        self._owned = partitions
        self._running().assign(partitions)
        await self._tell(self._listener.on_assigned, partitions)
        self._may_fetch = True
        for place in self._placed:
            self._running().release(place)

    def _let_go(self) -> None:
        self._may_fetch = False
        self._placed.clear()
        if self._member is not None:
            self._member.assign(())

    async def _tell(
        self, callback: Callable[[frozenset[TopicPartition]], Any], partitions: frozenset[TopicPartition]
    ) -> None:
        try:
            await callback(partitions)
        except Exception:
            logger.exception("%s: %s failed", self._name, callback.__name__)

    # --- fetching

    def poll(self, wanted: Collection[TopicPartition]) -> None:
        member = self._running()
        self._unreadable.look()
        self._unfetched.look(wanted, self._placed)
        try:
            member.check()
        except ConsumerStoppedError:
            raise TransportClosedError(f"{self._name} is closed") from None
        except KafkaError as error:
            raise translate(error, f"fetching for {self._name}") from error

    def ready(self) -> Collection[TopicPartition]:
        return self._member.ready if self._member is not None and self._may_fetch else ()

    def take(
        self, partitions: Collection[TopicPartition], max_messages: int
    ) -> Mapping[TopicPartition, Sequence[RawMessage]]:
        member = self._running()
        found = member.take(partitions, max_messages) if self._may_fetch else {}
        if found:
            member.note_traffic()
            if self._unreadable.holds:
                self._unreadable.look()  # some may have been read
        return found

    async def _read_otherwise(self, partition: TopicPartition, offset: int) -> bool:
        doing = f"reading the record at offset {offset} of {partition}"
        limit = self._settings.kafka.max_partition_fetch_bytes
        try:
            reading = self._running().read_otherwise(partition, offset, limit)
            await within(reading, self._settings.request_timeout, doing)
        except TransportError as error:
            logger.info("%s: %s", self._name, error)
            return False
        return True

    def _refetch(self, partition: TopicPartition) -> None:
        if self._member is not None:
            self._member.refetch(partition)

    def _known_position(self, partition: TopicPartition) -> int | None:
        return self._member.known_position(partition) if self._member is not None else None

    def held(self) -> Mapping[TopicPartition, str]:
        return self._unreadable.reasons

    def misplaced(self) -> frozenset[TopicPartition]:
        return self._member.misplaced() if self._member is not None else frozenset()

    # --- offsets

    async def topics(self, timeout: float) -> dict[str, TopicInfo | None]:
        return await within(self._running().topics(), timeout, f"asking for the topics of {self._name}")

    async def bounds(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> dict[TopicPartition, tuple[int, int]]:
        asked = self._running().bounds(partitions)
        doing = f"asking for the bounds of {', '.join(map(str, sorted(partitions)))}"
        return await within(asked, timeout, doing, needs="Describe")

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        member, began = self._running(), monotonic()
        generation = member.generation  # in the next one the partitions may be another's
        if not await member.commit_at_once(offsets, timeout):
            took, trying = monotonic() - began, member.commit_now(offsets, generation)
            await within(trying, timeout - took, f"committing for {self._name}", began=took)

    async def committed(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        member = self._running()
        asked = member.committed_offsets(partitions)
        found = await within(asked, timeout, f"asking for the committed offsets of {self._name}")
        return {
            TopicPartition(*partition): CommittedOffset(offset.offset, offset.metadata or "")
            for partition, offset in found.items()
            if offset.offset >= 0
        }

    def assignment(self) -> frozenset[TopicPartition]:
        return self._owned

    def confirmation(self) -> Confirmation | None:
        return self._member.confirmation() if self._member is not None and self._owned else None

    def position(self, partition: TopicPartition) -> int | None:
        return self._member.known_position(partition) if self._member is not None else None

    def end_offset(self, partition: TopicPartition) -> int | None:
        reading = self._member.reading(partition) if self._member is not None else None
        return reading.end if reading is not None else None

    async def _learn_ends(self, places: Collection[TopicPartition]) -> None:
        asked = self._running().learn_ends(places)
        await within(asked, self._settings.request_timeout, f"asking for the ends of {self._name}", needs="Describe")

    def troubles(self) -> Sequence[str]:
        return [twin_of(self._instance_id)] if self._instance_id in self._twins else []

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        if offset < 0:
            first, end = (await self.bounds([partition], self._settings.request_timeout))[partition]
            offset = first if offset == BEGINNING else end
        member = self._running()
        if partition not in self._owned or member.reading(partition) is None:
            raise TransportError(f"{partition} is not assigned to {self._name}")
        member.seek(partition, offset)
        self._placed.add(partition)
        if self._may_fetch:
            member.release(partition)

    @property
    def _name(self) -> str:
        return f"group {self._config.group_id}"

    def _running(self) -> GroupMember:
        if self._member is None:
            raise TransportClosedError(f"{self._name} is closed")
        return self._member

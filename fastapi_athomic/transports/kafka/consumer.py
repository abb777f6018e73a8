"""The consumer of `kafka://`: rebalances, fair fetching, offsets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from aiokafka import ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import ConsumerStoppedError, KafkaError, OffsetOutOfRangeError

from ...exceptions import TransportClosedError, TransportError
from ...messages import RawMessage, TopicPartition
from ...settings import AthomicSettings
from ..base import BEGINNING, CommittedOffset, ConsumerConfig, RebalanceListener, TopicInfo
from ..waits import cut_short
from .boundary import translate, within
from .client_life import close_client, open_client
from .group_member import GroupMember, MemberHooks, consumer_options
from .static_membership import group_instance_id, twin_of
from .unfetched import UnfetchedEnds
from .unreadable import UnreadablePartitions

logger = logging.getLogger(__name__)

FETCH_GRACE = 0.05
"""A `getmany` is cancelled when it exceeds its timeout by so many seconds, as it does while a rebalance runs."""

NOBODY = KafkaPartition("", -1)
"""Stands for no partition: without arguments `getmany` takes from all of them."""

Records = Mapping[KafkaPartition, list[RawMessage]]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """Passes aiokafka's rebalance callbacks on to `KafkaConsumer.revoked` and `assigned`."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Collection[KafkaPartition]) -> None:
        await self._consumer.revoked()

    async def on_partitions_assigned(self, assigned: Collection[KafkaPartition]) -> None:
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
        connection: Mapping[str, Any],
        twins: set[str],
    ) -> None:
        self._config = config
        self._listener = listener
        self._settings = settings
        self._connection = connection
        self._twins = twins
        self._instance_id = group_instance_id(settings, config)
        self._member: GroupMember | None = None
        self._owned: frozenset[TopicPartition] = frozenset()
        self._placed: dict[TopicPartition, KafkaPartition] = {}  # the owned partitions that had a `seek`
        self._misplaced: set[TopicPartition] = set()
        self._may_fetch = False  # `on_assigned` has returned
        self._fetching: asyncio.Timeout | None = None  # of the `fetch` that runs
        self._served: set[KafkaPartition] = set()  # filled the last `fetch`; the others are next
        self._unfetched = UnfetchedEnds(self._learn_ends)
        self._unreadable = UnreadablePartitions(self._name, self._known_position, self._read_otherwise, self._refetch)

    async def start(self) -> None:
        if self._member is not None:
            raise TransportError(f"{self._name} has been started already")
        instance_id = None if self._instance_id in self._twins else self._instance_id
        options = consumer_options(self._settings, self._config, self._connection, instance_id)
        hooks = MemberHooks(
            on_arrival=self._listener.on_arrival, on_twin=self._twins.add, on_unreadable=self._unreadable.note
        )
        member = GroupMember(hooks, self._settings.kafka.max_batch_bytes, **options)
        await open_client(member, self._settings.request_timeout, f"connecting {self._name}")
        # only now: a consumer that has topics waits in `start` until the whole group has rebalanced
        if self._config.pattern is not None:
            member.subscribe_to_pattern(self._config.pattern.fullmatch, _Listener(self))
        else:
            member.subscribe(topics=[*self._config.topics, *self._config.followed], listener=_Listener(self))
        self._member = member

    async def follow(self, topics: Collection[str]) -> None:
        member = self._running()
        if self._config.pattern is not None:
            await within(
                member.look_for_topics(), self._settings.request_timeout, f"looking for topics of {self._name}"
            )
        else:
            member.subscribe(topics=[*self._config.topics, *topics], listener=_Listener(self))

    async def stop(self, timeout: float) -> None:
        member, self._member = self._member, None
        if member is not None:
            self._let_go()
            self._owned = frozenset()
            self._unreadable.close()
            self._unfetched.close()
            await close_client(member, timeout)

    # --- rebalances

    async def revoked(self) -> None:
        """aiokafka calls this when a rebalance begins. The group waits until it returns."""
        self._may_fetch = False
        self._served.clear()
        if self._owned:
            await self._tell(self._listener.on_revoked, self._owned)
        self._let_go()
        self._owned = frozenset()

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """aiokafka calls this when it has a new assignment."""
        self._let_go()
        self._owned = partitions
        await self._tell(self._listener.on_assigned, partitions)
        self._may_fetch = True
        for place in self._placed.values():
            self._running().release(place)

    def _let_go(self) -> None:
        self._may_fetch = False
        self._placed.clear()
        self._misplaced.clear()

    async def _tell(
        self, callback: Callable[[frozenset[TopicPartition]], Any], partitions: frozenset[TopicPartition]
    ) -> None:
        try:
            await callback(partitions)
        except Exception:
            logger.exception("%s: %s failed", self._name, callback.__name__)

    # --- fetching

    async def fetch(
        self, partitions: Collection[TopicPartition], timeout: float, max_messages: int
    ) -> Mapping[TopicPartition, Sequence[RawMessage]]:
        member = self._running()
        self._unreadable.look()
        placed = self._placed if self._may_fetch else {}
        wanted = [placed[partition] for partition in partitions if partition in placed]
        self._unfetched.look(wanted, placed.values())
        patience = timeout if partitions else 0.0
        try:
            async with asyncio.timeout(patience + FETCH_GRACE) as self._fetching:
                found = await self._take(member, wanted or [NOBODY], patience, max_messages)
        except (
            TimeoutError
        ):  # a rebalance runs, or it was interrupted; `getmany` holds no messages while it waits, so none are lost
            return {}
        except ConsumerStoppedError:
            raise TransportClosedError(f"{self._name} is closed") from None
        except TransportError:
            raise
        except OffsetOutOfRangeError as error:
            self._note_misplaced(member, error.args[0])
            return {}
        except KafkaError as error:
            raise translate(error, f"fetching for {self._name}") from error
        finally:
            self._fetching = None
        if found:
            member.note_traffic()
        return {TopicPartition(*partition): messages for partition, messages in found.items()}

    def interrupt(self) -> None:
        cut_short(self._fetching)

    async def _take(self, member: GroupMember, wanted: list[KafkaPartition], patience: float, limit: int) -> Records:
        """A fair `getmany`: partitions that filled the last one come after the others.

        aiokafka empties one partition after the other, so that one with a long backlog would starve the rest.
        """
        if self._served:
            others = [partition for partition in wanted if partition not in self._served]
            found = await self._getmany(member, others, 0.0, limit) if others else {}
            if found:
                return self._note_served(found, limit)
            self._served.clear()
        return self._note_served(await self._getmany(member, wanted, patience, limit), limit)

    def _note_served(self, found: Records, limit: int) -> Records:
        if sum(map(len, found.values())) >= limit:
            self._served.update(found)
        else:
            self._served.clear()
        return found

    async def _getmany(
        self, member: GroupMember, partitions: list[KafkaPartition], patience: float, limit: int
    ) -> Records:
        return await member.getmany(  # type: ignore[no-any-return]
            *partitions, timeout_ms=round(patience * 1000), max_records=limit
        )

    async def _read_otherwise(self, partition: KafkaPartition, offset: int) -> bool:
        doing = f"reading the record at offset {offset} of {TopicPartition(*partition)}"
        limit = self._settings.kafka.max_partition_fetch_bytes
        try:
            reading = self._running().read_otherwise(partition, offset, limit)
            await within(reading, self._settings.request_timeout, doing)
        except TransportError as error:
            logger.info("%s: %s", self._name, error)
            return False
        return True

    def _refetch(self, partition: KafkaPartition) -> None:
        if self._member is not None:
            self._member.refetch(partition)

    def _known_position(self, partition: KafkaPartition) -> int | None:
        return self._member.known_position(partition) if self._member is not None else None

    def held(self) -> Mapping[TopicPartition, str]:
        return self._unreadable.reasons

    def _note_misplaced(self, member: GroupMember, positions: Mapping[KafkaPartition, int]) -> None:
        for place, position in positions.items():
            partition = TopicPartition(*place)
            if member.known_position(place) == position and partition in self._placed:
                member.hold(place)
                self._misplaced.add(partition)

    def misplaced(self) -> frozenset[TopicPartition]:
        return frozenset(self._misplaced)

    # --- offsets

    async def topics(self, timeout: float) -> dict[str, TopicInfo | None]:
        return await within(self._running().topics(), timeout, f"asking for the topics of {self._name}")

    async def bounds(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> dict[TopicPartition, tuple[int, int]]:
        asked = self._running().bounds([KafkaPartition(*partition) for partition in partitions])
        found = await within(
            asked, timeout, f"asking for the bounds of {', '.join(map(str, sorted(partitions)))}", needs="Describe"
        )
        return {TopicPartition(*place): bounds for place, bounds in found.items()}

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        await within(self._running().commit_now(offsets), timeout, f"committing for {self._name}")

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

    def position(self, partition: TopicPartition) -> int | None:
        return self._member.known_position(partition) if self._member is not None else None

    def end_offset(self, partition: TopicPartition) -> int | None:
        state = self._member.state_of(partition) if self._member is not None else None
        if state is None:
            return None
        end: int | None = state.highwater if state.lso is None or state.lso < 0 else state.lso  # unknown to old brokers
        return end

    async def _learn_ends(self, places: Collection[KafkaPartition]) -> None:
        asked = self._running().learn_ends(places)
        await within(asked, self._settings.request_timeout, f"asking for the ends of {self._name}", needs="Describe")

    def troubles(self) -> Sequence[str]:
        return [twin_of(self._instance_id)] if self._instance_id in self._twins else []

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        member, place = self._running(), KafkaPartition(*partition)
        if offset < 0:
            first, end = (await self.bounds([partition], self._settings.request_timeout))[partition]
            offset = first if offset == BEGINNING else end
        if partition not in self._owned or member.state_of(place) is None:
            raise TransportError(f"{partition} is not assigned to {self._name}")
        member.seek(place, offset)
        self._placed[partition] = place
        self._misplaced.discard(partition)
        if self._may_fetch:
            member.release(place)

    @property
    def _name(self) -> str:
        return f"group {self._config.group_id}"

    def _running(self) -> GroupMember:
        if self._member is None:
            raise TransportClosedError(f"{self._name} is closed")
        return self._member

"""The consumer of `memory://`: takes part in rebalances, fetches fairly, keeps positions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from ...exceptions import TopicNotFoundError, TransportClosedError, TransportError
from ...messages import RawMessage, TopicPartition
from ..base import BEGINNING, END, CommittedOffset, ConsumerConfig, RebalanceListener, TopicInfo
from .answers import answer
from .broker import MemoryBroker
from .groups import Member

logger = logging.getLogger(__name__)

REBALANCE_RESERVE = 5.0
"""Seconds beyond its drain timeout after which a member that does not give up its partitions is evicted."""


class MemoryConsumer:
    """One group member, see `TransportConsumer`. `stopped` is for its transport, which then forgets it."""

    def __init__(self, broker: MemoryBroker, config: ConsumerConfig, listener: RebalanceListener) -> None:
        self._broker = broker
        self._config = config
        self._listener = listener
        self._member: Member | None = None
        self._following: asyncio.Task[None] | None = None
        self._called = asyncio.Event()
        self._generation = -1
        self._owned: frozenset[TopicPartition] = frozenset()
        self._positions: dict[TopicPartition, int] = {}  # of the owned partitions that had a `seek`
        self._fetchable = False
        self._wanted: Collection[TopicPartition] = ()  # as the last `poll` said
        self.stopped = False

    async def start(self) -> None:
        if self._member is not None or self.stopped:
            raise TransportError("a consumer can be started once")
        member = Member(self._config, self._called.set, self._note_arrival)
        self._broker.join(member)
        self._member = member
        self._following = asyncio.create_task(self._follow(member), name=f"memory-{self._config.group_id}")

    async def stop(self, timeout: float) -> None:
        self.stopped = True
        if self._member is None or self._following is None:
            return
        member, self._member = self._member, None
        self._broker.leave(member)
        self._following.cancel()
        if self._following.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([self._following], timeout=timeout)
        self._owned, self._positions, self._fetchable = frozenset(), {}, False

    # --- rebalances

    async def _follow(self, member: Member) -> None:
        """Does what the group asks for: gives up partitions, takes new ones, evicts members that are too slow."""
        patience = self._config.drain_timeout + REBALANCE_RESERVE
        while True:
            try:
                async with asyncio.timeout(patience if self._broker.is_preparing(self._config.group_id) else None):
                    await self._called.wait()
            except TimeoutError:
                self._broker.evict_laggards(self._config.group_id)
            self._called.clear()
            task = self._broker.task_of(member)
            if task is None:
                continue
            if task.partitions is None:
                await self._give_up()
                self._broker.give_up(member)
            elif task.generation != self._generation:
                self._generation = task.generation
                await self._take(task.partitions)

    async def _give_up(self) -> None:
        self._fetchable = False
        if self._owned:
            await self._tell(self._listener.on_revoked, self._owned)
        self._owned, self._positions = frozenset(), {}

    async def _take(self, partitions: frozenset[TopicPartition]) -> None:
        self._owned, self._positions = partitions, {}
        await self._tell(self._listener.on_assigned, partitions)
        self._fetchable = True
        self._listener.on_arrival()

    def _note_arrival(self) -> None:
        """Tells the listener only about partitions that are wanted: others may get messages without end."""
        if any(map(self._has_more, self._wanted)):
            self._listener.on_arrival()

    def _has_more(self, partition: TopicPartition) -> bool:
        log, position = self._broker.log(partition), self._positions.get(partition)
        return log is not None and position is not None and position < log.end

    async def _tell(
        self, callback: Callable[[frozenset[TopicPartition]], Awaitable[None]], partitions: frozenset[TopicPartition]
    ) -> None:
        try:
            await callback(partitions)
        except Exception:
            logger.exception("%s: %s failed", self._config.group_id, callback.__name__)

    # --- fetching

    def poll(self, wanted: Collection[TopicPartition]) -> None:
        if self._member is None:
            raise TransportClosedError("the consumer is closed")
        self._wanted = wanted

    def ready(self) -> Collection[TopicPartition]:
        return [partition for partition in self._positions if self._has_more(partition)] if self._fetchable else ()

    def take(
        self, partitions: Collection[TopicPartition], max_messages: int
    ) -> Mapping[TopicPartition, Sequence[RawMessage]]:
        if self._member is None:
            raise TransportClosedError("the consumer is closed")
        return self._read(partitions, max_messages)

    def _read(self, partitions: Collection[TopicPartition], limit: int) -> dict[TopicPartition, list[RawMessage]]:
        """Reads from all partitions in equal shares, so that one with a long backlog does not starve the others."""
        found: dict[TopicPartition, list[RawMessage]] = {}
        more = False
        waiting = [partition for partition in partitions if self._fetchable and self._is_placed(partition)]
        for place, partition in enumerate(waiting):
            share = min(max(1, limit // (len(waiting) - place)), limit)
            messages = self._broker.read(partition, self._positions[partition], share)
            if messages:
                found[partition] = messages
                limit -= len(messages)
                self._positions[partition] = messages[-1].offset + 1
                more = more or len(messages) == share
            if limit <= 0:
                return found
        if more:
            self._listener.on_arrival()
        return found

    def _is_placed(self, partition: TopicPartition) -> bool:
        log, position = self._broker.log(partition), self._positions.get(partition)
        return log is not None and position is not None and log.first <= position <= log.end

    def misplaced(self) -> frozenset[TopicPartition]:
        return frozenset(
            partition
            for partition in self._positions
            if self._broker.log(partition) is not None and not self._is_placed(partition)
        )

    def confirmation(self) -> None:
        """It cannot be cut off: it lives in the process of its broker."""

    # --- offsets

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        if self._broker.delay:
            await answer(self._broker, timeout)
        if self._member is None:
            raise TransportClosedError("the consumer is closed")
        self._broker.commit(self._member, offsets)

    async def committed(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        if self._broker.delay:
            await answer(self._broker, timeout)
        self._broker.check_connected()
        found = self._broker.committed(self._config.group_id)
        return {partition: found[partition] for partition in partitions if partition in found}

    async def follow(self, topics: Collection[str]) -> None:
        if self._member is None:
            raise TransportClosedError("the consumer is closed")
        self._broker.follow(self._member, topics)

    async def topics(self, timeout: float) -> dict[str, TopicInfo | None]:
        if self._member is None:
            raise TransportClosedError("the consumer is closed")
        return self._broker.topics_of(self._member)

    async def bounds(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> dict[TopicPartition, tuple[int, int]]:
        self._broker.check_connected()
        logs = {partition: self._broker.log(partition) for partition in partitions}
        if missing := [partition for partition, log in logs.items() if log is None]:
            raise TopicNotFoundError(f"{missing[0]} does not exist")
        return {partition: (log.first, log.end) for partition, log in logs.items() if log is not None}

    def assignment(self) -> frozenset[TopicPartition]:
        return self._owned

    def position(self, partition: TopicPartition) -> int | None:
        return self._positions.get(partition)

    def end_offset(self, partition: TopicPartition) -> int | None:
        log = self._broker.log(partition)
        return log.end if log is not None else None

    def held(self) -> Mapping[TopicPartition, str]:
        return {}

    def troubles(self) -> Sequence[str]:
        return ()

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        log = self._broker.log(partition)
        if log is None or partition not in self._owned:
            raise TransportError(f"{partition} is not assigned to this consumer")
        self._positions[partition] = log.first if offset == BEGINNING else log.end if offset == END else offset
        self._listener.on_arrival()

"""The embedded broker: topics with partitions, and consumer groups, in the memory of one process.

Its rules are Kafka's: keys are hashed by murmur2, rebalances are eager and have generations, a commit of an old
generation is refused, a member that holds up a rebalance for too long is evicted. Safe to use from several event
loops and threads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from time import time
from typing import NamedTuple
from uuid import uuid4
from zlib import compress

from ...exceptions import CommitFailedError, MessageTooLargeError, TopicNotFoundError, TransportError
from ...messages import OutgoingMessage, PublishedMessage, RawMessage, TopicPartition
from ...settings import MemorySettings
from ..base import CommittedOffset, ConsumerConfig, TopicInfo

logger = logging.getLogger(__name__)

RECORD_OVERHEAD = 70
"""Bytes a message takes beside its key, value and headers: what Kafka counts for a batch of one."""
REBALANCE_RESERVE = 5.0
"""Seconds beyond its drain timeout after which a member that does not give up its partitions is evicted."""


class Log:
    """One partition: messages in offset order, the oldest of which may have been dropped."""

    def __init__(self) -> None:
        self.first = 0  # offset of the oldest message that is kept
        self.messages: list[RawMessage] = []
        self.watchers: dict[Member, None] = {}  # members that own it

    @property
    def end(self) -> int:
        return self.first + len(self.messages)

    def append(self, message: OutgoingMessage, partition: int, retention: int) -> PublishedMessage:
        offset = self.end
        timestamp = int(time() * 1000) if message.timestamp is None else message.timestamp
        self.messages.append(
            RawMessage(message.topic, partition, offset, timestamp, message.key, message.value, message.headers)
        )
        if len(self.messages) > retention:
            dropped = max(1, min(1_000, retention // 10))  # in chunks: dropping moves all that is kept
            del self.messages[:dropped]
            self.first += dropped
        return PublishedMessage(message.topic, partition, offset)

    def read(self, offset: int, limit: int) -> list[RawMessage]:
        start = offset - self.first
        return self.messages[start : start + limit] if start >= 0 else []


class Member:
    """What the broker knows of one member of a group, and how it calls it."""

    def __init__(self, config: ConsumerConfig, call: Callable[[], None], arrived: Callable[[], None]) -> None:
        self.config = config
        self.followed = frozenset(config.followed)  # beside what the config says
        self.loop = asyncio.get_running_loop()
        self.generation = -1  # -1: not a member
        self.assigned: frozenset[TopicPartition] = frozenset()
        self._thread = threading.get_ident()
        self._call = call
        self._arrived = arrived

    def call(self) -> bool:
        """Tells the member to look at its group. False: there is nobody any more."""
        return self._on_its_loop(self._call)

    def arrived(self) -> None:
        """Tells the member that there are new messages."""
        self._on_its_loop(self._arrived)

    def _on_its_loop(self, function: Callable[[], None]) -> bool:
        if threading.get_ident() == self._thread and not self.loop.is_closed():
            function()
            return True
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop was closed without a goodbye
            return False
        return True


class Assignment(NamedTuple):
    """What a member is to do: give up all it has, or take what it was given."""

    generation: int
    partitions: frozenset[TopicPartition] | None  # None: give up


class Group:
    """One consumer group."""

    def __init__(self) -> None:
        self.generation = 0
        self.preparing = False  # a rebalance is on its way
        self.members: dict[Member, None] = {}
        self.given_up: set[Member] = set()  # members that wait for the new assignment
        self.committed: dict[TopicPartition, CommittedOffset] = {}


class MemoryBroker:
    """Topics and groups. No method waits."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._topics: dict[str, list[Log]] = {}
        self._ids: dict[str, bytes] = {}  # of the topics; a new one for each that is made
        self._groups: dict[str, Group] = {}
        self._turns: dict[str, int] = {}  # of messages without a key, per topic
        self._refused: set[str] = set()
        self.connected = True

    # --- topics

    def create_topics(self, topics: Mapping[str, int]) -> None:
        with self._lock:
            self._check_connected()
            new = [name for name in topics if name not in self._topics]
            for name in new:
                self._topics[name] = [Log() for _ in range(topics[name])]
                self._ids[name] = uuid4().bytes
            self._rebalance_followers(new)

    def create_partitions(self, topic: str, count: int) -> None:
        """The topic has `count` partitions from now on."""
        with self._lock:
            self._check_connected()
            logs = self._topics[topic]
            logs.extend(Log() for _ in range(count - len(logs)))
            self._rebalance_followers([topic])

    def delete_messages(self, partition: TopicPartition, before: int) -> None:
        """Drops those with a lower offset, as retention does."""
        with self._lock:
            log = self._topics[partition.topic][partition.partition]
            dropped = min(before, log.end) - log.first
            if dropped > 0:
                del log.messages[:dropped]
                log.first += dropped

    def _rebalance_followers(self, topics: Collection[str]) -> None:
        for group in self._groups.values():
            if any(_follows(member, name) for member in group.members for name in topics):
                self._rebalance(group)

    def topics_of(self, member: Member) -> dict[str, TopicInfo | None]:
        """What the member follows; None for a topic that does not exist."""
        with self._lock:
            self._check_connected()
            matching = [name for name in self._topics if _follows(member, name)]
            named = () if member.config.pattern is not None else (*member.config.topics, *member.followed)
            return {name: self._info(name) for name in {*matching, *named}}

    def _info(self, topic: str) -> TopicInfo | None:
        logs = self._topics.get(topic)
        return TopicInfo(self._ids[topic], len(logs)) if logs is not None else None

    def delete_topics(self, topics: Collection[str]) -> None:
        """What is in them is gone, and so is what groups have committed for them."""
        with self._lock:
            self._check_connected()
            gone = [name for name in topics if self._topics.pop(name, None) is not None]
            for group in self._groups.values():
                for place in [place for place in group.committed if place.topic in gone]:
                    del group.committed[place]
            self._rebalance_followers(gone)

    def delete_records(self, topic: str) -> None:
        """Purges the topic: its partitions begin where they end."""
        with self._lock:
            for log in self._topics[topic]:
                log.first = log.end
                log.messages.clear()

    def partition_counts(self, topics: Collection[str] | None) -> dict[str, int]:
        with self._lock:
            self._check_connected()
            names = self._topics if topics is None else topics
            return {name: len(self._topics[name]) for name in names if name in self._topics}

    def append(
        self,
        messages: Iterable[OutgoingMessage],
        settings: MemorySettings,
        size: Callable[[OutgoingMessage], int] | None = None,
    ) -> list[PublishedMessage | Exception]:
        """`size`: by what a message is measured; None: `size_of`."""
        with self._lock:
            self._check_connected()
            return [self._append(message, settings, size or size_of) for message in messages]

    def _append(
        self, message: OutgoingMessage, settings: MemorySettings, size: Callable[[OutgoingMessage], int]
    ) -> PublishedMessage | Exception:
        logs = self._topics.get(message.topic)
        problem = self._problem(message, logs, settings, size)
        if problem is not None or logs is None:
            return problem or TopicNotFoundError(f"topic {message.topic} does not exist")
        partition = self._choose(message, len(logs)) if message.partition is None else message.partition
        log = logs[partition]
        published = log.append(message, partition, settings.retention_messages)
        for member in log.watchers:
            member.arrived()
        return published

    def _problem(
        self,
        message: OutgoingMessage,
        logs: Collection[Log] | None,
        settings: MemorySettings,
        size: Callable[[OutgoingMessage], int],
    ) -> TransportError | None:
        if message.topic in self._refused:
            return TransportError(f"messages to {message.topic} are refused")
        if logs is None:
            return TopicNotFoundError(f"topic {message.topic} does not exist")
        if message.partition is not None and not 0 <= message.partition < len(logs):
            return TransportError(f"topic {message.topic} has no partition {message.partition}")
        if (measured := size(message)) > settings.max_message_bytes:
            return MessageTooLargeError(
                f"a message to {message.topic} has {measured} bytes, more than memory.max_message_bytes"
            )
        return None

    def _choose(self, message: OutgoingMessage, count: int) -> int:
        if message.key is not None:
            return partition_for(message.key, count)
        turn = self._turns[message.topic] = self._turns.get(message.topic, -1) + 1
        return turn % count

    def log(self, partition: TopicPartition) -> Log | None:
        logs = self._topics.get(partition.topic, ())
        return logs[partition.partition] if partition.partition < len(logs) else None

    def read(self, partition: TopicPartition, offset: int, limit: int) -> list[RawMessage]:
        with self._lock:
            log = self.log(partition)
            return log.read(offset, limit) if log is not None and self.connected else []

    # --- groups

    def join(self, member: Member) -> None:
        with self._lock:
            self._check_connected()
            group = self._groups.setdefault(member.config.group_id, Group())
            group.members[member] = None
            self._rebalance(group)

    def leave(self, member: Member) -> None:
        with self._lock:
            group = self._groups[member.config.group_id]
            if member in group.members:
                self._remove(group, member)
                self._rebalance(group)

    def follow(self, member: Member, topics: Collection[str]) -> None:
        """Besides those of its config, the member follows these topics."""
        with self._lock:
            changed = member.followed ^ frozenset(topics)
            member.followed = frozenset(topics)
            group = self._groups[member.config.group_id]
            if member in group.members and member.config.pattern is None and changed:
                self._rebalance(group)

    def rebalance(self, group_id: str) -> None:
        """All members give up what they have, and get it anew."""
        with self._lock:
            self._rebalance(self._groups[group_id])

    def task_of(self, member: Member) -> Assignment | None:
        """What the member has to do now; None: wait for the others."""
        with self._lock:
            group = self._groups[member.config.group_id]
            if member in group.members and group.preparing and member in group.given_up:
                return None
            outside = member not in group.members or group.preparing
            return Assignment(member.generation, None if outside else member.assigned)

    def give_up(self, member: Member) -> None:
        """The member has let go of its partitions and waits for the new ones. One that was evicted joins again."""
        with self._lock:
            group = self._groups[member.config.group_id]
            if member not in group.members:
                group.members[member] = None
                self._rebalance(group)
            group.given_up.add(member)
            self._complete(group)

    def evict_laggards(self, group_id: str) -> None:
        """Goes on without those that have not given up their partitions in time."""
        with self._lock:
            group = self._groups[group_id]
            for member in [member for member in group.members if group.preparing and member not in group.given_up]:
                logger.warning("a member of %s held up a rebalance for too long and is evicted", group_id)
                self._remove(group, member)
                member.call()
            self._complete(group)

    def is_preparing(self, group_id: str) -> bool:
        return self._groups[group_id].preparing

    def _rebalance(self, group: Group) -> None:
        if not group.preparing:
            group.preparing = True
            group.given_up.clear()
        for member in list(group.members):
            if member not in group.given_up and not member.call():
                self._remove(group, member)
        self._complete(group)

    def _remove(self, group: Group, member: Member) -> None:
        group.members.pop(member, None)
        group.given_up.discard(member)
        self._unwatch(member)
        member.generation, member.assigned = -1, frozenset()

    def _complete(self, group: Group) -> None:
        if not group.preparing or not group.given_up.issuperset(group.members):
            return
        group.preparing = False
        group.generation += 1
        for member, partitions in self._distribute(list(group.members)).items():
            self._unwatch(member)
            member.generation, member.assigned = group.generation, frozenset(partitions)
            for partition in partitions:
                if (log := self.log(partition)) is not None:
                    log.watchers[member] = None
            member.call()

    def _unwatch(self, member: Member) -> None:
        for partition in member.assigned:
            if (log := self.log(partition)) is not None:
                log.watchers.pop(member, None)

    def _distribute(self, members: list[Member]) -> dict[Member, list[TopicPartition]]:
        """As evenly as the subscriptions allow."""
        given: dict[Member, list[TopicPartition]] = {member: [] for member in members}
        for topic in sorted(self._topics):
            interested = [member for member in members if _follows(member, topic)]
            for partition in range(len(self._topics[topic]) if interested else 0):
                poorest = min(interested, key=lambda member: len(given[member]))
                given[poorest].append(TopicPartition(topic, partition))
        return given

    # --- offsets

    def commit(self, member: Member, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Raises `CommitFailedError` unless the member is one of the current generation.

        As on Kafka, what concerns existing topics is committed also where that of others raises `TopicNotFoundError`.
        """
        with self._lock:
            self._check_connected()
            group = self._groups[member.config.group_id]
            if member not in group.members or member.generation != group.generation:
                raise CommitFailedError(f"group {member.config.group_id} went on without this member")
            known = {place: offset for place, offset in offsets.items() if self.log(place) is not None}
            group.committed.update(known)
            if len(known) < len(offsets):
                raise TopicNotFoundError("a topic that was committed for does not exist")

    def committed(self, group_id: str) -> dict[TopicPartition, CommittedOffset]:
        with self._lock:
            group = self._groups.get(group_id)
            return dict(group.committed) if group is not None else {}

    # --- faults

    def disconnect(self) -> None:
        """The broker cannot be reached until `reconnect`."""
        self.connected = False

    def reconnect(self) -> None:
        with self._lock:
            self.connected = True
            for logs in self._topics.values():
                for member in {member for log in logs for member in log.watchers}:
                    member.arrived()

    def refuse(self, topic: str) -> None:
        """Messages to the topic are refused until `allow`."""
        self._refused.add(topic)

    def allow(self, topic: str) -> None:
        self._refused.discard(topic)

    def check_connected(self) -> None:
        self._check_connected()

    def _check_connected(self) -> None:
        if not self.connected:
            raise TransportError("the broker is disconnected")


def _follows(member: Member, topic: str) -> bool:
    pattern = member.config.pattern
    if pattern is not None:
        return bool(pattern.fullmatch(topic))
    return topic in member.config.topics or topic in member.followed


def size_of(message: OutgoingMessage) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in message.headers)
    return RECORD_OVERHEAD + len(message.key or b"") + len(message.value or b"") + headers


def compressed_size_of(message: OutgoingMessage) -> int:
    """In a batch of its own, where compressing helps."""
    parts = [message.key or b"", message.value or b""]
    for name, value in message.headers:
        parts += name.encode("utf-8", "surrogatepass"), value or b""
    return min(RECORD_OVERHEAD + len(compress(b"".join(parts))), size_of(message))


@lru_cache(4_096)
def partition_for(key: bytes, count: int) -> int:
    """The partition of a key as Kafka's `BuiltInPartitioner.partitionForKey` chooses it."""
    return (murmur2(key) & 0x7FFFFFFF) % count


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed of Kafka's Java client."""
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    result = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * factor & mask
        word = (word ^ (word >> 24)) * factor & mask
        result = (result * factor & mask) ^ word
    if rest := data[whole:]:
        result = (result ^ int.from_bytes(rest, "little")) * factor & mask
    result = (result ^ (result >> 13)) * factor & mask
    return result ^ (result >> 15)

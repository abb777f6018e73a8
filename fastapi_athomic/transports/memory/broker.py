"""The embedded broker: topics with partitions, and consumer groups, in the memory of one process.

Its rules are Kafka's: keys are hashed by murmur2, rebalances are eager and have generations, a commit by a member of an
old generation is refused, a member that holds up a rebalance for too long is evicted. Safe to use from several event
loops and threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from uuid import uuid4

from ...exceptions import MessageTooLargeError, TopicNotFoundError, TransportError
from ...messages import OutgoingMessage, PublishedMessage, RawMessage, TopicPartition
from ...settings import MemorySettings
from ..base import CommittedOffset, TopicInfo
from .groups import Assignment, Group, Member
from .partitioner import partition_for
from .topics import Log, Topics, size_of


class MemoryBroker:
    """Topics and groups. No method waits.

    `connected` is false between `disconnect` and `reconnect`; most methods raise `TransportError` then.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._topics = Topics()
        self._ids: dict[str, bytes] = {}  # of the topics; one that is created again gets a new one
        self._groups: dict[str, Group] = {}
        # by topic: the number of messages without a key, which go to the partitions in turn
        self._turns: dict[str, int] = {}
        self._refused: set[str] = set()
        self.connected = True
        self.delay = 0.0  # seconds until an answer, see `answers`

    # --- topics

    def create_topics(self, topics: Mapping[str, int]) -> None:
        """Creates topics with so many partitions each; leaves existing ones as they are."""
        with self._lock:
            self.check_connected()
            new = [name for name in topics if name not in self._topics]
            for name in new:
                self._topics[name] = [Log() for _ in range(topics[name])]
                self._ids[name] = uuid4().bytes
            self._rebalance_followers(new)

    def create_partitions(self, topic: str, count: int) -> None:
        """The topic has `count` partitions from now on."""
        with self._lock:
            self.check_connected()
            logs = self._topics[topic]
            logs.extend(Log() for _ in range(count - len(logs)))
            self._rebalance_followers([topic])

    def delete_messages(self, partition: TopicPartition, before: int) -> None:
        """Drops the messages with a lower offset than `before`, as retention does."""
        with self._lock:
            log = self._topics[partition.topic][partition.partition]
            log.drop_before(before)
            _call_watchers([log])

    def _rebalance_followers(self, topics: Collection[str]) -> None:
        for group in self._groups.values():
            if any(member.follows(name) for member in group.members for name in topics):
                group.rebalance()

    def topics_of(self, member: Member) -> dict[str, TopicInfo | None]:
        """The topics that the member follows; None for one that does not exist."""
        with self._lock:
            self.check_connected()
            matching = [name for name in self._topics if member.follows(name)]
            named = () if member.config.pattern is not None else (*member.config.topics, *member.followed)
            return {name: self._info(name) for name in {*matching, *named}}

    def _info(self, topic: str) -> TopicInfo | None:
        logs = self._topics.get(topic)
        return TopicInfo(self._ids[topic], len(logs)) if logs is not None else None

    def delete_topics(self, topics: Collection[str]) -> None:
        """Deletes topics with their messages, and what groups have committed for them."""
        with self._lock:
            self.check_connected()
            gone = [name for name in topics if self._topics.pop(name, None) is not None]
            for group in self._groups.values():
                group.forget_topics(gone)
            self._rebalance_followers(gone)

    def delete_records(self, topic: str) -> None:
        """Deletes all messages of the topic; offsets continue from where they were."""
        with self._lock:
            logs = self._topics[topic]
            for log in logs:
                log.drop_before(log.end)
            _call_watchers(logs)

    def partition_counts(self, topics: Collection[str] | None) -> dict[str, int]:
        """The number of partitions of each of these topics that exists. None: of all topics."""
        with self._lock:
            self.check_connected()
            names = self._topics if topics is None else topics
            return {name: len(self._topics[name]) for name in names if name in self._topics}

    def ids_of(self, topics: Collection[str]) -> dict[str, bytes]:
        """The ids of those of these topics that exist."""
        with self._lock:
            return {name: self._ids[name] for name in topics if name in self._topics}

    def append(
        self,
        messages: Iterable[OutgoingMessage],
        settings: MemorySettings,
        size: Callable[[OutgoingMessage], int] | None = None,
    ) -> list[PublishedMessage | Exception]:
        """Appends the messages; one result for each. `size` measures a message; None: `size_of`."""
        with self._lock:
            self.check_connected()
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
        """The partition's log; None if there is no such partition. To be read only."""
        return self._topics.log(partition)

    def read(self, partition: TopicPartition, offset: int, limit: int) -> list[RawMessage]:
        """At most `limit` messages from `offset` on. Empty if the offset is not in the log, and while disconnected."""
        with self._lock:
            log = self.log(partition)
            return log.read(offset, limit) if log is not None and self.connected else []

    # --- groups

    def join(self, member: Member) -> None:
        """Adds the member to its group. A rebalance begins."""
        with self._lock:
            self.check_connected()
            self._groups.setdefault(member.config.group_id, Group(self._topics)).join(member)

    def leave(self, member: Member) -> None:
        """Removes the member from its group. A rebalance begins. Works while disconnected."""
        with self._lock:
            self._group_of(member).leave(member)

    def follow(self, member: Member, topics: Collection[str]) -> None:
        """The member follows these topics besides those of its config, and no others."""
        with self._lock:
            self._group_of(member).follow(member, topics)

    def rebalance(self, group_id: str) -> None:
        """Takes all partitions away from the members of a group, and assigns them again."""
        with self._lock:
            self._groups[group_id].rebalance()

    def task_of(self, member: Member) -> Assignment | None:
        """What the member has to do now; None: nothing, until the others have given up their partitions."""
        with self._lock:
            return self._group_of(member).task_of(member)

    def give_up(self, member: Member) -> None:
        """The member has given up its partitions and waits for new ones. One that was evicted joins again."""
        with self._lock:
            self._group_of(member).give_up(member)

    def evict_laggards(self, group_id: str) -> None:
        """Completes the rebalance without the members that have not given up their partitions."""
        with self._lock:
            self._groups[group_id].evict_laggards()

    def is_preparing(self, group_id: str) -> bool:
        """Whether a rebalance waits for members to give up their partitions."""
        return self._groups[group_id].preparing

    def commit(self, member: Member, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """See `Group.commit`."""
        with self._lock:
            self.check_connected()
            self._group_of(member).commit(member, offsets)

    def committed(self, group_id: str) -> dict[TopicPartition, CommittedOffset]:
        """All that the group has committed."""
        with self._lock:
            group = self._groups.get(group_id)
            return dict(group.committed) if group is not None else {}

    def _group_of(self, member: Member) -> Group:
        return self._groups[member.config.group_id]

    # --- faults

    def disconnect(self) -> None:
        """The broker cannot be reached until `reconnect`."""
        self.connected = False

    def reconnect(self) -> None:
        """The broker can be reached again; members look for messages at once."""
        with self._lock:
            self.connected = True
            for logs in self._topics.values():
                _call_watchers(logs)

    def slow(self, seconds: float) -> None:
        """Each answer takes so long from now on. What was found for a fetch comes at once, all the same."""
        self.delay = seconds

    def refuse(self, topic: str) -> None:
        """Refuses messages to the topic until `allow`."""
        self._refused.add(topic)

    def allow(self, topic: str) -> None:
        """Accepts messages to the topic again."""
        self._refused.discard(topic)

    def check_connected(self) -> None:
        """Raises `TransportError` while disconnected."""
        if not self.connected:
            raise TransportError("the broker is disconnected")


def _call_watchers(logs: Iterable[Log]) -> None:
    for member in {member for log in logs for member in log.watchers}:
        member.arrived()

"""The protocols that every transport implements.

A transport stands for one broker, as one app sees it. It offers a producer, consumers, and a few questions to the
broker. For all of its methods:

- They take and return the types of this module and of `messages`, never those of a client library.
- Errors of the client library are raised as `TransportError`, or the most specific subclass of it.
- A `timeout` is in seconds, and no call takes longer, even if the broker is dead. Calls without one take at most
  `settings.request_timeout`.
- They are called on one event loop: a consumer's on the loop that started it, the transport's and the producer's on
  the loop that called `Transport.start`.

Methods that are not async answer at once, from memory. Health reports call some of them from another thread:
`position`, `end_offset`, `held` and `troubles`.

A new transport is a folder beside `memory` and `kafka`, and needs an entry in each of these places:

- `addresses`: `SCHEMES`, and the check of the URL in `checked_broker_url`.
- `settings`: a section for its own settings, and `AthomicSettings.session_timeout` if its broker evicts silent members.
- `transports.schemes: create_transport`: a case for the scheme.
- `stores.schemes: create_store`, if ordered consumers shall work without a `state_store_url`, as with `memory`.
- `tests/delivery/brokers.py` and `tests/delivery/conftest.py`: the delivery tests then run on it too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from ..messages import OutgoingMessage, PublishedMessage, RawMessage, TopicPartition
from ..rights import Operation

OffsetReset = Literal["earliest", "latest"]
BEGINNING, END = -2, -1
"""What `TransportConsumer.seek` takes in place of an offset. The numbers are those of Kafka's ListOffsets request."""


class CommittedOffset(NamedTuple):
    """What a group has committed for one partition."""

    offset: int  # the next offset to read
    metadata: str = ""  # at most 4,096 bytes in UTF-8 (Kafka's `offset.metadata.max.bytes`)


class TopicPattern(Protocol):
    """Decides by a topic's whole name whether a consumer follows it. A `re.Pattern` is one."""

    @property
    def pattern(self) -> str:
        """A text that identifies the pattern, to people and in comparisons."""
        ...

    def fullmatch(self, topic: str, /) -> object:
        """Something true if the topic is followed."""
        ...


class TopicInfo(NamedTuple):
    """A topic as the broker knows it now."""

    id: bytes  # 16 bytes; a topic that is deleted and created again gets a new one (KIP-516); empty if unknown
    partitions: int
    cluster: bytes = b""  # 8 bytes that identify the cluster; empty if unknown
    denied: frozenset[Operation] = frozenset()  # see `TopicCounts.denied`


class TopicCounts(dict[str, int]):
    """The number of partitions of each topic.

    `ids`: of those whose id is known, as in `TopicInfo`.

    `denied`: by topic, which of Describe, Read and Write the broker's authorizer refuses; topics of which nothing is
    refused, or nothing is known, are left out. Without Describe nobody knows whether the topic exists: it is in
    `denied` only.
    """

    def __init__(
        self,
        counts: Mapping[str, int] = MappingProxyType({}),
        denied: Mapping[str, frozenset[Operation]] | None = None,
        ids: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(counts)
        self.denied = denied or {}
        self.ids = ids or {}

    def denies(self, operation: Operation, topic: str) -> bool:
        """Whether the authorizer refuses the operation, as far as is known."""
        return operation in self.denied.get(topic, ())

    def fits(self, topic: str, info: TopicInfo | None) -> bool:
        """Whether this says of the topic what `info` does; None: that it does not exist."""
        if info is None:
            return topic not in self and topic not in self.denied
        one, other = info.id, self.ids.get(topic, b"")
        same = self.get(topic, 0) == info.partitions and self.denied.get(topic, frozenset()) == info.denied
        return same and (one == other or not one or not other)


class Confirmation(NamedTuple):
    """The broker was asked whether a consumer is a member of its group, and said so."""

    at: float  # when it was asked, on the monotonic clock
    until: float  # the group waits for it: nobody else gets its partitions before then, unless an operator sees to it


class ConsumerConfig(NamedTuple):
    """What a transport needs to know about one consumer."""

    group_id: str
    client_id: str
    topics: tuple[str, ...] = ()  # subscribe to these names ...
    pattern: TopicPattern | None = None  # ... or to every topic that matches
    followed: tuple[str, ...] = ()  # topics to follow besides `topics` from the start, see `TransportConsumer.follow`
    drain_timeout: float = 30.0  # seconds `on_revoked` may take; the group's rebalance timeout must be longer
    group_instance_id: str | None = None  # static membership (KIP-345)
    handler_id: str = ""  # the handler it consumes for; makes static member ids of one app differ
    max_poll_messages: int = 125  # at most this many messages from one `take`


class RebalanceListener(Protocol):
    """Hears from a consumer about its partitions.

    The consumer calls it on its own event loop. `on_assigned` and `on_revoked` never overlap; if one raises, the
    consumer logs that and continues the rebalance.
    """

    def on_arrival(self) -> None:
        """A `take` that found nothing may find messages now, or a `poll` raise an error.

        Also called when a position has moved past what no reader gets to see, and when a partition has become misplaced
        or held. Nobody looks for these by the clock, or only every few seconds. May be called too often. Must not
        raise.
        """

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """The group has assigned these partitions, and no others, to this consumer.

        It calls `seek` for each partition it wants to read. `take` returns nothing before this returns, and nothing
        from a partition that has had no `seek` since.
        """

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """The group is about to take these partitions away.

        The group waits until this returns, but no longer than `drain_timeout` and some reserve. `commit` still works
        meanwhile.
        Not called by `TransportConsumer.stop`.
        """


class TransportConsumer(Protocol):
    """One member of one consumer group. It commits offsets only when told to.

    It is started once. Before `start` and after `stop` its `poll`, `take`, `commit`, `follow` and `topics` raise
    `TransportClosedError`.
    """

    async def start(self) -> None:
        """Connect and subscribe; the assignment comes later, by `on_assigned`.

        Raises `TransportError`, and leaves nothing open then.
        """

    async def stop(self, timeout: float) -> None:
        """Leave the group and close. Never raises; may be called twice.

        Does not call `on_revoked`: drain and commit first.
        """

    def poll(self, wanted: Collection[TopicPartition]) -> None:
        """Call it every few seconds, and before `take`, with the partitions of which messages are wanted.

        Counts as progress for the group membership. Raises `TransportError` if it cannot go on.
        """

    def ready(self) -> Collection[TopicPartition]:
        """Partitions of which `take` may have something; for the listener's `on_arrival`, which may get few at once."""
        ...

    def take(
        self, partitions: Collection[TopicPartition], max_messages: int
    ) -> Mapping[TopicPartition, Sequence[RawMessage]]:
        """The next messages of the given partitions, at most `max_messages` in all, in offset order in each partition.

        Those that have arrived: it does not wait for any. If it returns fewer than `max_messages` although more are
        there, the listener's `on_arrival` is called. Advances the positions of the partitions it returns messages for,
        and keeps what was prefetched for the others. A partition with a long backlog must not starve the others.
        Returns nothing from partitions that are not assigned, are misplaced, or are held. Raises
        `TransportClosedError`.
        """
        ...

    def misplaced(self) -> frozenset[TopicPartition]:
        """Assigned partitions whose position is not in the log: it was deleted, or lies beyond the end.

        `take` returns nothing from them until the next `seek`.
        """
        ...

    async def topics(self, timeout: float) -> Mapping[str, TopicInfo | None]:
        """The topics that this member follows, as the broker knows them now; None for one that does not exist.

        With a pattern: the topics that matched when the broker was asked last. Raises `TransportError`.
        """
        ...

    async def bounds(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        """The first offset that is still in the log, and the end (see `end_offset`), of each partition.

        Asks the broker. Raises `TransportError`.
        """
        ...

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        """Commit these offsets for the group.

        Raises:
            CommitFailedError: the group went on without this member; others may own the partitions by now.
            TopicNotFoundError: one of the topics was deleted. The offsets of the others were committed.
            NotAuthorizedError: it names topics that must not be read. The offsets of the others were committed.
            TransportError: anything else. The offsets may have been committed.
        """

    async def committed(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        """What the group has committed for these partitions. Partitions without a commit are left out.

        Raises `TransportError`.
        """
        ...

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions this member owns now; empty while it is not a member."""
        ...

    def confirmation(self) -> Confirmation | None:
        """The last one. None: it has no partitions, or a member of this broker cannot be cut off from it."""
        ...

    def position(self, partition: TopicPartition) -> int | None:
        """The offset at which `take` continues. None until `seek` has set it.

        It is after every message that `take` has returned, and after everything that no reader gets to see: aborted
        transactions, markers of their ends, and messages that compaction has removed.
        """
        ...

    def end_offset(self, partition: TopicPartition) -> int | None:
        """The end of what may be read, as the broker said last; None if unknown.

        That is the last stable offset: the first message of the oldest open transaction (KIP-98), else the offset
        that the next message will get.
        """
        ...

    def held(self) -> Mapping[TopicPartition, str]:
        """Assigned partitions whose next message cannot be read, and why. `take` goes on with the others."""
        ...

    def troubles(self) -> Sequence[str]:
        """Problems that an operator should look at although consumption goes on, one sentence each."""
        ...

    async def follow(self, topics: Collection[str]) -> None:
        """From now on follow these topics besides `ConsumerConfig.topics`, and no others. They must exist.

        A change causes a rebalance. A member with a pattern looks for new topics at once instead. Raises
        `TransportError`.
        """
        ...

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        """Fetch from `offset` next; `BEGINNING` and `END` stand for the first offset and the end.

        Drops what was prefetched of the partition. Raises `TransportError`, also for a partition that is not assigned.
        """


class TransportProducer(Protocol):
    """Sends messages. The broker acknowledges each when all in-sync replicas have it.

    The producer's own retries write no message twice and change no order.
    """

    async def send(self, messages: Sequence[OutgoingMessage], timeout: float) -> list[PublishedMessage | Exception]:
        """Send, and wait for the acknowledgements. Returns one result per message, in the same order.

        The messages of one call are sent in order and in few requests; one that the broker refuses does not affect
        the others. Never raises for a single message: the result is the error. After `Transport.stop` every result
        is a `TransportClosedError`. A `NotAcknowledgedError` means that the message is still on its way: wait on the
        error; if it is sent again instead, it may be written twice.
        """
        ...

    async def send_alone(self, message: OutgoingMessage, timeout: float) -> PublishedMessage | Exception:
        """Send one message that `send` found too large, compressed and in a batch of its own.

        The broker applies its limit to the compressed batch. The client's own limit (`kafka.max_request_size`) is
        ignored.
        """
        ...


class Transport(Protocol):
    """A broker, as one app sees it. May be started again after `stop`, also on another event loop."""

    scheme: str  # of the broker's URL: "memory", "kafka"
    address: str  # host:port[,host:port] without credentials; the OpenLineage namespace is derived from it

    async def start(self, timeout: float) -> None:
        """Connect, and make everything but consumers ready. Raises `TransportError` if the broker does not answer."""

    async def stop(self, timeout: float) -> None:
        """Flush and close everything. Never raises; may be called twice."""

    async def ping(self, timeout: float) -> None:
        """Check that the broker answers. Raises `TransportError`."""

    async def bounds(self, topic: str, timeout: float) -> dict[int, tuple[int, int]]:
        """The first offset that is still in the log, and the last stable offset, of each partition of a topic.

        Raises `TransportError`; `TopicNotFoundError` if there is no such topic.
        """
        ...

    async def offsets_at(self, topic: str, milliseconds: int, timeout: float) -> dict[int, int]:
        """The first offset of each partition whose message is of that time (since the epoch) or later.

        Partitions in which there is none are left out. Raises as `bounds` does.
        """
        ...

    async def committed(
        self, group_id: str, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        """What a group has committed for these partitions, asked by no member of it. Those without are left out.

        Raises `TransportError`.
        """
        ...

    async def read(self, partition: TopicPartition, offset: int, timeout: float) -> Sequence[RawMessage]:
        """Some messages from `offset` on, without a group; none at the end.

        If messages from `offset` on were deleted, it starts at the first one that is left. Raises `TransportError`.
        """
        ...

    def consumer(self, config: ConsumerConfig, listener: RebalanceListener) -> TransportConsumer:
        """A new group member, not yet started. The caller starts and stops it."""
        ...

    @property
    def producer(self) -> TransportProducer:
        """The one producer; usable between `start` and `stop`."""
        ...

    async def partition_counts(self, topics: Collection[str] | None, timeout: float) -> TopicCounts:
        """The number of partitions of each of these topics, without those that do not exist. None: of all topics.

        A topic that is left out need not be missing: an authorizer may hide it, see `TopicCounts.denied`. Creates no
        topic. Raises `TransportError`.
        """
        ...

    async def create_topics(self, topics: Mapping[str, int], timeout: float) -> None:
        """Create topics with so many partitions each (-1: the broker's default).

        Waits until the broker knows the new topics, but only for some seconds: returns without an error if it does
        not know them by then. Leaves existing topics as they are. Raises `TransportError`.
        """

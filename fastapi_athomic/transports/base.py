"""The protocol every transport keeps.

A transport stands for one broker as one app sees it. Its consumers and its producer know `RawMessage`, never the
types of a client library; errors of the client are mapped to `TransportError` and its subclasses here, at the
boundary. No call blocks for longer than the deadline it states, also when the broker is dead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from ..messages import OutgoingMessage, PublishedMessage, RawMessage, TopicPartition

OffsetReset = Literal["earliest", "latest"]


class CommittedOffset(NamedTuple):
    """What a group has committed for one partition."""

    offset: int  # the next offset to read
    metadata: str = ""  # at most 4,096 bytes in UTF-8 (Kafka's `offset.metadata.max.bytes`)


class TopicPattern(Protocol):
    """Tells by its whole name whether a topic is followed; a `re.Pattern` is one."""

    @property
    def pattern(self) -> str:
        """For people, and to tell one from another."""
        ...

    def fullmatch(self, topic: str, /) -> object: ...


class TopicInfo(NamedTuple):
    """A topic as the broker knows it now."""

    id: bytes  # 16 bytes, others after it was deleted and made anew (KIP-516); empty where the broker tells none
    partitions: int
    cluster: bytes = b""  # 8 bytes that tell its cluster from others; empty where the broker does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerConfig:
    """What a transport needs to know of one consumer."""

    group_id: str
    client_id: str
    topics: tuple[str, ...] = ()  # either names ...
    pattern: TopicPattern | None = None  # ... or what tells them by their names
    followed: tuple[str, ...] = ()  # what is followed at first beside names, see `TransportConsumer.follow`
    drain_timeout: float = 30.0  # seconds `on_revoked` may take; the group's rebalance timeout covers it
    group_instance_id: str | None = None  # static membership (KIP-345)
    handler_id: str = ""  # whose consumer it is; the members of one app are told apart by it
    max_poll_messages: int = 125  # at most this many messages from one `fetch`


class RebalanceListener(Protocol):
    """Told about partitions as the group moves them. Called on the consumer's event loop, one call at a time."""

    def on_arrival(self) -> None:
        """A `fetch` that found nothing may find messages now. Never raises."""

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """These are ours now, all of them.

        Nothing is fetched before this returns, nor from a partition for which `seek` has not said from where.
        """

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """These are about to be given up; `commit` still works. Not called by `TransportConsumer.stop`."""


class TransportConsumer(Protocol):
    """One member of one consumer group. Offsets are committed only when told."""

    async def start(self) -> None:
        """Connect and subscribe. Raises `TransportError`; nothing is left open then."""

    async def stop(self, timeout: float) -> None:
        """Leave the group and close, within `timeout` seconds. Never raises, may be called twice.

        Does not call `on_revoked`: drain and commit first.
        """

    async def fetch(
        self, partitions: Collection[TopicPartition], timeout: float, max_messages: int
    ) -> Mapping[TopicPartition, Sequence[RawMessage]]:
        """Messages of the given assigned partitions in offset order, waiting up to `timeout` seconds for the first.

        Counts as progress for the group membership, also with no partitions (then it gives nothing, at once). What is
        prefetched for other partitions is kept. Raises `TransportError`.
        """
        ...

    def misplaced(self) -> frozenset[TopicPartition]:
        """Partitions whose position is not in the log: it was dropped, or the log ends before it.

        Nothing is fetched from them until the next `seek`.
        """
        ...

    async def topics(self, timeout: float) -> Mapping[str, TopicInfo | None]:
        """The topics that this member follows as the broker knows them now; None for one that does not exist.

        Of a pattern: those that match, as last heard. Raises `TransportError`.
        """
        ...

    async def bounds(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        """The first offset that is kept and the end (see `end_offset`) of each. Raises `TransportError`."""
        ...

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        """Commit.

        Raises `CommitFailedError` when the group went on without us, `TopicNotFoundError` when one of the topics was
        deleted (what concerns the others is committed), `TransportError` else.
        """

    async def committed(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        """What the group has committed; partitions without a commit are absent. Raises `TransportError`."""
        ...

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions this member owns now; empty while it is not a member."""
        ...

    def position(self, partition: TopicPartition) -> int | None:
        """The offset from which `fetch` goes on: past all it gave, and past what no reader is given (the ends of
        transactions, aborted ones, what was compacted away). None until `seek` has said where it is.
        """
        ...

    def end_offset(self, partition: TopicPartition) -> int | None:
        """The end of what may be read, as last heard, if known. Asks nobody.

        That is the last stable offset: the first message of the oldest open transaction (KIP-98), else the offset of
        the next message to come.
        """
        ...

    def held(self) -> Mapping[TopicPartition, str]:
        """Assigned partitions whose next message cannot be read, and why; the others go on. Asks nobody."""
        ...

    def troubles(self) -> Sequence[str]:
        """What somebody should look at though consumption goes on, a sentence each. Asks nobody."""
        ...

    async def follow(self, topics: Collection[str]) -> None:
        """Besides what was subscribed to, follow these topics from now on, and no others. They exist.

        A change moves the group's partitions. Subscribed by a pattern, the member looks for new topics at once instead.
        Raises `TransportError`.
        """
        ...

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        """Fetch from `offset` next; -2 is the beginning, -1 the end. What was prefetched is dropped."""


class TransportProducer(Protocol):
    """Sends messages, acknowledged by all in-sync replicas, without duplicates or reordering by its own retries."""

    async def send(self, messages: Sequence[OutgoingMessage], timeout: float) -> list[PublishedMessage | Exception]:
        """Send and wait for the acknowledgements, at most `timeout` seconds; one result per message, in order.

        The messages of one call are sent in order and in few requests; one that is refused does not touch its
        neighbours. Never raises for a single message; after `stop` every result is a `TransportClosedError`. Of a
        `NotAcknowledgedError` the message is still under way: wait on it, or it may be written twice.
        """
        ...

    async def send_alone(self, message: OutgoingMessage, timeout: float) -> PublishedMessage | Exception:
        """The same for one message that `send` found too large: in a batch of its own, compressed.

        The broker's limit counts the compressed batch; the client's own limit (`kafka.max_request_size`) is not asked.
        """
        ...


class Transport(Protocol):
    """A broker as one app sees it."""

    scheme: str  # "memory", "kafka"
    address: str  # host:port[,host:port] without credentials; the OpenLineage namespace is made of it

    async def start(self, timeout: float) -> None:
        """Make producer and admin client ready. Raises `TransportError` when the broker cannot be reached in time."""

    async def stop(self, timeout: float) -> None:
        """Flush and close everything, within `timeout` seconds.

        Never raises, may be called twice; `start` may follow.
        """

    async def ping(self, timeout: float) -> None:
        """Ask the broker for a sign of life. Raises `TransportError`."""

    async def bounds(self, topic: str, timeout: float) -> dict[int, tuple[int, int]]:
        """The first offset that is kept and the end of each partition, without what is in open transactions.

        Raises `TransportError`.
        """
        ...

    async def read(self, partition: TopicPartition, offset: int, timeout: float) -> Sequence[RawMessage]:
        """Some messages from `offset` on, none at the end. No group's offsets are touched. Raises `TransportError`."""
        ...

    def consumer(self, config: ConsumerConfig, listener: RebalanceListener) -> TransportConsumer:
        """A new group member, not yet started."""
        ...

    @property
    def producer(self) -> TransportProducer: ...

    async def partition_counts(self, topics: Collection[str] | None, timeout: float) -> dict[str, int]:
        """The number of partitions of each topic that exists; absent are those that do not. None: of all topics."""
        ...

    async def create_topics(self, topics: Mapping[str, int], timeout: float) -> None:
        """Create topics with so many partitions each; existing ones are left as they are. Raises `TransportError`."""

"""A broker that others use, too, as one test sees it: its topics and groups have a prefix that nobody sees."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from ..exceptions import AthomicError, TransportError
from ..messages import OutgoingMessage, PublishedMessage, RawMessage, TopicPartition
from ..transports.base import (
    CommittedOffset,
    Confirmation,
    ConsumerConfig,
    RebalanceListener,
    TopicCounts,
    TopicInfo,
    TopicPattern,
    Transport,
    TransportConsumer,
    TransportProducer,
)
from .wrapped import WrappedTransport

logger = logging.getLogger(__name__)

M = TypeVar("M", RawMessage, PublishedMessage, TopicPartition)
V = TypeVar("V")


class Removing(Transport, Protocol):
    """A transport that can remove what a test has left."""

    async def remove(self, topics: Collection[str], groups: Collection[str], timeout: float) -> None:
        """Deletes topics, and groups without members. Raises `TransportError`."""


class Prefix:
    """Maps names, both ways."""

    def __init__(self, text: str) -> None:
        self.text = text

    def put(self, name: str) -> str:
        """The name that the broker knows."""
        return self.text + name

    def strip(self, name: str) -> str:
        """The name that the app knows."""
        return name.removeprefix(self.text)

    def put_all(self, places: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Partitions as the broker knows them."""
        return [TopicPartition(self.put(place.topic), place.partition) for place in places]

    def stripped(self, thing: M) -> M:
        """A message or partition as the app knows it."""
        return thing._replace(topic=self.strip(thing.topic))

    def put_keys(self, by_place: Mapping[TopicPartition, V]) -> dict[TopicPartition, V]:
        """What is said of partitions, as the broker knows them."""
        return {place._replace(topic=self.put(place.topic)): value for place, value in by_place.items()}

    def strip_keys(self, by_place: Mapping[TopicPartition, V]) -> dict[TopicPartition, V]:
        """What is said of partitions, as the app knows them."""
        return {self.stripped(place): value for place, value in by_place.items()}

    def in_text(self, error: V) -> V:
        """The same error, with the app's names in its text."""
        if isinstance(error, AthomicError):
            error.args = tuple(each.replace(self.text, "") if isinstance(each, str) else each for each in error.args)
        return error

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """Errors that leave the `with` block name what the app knows."""
        try:
            yield
        except AthomicError as error:
            self.in_text(error)
            raise


class NamespacedTransport(WrappedTransport):
    """See `Transport`."""

    def __init__(self, inner: Removing, prefix: str) -> None:
        super().__init__(inner)
        self._removing = inner
        self._prefix = Prefix(prefix)
        self._groups: set[str] = set()
        self._producer = _Producer(inner, self._prefix)

    @property
    def producer(self) -> TransportProducer:
        return self._producer

    async def bounds(self, topic: str, timeout: float) -> dict[int, tuple[int, int]]:
        with self._prefix.in_errors():
            return await self.inner.bounds(self._prefix.put(topic), timeout)

    async def offsets_at(self, topic: str, milliseconds: int, timeout: float) -> dict[int, int]:
        with self._prefix.in_errors():
            return await self.inner.offsets_at(self._prefix.put(topic), milliseconds, timeout)

    async def committed(
        self, group_id: str, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        group, places = self._prefix.put(group_id), self._prefix.put_all(partitions)
        with self._prefix.in_errors():
            return self._prefix.strip_keys(await self.inner.committed(group, places, timeout))

    async def read(self, partition: TopicPartition, offset: int, timeout: float) -> Sequence[RawMessage]:
        (place,) = self._prefix.put_all([partition])
        with self._prefix.in_errors():
            return [self._prefix.stripped(each) for each in await self.inner.read(place, offset, timeout)]

    def consumer(self, config: ConsumerConfig, listener: RebalanceListener) -> TransportConsumer:
        prefix, pattern = self._prefix, config.pattern
        mapped = config._replace(
            group_id=prefix.put(config.group_id),
            topics=tuple(map(prefix.put, config.topics)),
            followed=tuple(map(prefix.put, config.followed)),
            pattern=_Pattern(pattern, prefix) if pattern is not None else None,
        )
        self._groups.add(mapped.group_id)
        return _Consumer(self.inner.consumer(mapped, _Listener(listener, prefix)), prefix)

    async def partition_counts(self, topics: Collection[str] | None, timeout: float) -> TopicCounts:
        names = None if topics is None else [self._prefix.put(topic) for topic in topics]
        with self._prefix.in_errors():
            counts = await self.inner.partition_counts(names, timeout)
        return TopicCounts(self._ours(counts), self._ours(counts.denied), self._ours(counts.ids))

    def _ours(self, by_topic: Mapping[str, V]) -> dict[str, V]:
        start = self._prefix.text
        return {self._prefix.strip(topic): each for topic, each in by_topic.items() if topic.startswith(start)}

    async def create_topics(self, topics: Mapping[str, int], timeout: float) -> None:
        with self._prefix.in_errors():
            await self.inner.create_topics({self._prefix.put(topic): topics[topic] for topic in topics}, timeout)

    async def remove_all(self, timeout: float) -> None:
        """Deletes the topics and groups of the test. If that fails, a warning in the log names them."""
        try:
            await self.inner.start(timeout)
            topics = await self.inner.partition_counts(None, timeout)
            ours = [topic for topic in topics if topic.startswith(self._prefix.text)]
            await self._removing.remove(ours, self._groups, timeout)
        except TransportError as error:
            logger.warning("topics and groups that begin with %s could not be removed: %s", self._prefix.text, error)
        finally:
            await self.inner.stop(timeout)


class _Producer:
    """See `TransportProducer`."""

    def __init__(self, transport: Transport, prefix: Prefix) -> None:
        self._transport, self._prefix = transport, prefix

    async def send(self, messages: Sequence[OutgoingMessage], timeout: float) -> list[PublishedMessage | Exception]:
        mapped = [message._replace(topic=self._prefix.put(message.topic)) for message in messages]
        results = await self._transport.producer.send(mapped, timeout)
        return [self._result(result) for result in results]

    async def send_alone(self, message: OutgoingMessage, timeout: float) -> PublishedMessage | Exception:
        mapped = message._replace(topic=self._prefix.put(message.topic))
        return self._result(await self._transport.producer.send_alone(mapped, timeout))

    def _result(self, result: PublishedMessage | Exception) -> PublishedMessage | Exception:
        return self._prefix.in_text(result) if isinstance(result, Exception) else self._prefix.stripped(result)


class _Pattern:
    """See `TopicPattern`: fits the names with the prefix only."""

    def __init__(self, inner: TopicPattern, prefix: Prefix) -> None:
        self._inner, self._prefix = inner, prefix

    @property
    def pattern(self) -> str:
        return self._prefix.put(self._inner.pattern)

    def fullmatch(self, topic: str, /) -> object:
        return topic.startswith(self._prefix.text) and self._inner.fullmatch(self._prefix.strip(topic))


class _Listener:
    """See `RebalanceListener`."""

    def __init__(self, inner: RebalanceListener, prefix: Prefix) -> None:
        self._inner, self._prefix = inner, prefix
        self.on_arrival = inner.on_arrival

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        await self._inner.on_assigned(frozenset(map(self._prefix.stripped, partitions)))

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        await self._inner.on_revoked(frozenset(map(self._prefix.stripped, partitions)))


class _Consumer:
    """See `TransportConsumer`."""

    def __init__(self, inner: TransportConsumer, prefix: Prefix) -> None:
        self._inner, self._prefix = inner, prefix

    async def start(self) -> None:
        with self._prefix.in_errors():
            await self._inner.start()

    async def stop(self, timeout: float) -> None:
        await self._inner.stop(timeout)

    def poll(self, wanted: Collection[TopicPartition]) -> None:
        with self._prefix.in_errors():
            self._inner.poll(self._prefix.put_all(wanted))

    def ready(self) -> Collection[TopicPartition]:
        return list(map(self._prefix.stripped, self._inner.ready()))

    def take(
        self, partitions: Collection[TopicPartition], max_messages: int
    ) -> Mapping[TopicPartition, Sequence[RawMessage]]:
        with self._prefix.in_errors():
            found = self._inner.take(self._prefix.put_all(partitions), max_messages)
        return {
            self._prefix.stripped(place): [self._prefix.stripped(message) for message in messages]
            for place, messages in found.items()
        }

    def misplaced(self) -> frozenset[TopicPartition]:
        return frozenset(map(self._prefix.stripped, self._inner.misplaced()))

    def confirmation(self) -> Confirmation | None:
        return self._inner.confirmation()

    async def topics(self, timeout: float) -> Mapping[str, TopicInfo | None]:
        with self._prefix.in_errors():
            found = await self._inner.topics(timeout)
        return {self._prefix.strip(topic): info for topic, info in found.items()}

    async def bounds(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        with self._prefix.in_errors():
            return self._prefix.strip_keys(await self._inner.bounds(self._prefix.put_all(partitions), timeout))

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float) -> None:
        with self._prefix.in_errors():
            await self._inner.commit(self._prefix.put_keys(offsets), timeout)

    async def committed(
        self, partitions: Collection[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        with self._prefix.in_errors():
            return self._prefix.strip_keys(await self._inner.committed(self._prefix.put_all(partitions), timeout))

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(map(self._prefix.stripped, self._inner.assignment()))

    def position(self, partition: TopicPartition) -> int | None:
        (place,) = self._prefix.put_all([partition])
        return self._inner.position(place)

    def end_offset(self, partition: TopicPartition) -> int | None:
        (place,) = self._prefix.put_all([partition])
        return self._inner.end_offset(place)

    def held(self) -> Mapping[TopicPartition, str]:
        held = self._prefix.strip_keys(self._inner.held())
        return {place: why.replace(self._prefix.text, "") for place, why in held.items()}

    def troubles(self) -> Sequence[str]:
        return [trouble.replace(self._prefix.text, "") for trouble in self._inner.troubles()]

    async def follow(self, topics: Collection[str]) -> None:
        with self._prefix.in_errors():
            await self._inner.follow([self._prefix.put(topic) for topic in topics])

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        (place,) = self._prefix.put_all([partition])
        with self._prefix.in_errors():
            await self._inner.seek(place, offset)

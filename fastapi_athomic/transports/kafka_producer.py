"""Publishing to Apache Kafka: acknowledged by all in-sync replicas, idempotent."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from inspect import unwrap
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, OutOfOrderSequenceNumber, for_code
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.protocol.produce import ProduceRequest

from ..exceptions import MessageTooLargeError, TopicNotFoundError, TransportClosedError, TransportError
from ..messages import OutgoingMessage, PublishedMessage, TopicPartition
from ..settings import AthomicSettings
from .kafka_client import KafkaClient
from .kafka_connection import close_client, milliseconds, open_client, retrieve, translate, within
from .kafka_records import encode_record

logger = logging.getLogger(__name__)

MAX_BATCH_BYTES = 131_072
"""Bytes of messages of one partition that go in one batch. What the broker refuses, it refuses with its whole batch."""
SHARED = ""
"""The client of all topics that have one in common."""
METADATA_PAUSE = 0.05
"""Seconds until the brokers are asked again for a topic that was just created."""
ALL_REPLICAS = -1

REFUSALS = (MessageSizeTooLargeError, OutOfOrderSequenceNumber)
"""Errors after which aiokafka's idempotent producer fails for ever on the partition. Nothing was written."""

Result = PublishedMessage | Exception


class Client(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka is not typed
    """aiokafka's producer as it is without automatic instrumentation, which wraps the methods of its class.

    Around a publish there is a span already, and its headers are in the message: theirs would be second ones. The
    clients that an app makes itself stay instrumented.
    """

    send = unwrap(AIOKafkaProducer.send)


class KafkaProducer:
    """See `TransportProducer`.

    When the broker refuses a batch as too large, the client is replaced and the messages are sent again one by one:
    only the one that is too large fails. Its topic gets a client of its own, so that others do not share its fate
    again.
    """

    def __init__(self, settings: AthomicSettings, connection: Mapping[str, Any]) -> None:
        self._settings = settings
        self._connection = connection
        self._clients: dict[str, AIOKafkaProducer] = {}
        self._own_client: set[str] = set()  # topics that do not use the shared one
        self._created: set[str] = set()  # topics that exist for sure, though brokers may not have heard of them yet
        self._opening = asyncio.Lock()
        self._closed = True

    async def start(self, timeout: float) -> None:
        """Raises `TransportError`."""
        self._opening = asyncio.Lock()
        self._closed = False
        try:
            await self._client(SHARED, timeout)
        except TransportError:
            self._closed = True
            raise

    async def stop(self, timeout: float) -> None:
        """Flushes and closes within `timeout` seconds."""
        self._closed = True
        clients, self._clients = list(self._clients.values()), {}
        await asyncio.gather(*(close_client(client, timeout) for client in clients))

    def note_created(self, topics: Iterable[str]) -> None:
        """These topics exist: wait for them."""
        self._created.update(topics)

    async def send(self, messages: Sequence[OutgoingMessage], timeout: float) -> list[Result]:
        end = monotonic() + timeout
        results: list[Result | None] = [None] * len(messages)
        refused = await self._send(list(range(len(messages))), messages, results, end)
        for index in refused:
            await self._send_alone(index, messages, results, end)
        return [result or TransportError("not sent") for result in results]

    # --- one attempt

    async def _send(
        self, indexes: Collection[int], messages: Sequence[OutgoingMessage], results: list[Result | None], end: float
    ) -> list[int]:
        """Sends these messages and fills in what became of them. Gives those that were refused with their batch."""
        futures: dict[int, asyncio.Future[Any]] = {}
        used: dict[int, tuple[str, AIOKafkaProducer]] = {}
        known: set[tuple[str, int | None]] = set()
        for index in indexes:
            message = messages[index]
            try:
                name = message.topic if message.topic in self._own_client else SHARED
                client = self._clients.get(name) or await self._client(name, end - monotonic())
                if (place := (message.topic, message.partition)) not in known:
                    await self._wait_for_topic(client, *place, end)
                    known.add(place)
                used[index] = (name, client)
                futures[index] = await self._enqueue(client, message, end)
            except TransportError as error:
                results[index] = error
        if futures:
            await asyncio.wait(set(futures.values()), timeout=max(0.0, end - monotonic()))
        refused = []
        for index, future in futures.items():
            if future.done() and not future.cancelled() and isinstance(future.exception(), REFUSALS):
                refused.append(index)
                await self._replace(*used[index], messages[index].topic)
            results[index] = _result(future, messages[index])
        return refused

    async def _enqueue(self, client: AIOKafkaProducer, message: OutgoingMessage, end: float) -> asyncio.Future[Any]:
        partitions = client.client.cluster.partitions_for_topic(message.topic) or ()
        if message.partition is not None and message.partition not in partitions:
            raise TransportError(f"topic {message.topic} has no partition {message.partition}")
        if not _is_usual(message):
            return asyncio.ensure_future(self._send_unusual(client, message, end))
        doing = f"sending to {message.topic}"
        try:
            async with asyncio.timeout(max(0.0, end - monotonic())):
                future: asyncio.Future[Any] = await client.send(
                    message.topic,
                    message.value,
                    message.key,
                    message.partition,
                    message.timestamp,
                    list(message.headers),
                )
        except MessageSizeTooLargeError:  # by the client itself: nothing was sent
            limit = self._settings.kafka.max_request_size
            raise MessageTooLargeError(
                f"{doing}: the message is larger than kafka.max_request_size ({limit})"
            ) from None
        except TimeoutError:
            raise TransportError(f"{doing}: no room to send within the time allowed") from None
        except KafkaError as error:
            raise translate(error, doing) from error
        future.add_done_callback(retrieve)
        return future

    async def _send_alone(
        self, index: int, messages: Sequence[OutgoingMessage], results: list[Result | None], end: float
    ) -> None:
        if monotonic() < end and not self._closed:
            await self._send([index], messages, results, end)

    async def _wait_for_topic(self, client: AIOKafkaProducer, topic: str, partition: int | None, end: float) -> None:
        """Returns when the client knows the topic. Raises `TopicNotFoundError`.

        A partition that it does not know may have been added since it asked: it asks again, once.
        """
        cluster = client.client.cluster
        known = cluster.partitions_for_topic(topic)
        if partition is not None and known is not None and partition not in known:
            await within(client.client.force_metadata_update(), end - monotonic(), f"asking for topic {topic}")
        while cluster.partitions_for_topic(topic) is None:
            client.client.add_topic(topic)
            await within(client.client.force_metadata_update(), end - monotonic(), f"asking for topic {topic}")
            if cluster.partitions_for_topic(topic) is not None:
                return
            if topic in cluster.unauthorized_topics:
                raise TransportError(f"topic {topic}: not authorized")
            if topic not in self._created or monotonic() > end:
                raise TopicNotFoundError(f"topic {topic} does not exist")
            await asyncio.sleep(METADATA_PAUSE)

    # --- clients

    async def _client(self, name: str, timeout: float) -> AIOKafkaProducer:
        async with self._opening:
            if self._closed:
                raise TransportClosedError("the producer is closed")
            client = self._clients.get(name)
            if client is None:
                client = Client(**self._options())
                client.client.__class__ = KafkaClient
                await open_client(client, max(0.0, timeout), "connecting the producer")
                self._clients[name] = client
            return client

    async def _replace(self, name: str, client: AIOKafkaProducer, topic: str) -> None:
        """The client has had a batch refused: it is no good any more."""
        self._own_client.add(topic)
        if self._clients.get(name) is client:
            logger.warning("a batch to %s was refused, its client is replaced", topic)
            del self._clients[name]
            await close_client(client, self._settings.request_timeout)

    def _options(self) -> dict[str, Any]:
        kafka = self._settings.kafka
        return {
            **self._connection,
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": None if kafka.compression_type == "none" else kafka.compression_type,
            "linger_ms": round(kafka.linger * 1000),
            "max_batch_size": min(MAX_BATCH_BYTES, kafka.max_request_size),
            "max_request_size": kafka.max_request_size,
        }

    # --- what aiokafka's producer does not take

    async def _send_unusual(self, client: AIOKafkaProducer, message: OutgoingMessage, end: float) -> Any:
        """A message with neither key nor value, or with a header name that is not UTF-8: in a request of its own."""
        doing = f"sending to {message.topic}"
        limit = self._settings.kafka.max_request_size
        batch = encode_record(message, limit)
        if batch is None:
            raise MessageTooLargeError(f"{doing}: the message is larger than kafka.max_request_size ({limit})")
        partition = _partition(client, message)
        while True:
            offset = await within(self._produce(client, message.topic, partition, batch), end - monotonic(), doing)
            if offset is not None:
                return PublishedMessage(message.topic, partition, offset)
            await asyncio.sleep(METADATA_PAUSE)
            await within(client.client.force_metadata_update(), end - monotonic(), doing)

    async def _produce(self, client: AIOKafkaProducer, topic: str, partition: int, batch: bytes) -> int | None:
        """The offset; None: the leader has moved, try again."""
        leader = client.client.cluster.leader_for_partition(TopicPartition(topic, partition))
        if leader is None or leader == -1:
            return None
        timeout = milliseconds(self._settings.kafka.request_timeout)
        request = ProduceRequest(None, ALL_REPLICAS, timeout, [(topic, [(partition, batch)])])
        response = await client.client.send(leader, request)
        ((_, ((_, code, offset, *_),)),) = response.topics
        error = for_code(code)
        if code and error.retriable:
            return None
        if code:
            raise error()
        return int(offset)


def _result(future: asyncio.Future[Any], message: OutgoingMessage) -> Result:
    doing = f"sending to {message.topic}"
    if not future.done():
        return TransportError(f"{doing}: not acknowledged in time; it may be written later")
    if future.cancelled():
        return TransportClosedError(f"{doing}: the producer was closed")
    error = future.exception()
    if error is not None:
        return translate(error, doing)
    done = future.result()
    return done if isinstance(done, PublishedMessage) else PublishedMessage(done.topic, done.partition, done.offset)


def _partition(client: AIOKafkaProducer, message: OutgoingMessage) -> int:
    if message.partition is not None:
        return message.partition
    partitions = sorted(client.client.cluster.partitions_for_topic(message.topic))
    if message.key is None:
        return int(random.choice(partitions))
    return int(DefaultPartitioner()(message.key, partitions, partitions))


def _is_usual(message: OutgoingMessage) -> bool:
    return not (message.key is None and message.value is None) and all(map(_is_utf8, (n for n, _ in message.headers)))


def _is_utf8(name: str) -> bool:
    """Names that came as other bytes hold surrogates, see `kafka_records`."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)

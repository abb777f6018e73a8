"""The producer of `kafka://`: idempotent, acknowledged by all in-sync replicas."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any

from aiokafka.errors import (
    BrokerResponseError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFenced,
)
from aiokafka.partitioner import DefaultPartitioner

from ...exceptions import (
    MessageTooLargeError,
    NotAcknowledgedError,
    NotAuthorizedError,
    TopicNotFoundError,
    TransportClosedError,
    TransportError,
)
from ...messages import OutgoingMessage, PublishedMessage
from ...rights import missing_right
from ...settings import AthomicSettings
from .boundary import AUTHORIZATION_ERRORS, retrieve, translate, within
from .producer_clients import Client, ProducerClients
from .single import SingleWriter

METADATA_PAUSE = 0.05
"""Seconds between two metadata requests for a topic that was just created, or while no broker answers."""
NO_REFUSALS = (*AUTHORIZATION_ERRORS, InvalidTopicError)
"""Errors that concern the whole topic, so the batch is not to blame, and the client can still be used."""

Result = PublishedMessage | Exception


class KafkaProducer:
    """See `TransportProducer`.

    If the broker refuses a batch (it is too large, or a key is missing in a compacted topic), `SingleWriter` sends its
    messages again one by one, so that only the one to blame fails. aiokafka's client is useless then: it is replaced,
    and the topic gets a client of its own, so that other topics do not suffer the next time.
    """

    def __init__(self, settings: AthomicSettings, connection: Mapping[str, Any]) -> None:
        self._settings = settings
        self._clients = ProducerClients(settings, connection)
        self._created: set[str] = set()  # topics that exist, though some brokers may not know them yet
        self._single = SingleWriter(settings.kafka.request_timeout)

    async def start(self, timeout: float) -> None:
        """Raises `TransportError`."""
        self._single = SingleWriter(self._settings.kafka.request_timeout)
        await self._clients.start(timeout)

    async def stop(self, timeout: float) -> None:
        """Flushes and closes within `timeout` seconds."""
        await self._clients.stop(timeout)

    def note_created(self, topics: Iterable[str]) -> None:
        """These topics were just created: `send` waits until the brokers know them."""
        self._created.update(topics)

    async def send(self, messages: Sequence[OutgoingMessage], timeout: float) -> list[Result]:
        end = monotonic() + timeout
        results: list[Result | None] = [None] * len(messages)
        refused = await self._send(list(range(len(messages))), messages, results, end)
        for index in refused:
            if monotonic() < end and not self._clients.closed:
                results[index] = await self._send_single(messages[index], end, self._settings.kafka.compression_type)
        return [result or TransportError("not sent") for result in results]

    async def send_alone(self, message: OutgoingMessage, timeout: float) -> Result:
        return await self._send_single(message, monotonic() + timeout, "gzip")  # the one codec that Python always has

    # --- one attempt

    async def _send(
        self, indexes: Collection[int], messages: Sequence[OutgoingMessage], results: list[Result | None], end: float
    ) -> list[int]:
        """Sends these messages and fills in their results. Returns the indexes of those whose batch was refused."""
        futures: dict[int, asyncio.Future[Any]] = {}
        used: dict[int, Client] = {}
        known: set[tuple[str, int | None]] = set()
        missing: dict[tuple[str, int | None], TransportError] = {}  # looked up once, however many messages go there
        for index in indexes:
            message = messages[index]
            place = message.topic, message.partition
            if place in missing:
                results[index] = missing[place]
                continue
            try:
                client = self._clients.opened(message.topic) or await self._clients.of(message.topic, end - monotonic())
                if place not in known:
                    await self._wait_for_topic(client, *place, end)
                    known.add(place)
                used[index] = client
                futures[index] = await self._enqueue(client, message, end)
            except TransportError as error:
                results[index] = error
                if place not in known:
                    missing[place] = error
                await self._clients.replace_dead(message.topic)
        if futures:
            await asyncio.wait(set(futures.values()), timeout=max(0.0, end - monotonic()))
        refused = []
        for index, future in futures.items():
            if _is_refused(future):
                refused.append(index)
                await self._clients.replace(used[index], messages[index].topic)
            results[index] = self._outcome(used[index], future, messages[index])
        return refused

    async def _enqueue(self, client: Client, message: OutgoingMessage, end: float) -> asyncio.Future[Any]:
        _check_partition(client, message)
        doing = f"sending to {message.topic}"
        if not _is_usual(message):
            return asyncio.ensure_future(within(self._send_unusual(client, message), end - monotonic(), doing, "Write"))
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
        except MessageSizeTooLargeError:  # raised by the client, before it sent anything
            limit = self._settings.kafka.max_request_size
            raise MessageTooLargeError(
                f"{doing}: the message is larger than kafka.max_request_size ({limit})"
            ) from None
        except TimeoutError:
            raise TransportError(f"{doing}: the send buffer was full for the time allowed") from None
        except KafkaError as error:
            raise translate(error, doing, "Write") from error
        future.add_done_callback(retrieve)
        return future

    async def _send_single(self, message: OutgoingMessage, end: float, compression: str) -> Result:
        try:
            client = await self._clients.of(message.topic, end - monotonic())
            await self._wait_for_topic(client, message.topic, message.partition, end)
            writing = self._write_single(client, message, compression)
            return await within(writing, end - monotonic(), f"sending to {message.topic}", "Write")
        except TransportError as error:
            return error

    async def _write_single(self, client: Client, message: OutgoingMessage, compression: str) -> PublishedMessage:
        partition = _partition(client, message)
        offset = await self._single.write(client.client, message, partition, compression)
        return PublishedMessage(message.topic, partition, offset)

    def _outcome(self, client: Client, future: asyncio.Future[Any], message: OutgoingMessage) -> Result:
        if future.done():
            return _result(future, message)
        doing = f"sending to {message.topic}"
        if not self._clients.has(client):  # its acknowledgement will never come
            return TransportClosedError(f"{doing}: the client was closed before the message was acknowledged")
        wait = partial(self._wait, client, future, message)
        return NotAcknowledgedError(f"{doing}: not acknowledged in time; it may be written later", wait)

    async def _wait(
        self, client: Client, future: asyncio.Future[Any], message: OutgoingMessage, seconds: float
    ) -> Result:
        await asyncio.wait({future}, timeout=seconds)
        return self._outcome(client, future, message)

    async def _wait_for_topic(self, client: Client, topic: str, partition: int | None, end: float) -> None:
        """Returns when the client knows the topic. Raises `TopicNotFoundError`.

        A partition that the client does not know may have been added lately: it asks for metadata again, once.
        """
        cluster = client.client.cluster
        known = cluster.partitions_for_topic(topic)
        if partition is not None and known is not None and partition not in known:
            await within(client.client.force_metadata_update(), end - monotonic(), f"asking for topic {topic}")
        while cluster.partitions_for_topic(topic) is None:
            client.client.add_topic(topic)
            doing = f"asking for topic {topic}"
            if not await within(client.client.force_metadata_update(), end - monotonic(), doing):
                await self._pause(f"{doing}: no broker answers", end)
                continue
            if cluster.partitions_for_topic(topic) is not None:
                return
            if topic in cluster.unauthorized_topics:
                raise NotAuthorizedError(f"sending to {topic}: {missing_right('Write', 'Topic', topic)}", [topic])
            if topic not in self._created or monotonic() > end:
                raise TopicNotFoundError(f"topic {topic} does not exist")
            await asyncio.sleep(METADATA_PAUSE)

    async def _pause(self, problem: str, end: float) -> None:
        """Before the brokers are asked again. Raises `TransportError` if there is no time for that."""
        if self._clients.closed or monotonic() + METADATA_PAUSE >= end:
            raise TransportError(problem)
        await asyncio.sleep(METADATA_PAUSE)

    # --- messages that aiokafka's producer does not take

    async def _send_unusual(self, client: Client, message: OutgoingMessage) -> PublishedMessage:
        """A message with neither key nor value, or with a header name that is not UTF-8."""
        limit = self._settings.kafka.max_request_size
        if _size(message) > limit:
            raise MessageTooLargeError(f"the message is larger than kafka.max_request_size ({limit})")
        return await self._write_single(client, message, self._settings.kafka.compression_type)


def _result(future: asyncio.Future[Any], message: OutgoingMessage) -> Result:
    doing = f"sending to {message.topic}"
    if future.cancelled():
        return TransportClosedError(f"{doing}: the producer was closed")
    error = future.exception()
    if error is not None:
        return translate(error, doing, "Write")
    done = future.result()
    return done if isinstance(done, PublishedMessage) else PublishedMessage(done.topic, done.partition, done.offset)


def _is_refused(future: asyncio.Future[Any]) -> bool:
    """Whether the broker refused the batch. It wrote nothing then; this client cannot write to the partition again."""
    if not future.done() or future.cancelled():
        return False
    error = future.exception()
    refusal = isinstance(error, BrokerResponseError | ProducerFenced) and not error.retriable
    return refusal and not isinstance(error, NO_REFUSALS)


def _check_partition(client: Client, message: OutgoingMessage) -> None:
    partitions = client.client.cluster.partitions_for_topic(message.topic) or ()
    if message.partition is not None and message.partition not in partitions:
        raise TransportError(f"topic {message.topic} has no partition {message.partition}")


def _partition(client: Client, message: OutgoingMessage) -> int:
    _check_partition(client, message)
    if message.partition is not None:
        return message.partition
    partitions = sorted(client.client.cluster.partitions_for_topic(message.topic))
    if message.key is None:
        return int(random.choice(partitions))
    return int(DefaultPartitioner()(message.key, partitions, partitions))


def _size(message: OutgoingMessage) -> int:
    """Bytes, without the little that Kafka adds."""
    headers = sum(len(name) + len(value or b"") for name, value in message.headers)
    return len(message.key or b"") + len(message.value or b"") + headers


def _is_usual(message: OutgoingMessage) -> bool:
    return not (message.key is None and message.value is None) and all(map(_is_utf8, (n for n, _ in message.headers)))


def _is_utf8(name: str) -> bool:
    """Header names that were received as other bytes contain surrogates, see `records`."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)

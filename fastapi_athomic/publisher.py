"""Publishing: encode, inject trace, context and lineage, wait for the broker's acknowledgement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any
from uuid import UUID

from .broker import BrokerConnection
from .exceptions import PayloadUnavailableError, PublishError, TopicNotFoundError, TransportError
from .messages import Headers, OutgoingMessage, PublishedMessage
from .payload.pipeline import PayloadPipeline
from .payload.routing import Payloads
from .payload.steps import Later, Outgoing
from .propagation.headers import HeadersOrchestrator
from .settings import AthomicSettings
from .subscriptions import check_topic
from .transports.base import Transport

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.1
"""Seconds until a payload is tried again that needs something which is away; then twice as long, and so on."""

Key = str | bytes | int | UUID | None
HeaderValue = str | bytes | None
GivenHeaders = Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]] | None


class Publisher:
    """Publishes the messages of one app, from its handlers and from anywhere else."""

    def __init__(
        self,
        transport: Transport,
        connection: BrokerConnection,
        payloads: Payloads,
        orchestrator: HeadersOrchestrator,
        settings: AthomicSettings,
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._payloads = payloads
        self._orchestrator = orchestrator
        self._settings = settings

    async def publish(
        self,
        topic: str,
        message: object,
        *,
        key: Any,
        headers: GivenHeaders,
        partition: int | None,
        payload: PayloadPipeline | None,
    ) -> PublishedMessage:
        """See `Athomic.publish`."""
        check_topic(topic, "publish")
        pipeline = payload or self._payloads.of_topic(topic)
        value, sent = await self._encoded(pipeline, topic, message, key, _headers(headers))
        scope = self._orchestrator.open_publish(topic, sent.headers, value)
        error: BaseException | None = None
        try:
            outgoing = OutgoingMessage(topic, sent.key, value, scope.headers, partition)
            (result,) = await self._send([outgoing])
            if isinstance(result, Exception):
                raise PublishError(f"message to {topic} was not published: {self._reason(result)}") from result
            self._orchestrator.published(scope, result)
            return result
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._orchestrator.close_publish(scope, error)

    async def publish_many(
        self,
        topic: str,
        messages: Iterable[Any],
        *,
        key: Callable[[Any], Any] | None,
        headers: GivenHeaders,
        payload: PayloadPipeline | None,
    ) -> list[PublishedMessage]:
        """See `Athomic.publish_many`."""
        check_topic(topic, "publish_many")
        given = _headers(headers)
        pipeline = payload or self._payloads.of_topic(topic)
        encoded = [
            await self._encoded(pipeline, topic, message, key(message) if key else None, given) for message in messages
        ]
        if not encoded:
            return []
        scope = self._orchestrator.open_publish(topic, given, None, count=len(encoded))
        error: BaseException | None = None
        try:
            own = len(given)  # headers that the pipeline added stand behind these
            results = await self._send(
                [
                    OutgoingMessage(topic, sent.key, value, (*scope.headers, *sent.headers[own:]))
                    for value, sent in encoded
                ]
            )
            return self._all_published(topic, results)
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._orchestrator.close_publish(scope, error)

    async def _encoded(
        self, pipeline: PayloadPipeline, topic: str, message: object, key: Any, headers: Headers
    ) -> tuple[bytes | None, Outgoing]:
        """The bytes of a message, and what travels with them: the bytes of its key, and its headers."""
        outgoing = Outgoing(topic, None, headers)
        outgoing.key = _key(key) if pipeline.key is None else await self._encoded_key(pipeline, key, outgoing)
        value = pipeline.write(message, outgoing)
        return await self._patiently(value) if isinstance(value, Later) else value, outgoing

    async def _encoded_key(self, pipeline: PayloadPipeline, key: Any, outgoing: Outgoing) -> bytes | None:
        if key is None or isinstance(key, bytes):
            return key
        of_key = Outgoing(outgoing.topic, None, outgoing.headers, "key")
        written = pipeline.write_key(key, of_key)
        data = await self._patiently(written) if isinstance(written, Later) else written
        outgoing.headers = of_key.headers
        return data

    async def _patiently(self, later: Later[bytes | None]) -> bytes | None:
        """Waits for something that is needed and away, but no longer than for the broker."""
        end, pause = monotonic() + self._settings.publish_timeout, FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(end - monotonic()):
                    return await later
            except PayloadUnavailableError as error:
                if monotonic() + pause > end:
                    raise
                logger.debug("a publish waits: %s", error)
            except TimeoutError:
                raise PayloadUnavailableError(
                    f"what the payload needs did not answer within {self._settings.publish_timeout:g} s"
                ) from None
            await asyncio.sleep(pause)
            pause *= 2

    async def _send(self, messages: Sequence[OutgoingMessage]) -> list[PublishedMessage | Exception]:
        end = monotonic() + self._settings.publish_timeout
        await self._connection.wait_until_connected(self._settings.publish_timeout)
        results = await self._transport.producer.send(messages, max(0.0, end - monotonic()))
        if self._settings.create_topics and any(isinstance(result, TopicNotFoundError) for result in results):
            return await self._send_after_creating(messages, results, end)
        return results

    async def _send_after_creating(
        self, messages: Sequence[OutgoingMessage], results: list[PublishedMessage | Exception], end: float
    ) -> list[PublishedMessage | Exception]:
        """Creates the missing topics, with the broker's default partition count, and sends their messages again."""
        missed = [index for index, result in enumerate(results) if isinstance(result, TopicNotFoundError)]
        try:
            await self._transport.create_topics(
                {messages[index].topic: -1 for index in missed}, max(0.1, end - monotonic())
            )
        except TransportError as error:
            logger.warning("missing topics could not be created: %s", error)
            for index in missed:  # why it was not created says more than that it is missing
                results[index] = error
            return results
        again = await self._transport.producer.send([messages[index] for index in missed], max(0.1, end - monotonic()))
        for index, result in zip(missed, again, strict=True):
            results[index] = result
        return results

    def _all_published(self, topic: str, results: list[PublishedMessage | Exception]) -> list[PublishedMessage]:
        published = [result for result in results if not isinstance(result, Exception)]
        first = next((result for result in results if isinstance(result, Exception)), None)
        if first is not None:
            lost, all_of = len(results) - len(published), len(results)
            raise PublishError(
                f"{lost} of {all_of} messages to {topic} were not published: {self._reason(first)}"
            ) from first
        return published

    def _reason(self, error: Exception) -> str:
        known = self._connection.last_error
        return str(error) if known is None else f"{error} (the broker cannot be reached: {known})"


def _key(key: Key) -> bytes | None:
    if key is None or isinstance(key, bytes):
        return key
    if isinstance(key, str | int | UUID) and not isinstance(key, bool):
        return str(key).encode()
    raise PublishError(f"a key is bytes, str, int, UUID or None, not {type(key).__name__}")


def _headers(given: GivenHeaders) -> Headers:
    if given is None:
        return ()
    items = given.items() if isinstance(given, Mapping) else given
    return tuple((_header_name(name), _header_value(name, value)) for name, value in items)


def _header_name(name: object) -> str:
    if not isinstance(name, str):
        raise PublishError(f"a header name is a str, not {type(name).__name__}")
    return name


def _header_value(name: str, value: HeaderValue) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise PublishError(f"header {name}: a value is bytes, str or None, not {type(value).__name__}")

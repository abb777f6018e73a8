"""Publishing: encode, inject trace, context and lineage, wait for the broker's acknowledgement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any
from uuid import UUID

from .broker import BrokerConnection
from .complaints import Complaints
from .exceptions import PayloadUnavailableError, PublishError, TopicNotFoundError, TransportError
from .messages import Headers, OutgoingMessage, PublishedMessage
from .payload.pipeline import PayloadPipeline
from .payload.routing import Payloads, checked
from .payload.steps import Later, Outgoing
from .propagation.headers import HeadersOrchestrator
from .settings import AthomicSettings
from .subscriptions import check_topic
from .transports.base import Transport

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds until a payload is tried again that needs something which is away; then twice as long, and so on."""
AT_ONCE = 16
"""So many messages of one `publish_many` are waited for at the same time."""

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
        self._complaints = Complaints(burst=1)

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
        pipeline = self._payloads.of_topic(topic) if payload is None else await self._given(payload)
        value, sent = self._encoded(pipeline, topic, message, key, _headers(headers))
        end = None
        if isinstance(value, Later):
            end = monotonic() + self._settings.publish_timeout
            value = await self._patiently(value, end)
        scope = self._orchestrator.open_publish(topic, sent.headers, value)
        error: BaseException | None = None
        try:
            outgoing = OutgoingMessage(topic, sent.key, value, scope.headers, partition)
            (result,) = await self._send([outgoing], end)
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
        pipeline = self._payloads.of_topic(topic) if payload is None else await self._given(payload)
        started = [
            self._encoded(pipeline, topic, message, key(message) if key else None, given) for message in messages
        ]
        if not started:
            return []
        some_wait = any(isinstance(value, Later) for value, _ in started)
        end = monotonic() + self._settings.publish_timeout if some_wait else None
        encoded = await self._all_there(started, end)
        scope = self._orchestrator.open_publish(topic, given, None, count=len(encoded))
        error: BaseException | None = None
        try:
            results = await self._send(
                [
                    OutgoingMessage(topic, sent.key, value, _joined(scope.headers, given, sent.headers))
                    for value, sent in encoded
                ],
                end,
            )
            return self._all_published(topic, results)
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._orchestrator.close_publish(scope, error)

    async def _given(self, payload: PayloadPipeline) -> PayloadPipeline:
        """The pipeline of one `publish`, ready to be used."""
        pipeline = checked("payload", payload)
        if pipeline.opens:
            await self._payloads.adopt(pipeline, self._settings.request_timeout)
        return pipeline

    def _encoded(
        self, pipeline: PayloadPipeline, topic: str, message: object, key: Any, headers: Headers
    ) -> tuple[bytes | Later[bytes | None] | None, Outgoing]:
        """The bytes of a message, and what travels with them: the bytes of its key, and its headers.

        Headers and key are complete when the bytes are there.
        """
        outgoing = Outgoing(topic, None, headers)
        if pipeline.key is None:
            outgoing.key = _key(key)
        try:
            if pipeline.key is not None and key is not None:
                return self._keyed(pipeline, message, key, outgoing), outgoing
            return pipeline.write(message, outgoing), outgoing
        except PayloadUnavailableError:
            return Later(partial(self._encoded_later, pipeline, message, key, headers, outgoing)), outgoing

    async def _encoded_later(
        self, pipeline: PayloadPipeline, message: object, key: Any, headers: Headers, outgoing: Outgoing
    ) -> bytes | None:
        """The bytes of a message, from the beginning, if what they need was away at once."""
        outgoing.headers = headers
        keyed = pipeline.key is not None and key is not None
        value = self._keyed(pipeline, message, key, outgoing) if keyed else pipeline.write(message, outgoing)
        return await value if isinstance(value, Later) else value

    def _keyed(
        self, pipeline: PayloadPipeline, message: object, key: Any, outgoing: Outgoing
    ) -> bytes | Later[bytes | None] | None:
        of_key = Outgoing(outgoing.topic, None, outgoing.headers, "key")
        written = pipeline.write_key(key, of_key)
        if isinstance(written, Later):
            return Later(partial(self._with_key, written, of_key, pipeline, message, outgoing))
        outgoing.key, outgoing.headers = written, of_key.headers
        return pipeline.write(message, outgoing)

    async def _with_key(
        self,
        written: Later[bytes | None],
        of_key: Outgoing,
        pipeline: PayloadPipeline,
        message: object,
        outgoing: Outgoing,
    ) -> bytes | None:
        """The bytes of a message whose key has to be waited for. The key comes first: encryption may be bound to it."""
        outgoing.key = await written
        outgoing.headers = of_key.headers
        value = pipeline.write(message, outgoing)
        return await value if isinstance(value, Later) else value

    async def _all_there(
        self, started: Sequence[tuple[bytes | Later[bytes | None] | None, Outgoing]], end: float | None
    ) -> list[tuple[bytes | None, Outgoing]]:
        """Waits for what has to be waited for, several at once. The order stays. `end`: None if nothing waits."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def there(later: Later[bytes | None]) -> bytes | None:
            async with turns:
                return await self._patiently(later, end or 0.0)

        works = [asyncio.ensure_future(there(value)) for value, _ in started if isinstance(value, Later)]
        try:
            found = iter(await asyncio.gather(*works) if works else ())
        except PayloadUnavailableError as error:
            ready = sum(work.done() and not work.cancelled() and work.exception() is None for work in works)
            text = f"{error}; {ready} of {len(works)} payloads were ready by then: fewer at once take less time"
            raise PayloadUnavailableError(text if ready else str(error), step=error.step) from None
        finally:
            for work in works:
                work.cancel()
        return [(next(found) if isinstance(value, Later) else value, sent) for value, sent in started]

    async def _patiently(self, later: Later[bytes | None], end: float) -> bytes | None:
        """Waits for something that is needed and away, until `end` (monotonic), as for the broker."""
        pause, reason = FIRST_PAUSE, "what the payload needs does not answer"
        while True:
            try:
                async with asyncio.timeout(end - monotonic()) as limit:
                    return await later
            except PayloadUnavailableError as error:
                reason = str(error)
                if self._complaints.due(error.step) is not None:  # else nobody sees why requests hang, until they fail
                    limit_s = self._settings.publish_timeout
                    logger.warning("a publish waits, for at most %g s: %s", limit_s, reason)
            except TimeoutError:
                if not limit.expired():
                    raise
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # not us: somebody cancelled what several wait for, such as a request to a registry
                reason = "what the payload needs was cancelled"
            if monotonic() + pause > end:
                raise PayloadUnavailableError(
                    f"not published, as the payload waited for {self._settings.publish_timeout:g} s: {reason}"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _send(self, messages: Sequence[OutgoingMessage], end: float | None) -> list[PublishedMessage | Exception]:
        """`end`: of the publish, monotonic, if its payload had to be waited for."""
        seconds = self._settings.publish_timeout if end is None else max(0.0, end - monotonic())
        end = monotonic() + seconds
        await self._connection.wait_until_connected(seconds)
        results = await self._transport.producer.send(messages, max(0.0, end - monotonic()))
        if self._settings.makes_topics and any(isinstance(result, TopicNotFoundError) for result in results):
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


def _key(key: Any) -> bytes | None:
    if key is None or isinstance(key, bytes):
        return key
    if isinstance(key, str | int | UUID) and not isinstance(key, bool):
        return str(key).encode()
    raise PublishError(
        f"a key is bytes, str, int, UUID or None, not {type(key).__name__}: for others give the payload pipeline a "
        "serializer of keys, as in PayloadPipeline(key=Json())"
    )


def _joined(of_scope: Headers, given: Headers, sent: Headers) -> Headers:
    """The headers of a scope that was opened with the given ones, as a pipeline has changed those."""
    own = len(given)
    if sent[:own] == given:
        return (*of_scope, *sent[own:])
    dropped = {name for name, value in given if (name, value) not in sent}
    return (
        *(each for each in of_scope if each[0] not in dropped),
        *(each for each in sent if each not in given),
    )


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

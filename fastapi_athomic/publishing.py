"""What an app can publish, from async and from sync code. `Athomic` inherits it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from .loop.dropped import told_if_dropped
from .messages import PublishedMessage
from .payload.pipeline import PayloadPipeline
from .publisher import GivenHeaders
from .uplink import Uplink


def _not_sent(call: str, what: str, given: Mapping[str, Any]) -> str:
    return f"{what} not sent to {given['topic']!r}; in a `def` function call athomic.{call}_sync"


class Publishing:
    """Publishes messages through the app's connection to the broker."""

    def _link(self) -> Uplink:
        raise NotImplementedError

    @told_if_dropped(partial(_not_sent, "publish", "the message was"))
    async def publish(
        self,
        topic: str,
        message: object,
        *,
        key: Any = None,
        headers: GivenHeaders = None,
        partition: int | None = None,
        payload: PayloadPipeline | None = None,
    ) -> PublishedMessage:
        """Publishes one message, waits until all in-sync replicas have it, and returns where the broker put it.

        The message is a pydantic model, a dataclass, anything that JSON can hold, `bytes` or `str` (sent as they are),
        or None (a tombstone). Its headers carry the current trace, context and lineage. Messages with the same key go
        to the same partition. It may be awaited in any event loop of the process; see `publish_sync` for sync code.

        `key`: `str`, `bytes`, `int`, `UUID` or None; what the pipeline's serializer of keys takes, if it has one.
        `payload`: how it is written; None: the pipeline of the topic (see `include_athomic`).

        Raises:
            PublishError: the broker did not acknowledge it within `publish_timeout` seconds, the app is not running, or
                the key or a header is of a type that cannot be sent.
            PayloadEncodeError: the message or its key cannot be encoded.
            PayloadUnavailableError: what the payload needs (a schema registry, an object store) was away for
                `publish_timeout` seconds.
            ConfigurationError: the topic name is invalid, or `payload` is no pipeline.
        """
        link = self._link()
        return await link.publishing(
            lambda: link.publisher.publish(
                topic, message, key=key, headers=headers, partition=partition, payload=payload
            )
        )

    @told_if_dropped(partial(_not_sent, "publish_many", "the messages were"))
    async def publish_many(
        self,
        topic: str,
        messages: Iterable[Any],
        *,
        key: Callable[[Any], Any] | None = None,
        headers: GivenHeaders = None,
        payload: PayloadPipeline | None = None,
    ) -> list[PublishedMessage]:
        """Publishes messages in the given order, in few requests. `key` is called with each message to get its key.

        Raises:
            PublishError: the broker did not acknowledge some of them (it says how many; the others are published), or
                the app is not running.
            PayloadEncodeError: one of them cannot be encoded; none is published.
            PayloadUnavailableError: as for `publish`; none is published.
            ConfigurationError: the topic name is invalid, or `payload` is no pipeline.
        """
        link = self._link()
        return await link.publishing(
            lambda: link.publisher.publish_many(topic, messages, key=key, headers=headers, payload=payload)
        )

    def publish_sync(
        self,
        topic: str,
        message: object,
        *,
        key: Any = None,
        headers: GivenHeaders = None,
        partition: int | None = None,
        payload: PayloadPipeline | None = None,
        timeout: float | None = None,
    ) -> PublishedMessage:
        """`publish` for sync code: `def` routes, handlers and dependencies, and threads of the app's own.

        It waits for the broker's acknowledgement, for up to `publish_timeout` seconds, or `timeout` if that is less.
        The trace, context and lineage of the calling thread travel with the message.

        Raises:
            PublishError: the broker did not acknowledge it in time, the app is not running or stops meanwhile, or the
                calling thread runs an event loop, which this would block: await `publish` there.
            PayloadEncodeError, PayloadUnavailableError, ConfigurationError: as `publish` says.
        """
        link = self._link()
        return link.publishing_sync(
            "publish",
            lambda: link.publisher.publish(
                topic, message, key=key, headers=headers, partition=partition, payload=payload
            ),
            timeout,
        )

    def publish_many_sync(
        self,
        topic: str,
        messages: Iterable[Any],
        *,
        key: Callable[[Any], Any] | None = None,
        headers: GivenHeaders = None,
        payload: PayloadPipeline | None = None,
        timeout: float | None = None,
    ) -> list[PublishedMessage]:
        """`publish_many` for sync code, see `publish_sync`.

        `messages` and `key` are evaluated in the calling thread.

        Raises:
            PublishError, PayloadEncodeError, PayloadUnavailableError, ConfigurationError: as `publish_many` and
                `publish_sync` say.
        """
        link = self._link()
        given = [*messages]
        keys = iter([key(message) for message in given]) if key is not None else None
        key_of = (lambda _: next(keys)) if keys is not None else None
        return link.publishing_sync(
            "publish_many",
            lambda: link.publisher.publish_many(topic, given, key=key_of, headers=headers, payload=payload),
            timeout,
        )

"""aiokafka's producers behind our producer: one that topics share, and one per topic that had a batch refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from inspect import unwrap
from typing import Any

from aiokafka import AIOKafkaProducer

from ...exceptions import NotAuthorizedError, TransportClosedError, TransportError
from ...settings import AthomicSettings
from .client import KafkaClient
from .client_life import close_client, open_client

logger = logging.getLogger(__name__)

MAX_BATCH_BYTES = 131_072
"""Most bytes of one partition's messages in one batch. The broker accepts or refuses a batch as a whole."""
SHARED = ""
"""The name of the client that topics share."""


class Client(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka is not typed
    """aiokafka's producer without automatic instrumentation, which wraps the class's `send`.

    We have made a span for the publish already, and its headers are in the message; the instrumentation would add its
    own to both. Clients that an app creates itself stay instrumented.
    """

    send = unwrap(AIOKafkaProducer.send)

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        KafkaClient.take_over(self.client)
        self.name = name

    @property
    def has_died(self) -> bool:
        """Whether its sender task has ended with an error. It refuses every message from then on."""
        return bool(self._sender.sender_task.done())


class ProducerClients:
    """Opens, replaces and closes clients, between `start` and `stop`. `closed` is for `KafkaProducer` to read."""

    def __init__(self, settings: AthomicSettings, connection: Mapping[str, Any]) -> None:
        self._settings = settings
        self._connection = connection
        self._open: dict[str, Client] = {}
        self._own_client: set[str] = set()  # topics that do not use the shared client
        self._opening = asyncio.Lock()
        self.closed = True

    async def start(self, timeout: float) -> None:
        """Raises `TransportError`. Who may not write may still consume: then each send tries again."""
        self._opening = asyncio.Lock()
        self.closed = False
        try:
            await self._named(SHARED, timeout)
        except NotAuthorizedError as error:
            logger.warning("nothing can be written, neither dead letters nor what is published: %s", error)
        except TransportError:
            self.closed = True
            raise

    async def stop(self, timeout: float) -> None:
        """Flushes and closes within `timeout` seconds."""
        self.closed = True
        clients, self._open = list(self._open.values()), {}
        await asyncio.gather(*(close_client(client, timeout) for client in clients))

    def opened(self, topic: str) -> Client | None:
        """The client for a topic, if it is open."""
        return self._open.get(self._name(topic))

    async def of(self, topic: str, timeout: float) -> Client:
        """The client for a topic; opens it if necessary. Raises `TransportError`."""
        return await self._named(self._name(topic), timeout)

    def has(self, client: Client) -> bool:
        """Whether the client is in use. What was sent by one that was closed is never acknowledged."""
        return client in self._open.values()

    async def replace(self, client: Client, topic: str) -> None:
        """Closes a client whose batch to `topic` was refused, and gives the topic one of its own."""
        self._own_client.add(topic)
        if self._open.get(client.name) is client:
            logger.warning("the broker refused a batch to %s; opening a new producer client for this topic", topic)
            del self._open[client.name]
            await close_client(client, self._settings.request_timeout)

    async def replace_dead(self, topic: str) -> None:
        """Closes the topic's client if it has died."""
        client = self.opened(topic)
        if client is not None and client.has_died:
            logger.error("the producer's client has died, opening a new one")
            del self._open[client.name]
            await close_client(client, self._settings.request_timeout)

    def _name(self, topic: str) -> str:
        return topic if topic in self._own_client else SHARED

    async def _named(self, name: str, timeout: float) -> Client:
        async with self._opening:
            if self.closed:
                raise TransportClosedError("the producer is closed")
            client = self._open.get(name)
            if client is None:
                client = Client(name, **self._options())
                await open_client(client, max(0.0, timeout), "connecting the producer")
                self._open[name] = client
            return client

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

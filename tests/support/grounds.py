"""Where causes are provoked: `memory://`, or Apache Kafka. A test has topics and a group of its own there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, get_args
from uuid import uuid4

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)
from fastapi import FastAPI

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, include_athomic, subscribe_to
from fastapi_athomic.operation_settings import HealthSettings, ReadyPart
from fastapi_athomic.transports.kafka.consumer import KafkaConsumer
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from fastapi_athomic.transports.memory.transport import broker_named
from tests.support.apps import eventually

SLOW = 60.0
"""Seconds that a broker may take, and a group to agree."""
NEIGHBOUR = "neighbour"
BOTH = ("h", NEIGHBOUR)
"""The consumers of an app on these grounds."""


class Ground:
    """A broker, and what tests do to it from outside the app."""

    consumer: type[Any]
    """Whose instances get messages."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.topic = f"causes-{uuid4().hex[:12]}"
        self.group = f"{self.topic}-group"

    def settings(self, health: dict[str, Any] | None = None, **options: Any) -> AthomicSettings:
        """All parts count for readiness."""
        every = {"ready_includes": get_args(ReadyPart)}
        usual: dict[str, Any] = {"restart_backoff": 0.05, "restart_backoff_max": 0.1, "state_store_url": "memory://"}
        own = {"broker_url": self.url, "health": HealthSettings(**(every | (health or {})))}
        return AthomicSettings(**(usual | own | options))

    def handler(self, act: Callable[[str], Any] | None = None, **options: Any) -> Callable[..., Any]:
        """The handler `h`; `act` gets each message first, and may be async."""

        @subscribe_to(self.topic, group_id=self.group, handler_id="h", **options)
        async def handle(message: str) -> None:
            if act is not None and asyncio.iscoroutine(done := act(message)):
                await done

        return handle

    def app(self, *handlers: Callable[..., Any], settings: AthomicSettings | None = None, **options: Any) -> Athomic:
        """An app with these handlers, and a neighbour whose consumer is fine: it must not be blamed for others."""

        @subscribe_to(f"{self.topic}.beside", group_id=f"{self.group}.beside", handler_id=NEIGHBOUR)
        async def beside(message: str) -> None: ...

        return include_athomic(FastAPI(), settings or self.settings(), handlers=[*handlers, beside], **options)

    async def create(self, *topics: str, partitions: int = 1) -> None:
        raise NotImplementedError

    async def delete(self, topic: str) -> None:
        raise NotImplementedError

    async def refuse(self, topic: str) -> None:
        """Nothing can be written to it."""
        raise NotImplementedError

    async def allow(self, topic: str) -> None:
        """What it takes is as before `refuse`."""
        raise NotImplementedError


class MemoryGround(Ground):
    consumer = MemoryConsumer

    def __init__(self) -> None:
        name = uuid4().hex
        super().__init__(f"memory://{name}")
        self._broker = broker_named(name)

    async def create(self, *topics: str, partitions: int = 1) -> None:
        self._broker.create_topics(dict.fromkeys(topics, partitions))

    async def delete(self, topic: str) -> None:
        self._broker.delete_topics([topic])

    async def refuse(self, topic: str) -> None:
        self._broker.refuse(topic)

    async def allow(self, topic: str) -> None:
        self._broker.allow(topic)


class KafkaGround(Ground):
    consumer = KafkaConsumer

    def __init__(self, bootstrap: str) -> None:
        super().__init__(f"kafka://{bootstrap}")
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def settings(self, health: dict[str, Any] | None = None, **options: Any) -> AthomicSettings:
        kafka = KafkaSettings(heartbeat_interval=0.3)
        return super().settings(health, **({"kafka": kafka} | options))

    async def create(self, *topics: str, partitions: int = 1) -> None:
        wanted = [NewTopic(topic, partitions, 1) for topic in topics]
        for done in self._admin.create_topics(wanted, operation_timeout=SLOW).values():
            await asyncio.to_thread(done.result, SLOW)

    async def delete(self, topic: str) -> None:
        await asyncio.to_thread(self._admin.delete_topics([topic])[topic].result, SLOW)
        await eventually(lambda: topic not in self._admin.list_topics(timeout=10).topics, SLOW)

    async def refuse(self, topic: str) -> None:
        await self._most_bytes(topic, "1")

    async def allow(self, topic: str) -> None:
        await self._most_bytes(topic, "1000000")

    async def _most_bytes(self, topic: str, number: str) -> None:
        entry = ConfigEntry("max.message.bytes", number, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        await asyncio.to_thread(self._admin.incremental_alter_configs([resource])[resource].result, SLOW)

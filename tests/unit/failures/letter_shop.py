"""A broker with small messages and an app whose handlers fail, for tests of dead letters."""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    RawMessage,
    RetryPolicy,
    subscribe_to,
)
from fastapi_athomic.messages import Headers, OutgoingMessage, TopicPartition
from fastapi_athomic.settings import MemorySettings
from fastapi_athomic.transports.memory.broker import MemoryBroker
from fastapi_athomic.transports.memory.transport import broker_named
from tests.support.apps import Record, new_app

LIMIT = 4_000
REASON = os.urandom(500).hex()
ONCE = RetryPolicy(max_attempts=1)
UNPACKED = MemorySettings(max_message_bytes=10_000_000)
"""As a message that came in a compressed batch."""


class Shop:
    """A broker whose topics take messages of up to `LIMIT` bytes, and an app whose handlers fail while `broken`."""

    def __init__(self, **settings: Any) -> None:
        self.name = uuid4().hex
        self.broker: MemoryBroker = broker_named(self.name)
        self.record, self.broken = Record(), True
        memory = MemorySettings(max_message_bytes=LIMIT, partitions=1)
        self.settings = AthomicSettings(broker_url=f"memory://{self.name}", memory=memory, **settings)

    def put(self, topic: str, value: bytes | None, key: bytes | None = None, headers: Headers = ()) -> None:
        self.broker.create_topics({topic: 1})
        (result,) = self.broker.append([OutgoingMessage(topic, key, value, headers)], UNPACKED)
        assert not isinstance(result, Exception)

    def handler(self, topic: str = "t", group: str = "g", handler_id: str = "h", **options: Any) -> Any:
        @subscribe_to(topic, group_id=group, handler_id=handler_id, **{"retry": ONCE, **options})
        async def handle(message: RawMessage) -> None:
            self.record.note((handler_id, message))
            if self.broken:
                raise RuntimeError(REASON)

        return handle

    def app(self, *handlers: Any) -> Athomic:
        return new_app(self.settings, *(handlers or [self.handler()]))

    def read(self, topic: str) -> list[RawMessage]:
        log = self.broker.log(TopicPartition(topic, 0))
        return log.messages if log is not None else []


LARGE, SMALL = os.urandom(2 * LIMIT), os.urandom(10)

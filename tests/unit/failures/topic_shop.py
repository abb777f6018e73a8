"""Apps on one in-memory broker, for tests of the topics that the package makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from fastapi_athomic import Athomic, AthomicSettings, RawMessage, RetryPolicy
from fastapi_athomic.messages import OutgoingMessage, TopicPartition
from fastapi_athomic.settings import MemorySettings
from fastapi_athomic.transports.memory.broker import MemoryBroker
from fastapi_athomic.transports.memory.transport import broker_named
from tests.support.apps import Record, new_app

ONCE = RetryPolicy(max_attempts=1)
EVERYTHING = re.compile(".*")


def later(*delays: float) -> RetryPolicy:
    return RetryPolicy(max_attempts=1, retry_topics=delays, allow_reordering=True)


class Shop:
    """Apps on one broker, whose handlers note the topic of what they get and fail until `sound`."""

    def __init__(self) -> None:
        self.name = uuid4().hex
        self.broker: MemoryBroker = broker_named(self.name)
        self.record = Record()
        self.sound = False

    def app(
        self, topics: Any, group_id: str = "g", settings: Mapping[str, Any] | None = None, **options: Any
    ) -> Athomic:
        athomic = new_app(AthomicSettings(broker_url=f"memory://{self.name}", **(settings or {})))
        return self.add(athomic, topics, group_id, **options)

    def add(self, athomic: Athomic, topics: Any, group_id: str = "g", **options: Any) -> Athomic:
        async def handle(message: bytes, raw: RawMessage) -> None:
            self.record.note((group_id, raw.topic))
            if not self.sound:
                raise RuntimeError("broken")

        defaults: Any = {"handler_id": group_id, "retry": ONCE}
        athomic.subscribe_to(topics, group_id=group_id, **(defaults | options))(handle)
        return athomic

    def topics(self) -> set[str]:
        return set(self.broker.partition_counts(None))

    def write(self, topic: str, count: int = 1, partition: int | None = None) -> None:
        messages = [OutgoingMessage(topic, b"k%d" % number, b"x", (), partition) for number in range(count)]
        results = self.broker.append(messages, MemorySettings())
        assert not [result for result in results if isinstance(result, Exception)]

    def kept(self, topic: str) -> list[RawMessage]:
        counts = self.broker.partition_counts([topic])
        return [
            message
            for number in range(counts.get(topic, 0))
            if (log := self.broker.log(TopicPartition(topic, number))) is not None
            for message in log.messages
        ]


def factory_of(athomic: Athomic) -> Any:
    """The app's factory."""
    manager: Any = athomic.manager()
    return manager._factory


def followed(athomic: Athomic) -> set[str]:
    return {place.topic for place in athomic.consumers()[0].assignment}

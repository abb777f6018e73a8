"""What an app with ten handlers asks of Apache Kafka on an ordinary day, counted in requests.

All requests count that the process sends, of its consumers, its producer and its own questions, with a group and a
topic for each handler. If it has become fewer, lower the bound; never raise it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.conn import AIOKafkaConnection

from fastapi_athomic import Athomic, AthomicSettings, subscribe_to
from tests.support.apps import Record, new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka

HANDLERS = 10
ROUNDS = 20
CALM, IDLE = 6, 4
"""So many fetch requests until an app is idle for good, as the broker waits a little longer on each; and so many more
while its requests are counted."""
CONNECTIONS_AT_START, REQUESTS_AT_START = 27, 13
"""The latter for each handler. They are 24 and 10, and were 34 and 15 with a client for each handler."""
IDLE_FETCHES_A_MINUTE, IDLE_REQUESTS_A_MINUTE = 40, 400
"""They are 20 and 320, and were 2,300 and 2,650."""
FETCHES_A_MESSAGE, REQUESTS_A_MESSAGE = 0.2, 1.5
"""They are 0.1 and 0.9, and were 1.0 and 2.1. What is sent by the clock does not count: heartbeats, metadata."""
KINDS = {
    0: "Produce",
    1: "Fetch",
    2: "ListOffsets",
    3: "Metadata",
    8: "OffsetCommit",
    9: "OffsetFetch",
    10: "FindCoordinator",
    11: "JoinGroup",
    12: "Heartbeat",
    14: "SyncGroup",
    18: "ApiVersions",
}
"""By the keys of Kafka's protocol (https://kafka.apache.org/protocol#protocol_api_keys)."""


class Requests:
    """The requests that were sent, by kind, and the connections that were opened."""

    def __init__(self) -> None:
        self.sent = Counter[str]()
        self.connections = 0
        self._more = asyncio.Event()

    def note(self, request: Any) -> None:
        self.sent[KINDS.get(request.API_KEY, f"API key {request.API_KEY}")] += 1
        self._more.set()

    def clear(self) -> None:
        self.sent.clear()

    async def until(self, kind: str, number: int) -> None:
        """Returns when so many of this kind were sent."""
        async with asyncio.timeout(300):
            while self.sent[kind] < number:
                self._more.clear()
                await self._more.wait()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    counted = Requests()
    send, connect = AIOKafkaConnection.send, AIOKafkaConnection.connect

    def counting_send(connection: Any, request: Any, *arguments: Any, **options: Any) -> Any:
        counted.note(request)
        return send(connection, request, *arguments, **options)

    def counting_connect(connection: Any) -> Any:
        counted.connections += 1
        return connect(connection)

    monkeypatch.setattr(AIOKafkaConnection, "send", counting_send)
    monkeypatch.setattr(AIOKafkaConnection, "connect", counting_connect)
    return counted


class Day:
    """An app with ten handlers, each with a topic and a group of its own."""

    def __init__(self, broker: Kafka) -> None:
        self.handled = Record()
        self.topics = [f"day-{uuid4().hex[:12]}" for _ in range(HANDLERS)]
        settings = AthomicSettings(broker_url=f"kafka://{broker.bootstrap}")
        self.athomic: Athomic = new_app(settings, *map(self._handler, self.topics))

    def _handler(self, topic: str) -> Any:
        @subscribe_to(topic, group_id=topic, handler_id=topic)
        async def handle(number: int) -> None:
            self.handled.note((topic, number))

        return handle

    async def trickle(self, number: int) -> None:
        """A message for each handler at the same time, and all of them are handled."""
        await asyncio.gather(*(self.athomic.publish(topic, number) for topic in self.topics))
        await self.handled.until(lambda seen: {(topic, number) for topic in self.topics} <= set(seen[-HANDLERS:]))


@pytest.fixture
async def day(apache_kafka: Kafka) -> Day:
    """It has run before: its topics exist, and its groups have committed."""
    found = Day(apache_kafka)
    async with running(found.athomic):
        await found.trickle(0)
    return found


async def test_a_start_opens_few_connections_and_asks_little_for_each_handler(day: Day, requests: Requests) -> None:
    async with running(day.athomic):
        assert requests.connections <= CONNECTIONS_AT_START
        assert requests.sent.total() <= REQUESTS_AT_START * HANDLERS, requests.sent


async def test_an_idle_app_sends_few_requests_in_a_minute(day: Day, requests: Requests) -> None:
    async with running(day.athomic):
        await day.trickle(1)
        await day.athomic.drain()
        requests.clear()
        await requests.until("Fetch", CALM)
        requests.clear()
        began = monotonic()
        await requests.until("Fetch", IDLE)
        minutes = (monotonic() - began) / 60  # a slow machine makes them longer, and the counts smaller
        in_a_minute = {kind: round(number / minutes) for kind, number in requests.sent.items()}
        assert in_a_minute["Fetch"] <= IDLE_FETCHES_A_MINUTE, in_a_minute
        assert sum(in_a_minute.values()) <= IDLE_REQUESTS_A_MINUTE, in_a_minute


async def test_messages_that_trickle_in_cost_few_requests_each(day: Day, requests: Requests) -> None:
    messages = HANDLERS * ROUNDS
    async with running(day.athomic):
        await day.trickle(1)
        requests.clear()
        for number in range(2, ROUNDS + 2):
            await day.trickle(number)
        assert requests.sent["Fetch"] <= FETCHES_A_MESSAGE * messages, requests.sent
        caused = sum(requests.sent[kind] for kind in ("Produce", "Fetch", "OffsetCommit"))
        assert caused <= REQUESTS_A_MESSAGE * messages, requests.sent

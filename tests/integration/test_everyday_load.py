"""What an app with ten handlers asks of Apache Kafka on an ordinary day, counted in requests.

All requests count that the process sends, of its consumers, its producer and its own questions, with a group and a
topic for each handler. If it has become fewer, lower the bound; never raise it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, subscribe_to
from fastapi_athomic.transports.kafka.connection import Connection
from tests.support.apps import Record, new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka

HANDLERS = 10
ROUNDS = 20
LANES = 8
"""Of five partitions each: so many fetch requests wait at the broker. On one lane there are 0.13 fetches a message with
a pause, on two 0.22, on four 0.33. But the more partitions a lane has, the more each answer takes of the broker's time
and memory, and messages that come one by one take a fetch each anyway: docs/performance.md."""
IDLE = 2 * LANES
"""So many fetch requests go out while the requests of an idle app are counted. The broker may wait a little longer on
each, until it is as long as it may ever be: then the app is idle for good."""
CONNECTIONS_AT_START, REQUESTS_AT_START = 30, 13
"""The latter for each handler. They are 29 and 10, and were 34 and 15 with a client for each handler."""
IDLE_REQUESTS_A_FETCH = 9
"""They are 7, most of them heartbeats, which go by the clock: of each group every 3 s, and a fetch takes 5 s."""
PACES = (0.0, 0.002)
FETCHES_A_MESSAGE, REQUESTS_A_MESSAGE = 0.7, 0.95
"""With each of the `kafka.fetch_pace`s. They are 0.65 and 0.88 with both, and were 1.0 and 2.1. What is sent by the
clock does not count: heartbeats, metadata. The messages of a round come on all lanes: one fetch of each is 0.8."""
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
        self.waits: list[int] = []  # for how many milliseconds the broker may wait on each fetch request
        self.connections = 0
        self._more = asyncio.Event()

    def note(self, request: Any) -> None:
        """It is sent."""
        kind = KINDS.get(request.API_KEY, f"API key {request.API_KEY}")
        self.sent[kind] += 1
        if kind == "Fetch":
            self.waits.append(request.wait)
        self._more.set()

    def clear(self) -> None:
        self.sent.clear()
        self.waits.clear()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when this is true, which a request makes so."""
        async with asyncio.timeout(90):
            while not holds():
                self._more.clear()
                await self._more.wait()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    counted = Requests()
    connect, ask = Connection.connect, Connection.ask

    def counting_ask(connection: Any, request: Any, *arguments: Any) -> None:
        counted.note(request)
        ask(connection, request, *arguments)

    def counting_connect(connection: Any) -> Any:
        counted.connections += 1
        return connect(connection)

    monkeypatch.setattr(Connection, "ask", counting_ask)
    monkeypatch.setattr(Connection, "connect", counting_connect)
    return counted


class Day:
    """An app with ten handlers, each with a topic and a group of its own."""

    def __init__(self, broker: Kafka) -> None:
        self.handled = Record()
        self.topics = [f"day-{uuid4().hex[:12]}" for _ in range(HANDLERS)]
        self._broker = broker
        self.athomic = self.paced(KafkaSettings().fetch_pace)

    def paced(self, pace: float) -> Athomic:
        """The app with this pause between two fetches."""
        settings = AthomicSettings(broker_url=f"kafka://{self._broker.bootstrap}", kafka=KafkaSettings(fetch_pace=pace))
        self.athomic = new_app(settings, *map(self._handler, self.topics))
        return self.athomic

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


async def test_an_idle_app_sends_few_requests(day: Day, requests: Requests) -> None:
    longest = round(KafkaSettings().fetch_max_wait * 1000)
    async with running(day.athomic):
        await day.trickle(1)
        await day.athomic.drain()
        await requests.until(lambda: requests.waits[-LANES:] == [longest] * LANES)
        requests.clear()
        await requests.until(lambda: len(requests.waits) >= IDLE)
        assert set(requests.waits) == {longest}
        assert requests.sent.total() <= IDLE_REQUESTS_A_FETCH * IDLE, requests.sent


@pytest.mark.parametrize("pace", PACES)
async def test_messages_that_trickle_in_cost_few_requests_each(day: Day, requests: Requests, pace: float) -> None:
    messages = HANDLERS * ROUNDS
    async with running(day.paced(pace)):
        await day.trickle(1)
        requests.clear()
        for number in range(2, ROUNDS + 2):
            await day.trickle(number)
        assert 0 < requests.sent["Fetch"] <= FETCHES_A_MESSAGE * messages, requests.sent
        caused = sum(requests.sent[kind] for kind in ("Produce", "Fetch", "OffsetCommit"))
        assert caused <= REQUESTS_A_MESSAGE * messages, requests.sent

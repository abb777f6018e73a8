"""A process that runs, but hears nothing of the broker any more, while its group goes on without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, subscribe_to
from fastapi_athomic.observation.reasons import ReasonCode as C
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.support.apps import Gate, Record, eventually, new_app, owned, running
from tests.support.causes import comes, goes, manager_of
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka
SLOW = 40.0
MESSAGES = 20

pytestmark = pytest.mark.timeout(120)
ISOLATIONS = pytest.mark.parametrize("isolation", ["loop", "thread"])


@pytest.fixture
def topic() -> str:
    return f"cut-off-{uuid4().hex[:12]}"


def app_of(kafka: Kafka, topic: str, isolation: Any, handle: Callable[[int], Any]) -> Athomic:
    @subscribe_to(topic, group_id=topic, handler_id="h", ordering="partition")
    async def handler(message: int) -> None:
        await handle(message)

    settings = AthomicSettings(
        broker_url=f"kafka://{kafka.bootstrap}",
        kafka=KafkaSettings(session_timeout=6, heartbeat_interval=0.5),
        request_timeout=2.0,
        isolation=isolation,
    )
    return new_app(settings, handler)


class Cut:
    """No packet comes to the consumers of an app, whether their connections are open or new, until it is mended."""

    def __init__(self, athomic: Athomic) -> None:
        session: Any = manager_of(athomic).consumers["h"].life.session
        self._client = session.client()._member._client.shared
        self._mended = Gate()
        self._silent: list[asyncio.Transport] = []

    async def begin(self) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._begin(), self._client._loop))

    async def _begin(self) -> None:
        client = self._client
        self._silent = [connection._writer.transport for connection in client._conns.values() if connection.connected()]
        for transport in self._silent:
            transport.pause_reading()
        open_one, ask_once = client._open, client._ask_once

        async def late_open(place: Any) -> Any:
            await self._mended.wait()
            return await open_one(place)

        async def late_ask(host: str, port: int, request: Any) -> Any:
            await self._mended.wait()
            return await ask_once(host, port, request)

        client._open, client._ask_once = late_open, late_ask

    def mend(self) -> None:
        self._mended.set()
        self._client._loop.call_soon_threadsafe(self._listen)

    def _listen(self) -> None:
        for transport in self._silent:
            if not transport.is_closing():
                transport.resume_reading()


@ISOLATIONS
async def test_p04_p05_who_hears_nothing_of_the_broker_begins_nothing_that_others_have_begun(
    apache_kafka: Kafka, topic: str, isolation: str
) -> None:
    """What it has fetched, the new owner of its partition handles: both would handle it twice, and out of order."""
    await Foreign(apache_kafka.bootstrap).create_topic(topic, 1)
    begun, taken_over, gate = Record(), Record(), Gate()

    async def slow(message: int) -> None:
        begun.note(message)
        await gate.wait()

    async def fast(message: int) -> None:
        taken_over.note(message)

    first = app_of(apache_kafka, topic, isolation, slow)
    other = app_of(apache_kafka, topic, isolation, fast)
    async with running(first):
        for number in range(MESSAGES):
            await first.publish(topic, number, key="k")
        await begun.count(1)
        session: Any = manager_of(first).consumers["h"].life.session
        await eventually(lambda: sum(state.buffered for state in session.states.values()) >= MESSAGES - 1)
        await (cut := Cut(first)).begin()
        async with running(other):
            await taken_over.until(lambda seen: len(seen) >= MESSAGES, SLOW)
            gate.set()
            reason = await comes(first, C.MEMBERSHIP_IN_DOUBT)
            assert reason.message.startswith("the coordinator of its group has not answered for "), reason.message
            assert begun.seen == [0]
            cut.mend()
            await goes(first, C.MEMBERSHIP_IN_DOUBT, SLOW)
            await eventually(lambda: owned(first, topic) or owned(other, topic), SLOW)
            await other.publish(topic, MESSAGES, key="k")
            await eventually(lambda: MESSAGES in {*begun.seen, *taken_over.seen}, SLOW)
    assert taken_over.seen[:MESSAGES] == list(range(MESSAGES))
    assert sorted([*begun.seen, *taken_over.seen]) == [0, *range(MESSAGES + 1)]


@ISOLATIONS
async def test_p05_who_hears_of_the_broker_again_in_time_goes_on(
    apache_kafka: Kafka, topic: str, isolation: str
) -> None:
    """Nobody else wanted its partition: it has kept its place in the group, or gets it back."""
    await Foreign(apache_kafka.bootstrap).create_topic(topic, 1)
    record, gate = Record(), Gate()

    async def handle(message: int) -> None:
        record.note(message)
        await gate.wait()

    athomic = app_of(apache_kafka, topic, isolation, handle)
    async with running(athomic):
        for number in range(MESSAGES):
            await athomic.publish(topic, number, key="k")
        await record.count(1)
        await (cut := Cut(athomic)).begin()
        await comes(athomic, C.MEMBERSHIP_IN_DOUBT, SLOW)
        gate.set()
        cut.mend()
        await goes(athomic, C.MEMBERSHIP_IN_DOUBT, SLOW)
        await eventually(lambda: set(range(MESSAGES)) <= set(record.seen), SLOW)
        await athomic.drain(SLOW)

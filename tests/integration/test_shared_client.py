"""Twenty handlers that share one client: what breaks for one of them, or for the client, and what the others notice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, subscribe_to
from fastapi_athomic.transports.kafka import fetch_lane, shared_client
from fastapi_athomic.transports.kafka.shared_client import SharedClient
from tests.support.apps import Record, eventually, new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka
HANDLERS = 20
BROKEN = "h07"

pytestmark = pytest.mark.timeout(180)


class Shop:
    """An app whose handlers have a topic and a group each, and note what they handle."""

    def __init__(self, kafka: Kafka) -> None:
        self.record = Record()
        self.names = [f"h{number:02}" for number in range(HANDLERS)]
        self._topics = {name: f"shared-{uuid4().hex[:12]}" for name in self.names}
        self._sent = 0
        settings = AthomicSettings(
            broker_url=f"kafka://{kafka.bootstrap}",
            kafka=KafkaSettings(session_timeout=45, heartbeat_interval=1),
            restart_backoff=0.1,
        )
        self.athomic: Athomic = new_app(settings, *map(self._handler, self.names))

    def _handler(self, name: str) -> Any:
        topic = self._topics[name]

        @subscribe_to(topic, group_id=topic, handler_id=name)
        async def handle(number: int) -> None:
            self.record.note((name, number))

        return handle

    async def send(self) -> None:
        """The next number, to each handler."""
        for topic in self._topics.values():
            await self.athomic.publish(topic, self._sent, key="k")
        self._sent += 1

    async def all_handled_once(self) -> None:
        """Each handler has handled each number, once and in order."""
        await self.record.count(self._sent * HANDLERS)
        await self.athomic.drain()
        for name in self.names:
            assert [number for of, number in self.record.seen if of == name] == list(range(self._sent)), name

    def counts(self) -> dict[str, tuple[int, ...]]:
        """What would tell of a disturbance, for each handler."""
        return {
            status.id: (status.restarts, status.counters.rebalances, status.counters.redelivered)
            for status in self.athomic.consumers()
        }

    def places(self) -> list[Any]:
        """All partitions, as the status shows them."""
        return [place for status in self.athomic.consumers() for place in status.assignment]

    def service(self, name: str) -> Any:
        return self.athomic.manager().consumers[name]  # type: ignore[union-attr]

    def session(self, name: str) -> Any:
        return self.service(name).life.session

    def member(self, name: str) -> Any:
        return self.session(name).client()._member

    @property
    def shared(self) -> SharedClient:
        return self.member(self.names[0])._client.shared  # type: ignore[no-any-return]


@pytest.fixture
async def shop(apache_kafka: Kafka) -> AsyncIterator[Shop]:
    shop = Shop(apache_kafka)
    async with running(shop.athomic):
        assert {id(shop.member(name)._client.shared) for name in shop.names} == {id(shop.shared)}
        await shop.send()
        await shop.all_handled_once()
        yield shop


UNTOUCHED = (0, 1, 0)
"""No restart, the rebalance with which it began, nothing delivered again."""


async def until_rebuilt(shop: Shop, before: Any) -> None:
    """Messages keep coming meanwhile."""
    while shop.session(BROKEN) is before or not shop.session(BROKEN).joined.is_set():
        await shop.send()


async def test_a_consumer_that_breaks_is_rebuilt_alone(shop: Shop) -> None:
    """Its coordinator meets an error that it cannot overcome; the 19 others go on."""
    before, client = shop.session(BROKEN), shop.shared
    shop.member(BROKEN)._subscription.abort_waiters(None)
    shop.member(BROKEN)._coordinator.check_errors = _fail
    await until_rebuilt(shop, before)
    await shop.send()
    await shop.all_handled_once()
    counts = shop.counts()
    assert counts.pop(BROKEN)[0] == 1
    assert counts == dict.fromkeys(counts, UNTOUCHED)
    assert shop.shared is client
    assert len(client.members) == HANDLERS, "the old member follows no topics any more"


def _fail() -> None:
    raise KafkaError("a fault of this member")


async def test_a_consumer_that_is_put_out_of_its_group_joins_again_alone(shop: Shop) -> None:
    coordinator = shop.member(BROKEN)._coordinator
    await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, coordinator.member_id))
    await eventually(lambda: shop.counts()[BROKEN][1] == 2)
    await shop.send()
    await shop.all_handled_once()
    counts = shop.counts()
    assert counts.pop(BROKEN) == (0, 2, 0)
    assert counts == dict.fromkeys(counts, UNTOUCHED)


async def test_a_reading_that_fails_stops_no_other_fetch(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours where an answer is handed over: the standing lane serves everybody."""
    (reading, *_) = shop.member(BROKEN)._readings.values()
    failures = Counter[str]()

    def fails() -> None:
        failures["arrival"] += 1
        if failures["arrival"] == 1:
            raise RuntimeError("a fault of ours")
        type(reading.owner).on_arrival(reading.owner)

    monkeypatch.setattr(reading.owner, "on_arrival", fails)
    for _ in range(3):
        await shop.send()
    await shop.all_handled_once()
    assert failures["arrival"] >= 1
    counts = shop.counts()
    assert counts == dict.fromkeys(counts, UNTOUCHED)


@pytest.mark.parametrize("times", [1, 5])
async def test_when_all_shared_connections_break_no_session_is_rebuilt(shop: Shop, times: int) -> None:
    """While messages come: nothing is lost, nothing repeated, and the group moves no partition."""
    sessions = [shop.session(name) for name in shop.names]
    for _ in range(times):
        await shop.send()
        await eventually(lambda: any(each.connected() for each in shop.shared._conns.values()))
        connections = [each for each in shop.shared._conns.values() if each.connected()]
        for connection in connections:
            connection._writer.transport.abort()
        await eventually(lambda: not any(each.connected() for each in connections))  # noqa: B023 - awaited here
        await shop.send()
    await shop.all_handled_once()
    counts = shop.counts()
    assert counts == dict.fromkeys(counts, UNTOUCHED)
    assert [shop.session(name) for name in shop.names] == sessions


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed after a second instead of some."""
    monkeypatch.setattr(fetch_lane, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(shared_client, "COORDINATION_SHARE", 0.0)
    monkeypatch.setattr(shared_client, "LEAST_COORDINATION_SECONDS", 1.0)


async def test_p19_connections_that_fall_silent_are_replaced_before_the_group_notices(
    impatient: None, shop: Shop
) -> None:
    """No packet comes through on those that are open, as behind a firewall that has forgotten them."""
    sessions = [shop.session(name) for name in shop.names]
    silent = [connection for connection in shop.shared._conns.values() if connection.connected()]
    assert {group for _, group in shop.shared._conns} >= {"standing-0", shop.member(BROKEN)._client._slot}
    for connection in silent:
        connection._writer.transport.pause_reading()
    await shop.send()
    await shop.all_handled_once()
    await eventually(lambda: all(place.committed == place.position for place in shop.places()))
    counts = shop.counts()
    assert counts == dict.fromkeys(counts, UNTOUCHED)
    assert [shop.session(name) for name in shop.names] == sessions


async def test_a_start_that_is_broken_off_leaves_the_others_their_client(shop: Shop) -> None:
    """A restart of one of them that is cancelled while it connects, and stops, again and again."""
    client = shop.shared
    for _ in range(3):
        await asyncio.gather(*(shop.service(BROKEN).restart() for _ in range(2)))
    await eventually(lambda: shop.counts()[BROKEN][1] >= 2)
    await shop.send()
    await shop.all_handled_once()
    counts = shop.counts()
    counts.pop(BROKEN)
    assert counts == dict.fromkeys(counts, UNTOUCHED)
    assert shop.shared is client
    assert len(client.members) == HANDLERS

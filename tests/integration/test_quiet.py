"""Quiet spells on Apache Kafka that are longer than the timers of its clients, which are made short here."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import psutil
import pytest

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, RetryPolicy, subscribe_to
from fastapi_athomic.transports.kafka import options as kafka_options
from fastapi_athomic.transports.kafka import shared_client
from tests.support.apps import Record, eventually, new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka


class Shop:
    """An app on Kafka whose handler fails on odd numbers."""

    def __init__(self, broker: Kafka, /, **options: Any) -> None:
        self.topic = f"quiet-{uuid4().hex[:12]}"
        self.record = Record()

        @subscribe_to(self.topic, group_id=self.topic, handler_id="h", retry=RetryPolicy(max_attempts=1))
        async def handle(number: int) -> None:
            self.record.note(number)
            if number % 2:
                raise RuntimeError("never")

        self.athomic: Athomic = new_app(AthomicSettings(broker_url=f"kafka://{broker.bootstrap}", **options), handle)

    def clients(self) -> dict[str, Any]:
        """aiokafka's: of producer, consumer and admin."""
        transport: Any = self.athomic._transport
        service = self.athomic.manager().consumers["h"]  # type: ignore[union-attr]
        consumer: Any = service.life.session.client()  # type: ignore[union-attr]
        (producer,) = transport._producer._clients._open.values()
        return {"producer": producer.client, "consumer": consumer._member._client.shared, "admin": transport._admin}

    async def use(self, first: int) -> None:
        """A message that is handled, one that becomes a dead letter, and the look at all dead letters."""
        await self.athomic.publish(self.topic, first)
        await self.athomic.publish(self.topic, first + 1)
        await self.record.until(lambda seen: {first, first + 1} <= set(seen))
        await self.athomic.drain()
        letters = await self.athomic.dead_letters("h").browse()
        assert sorted(int(letter.value or b"0") for letter in letters) == list(range(1, first + 2, 2))


async def test_p18_connections_that_were_closed_for_being_idle_are_opened_again(
    apache_kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one a consumer fetches on is never idle, but the one to its coordinator is, between two heartbeats."""
    monkeypatch.setattr("fastapi_athomic.broker.PING_INTERVAL", 3600.0)  # that connection would not be idle
    monkeypatch.setattr(kafka_options, "IDLE_SECONDS", 0.2)
    shop = Shop(apache_kafka, kafka=KafkaSettings(session_timeout=30, heartbeat_interval=9))

    def open_connections() -> list[str]:
        return [
            f"{name} {group}"
            for name, client in shop.clients().items()
            for (_, group), connection in client._conns.items()
            if connection.connected() and group != "standing-0"
        ]

    async with running(shop.athomic):
        for first in (0, 2):
            await shop.use(first)
            await eventually(lambda: not open_connections())
        await shop.use(4)
        assert shop.athomic.consumers()[0].restarts == 0


async def test_p18_what_clients_know_of_the_cluster_is_asked_for_again(
    apache_kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_options, "METADATA_SECONDS", 0.1)
    monkeypatch.setattr(shared_client, "METADATA_MAX_AGE", 0.1)
    shop = Shop(apache_kafka)
    async with running(shop.athomic):
        await shop.use(0)
        for client in shop.clients().values():
            updates = list[object]()
            client.cluster.add_listener(updates.append)
            await eventually(lambda updates=updates: len(updates) >= 3)  # type: ignore[misc]
        await shop.use(2)
        assert shop.athomic.consumers()[0].restarts == 0


async def test_p18_a_request_that_was_not_answered_in_time_is_sent_again(mortal_kafka: KafkaBroker) -> None:
    """The broker stands still for longer than `kafka.request_timeout`; what was on its way is written once."""
    shop = Shop(mortal_kafka, kafka=KafkaSettings(request_timeout=0.5))
    async with running(shop.athomic):
        await shop.use(0)
        (connection,) = shop.clients()["producer"]._conns.values()
        mortal_kafka.process.freeze()
        try:
            await eventually(lambda: psutil.Process(mortal_kafka.process.pid).status() == psutil.STATUS_STOPPED)
            publishing = asyncio.create_task(shop.athomic.publish(shop.topic, 10))
            await eventually(lambda: not connection.connected())
        finally:
            mortal_kafka.process.thaw()
        await publishing
        await shop.use(2)
        assert shop.record.seen.count(10) == 1


async def test_p18_a_server_that_says_nothing_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.broker.CONNECT_SECONDS", 0.05)
    asked = Record()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.note("connected")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        athomic = new_app(AthomicSettings(broker_url=f"kafka://{host}:{port}", restart_backoff=0.01))
        async with athomic.app.router.lifespan_context(athomic.app):
            await asked.count(3)
            assert "the broker cannot be reached" in str(athomic.health())

"""P13: state store, schema registry and object store that are away, and what ordered consumers wait for."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    CircuitBreaker,
    PayloadPipeline,
    RetryPolicy,
    StateStoreError,
    include_athomic,
    ordered_consumer,
    subscribe_to,
)
from fastapi_athomic.exceptions import PayloadUnavailableError
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.operation_settings import HealthSettings
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.registry import SchemaRegistry
from fastapi_athomic.stores.base import Call, Member, Reply
from fastapi_athomic.stores.memory import MemoryStateStore
from tests.support.apps import Record, eventually, new_app, running
from tests.support.causes import comes, goes, manager_of, provokes, told
from tests.support.http_registry import HttpRegistry
from tests.support.payloads import Depot

C = ReasonCode


class Store(MemoryStateStore):
    away = False

    async def call(self, member: Member, call: Call) -> Reply:
        if self.away:
            raise StateStoreError("the state store cannot be reached: gone")
        return await super().call(member, call)


class Shop:
    """An ordered consumer; `fails` has the numbers whose handler raises."""

    def __init__(self, *, ordered: dict[str, Any] | None = None, **options: Any) -> None:
        self.record, self.store = Record(), Store()
        self.fails: set[int] = set()
        group = {"group_id": "g", "handler_id": "h", "aggregate_key_field": "order", "sequence_id_field": "number"}

        @ordered_consumer("t", **group, **options)  # type: ignore[arg-type]
        async def handle(message: dict[str, Any]) -> None:
            if message["number"] in self.fails:
                raise RuntimeError("broken")
            self.record.note(message["number"])

        url, memory = f"memory://{uuid4().hex}", {"partitions": 1}
        settings: dict[str, Any] = {"broker_url": url, "memory": memory, "ordered": ordered or {}}
        self.athomic: Athomic = new_app(AthomicSettings(**settings, shutdown_timeout=2.0), handle)
        self.athomic._store = self.store

    async def publish(self, *numbers: int) -> None:
        sent = [{"order": "a", "number": number} for number in numbers]
        await self.athomic.publish_many("t", sent, key=lambda _: "a")


@provokes(C.STORE_UNREACHABLE)
async def test_p13_a_state_store_that_is_away() -> None:
    shop = Shop()
    async with running(shop.athomic):
        shop.store.away = True
        await shop.publish(1)
        reason = await comes(shop.athomic, C.STORE_UNREACHABLE)
        assert (reason.message, manager_of(shop.athomic).why_not_ready()) == (
            "the state store cannot be reached: gone",
            [],
        )
        again = await comes(shop.athomic, C.STORE_UNREACHABLE)
        assert again.since == reason.since
        shop.store.away = False
        await shop.record.count(1)
        await goes(shop.athomic, C.STORE_UNREACHABLE)


@provokes(C.SEQUENCE_GAP)
async def test_p13_a_number_that_is_missing() -> None:
    shop = Shop(gap_timeout=0.05)
    async with running(shop.athomic):
        await shop.publish(1, 3)
        reason = await comes(shop.athomic, C.SEQUENCE_GAP)
        assert reason.limit_seconds == 0.05
        await shop.publish(2)
        await goes(shop.athomic, C.SEQUENCE_GAP)


@provokes(C.AGGREGATES_BLOCKED)
async def test_p13_an_aggregate_whose_message_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.sequencing.attempts.SHORTEST_REST", 0.05)
    shop = Shop(on_failure="block", retry=RetryPolicy(max_attempts=1, delay=0, max_delay=0.05))
    shop.fails = {1}
    async with running(shop.athomic):
        await shop.publish(1)
        await comes(shop.athomic, C.AGGREGATES_BLOCKED)
        shop.fails.clear()
        await shop.record.count(1)
        await goes(shop.athomic, C.AGGREGATES_BLOCKED)


@provokes(C.WAITING_ROOM_FULL)
async def test_p13_a_waiting_room_that_is_full() -> None:
    shop = Shop(ordered={"room_per_aggregate": 2})
    async with running(shop.athomic):
        await shop.publish(*range(9, 1, -1))
        await comes(shop.athomic, C.WAITING_ROOM_FULL)
        await shop.publish(1)
        await shop.record.count(9)
        await goes(shop.athomic, C.WAITING_ROOM_FULL)


@provokes(C.PAYLOAD_UNAVAILABLE)
async def test_p13_messages_that_wait_for_what_their_payload_needs() -> None:
    depot, record = Depot(), Record()

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None:
        record.note(message)

    pipeline = PayloadPipeline([depot])
    athomic = include_athomic(FastAPI(), AthomicSettings(), handlers=[handle], payload=pipeline)
    async with running(athomic):
        manager_of(athomic).consumers["h"].pause()
        await athomic.publish("t", "m")
        depot.away = True
        manager_of(athomic).consumers["h"].resume()
        reason = await comes(athomic, C.PAYLOAD_UNAVAILABLE)
        assert reason.message.endswith("the depot is away")
        assert manager_of(athomic).why_not_ready() == []
        depot.away = False
        await record.count(1)
        await goes(athomic, C.PAYLOAD_UNAVAILABLE)


@provokes(C.BREAKER_OPEN)
async def test_p13_a_circuit_breaker_that_lets_nothing_begin() -> None:
    record = Record()
    errors: list[Exception] = [ConnectionError()]

    @subscribe_to("t", group_id="g", handler_id="h", breaker=CircuitBreaker(exceptions=(OSError,), failures=1))
    async def handle(message: str) -> None:
        if errors:
            raise errors.pop()
        record.note(message)

    athomic = include_athomic(FastAPI(), AthomicSettings(), handlers=[handle])
    async with running(athomic):
        await athomic.publish("t", "m")
        reason = await comes(athomic, C.BREAKER_OPEN)
        assert reason.message.startswith("its circuit breaker is open since ")
        assert "(ConnectionError): nothing begins until" in reason.message
        assert manager_of(athomic).why_not_ready() == []
        await athomic.set_breaker("h", "closed")
        await record.count(1)
        await goes(athomic, C.BREAKER_OPEN)


class Order(BaseModel):
    number: int


@provokes(C.REGISTRY_UNREACHABLE)
async def test_p13_a_registry_that_did_not_answer_is_asked_again_while_somebody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastapi_athomic.schemas.rest_registry.PAUSE", 0.02)

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(order: Order) -> None: ...

    settings = AthomicSettings(publish_timeout=0.3, health=HealthSettings(check_interval=0.03))
    with HttpRegistry() as server:
        pipeline = PayloadPipeline([Avro(registry=SchemaRegistry(server.url))])
        athomic = include_athomic(FastAPI(), settings, handlers=[handle], payload=pipeline)
        async with running(athomic):
            with server.answering((503, b"")):
                with pytest.raises(PayloadUnavailableError):
                    await athomic.publish("u", Order(number=1))
                since = (await comes(athomic, C.REGISTRY_UNREACHABLE)).since
                asked = len(server.asked)
                await eventually(lambda: told(athomic) and len(server.asked) > asked)
                assert (await comes(athomic, C.REGISTRY_UNREACHABLE)).since == since is not None
            await goes(athomic, C.REGISTRY_UNREACHABLE)

"""P13: messages that do not move, or that wait, turn the right probe with the right code, and back.

On `memory://` and on Apache Kafka.
"""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_athomic import CircuitBreaker, PayloadPipeline, RetryPolicy, StateStoreError, ordered_consumer
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.stores.base import Call, Member, Reply
from fastapi_athomic.stores.memory import MemoryStateStore
from tests.support.apps import Gate, Record, eventually, running
from tests.support.causes import comes, goes, manager_of, provokes, session_of, told
from tests.support.grounds import Ground
from tests.support.payloads import Depot

C = ReasonCode


@provokes(C.NO_PROGRESS)
async def test_p13_a_consumer_that_gets_nothing_although_there_is_something(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, works = ground.consumer.take, Gate()

    def empty(consumer: Any, *arguments: Any) -> Any:
        if consumer is session_of(athomic).client() and not works._open:
            return {}
        return take(consumer, *arguments)

    athomic = ground.app(ground.handler(), settings=ground.settings(stall_timeout=20.0))
    async with running(athomic):
        monkeypatch.setattr(ground.consumer, "take", empty)
        await athomic.publish(ground.topic, "m")
        session = session_of(athomic)
        session._membership.changed_at -= 11
        session._progress_at -= 11
        await comes(athomic, C.NO_PROGRESS)
        works.set()
        await goes(athomic, C.NO_PROGRESS)
        await athomic.drain()
        assert athomic.consumers()[0].restarts == 0


@provokes(C.HANDLER_STUCK, C.QUEUE_LATE, C.BACK_PRESSURE)
async def test_p13_a_handler_that_hangs_and_what_waits_behind_it(ground: Ground) -> None:
    gate, begun = Gate(), Record()

    async def act(message: str) -> None:
        begun.note(message)
        await gate.wait()

    limits = {"queue_late": 0.1, "back_pressure": 0.1}
    few = {"max_poll_messages": 1, "max_buffered_messages": 2, "stuck_after": 0.1}
    athomic = ground.app(ground.handler(act), settings=ground.settings(limits, **few))
    async with running(athomic):
        await athomic.publish(ground.topic, "alone")
        await begun.count(1)
        await comes(athomic, C.HANDLER_STUCK)
        assert manager_of(athomic).why_not_ready() == [C.HANDLER_STUCK]
        assert {C.QUEUE_LATE, C.BACK_PRESSURE}.isdisjoint(told(athomic)), "nothing waits for its turn"
        await athomic.publish_many(ground.topic, ["behind"] * 5)
        await comes(athomic, C.QUEUE_LATE)
        reason = await comes(athomic, C.BACK_PRESSURE)
        assert reason.message.endswith(f"as the buffer is full: {ground.topic}[0]")
        gate.set()
        for code in (C.HANDLER_STUCK, C.QUEUE_LATE, C.BACK_PRESSURE):
            await goes(athomic, code)
        await athomic.drain()


@provokes(C.DEAD_LETTER_UNWRITABLE, C.FAILURE_TOPICS_UNUSABLE)
async def test_p13_a_dead_letter_that_cannot_be_written(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.consumption.membership.PREPARE_SECONDS", 0.05)
    monkeypatch.setattr("fastapi_athomic.failures.dlq.MAX_WRITE_DELAY", 0.2)
    record, dlq = Record(), f"{ground.topic}.{ground.group}.dlq"

    def act(message: str) -> None:
        record.note(message)
        raise RuntimeError("no")

    await ground.create(f"{ground.topic}.beside.{ground.group}.beside.dlq")
    settings = ground.settings(create_topics=False)
    athomic = ground.app(ground.handler(act, retry=RetryPolicy(max_attempts=1)), settings=settings)
    async with running(athomic):
        reason = await comes(athomic, C.FAILURE_TOPICS_UNUSABLE)
        assert f"{dlq} does not exist" in reason.message
        await ground.create(dlq)
        await goes(athomic, C.FAILURE_TOPICS_UNUSABLE)
        await ground.refuse(dlq)
        await athomic.publish(ground.topic, "m")
        reason = await comes(athomic, C.DEAD_LETTER_UNWRITABLE)
        assert f"waits: dead letter to {dlq} refused" in reason.message
        tries = told(athomic)[C.DEAD_LETTER_UNWRITABLE]
        await eventually(lambda: told(athomic)[C.DEAD_LETTER_UNWRITABLE] is not tries)
        assert told(athomic)[C.DEAD_LETTER_UNWRITABLE].since == reason.since, "since the first try"
        await ground.allow(dlq)
        await goes(athomic, C.DEAD_LETTER_UNWRITABLE)
        await athomic.drain()
        assert record.seen == ["m"], "the letter is tried again, the handler is not"


@provokes(C.PAYLOAD_UNAVAILABLE)
async def test_p13_messages_that_wait_for_what_their_payload_needs(ground: Ground) -> None:
    depot, record = Depot(), Record()
    athomic = ground.app(ground.handler(record.note), payload=PayloadPipeline([depot]))
    async with running(athomic):
        manager_of(athomic).consumers["h"].pause()
        await athomic.publish(ground.topic, "m")
        depot.away = True
        manager_of(athomic).consumers["h"].resume()
        reason = await comes(athomic, C.PAYLOAD_UNAVAILABLE)
        assert reason.message.endswith("the depot is away")
        depot.away = False
        await record.count(1)
        await goes(athomic, C.PAYLOAD_UNAVAILABLE)


@provokes(C.BREAKER_OPEN)
async def test_p13_a_circuit_breaker_that_lets_nothing_begin(ground: Ground) -> None:
    record = Record()
    errors: list[Exception] = [ConnectionError()]

    def act(message: str) -> None:
        if errors:
            raise errors.pop()
        record.note(message)

    athomic = ground.app(ground.handler(act, breaker=CircuitBreaker(exceptions=(OSError,), failures=1)))
    async with running(athomic):
        await athomic.publish(ground.topic, "m")
        reason = await comes(athomic, C.BREAKER_OPEN)
        assert reason.message.startswith("its circuit breaker is open since ")
        assert "(ConnectionError): nothing begins until" in reason.message
        await athomic.set_breaker("h", "closed")
        await record.count(1)
        await goes(athomic, C.BREAKER_OPEN)


# --- ordered consumers


class Store(MemoryStateStore):
    away = False

    async def call(self, member: Member, call: Call) -> Reply:
        if self.away:
            raise StateStoreError("the state store cannot be reached: gone")
        return await super().call(member, call)


class Shop:
    """An ordered consumer; `fails` has the numbers whose handler raises."""

    def __init__(self, ground: Ground, *, ordered: dict[str, Any] | None = None, **options: Any) -> None:
        self.ground, self.record, self.store = ground, Record(), Store()
        self.fails: set[int] = set()
        options |= {"aggregate_key_field": "order", "sequence_id_field": "number"}

        @ordered_consumer(ground.topic, group_id=ground.group, handler_id="h", **options)
        async def handle(message: dict[str, Any]) -> None:
            if message["number"] in self.fails:
                raise RuntimeError("broken")
            self.record.note(message["number"])

        settings = ground.settings(ordered=ordered or {}, shutdown_timeout=2.0)
        self.athomic = ground.app(handle, settings=settings)
        self.athomic._store = self.store

    async def publish(self, *numbers: int) -> None:
        sent = [{"order": "a", "number": number} for number in numbers]
        await self.athomic.publish_many(self.ground.topic, sent, key=lambda _: "a")


@provokes(C.STORE_UNREACHABLE)
async def test_p13_a_state_store_that_is_away(ground: Ground) -> None:
    shop = Shop(ground)
    async with running(shop.athomic):
        shop.store.away = True
        await shop.publish(1)
        reason = await comes(shop.athomic, C.STORE_UNREACHABLE)
        assert reason.message == "the state store cannot be reached: gone"
        again = await comes(shop.athomic, C.STORE_UNREACHABLE)
        assert again.since == reason.since
        shop.store.away = False
        await shop.record.count(1)
        await goes(shop.athomic, C.STORE_UNREACHABLE)


@provokes(C.SEQUENCE_GAP)
async def test_p13_a_number_that_is_missing(ground: Ground) -> None:
    shop = Shop(ground, gap_timeout=0.05)
    async with running(shop.athomic):
        await shop.publish(1, 3)
        reason = await comes(shop.athomic, C.SEQUENCE_GAP)
        assert reason.limit_seconds == 0.05
        await shop.publish(2)
        await goes(shop.athomic, C.SEQUENCE_GAP)


@provokes(C.AGGREGATES_BLOCKED)
async def test_p13_an_aggregate_whose_message_failed(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.sequencing.attempts.SHORTEST_REST", 0.05)
    shop = Shop(ground, on_failure="block", retry=RetryPolicy(max_attempts=1, delay=0, max_delay=0.05))
    shop.fails = {1}
    async with running(shop.athomic):
        await shop.publish(1)
        await comes(shop.athomic, C.AGGREGATES_BLOCKED)
        shop.fails.clear()
        await shop.record.count(1)
        await goes(shop.athomic, C.AGGREGATES_BLOCKED)


@provokes(C.WAITING_ROOM_FULL)
async def test_p13_a_waiting_room_that_is_full(ground: Ground) -> None:
    shop = Shop(ground, ordered={"room_per_aggregate": 2})
    async with running(shop.athomic):
        await shop.publish(*range(9, 1, -1))
        await comes(shop.athomic, C.WAITING_ROOM_FULL)
        await shop.publish(1)
        await shop.record.count(9)
        await goes(shop.athomic, C.WAITING_ROOM_FULL)

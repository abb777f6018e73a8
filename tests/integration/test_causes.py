"""P13: what befalls an app or a consumer turns the right probe with the right code, and back.

On `memory://` and on Apache Kafka. What only a broker can do is in test_broker_causes.py, what befalls messages in
test_message_causes.py.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_athomic import PayloadPipeline, subscribe_to
from fastapi_athomic.exceptions import PayloadUnavailableError
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.apps import Gate, Record, eventually, owned, running
from tests.support.causes import answer, came, comes, goes, manager_of, provokes, told
from tests.support.clock import EVERYWHERE, set_clock
from tests.support.grounds import BOTH, SLOW, Ground
from tests.support.http_registry import HttpRegistry

C = ReasonCode


# --- the app


@provokes(C.NOT_STARTED)
async def test_p13_an_app_that_has_not_started_is_live_and_not_ready(ground: Ground) -> None:
    athomic = ground.app(ground.handler())
    assert (await answer(athomic, "live")).json() == {"ok": True}
    for probe in ("ready", "startup"):
        said = await answer(athomic, probe)
        assert (said.status_code, said.json()) == (503, {"ok": False, "codes": ["not_started"]})
    came.add(C.NOT_STARTED)
    async with running(athomic):
        await goes(athomic, C.NOT_STARTED)


@provokes(C.START_FAILED)
async def test_p13_a_start_that_failed_is_not_live_until_the_next(ground: Ground) -> None:
    class Broken:
        name, required = "broken", True
        depends_on: tuple[str, ...] = ()

        async def start(self) -> None:
            raise RuntimeError("no way")

        async def stop(self, timeout: float) -> None: ...

    athomic = ground.app(ground.handler())
    async with running(athomic):
        manager_of(athomic)._lifecycle.register(Broken())
        assert athomic._run is not None
        with pytest.raises(RuntimeError, match="no way"):
            await athomic._run._start_services()
        reason = await comes(athomic, C.START_FAILED)
        assert (reason.message, reason.since is None) == ("could not start: no way", False)
    async with running(athomic):
        await goes(athomic, C.START_FAILED)


@provokes(C.CONSUMER_LOOP_BLOCKED, C.CONSUMER_LOOP_STALLED, C.POLL_LATE)
async def test_p13_a_consumers_loop_that_stands_still_is_a_fault_and_in_the_end_not_live(ground: Ground) -> None:
    go_on, limits = threading.Event(), {"loop_late": 0.2, "poll_late": 0.2, "loop_stalled": 1.0}
    settings = ground.settings(limits, isolation="thread")
    athomic = ground.app(ground.handler(lambda _: go_on.wait(30) and None), settings=settings)
    try:
        async with running(athomic):
            publishing = asyncio.create_task(athomic.publish(ground.topic, "block"))  # from the loop that it blocks
            await comes(athomic, C.POLL_LATE, of=BOTH)
            await comes(athomic, C.CONSUMER_LOOP_BLOCKED)
            reason = await comes(athomic, C.CONSUMER_LOOP_STALLED)
            assert (reason.limit_seconds, C.CONSUMER_LOOP_BLOCKED in told(athomic)) == (1.0, False)
            go_on.set()
            for code in (C.CONSUMER_LOOP_STALLED, C.CONSUMER_LOOP_BLOCKED, C.POLL_LATE):
                await goes(athomic, code)
            await publishing
    finally:
        go_on.set()


@provokes(C.CONSUMER_LOOP_ENDED)
async def test_p13_a_consumers_thread_that_has_ended_is_not_live_until_a_restart(ground: Ground) -> None:
    settings = ground.settings(isolation="thread", shutdown_timeout=0.5)
    athomic, next_process = (ground.app(ground.handler(), settings=settings) for _ in range(2))

    async def close_sockets() -> None:
        """The process would; the test's own goes on."""
        for consumer in manager_of(athomic).consumers.values():
            await consumer.stop(1.0)
        await manager_of(athomic)._broker.end(1.0)

    async with running(athomic):
        home: Any = athomic._run.home  # type: ignore[union-attr]
        await home.run(close_sockets)
        home._loop.call_soon_threadsafe(home._leave.set)
        await comes(athomic, C.CONSUMER_LOOP_ENDED)
    async with running(next_process):
        await goes(next_process, C.CONSUMER_LOOP_ENDED)


@provokes(C.EVENT_LOOP_LATE)
async def test_p13_an_event_loop_that_turned_late_is_told_for_a_while(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    athomic = ground.app(ground.handler(), settings=ground.settings({"loop_late": 0.1}))
    async with running(athomic):
        await eventually(lambda: athomic.loop_lag.turned_at is not None)
        time.sleep(0.3)  # noqa: ASYNC251 - that is the fault
        reason = await comes(athomic, C.EVENT_LOOP_LATE)
        assert "the event loop of the routes turned" in reason.message
        set_clock(monkeypatch, lambda: time.monotonic() + 31, "observation.process_health")
        await goes(athomic, C.EVENT_LOOP_LATE)


@provokes(C.CHECK_PENDING, C.CHECK_FAILED)
async def test_p13_a_check_that_has_not_answered_yet_and_one_that_takes_too_long(ground: Ground) -> None:
    gate, begun = Gate(), Record()

    async def check() -> None:
        begun.note("")
        await gate.wait()

    settings = ground.settings({"check_interval": 0.01, "check_idle_interval": 0.05, "check_timeout": 0.3})
    athomic = ground.app(ground.handler(), settings=settings, health_checks={"database": check})
    async with athomic.app.router.lifespan_context(athomic.app):
        await begun.count(1)
        await comes(athomic, C.CHECK_PENDING)
        reason = await comes(athomic, C.CHECK_FAILED)
        assert (reason.message, reason.limit_seconds) == ("check database fails: no answer within 0.3 s", 0.3)
        gate.set()
        await goes(athomic, C.CHECK_FAILED)
        await goes(athomic, C.CHECK_PENDING)


class Order(BaseModel):
    number: int


@provokes(C.REGISTRY_UNREACHABLE)
async def test_p13_a_registry_that_did_not_answer_is_asked_again_while_somebody_looks(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_athomic.schemas.rest_registry.PAUSE", 0.02)
    settings = ground.settings({"check_interval": 0.03}, publish_timeout=0.3)
    with HttpRegistry() as server:
        pipeline = PayloadPipeline([Avro(registry=SchemaRegistry(server.url))])
        athomic = ground.app(settings=settings, payload=pipeline)
        async with running(athomic):
            with server.answering((503, b"")):
                while C.REGISTRY_UNREACHABLE not in told(athomic):  # the first may not come so far as to ask it
                    with pytest.raises(PayloadUnavailableError):
                        await athomic.publish(ground.topic, Order(number=1))
                since = (await comes(athomic, C.REGISTRY_UNREACHABLE)).since
                asked = len(server.asked)
                await eventually(lambda: told(athomic) and len(server.asked) > asked)
                assert (await comes(athomic, C.REGISTRY_UNREACHABLE)).since == since is not None
            await goes(athomic, C.REGISTRY_UNREACHABLE)


# --- a consumer


@provokes(C.SUPERVISOR_ENDED)
async def test_p13_a_consumer_that_nobody_would_rebuild_is_not_live_until_a_restart(ground: Ground) -> None:
    athomic = ground.app(ground.handler())
    async with running(athomic):
        supervisor = manager_of(athomic).consumers["h"].life._supervisor
        assert supervisor is not None
        supervisor.cancel()
        await comes(athomic, C.SUPERVISOR_ENDED)
    async with running(athomic):
        await goes(athomic, C.SUPERVISOR_ENDED)


@provokes(C.STOPPED)
async def test_p13_a_consumer_that_was_stopped(ground: Ground) -> None:
    athomic = ground.app(ground.handler())
    async with running(athomic):
        await manager_of(athomic).consumers["h"].stop(1.0)
        await comes(athomic, C.STOPPED)
    async with running(athomic):
        await goes(athomic, C.STOPPED)


@provokes(C.EVENT_LOOP_BLOCKED)
async def test_p13_a_handler_that_blocked_the_event_loop_is_told_for_a_while(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ground.settings(blocking_after=0.05)
    athomic = ground.app(ground.handler(lambda _: time.sleep(0.4)), settings=settings)
    async with running(athomic):
        await athomic.publish(ground.topic, "block")
        await comes(athomic, C.EVENT_LOOP_BLOCKED)
        set_clock(monkeypatch, lambda: time.monotonic() + 31, *EVERYWHERE)
        await goes(athomic, C.EVENT_LOOP_BLOCKED)


# --- its group and its topics


@provokes(C.REBALANCE_LONG, C.WITHOUT_PARTITIONS)
async def test_p13_a_rebalance_that_lasts_as_another_member_drains(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = Gate(), Record()

    async def slow(message: str) -> None:
        begun.note(message)
        await gate.wait()

    settings = ground.settings({"long_rebalance": 0.3})
    await ground.create(shared := f"{ground.topic}-shared", partitions=2)
    handler = subscribe_to(shared, group_id=ground.group, handler_id="h")(slow)
    one, two, third = (ground.app(handler, settings=settings) for _ in range(3))
    async with running(one), running(two):
        await eventually(lambda: owned(one, shared) and owned(two, shared), SLOW)
        drains, waits = (one, two) if 0 in owned(one, shared) else (two, one)
        await one.publish(shared, "m", partition=0)
        await begun.count(1)
        async with third.app.router.lifespan_context(third.app):
            await comes(waits, C.REBALANCE_LONG, SLOW)
            monkeypatch.setattr("fastapi_athomic.consumption.account.longest_rebalance", lambda _: 0.5)
            await comes(waits, C.WITHOUT_PARTITIONS)
            assert C.REBALANCE_LONG not in told(waits)
            assert {C.REBALANCE_LONG, C.WITHOUT_PARTITIONS}.isdisjoint(told(drains)), "not who drains"
            gate.set()
            await goes(waits, C.WITHOUT_PARTITIONS, SLOW)
            await goes(waits, C.REBALANCE_LONG)


@provokes(C.TOPIC_MISSING, C.NO_TOPIC_MATCHES)
async def test_p13_topics_that_are_gone_and_come_back(ground: Ground) -> None:
    record = Record()

    @subscribe_to(re.compile(f"{ground.topic}-u.*"), group_id=f"{ground.group}.pattern", handler_id="p")
    async def by_pattern(message: str) -> None: ...

    athomic = ground.app(ground.handler(record.note), by_pattern)
    async with running(athomic):
        await comes(athomic, C.NO_TOPIC_MATCHES, of=["p"])
        await ground.create(f"{ground.topic}-u1")
        await goes(athomic, C.NO_TOPIC_MATCHES)
        await ground.delete(ground.topic)
        reason = await comes(athomic, C.TOPIC_MISSING)
        assert reason.since is not None
        await ground.create(ground.topic)
        await goes(athomic, C.TOPIC_MISSING)
        await athomic.publish(ground.topic, "again")
        await record.count(1)

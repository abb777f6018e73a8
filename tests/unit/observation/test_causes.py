"""P13: each cause turns the right probe with the right code, and back. On memory://; some on Kafka in integration/."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_athomic import include_athomic
from fastapi_athomic.exceptions import CommitFailedError, TransportError
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from fastapi_athomic.transports.memory.transport import MemoryTransport
from tests.support.apps import Gate, Record, eventually, new_app, running
from tests.support.causes import (
    broker_of,
    comes,
    goes,
    handler,
    manager_of,
    provokes,
    session_of,
    settings,
    shorten_intervals,
    told,
)
from tests.support.clock import set_clock

C = ReasonCode


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_intervals(monkeypatch)


# --- the app


@provokes(C.NOT_STARTED)
def test_p13_an_app_that_has_not_started_is_live_and_not_ready() -> None:
    app = FastAPI()
    include_athomic(app, settings())
    client = TestClient(app)
    assert client.get("/consumers/health/live").json() == {"ok": True}
    for probe in ("ready", "startup"):
        answer = client.get(f"/consumers/health/{probe}")
        assert (answer.status_code, answer.json()) == (503, {"ok": False, "codes": ["not_started"]})
    assert client.get("/consumers/health").json()["reasons"][0]["code"] == "not_started"
    with client:
        assert client.get("/consumers/health/ready").json() == {"ok": True}


@provokes(C.START_FAILED)
async def test_p13_a_start_that_failed_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        name, required = "broken", True
        depends_on: tuple[str, ...] = ()

        async def start(self) -> None:
            raise RuntimeError("no way")

        async def stop(self, timeout: float) -> None: ...

    athomic = new_app(settings(), handler())
    async with athomic.app.router.lifespan_context(athomic.app):
        await athomic.wait_until_ready()
        assert manager_of(athomic).has_come_up
        manager_of(athomic)._lifecycle.register(Broken())
        assert athomic._run is not None
        with pytest.raises(RuntimeError, match="no way"):
            await athomic._run._start_services()
        reason = await comes(athomic, C.START_FAILED)
        assert (reason.message, reason.since is None) == ("could not start: no way", False)


@provokes(C.STARTING, C.BROKER_UNREACHABLE)
async def test_p13_a_broker_that_is_not_there_takes_no_web_instance_out_unless_asked() -> None:
    athomic = new_app(settings(), handler())
    asked = new_app(settings({"ready_includes": ["broker"]}), handler())
    for each in (athomic, asked):
        broker_of(each).disconnect()
    async with (
        athomic.app.router.lifespan_context(athomic.app),
        asked.app.router.lifespan_context(asked.app),
    ):
        await comes(athomic, C.BROKER_UNREACHABLE)
        await comes(athomic, C.STARTING)
        await eventually(lambda: manager_of(asked).why_not_ready() == [C.BROKER_UNREACHABLE])
        assert manager_of(athomic).why_not_ready() == []
        assert not manager_of(athomic).has_come_up
        for each in (athomic, asked):
            broker_of(each).reconnect()
            await goes(each, C.BROKER_UNREACHABLE)
            await goes(each, C.STARTING)
            await eventually(lambda each=each: manager_of(each).has_come_up)  # type: ignore[misc]
        broker_of(athomic).disconnect()
        since = (await comes(athomic, C.BROKER_UNREACHABLE)).since
        assert (await comes(athomic, C.BROKER_UNREACHABLE)).since == since
        assert manager_of(athomic).why_not_ready() == []
        assert manager_of(athomic).has_come_up, "once is enough"
        broker_of(athomic).reconnect()
        await goes(athomic, C.BROKER_UNREACHABLE)


@provokes(C.BROKER_CONNECTING)
async def test_p13_a_broker_that_has_not_answered_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, start = Gate(), MemoryTransport.start

    async def slow(transport: MemoryTransport, timeout: float) -> None:
        await gate.wait()
        await start(transport, timeout)

    monkeypatch.setattr(MemoryTransport, "start", slow)
    athomic = new_app(settings(), handler())
    async with athomic.app.router.lifespan_context(athomic.app):
        await comes(athomic, C.BROKER_CONNECTING)
        gate.set()
        await goes(athomic, C.BROKER_CONNECTING)


@provokes(C.CONSUMER_LOOP_BLOCKED, C.CONSUMER_LOOP_STALLED, C.POLL_LATE)
async def test_p13_a_consumers_loop_that_stands_still_is_a_fault_and_in_the_end_not_live() -> None:
    go_on, limits = threading.Event(), {"loop_late": 0.2, "poll_late": 0.2, "loop_stalled": 1.0}
    athomic = new_app(settings(limits, isolation="thread"), handler(lambda _: go_on.wait(30) and None))
    try:
        async with running(athomic):
            await athomic.publish("t", "block")
            await comes(athomic, C.POLL_LATE)
            await comes(athomic, C.CONSUMER_LOOP_BLOCKED)
            assert {C.POLL_LATE, C.CONSUMER_LOOP_BLOCKED} <= {*manager_of(athomic).why_not_ready()}
            reason = await comes(athomic, C.CONSUMER_LOOP_STALLED)
            assert (reason.limit_seconds, C.CONSUMER_LOOP_BLOCKED in told(athomic)) == (1.0, False)
            go_on.set()
            for code in (C.CONSUMER_LOOP_STALLED, C.CONSUMER_LOOP_BLOCKED, C.POLL_LATE):
                await goes(athomic, code)
    finally:
        go_on.set()


@provokes(C.CONSUMER_LOOP_ENDED)
async def test_p13_a_consumers_thread_that_has_ended_is_not_live() -> None:
    athomic = new_app(settings(isolation="thread", shutdown_timeout=0.5), handler())
    async with running(athomic):
        assert manager_of(athomic).why_not_live() == []
        home: Any = athomic._run.home  # type: ignore[union-attr]
        home._loop.call_soon_threadsafe(home._leave.set)
        await comes(athomic, C.CONSUMER_LOOP_ENDED)


@provokes(C.EVENT_LOOP_LATE)
async def test_p13_an_event_loop_that_turned_late_is_told_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    athomic = new_app(settings({"loop_late": 0.1}), handler())
    async with running(athomic):
        await eventually(lambda: athomic.loop_lag.turned_at is not None)
        time.sleep(0.3)  # noqa: ASYNC251 - that is the fault
        reason = await comes(athomic, C.EVENT_LOOP_LATE)
        assert "the event loop of the routes turned" in reason.message
        set_clock(monkeypatch, lambda: time.monotonic() + 31, "observation.process_health")
        await goes(athomic, C.EVENT_LOOP_LATE)


# --- whether a consumer runs


@provokes(C.SUPERVISOR_ENDED)
async def test_p13_a_consumer_that_nobody_would_rebuild_is_not_live() -> None:
    athomic = new_app(settings(), handler())
    async with running(athomic):
        supervisor = manager_of(athomic).consumers["h"].life._supervisor
        assert supervisor is not None
        supervisor.cancel()
        await comes(athomic, C.SUPERVISOR_ENDED)


@provokes(C.RESTARTING, C.RESTARTS_OFTEN)
async def test_p13_a_consumer_that_breaks_is_told_and_one_that_breaks_often_is_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch, deaths = MemoryConsumer.fetch, iter([True, True])

    async def dies(consumer: MemoryConsumer, *arguments: Any) -> Any:
        if manager_of(athomic).consumers["h"].ready and next(deaths, False):
            raise TransportError("the client died")
        return await fetch(consumer, *arguments)

    options = {"restart_backoff": 0.3, "restart_backoff_max": 0.3}
    athomic = new_app(settings({"restarts": 2}, **options), handler())
    async with running(athomic):
        monkeypatch.setattr(MemoryConsumer, "fetch", dies)
        reason = await comes(athomic, C.RESTARTING)
        assert reason.message == "backing_off (it broke, and is rebuilt after a pause): the client died"
        assert manager_of(athomic).why_not_ready() == []
        reason = await comes(athomic, C.RESTARTS_OFTEN)
        assert (reason.message[:13], reason.limit_seconds) == ("broke 2 times", 300.0)
        await goes(athomic, C.RESTARTING)
        await athomic.drain()
        clock = ("consumption.account", "consumption.session", "consumption.assignment", "consumption.membership")
        set_clock(monkeypatch, lambda: time.monotonic() + 301, *clock)
        await goes(athomic, C.RESTARTS_OFTEN)


@provokes(C.STOPPED)
async def test_p13_a_consumer_that_was_stopped() -> None:
    athomic = new_app(settings(), handler())
    async with running(athomic):
        await manager_of(athomic).consumers["h"].stop(1.0)
        await comes(athomic, C.STOPPED)
        assert manager_of(athomic).why_not_live() == []


# --- its group


@provokes(C.MEMBERSHIP_IN_DOUBT, C.MEMBERSHIP_LOST, C.COMMIT_FAILING)
async def test_p13_membership_in_doubt_then_lost_then_back(monkeypatch: pytest.MonkeyPatch) -> None:
    commit, answer = MemoryConsumer.commit, Record()
    answer.seen = [None]

    async def refuse(consumer: MemoryConsumer, offsets: Any, timeout: float) -> None:
        if answer.seen[-1] is not None:
            raise answer.seen[-1]("refused")
        await commit(consumer, offsets, timeout)

    monkeypatch.setattr(MemoryConsumer, "commit", refuse)
    athomic = new_app(settings(), handler())
    async with running(athomic):
        await athomic.publish("t", "first")
        await athomic.drain()
        answer.note(TransportError)
        await athomic.publish("t", "second")
        reason = await comes(athomic, C.COMMIT_FAILING)
        assert reason.message == "commit failed, it will be tried again: refused"
        session_of(athomic)._assignment.trusted_until = 0.0  # as if the process had stood still
        await comes(athomic, C.MEMBERSHIP_IN_DOUBT)
        answer.note(CommitFailedError)
        await comes(athomic, C.MEMBERSHIP_LOST)
        await goes(athomic, C.MEMBERSHIP_IN_DOUBT)
        answer.note(None)
        broker_of(athomic).create_partitions("t", 2)  # rebalances the group
        await goes(athomic, C.MEMBERSHIP_LOST)
        await athomic.publish("t", "third")
        await athomic.drain()
        await goes(athomic, C.COMMIT_FAILING)


@provokes(C.WITHOUT_PARTITIONS, C.REBALANCE_LONG)
async def test_p13_a_rebalance_that_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    athomic = new_app(settings({"long_rebalance": 0.1}), handler())
    async with running(athomic):
        membership = session_of(athomic)._membership
        membership.without_partitions_since = time.monotonic()
        await comes(athomic, C.REBALANCE_LONG)
        monkeypatch.setattr("fastapi_athomic.consumption.account.longest_rebalance", lambda _: 0.2)
        await comes(athomic, C.WITHOUT_PARTITIONS)
        assert C.REBALANCE_LONG not in told(athomic)
        broker_of(athomic).create_partitions("t", 2)  # rebalances the group
        await goes(athomic, C.WITHOUT_PARTITIONS)


@provokes(C.STATIC_ID_TWICE, C.PARTITION_UNREADABLE)
async def test_p13_what_the_transport_says_has_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provoked on Kafka by tests/integration/test_twins.py and test_damaged_batches.py."""
    monkeypatch.setattr(MemoryConsumer, "troubles", lambda _: ["another member has the id a"])
    monkeypatch.setattr(MemoryConsumer, "held", lambda _: {TopicPartition("t", 0): "is held at offset 7"})
    athomic = new_app(settings(), handler())
    async with running(athomic):
        await comes(athomic, C.STATIC_ID_TWICE)
        await eventually(lambda: told(athomic)[C.PARTITION_UNREADABLE].since is not None)
        assert (await comes(athomic, C.PARTITION_UNREADABLE)).message == "t[0] is held at offset 7"
        monkeypatch.undo()
        await goes(athomic, C.STATIC_ID_TWICE)
        await goes(athomic, C.PARTITION_UNREADABLE)

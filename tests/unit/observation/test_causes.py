"""P13: each cause turns the right probe with the right code, and back: what `memory://` only stands in for.

Those that come about on `memory://` as on Apache Kafka are in tests/integration/test_causes.py and
test_message_causes.py; those here are provoked on Kafka by Kafka itself (tests/integration/test_broker_causes.py and
others).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from fastapi_athomic.exceptions import CommitFailedError, TransportError
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.transports.base import TopicCounts
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
    stand_still,
    told,
)
from tests.support.clock import set_clock

C = ReasonCode


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_intervals(monkeypatch)


# --- the app


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


# --- whether a consumer runs


@provokes(C.RESTARTING, C.RESTARTS_OFTEN)
async def test_p13_a_consumer_that_breaks_is_told_and_one_that_breaks_often_is_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poll, deaths = MemoryConsumer.poll, iter([True, True])

    def dies(consumer: MemoryConsumer, wanted: Any) -> None:
        if manager_of(athomic).consumers["h"].ready and next(deaths, False):
            raise TransportError("the client died")
        poll(consumer, wanted)

    options = {"restart_backoff": 0.3, "restart_backoff_max": 0.3}
    athomic = new_app(settings({"restarts": 2}, **options), handler())
    async with running(athomic):
        monkeypatch.setattr(MemoryConsumer, "poll", dies)
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
        stand_still(session_of(athomic))  # as if the process had stood still
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


@provokes(C.STATIC_ID_TWICE, C.PARTITION_UNREADABLE)
async def test_p13_what_the_transport_says_has_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
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


# --- messages


async def test_p13_no_fault_counts_while_the_broker_is_away() -> None:
    """It may be the cause: all web instances would be taken out of service at once."""
    gate, begun = Gate(), Record()

    async def act(message: str) -> None:
        begun.note(message)
        await gate.wait()

    athomic = new_app(settings(stuck_after=0.1), handler(act))
    async with running(athomic):
        await athomic.publish("t", "m")
        await begun.count(1)
        await eventually(lambda: manager_of(athomic).why_not_ready() == [C.HANDLER_STUCK])
        broker_of(athomic).disconnect()
        await eventually(lambda: C.BROKER_UNREACHABLE in told(athomic))
        assert C.HANDLER_STUCK in told(athomic)
        assert manager_of(athomic).why_not_ready() == []
        broker_of(athomic).reconnect()
        await eventually(lambda: manager_of(athomic).why_not_ready() == [C.HANDLER_STUCK])
        gate.set()
        await goes(athomic, C.HANDLER_STUCK)


@provokes(C.POSITION_UNKNOWN)
async def test_p13_a_partition_that_cannot_be_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.consumption.placement.RETRY_SECONDS", 0.01)

    async def refused(*_: Any) -> None:
        raise TransportError("refused")

    with monkeypatch.context() as broken:
        broken.setattr(MemoryConsumer, "commit", refused)
        athomic = new_app(settings(), handler())
        broker_of(athomic).create_topics({"t": 1})
        lifespan = athomic.app.router.lifespan_context(athomic.app)
        await lifespan.__aenter__()
        await eventually(lambda: athomic.manager() is not None)
        assert (await comes(athomic, C.POSITION_UNKNOWN)).message == "cannot begin to read t[0]: refused"
    await goes(athomic, C.POSITION_UNKNOWN)
    await lifespan.__aexit__(None, None, None)


@provokes(C.RETURN_TOPIC_UNREADABLE)
async def test_p13_a_redrive_topic_that_must_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.failures.topic_watch.FOLLOW_SECONDS", 0.02)
    counts = MemoryTransport.partition_counts

    async def denied(transport: MemoryTransport, topics: Any, timeout: float) -> Any:
        found = await counts(transport, topics, timeout)
        denied: Mapping[str, frozenset[Any]] = {"t.g.redrive": frozenset({"Read"})}
        return TopicCounts(dict(found), denied if "t.g.redrive" in found else {})

    athomic = new_app(settings(), handler())
    broker_of(athomic).create_topics({"t": 1, "t.g.redrive": 1})
    with monkeypatch.context() as broken:
        broken.setattr(MemoryTransport, "partition_counts", denied)
        lifespan = athomic.app.router.lifespan_context(athomic.app)
        await lifespan.__aenter__()
        await athomic.wait_until_ready()
        reason = await comes(athomic, C.RETURN_TOPIC_UNREADABLE)
        assert reason.message.startswith("what comes to t.g.redrive waits:")
    await goes(athomic, C.RETURN_TOPIC_UNREADABLE)
    await lifespan.__aexit__(None, None, None)

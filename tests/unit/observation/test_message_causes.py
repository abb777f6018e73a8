"""P13: messages that do not move, or that wait. Each cause turns the right probe with the right code, and back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import pytest

from fastapi_athomic import RetryPolicy, subscribe_to
from fastapi_athomic.exceptions import TransportError
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
    told,
)

C = ReasonCode


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_intervals(monkeypatch)


@provokes(C.NO_PROGRESS)
async def test_p13_a_consumer_that_gets_nothing_although_there_is_something(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch, works = MemoryConsumer.fetch, Gate()

    async def empty(consumer: MemoryConsumer, *arguments: Any) -> Any:
        if not works._open:
            await asyncio.sleep(0.005)
            return {}
        return await fetch(consumer, *arguments)

    monkeypatch.setattr(MemoryConsumer, "fetch", empty)
    athomic = new_app(settings(stall_timeout=20.0), handler())
    async with running(athomic):
        await athomic.publish("t", "m")
        session = session_of(athomic)
        session._membership.changed_at -= 11
        session._progress_at -= 11
        await comes(athomic, C.NO_PROGRESS)
        works.set()
        await goes(athomic, C.NO_PROGRESS)
        await athomic.drain()
        assert athomic.consumers()[0].restarts == 0


@provokes(C.HANDLER_STUCK, C.QUEUE_LATE, C.BACK_PRESSURE)
async def test_p13_a_handler_that_hangs_and_what_waits_behind_it() -> None:
    gate, begun = Gate(), Record()

    async def act(message: str) -> None:
        begun.note(message)
        await gate.wait()

    limits = {"queue_late": 0.1, "back_pressure": 0.1}
    few = {"max_poll_messages": 1, "max_buffered_messages": 2, "stuck_after": 0.1}
    athomic = new_app(settings(limits, **few), handler(act))
    async with running(athomic):
        await athomic.publish("t", "alone")
        await begun.count(1)
        await comes(athomic, C.HANDLER_STUCK)
        assert manager_of(athomic).why_not_ready() == [C.HANDLER_STUCK]
        assert {C.QUEUE_LATE, C.BACK_PRESSURE}.isdisjoint(told(athomic)), "nothing waits for its turn"
        await athomic.publish_many("t", ["behind"] * 5)
        await comes(athomic, C.QUEUE_LATE)
        assert (await comes(athomic, C.BACK_PRESSURE)).message.endswith("as the buffer is full: t[0]")
        gate.set()
        for code in (C.HANDLER_STUCK, C.QUEUE_LATE, C.BACK_PRESSURE):
            await goes(athomic, code)
        await athomic.drain()


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


@provokes(C.TOPIC_MISSING, C.NO_TOPIC_MATCHES)
async def test_p13_topics_that_are_gone_and_come_back() -> None:
    @subscribe_to(re.compile("u.*"), group_id="g", handler_id="p")
    async def by_pattern(message: str) -> None: ...

    athomic = new_app(settings(), handler(), by_pattern)
    async with running(athomic):
        await comes(athomic, C.NO_TOPIC_MATCHES)
        broker_of(athomic).create_topics({"u1": 1})
        await goes(athomic, C.NO_TOPIC_MATCHES)
        broker_of(athomic).delete_topics(["t"])
        reason = await comes(athomic, C.TOPIC_MISSING)
        assert reason.since is not None
        assert manager_of(athomic).why_not_ready() == []
        broker_of(athomic).create_topics({"t": 1})
        await goes(athomic, C.TOPIC_MISSING)


@provokes(C.DEAD_LETTER_UNWRITABLE, C.FAILURE_TOPICS_UNUSABLE)
async def test_p13_a_dead_letter_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.consumption.membership.PREPARE_SECONDS", 0.05)
    monkeypatch.setattr("fastapi_athomic.failures.dlq.MAX_WRITE_DELAY", 0.2)

    def act(message: str) -> None:
        raise RuntimeError("no")

    athomic = new_app(settings(create_topics=False), handler(act, retry=RetryPolicy(max_attempts=1)))
    broker_of(athomic).create_topics({"t": 1})
    async with running(athomic):
        reason = await comes(athomic, C.FAILURE_TOPICS_UNUSABLE)
        assert "t.g.dlq does not exist" in reason.message
        broker_of(athomic).create_topics({"t.g.dlq": 1})
        await goes(athomic, C.FAILURE_TOPICS_UNUSABLE)
        broker_of(athomic).refuse("t.g.dlq")
        await athomic.publish("t", "m")
        since = (await comes(athomic, C.DEAD_LETTER_UNWRITABLE)).since
        tries = told(athomic)[C.DEAD_LETTER_UNWRITABLE]
        await eventually(lambda: told(athomic)[C.DEAD_LETTER_UNWRITABLE] is not tries)
        assert told(athomic)[C.DEAD_LETTER_UNWRITABLE].since == since, "since the first try"
        broker_of(athomic).allow("t.g.dlq")
        await goes(athomic, C.DEAD_LETTER_UNWRITABLE)


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

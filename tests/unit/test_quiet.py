"""Timers, limits and back-offs that pass, on `memory://`: afterwards all is as before."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, PublishError, RetryPolicy, subscribe_to
from fastapi_athomic.consumption.supervision import Supervision
from fastapi_athomic.messages import TopicPartition
from tests.support.apps import Gate, Record, eventually, new_app, running


def settings(**options: Any) -> AthomicSettings:
    return AthomicSettings(broker_url=f"memory://{uuid4().hex}", **options)


def broker_of(athomic: Athomic) -> Any:
    return athomic._transport.broker  # type: ignore[attr-defined]


def service_of(athomic: Athomic) -> Any:
    return athomic.manager().consumers["h"]  # type: ignore[union-attr]


async def test_p18_the_back_off_grows_to_its_limit_and_begins_anew_after_a_steady_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record, delays, pause = Record(), list[float](), Supervision._pause_before_restart

    async def noted(life: Supervision, delay: float) -> None:
        delays.append(delay)
        await pause(life, delay)

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(number: int) -> None:
        record.note(number)

    async def break_off() -> None:
        service = service_of(athomic)
        await eventually(lambda: service.ready)
        restarts = service.restarts
        service.life.session._strategy.pool.failure = RuntimeError("injected")
        await athomic.publish("t", restarts)  # ends the poll
        await eventually(lambda: service.restarts > restarts)

    monkeypatch.setattr(Supervision, "_pause_before_restart", noted)
    async with running(new_app(settings(restart_backoff=0.01, restart_backoff_max=0.03), handle)) as athomic:
        for _ in range(4):
            await break_off()
        monkeypatch.setattr("fastapi_athomic.consumption.supervision.STEADY_SECONDS", 0.0)
        await break_off()
        await record.until(lambda seen: set(seen) == set(range(5)))
        await athomic.drain()
    assert delays == [0.01, 0.02, 0.03, 0.03, 0.01]


async def test_p18_a_dead_letter_that_waited_as_long_as_it_can_is_written_when_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastapi_athomic.failures.dlq.FIRST_WRITE_DELAY", 0.001)
    monkeypatch.setattr("fastapi_athomic.failures.dlq.MAX_WRITE_DELAY", 0.003)
    record = Record()

    @subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def handle(number: int) -> None:
        record.note(number)
        if number == 0:
            raise RuntimeError("never")

    async with running(new_app(settings(publish_timeout=0.001), handle)) as athomic:
        broker_of(athomic).refuse("t.g.dlq")
        await athomic.publish_many("t", [0, 1], key=lambda _: "k")
        delays = service_of(athomic).dlq_handler._write_delays
        await eventually(lambda: list(delays.values()) == [0.003])
        broker_of(athomic).allow("t.g.dlq")
        assert await record.count(2) == [0, 1]
        await athomic.drain()
        assert delays == {}, "the next one begins with the first delay again"


async def test_p18_after_a_publish_that_ran_out_of_time_the_next_is_like_the_first() -> None:
    record = Record()

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(number: int) -> None:
        record.note(number)

    async with running(new_app(settings(publish_timeout=0.01), handle)) as athomic:
        broker_of(athomic).disconnect()
        with pytest.raises(PublishError):
            await athomic.publish("t", 1)
        broker_of(athomic).reconnect()
        await athomic.publish("t", 2)
        assert await record.count(1) == [2]


async def test_p18_who_waits_in_vain_is_told_and_may_wait_again() -> None:
    gate = Gate()

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(number: int) -> None:
        await gate.wait()

    athomic = new_app(settings(restart_backoff=0.01), handle)
    broker_of(athomic).disconnect()
    async with athomic.app.router.lifespan_context(athomic.app):
        with pytest.raises(TimeoutError):
            await athomic.wait_until_ready(timeout=0.01)
        broker_of(athomic).reconnect()
        await athomic.wait_until_ready()
        await athomic.publish("t", 1)
        with pytest.raises(TimeoutError):
            await athomic.drain(timeout=0.01)
        gate.set()
        await athomic.drain()


async def test_p18_topics_of_another_deploy_are_looked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record()
    monkeypatch.setattr("fastapi_athomic.failures.topic_watch.FOLLOW_SECONDS", 0.01)
    monkeypatch.setattr("fastapi_athomic.failures.topic_watch.LISTING_SECONDS", 0.02)  # since the look at the start

    @subscribe_to("t", group_id="g", handler_id="h", ordering="none", retry=RetryPolicy(retry_topics=(5,)))
    async def handle(number: int) -> None:
        record.note(number)

    async with running(new_app(settings(), handle)) as athomic:
        await athomic.publish("t", 1)
        await record.count(1)
        broker_of(athomic).create_topics({"t.g.retry.7s": 1})
        broker_of(athomic).rebalance("g")
        followed = [TopicPartition("t.g.retry.7s", 0)]
        await eventually(lambda: set(followed) <= set(service_of(athomic).positions()))

"""What a process does with the role `web`, and with some of the handlers only."""

from __future__ import annotations

import logging
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    ConfigurationError,
    ControlEvent,
    ControlRefusedError,
    HandlerSignatureError,
    RetryPolicy,
    subscribe_to,
)
from fastapi_athomic.control import group_pauses
from fastapi_athomic.operation_settings import ControlSettings
from tests.support.apps import Record, eventually, new_app, running

record = Record()


@subscribe_to("orders", group_id="billing", handler_id="billing")
async def bill(order: str) -> None:
    record.note(order)


@subscribe_to("orders", group_id="shipping", handler_id="shipping")
async def ship(order: str) -> None:
    record.note(order)


@subscribe_to("orders", group_id="broken", handler_id="broken")
async def broken(order: str, unknown: int) -> None: ...


def web() -> Athomic:
    return new_app(AthomicSettings(role="web"), bill, ship)


async def test_a_web_process_publishes_and_consumes_nothing() -> None:
    record.seen.clear()
    async with running(web()) as athomic:
        placed = await athomic.publish("orders", "one")
        await athomic.drain()
        assert placed.offset == 0
        assert record.seen == []
        assert [(each.state, each.ready) for each in athomic.consumers()] == [("elsewhere", False)] * 2
        assert all(not each.assignment for each in athomic.consumers())
    assert athomic.consumers() == []


def test_a_web_process_is_healthy_and_says_what_it_is() -> None:
    athomic = web()
    with TestClient(athomic.app) as client:
        assert client.portal is not None
        client.portal.call(athomic.wait_until_ready)
        answer = client.get("/consumers/health")
        assert answer.status_code == 200
        health = answer.json()
        assert (health["status"], health["role"]) == ("healthy", "web")
        assert [each["status"] for each in health["consumers"].values()] == ["healthy", "healthy"]
        assert client.get("/consumers/health/ready").status_code == 200
        metrics = client.get("/consumers/metrics").text
    assert "athomic_event_loop_lag_seconds{" in metrics
    assert "athomic_consumer_healthy{" not in metrics, "it says nothing of consumers that others have"


async def test_a_web_process_steers_those_where_its_consumers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the state store."""
    monkeypatch.setattr(group_pauses, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr("fastapi_athomic.control.instructions.ANSWER_PAUSE", 0.01)
    monkeypatch.setattr("fastapi_athomic.failures.topic_watch.FOLLOW_SECONDS", 0.02)  # there is a redrive topic now
    url, control = f"memory://{uuid4().hex}", ControlSettings(enabled=True, allow_anonymous=True)
    events: list[ControlEvent] = []

    @subscribe_to("orders", group_id="billing", handler_id="billing", retry=RetryPolicy(max_attempts=1))
    async def fail(order: str) -> None:
        raise RuntimeError("no")

    settings = AthomicSettings(broker_url=url, role="worker", control=control, instance_id="worker")
    async with running(new_app(settings, fail)) as worker:
        web = new_app(AthomicSettings(broker_url=url, role="web", control=control), fail)
        web.on_control(events.append)
        async with running(web):
            await web.publish("orders", "one")
            await worker.drain()
            for told in (
                web.restart("billing"),
                web.set_concurrency("billing", 4),
                web.set_rate("billing", 5),
                web.set_breaker("billing", "open"),
                web.set_breaker("billing", "auto"),
            ):
                assert (await told).done
            assert [event.done for event in events] == [True] * 5
            assert worker.consumers()[0].concurrency == 4
            await web.pause("billing")
            await eventually(lambda: worker.consumers()[0].paused)
            moved = await web.seek("billing", "orders", to="beginning", force=True)
            assert (moved.done, moved.repeated) == (True, 1)
            await web.resume("billing")
            await eventually(lambda: not worker.consumers()[0].paused)
            await worker.drain()
            assert (await web.dead_letters("billing").redrive()).settled == 2
            await eventually(lambda: worker.consumers()[0].counters.dead_lettered == 4)


def test_a_worker_under_a_server_is_steered_by_its_own_routes() -> None:
    """Behind the authentication of the app. The port of `fastapi-athomic run` has no such routes."""
    control = ControlSettings(enabled=True, allow_anonymous=True)
    athomic = new_app(AthomicSettings(role="worker", control=control), bill, ship)
    with TestClient(athomic.app) as client:
        for action, body in {"pause": {}, "restart": {}, "rate": {"messages_per_second": 5}}.items():
            answer = client.post(f"/consumers/billing/{action}", json={"reason": "x", **body})
            assert answer.status_code == 200
        limit = client.get("/consumers/billing").json()["rate_limit"]
        assert limit["messages_per_second"] == 5


async def test_a_web_process_that_nobody_hears_pauses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.athomic.create_shared_state", lambda settings: None)
    async with running(web()) as athomic:
        for done in (athomic.pause("billing"), athomic.resume("billing")):
            with pytest.raises(ControlRefusedError, match="consume would hear of it: set state_store_url"):
                await done
        assert athomic.consumers()[0].pauses == []


async def test_a_web_process_checks_its_handlers_all_the_same() -> None:
    with pytest.raises(HandlerSignatureError, match="nothing provides parameter unknown"):
        await new_app(AthomicSettings(role="web"), bill, broken).check()


async def test_a_web_process_on_a_broker_of_its_own_warns_that_nobody_consumes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        async with running(web()):
            pass
    assert "the role is web and the broker is memory://: nobody handles what is published" in caplog.text
    assert "2 consumers left to processes with the role worker" in caplog.text


async def test_only_some_handlers_run() -> None:
    record.seen.clear()
    athomic = new_app(AthomicSettings(role="web"), bill, ship)
    athomic.take_role("worker", only=["billing"])
    async with running(athomic):
        await athomic.publish("orders", "one")
        await athomic.drain()
        assert record.seen == ["one"]
        assert [each.id for each in athomic.consumers()] == ["billing"]
        health = athomic.health()
        assert health is not None
        assert (health.role, [*health.consumers]) == ("worker", ["billing"])


async def test_an_unknown_handler_is_refused_and_the_known_ones_are_named() -> None:
    athomic = new_app(AthomicSettings(), bill, ship)
    athomic.take_role("worker", only=["biling", "shipping"])
    with pytest.raises(ConfigurationError, match=r"asked for: biling.*billing.*the handlers are: billing, shipping"):
        await athomic.check()

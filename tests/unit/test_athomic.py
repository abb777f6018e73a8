"""`include_athomic` and the object it gives, on `memory://`."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from starlette.applications import Starlette

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    ConfigurationError,
    DuplicateHandlerError,
    HandlerSignatureError,
    PublishError,
    RetryPolicy,
    TransportError,
    get_athomic,
    include_athomic,
    ordered_consumer,
    subscribe_to,
)
from fastapi_athomic.consumption.supervision import BREAK_SECONDS, Supervision
from fastapi_athomic.inclusion import install
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.settings import HandlerTuning
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from tests.support.apps import Record, eventually, new_app, running

MEMORY = AthomicSettings()


# --- the two forms


def test_the_method_and_the_function_are_the_same() -> None:
    app = FastAPI()
    athomic = app.include_athomic(settings=MEMORY)  # type: ignore[attr-defined]
    assert isinstance(athomic, Athomic)
    assert app.state.athomic is athomic
    assert isinstance(include_athomic(FastAPI(), MEMORY), Athomic)


def auth() -> None: ...


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"settings": {"broker_url": "memory://"}},
            r"settings must be an AthomicSettings\(...\), not an object of dict",
        ),
        ({"dependencies": [auth]}, r"dependencies must be a list of Depends\(...\)"),
        ({"probe_dependencies": [auth]}, r"probe_dependencies must be a list of Depends\(...\)"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused(options: dict[str, Any], said: str) -> None:
    app = FastAPI()
    with pytest.raises(ConfigurationError, match=said):
        include_athomic(app, **options)
    include_athomic(app, MEMORY)  # nothing was left on the app


def test_it_is_said_that_a_lifespan_is_too_late() -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        include_athomic(app)
        yield

    with (
        pytest.raises(ConfigurationError, match=r"too late, as the app has started .* where the app is made"),
        TestClient(FastAPI(lifespan=lifespan)),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (APIRouter(), "not a router: call include_athomic(app) once, and app.include_router(router)"),
        (Starlette(), "a FastAPI app, not an object of Starlette"),
        (FastAPI, "a FastAPI app, not the class FastAPI"),
    ],
)
def test_what_is_no_app_gets_a_sentence(given: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        include_athomic(given, MEMORY)
    assert words in str(caught.value)


def test_a_route_of_a_mounted_app_is_told_that_it_gets_nothing_from_the_app_around_it() -> None:
    app, sub = FastAPI(), FastAPI()
    include_athomic(app, MEMORY)
    app.mount("/sub", sub)

    @sub.get("/x")
    def route(athomic: Annotated[Athomic, Depends(get_athomic)]) -> None: ...

    with TestClient(app) as client, pytest.raises(ConfigurationError, match="routes of a mounted app do not get that"):
        client.get("/sub/x")


def test_athomics_own_decorators_need_brackets_too() -> None:
    athomic = new_app(MEMORY)

    def handle(message: str) -> None: ...

    for decorator in (athomic.subscribe_to, athomic.ordered_consumer):
        with pytest.raises(ConfigurationError, match="needs brackets that say what to consume"):
            decorator(handle)  # type: ignore[call-arg, arg-type]


def test_a_method_of_that_name_is_never_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = object()
    monkeypatch.setattr(FastAPI, "include_athomic", theirs, raising=False)
    install()
    assert FastAPI.include_athomic is theirs  # type: ignore[attr-defined]


def test_a_second_one_needs_another_name() -> None:
    app = FastAPI()
    include_athomic(app, MEMORY)
    with pytest.raises(ConfigurationError, match="another name"):
        include_athomic(app, MEMORY)


async def test_two_on_one_app_have_their_own_routes_and_consumers() -> None:
    app, record = FastAPI(), Record()
    first = include_athomic(app, MEMORY)
    second = include_athomic(app, MEMORY, name="other", prefix="/other")

    for athomic, name in ((first, "one"), (second, "two")):

        @athomic.subscribe_to("t", group_id="g", handler_id=name)
        async def handle(message: str, plugin: Athomic) -> None:
            record.note((message, plugin.name))

    async with app.router.lifespan_context(app):
        await first.wait_until_ready()
        await second.wait_until_ready()
        await first.publish("t", "to first")
        await second.publish("t", "to second")
        await record.count(2)
    assert sorted(record.seen) == [("to first", "athomic"), ("to second", "other")]


# --- lifespan


async def test_the_first_request_may_publish() -> None:
    """HTTP is up at once: `publish` waits for the broker by itself."""
    record = Record()

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None:
        record.note(message)

    athomic = new_app(MEMORY, handle)
    async with athomic.app.router.lifespan_context(athomic.app):
        await athomic.publish("t", "at once")
        assert await record.count(1) == ["at once"]


def test_it_lives_inside_the_apps_own_lifespan() -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        steps.append("app up")
        yield {"resource": "of the app"}
        steps.append("app down")

    app = FastAPI(lifespan=lifespan)
    athomic = include_athomic(app, MEMORY)

    @athomic.subscribe_to("t", group_id="g")
    async def handle(message: str) -> None:
        await asyncio.sleep(0)
        steps.append(message)

    @app.get("/publish")
    async def publish(athomic: Annotated[Athomic, Depends(get_athomic)]) -> Any:
        return await athomic.publish("t", "handled")

    for _ in range(2):
        steps.clear()
        with TestClient(app) as client:
            assert client.app_state == {"resource": "of the app"}
            while client.get("/consumers/health/startup").status_code != 200:
                pass
            assert client.get("/publish").status_code == 200
            while not client.get("/consumers").json()[0]["counters"]["processed"]:
                pass
        assert steps == ["app up", "handled", "app down"]


def test_http_is_up_before_the_consumers_and_health_says_so() -> None:
    settings = AthomicSettings(restart_backoff=0.01, restart_backoff_max=0.01)
    app = FastAPI()
    athomic = include_athomic(app, settings)
    broker = athomic._transport.broker  # type: ignore[attr-defined]
    broker.disconnect()

    @athomic.subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    with TestClient(app) as client:
        answer = client.get("/consumers/health")
        assert answer.status_code == 503
        assert answer.json()["status"] == "starting"
        assert client.get("/consumers/health/live").status_code == 200
        assert client.get("/consumers/health/ready").json() == {"ok": True}, "it answers requests, and may publish"
        assert client.get("/consumers/health/startup").status_code == 503
        broker.reconnect()
        while client.get("/consumers/health").status_code != 200:
            pass
        assert client.get("/consumers/health/startup").json() == {"ok": True}
        assert client.get("/consumers/health").json()["consumers"] == {"h": {"status": "healthy", "reasons": []}}


def test_before_the_start_the_routes_say_that_it_has_not_started() -> None:
    app = FastAPI()
    include_athomic(app, MEMORY)
    client = TestClient(app)  # not entered: no lifespan, as in a mounted app
    answer = client.get("/consumers/health")
    assert answer.status_code == 503
    assert "mounted" in answer.json()["reasons"][0]["message"]
    assert client.get("/consumers").json() == []
    assert client.get("/consumers/nobody").status_code == 404


async def test_publishing_outside_the_apps_life_raises() -> None:
    athomic = new_app(MEMORY)
    with pytest.raises(PublishError, match="not running"):
        await athomic.publish("t", "too early")
    async with running(athomic):
        await athomic.publish("t", "in time")
    with pytest.raises(PublishError, match="not running"):
        await athomic.publish("t", "too late")


async def test_a_startup_timeout_waits_for_the_consumers() -> None:
    @subscribe_to("t", group_id="g")
    async def handle(message: str) -> None: ...

    athomic = new_app(AthomicSettings(startup_timeout=30), handle)
    async with athomic.app.router.lifespan_context(athomic.app):
        assert athomic.consumers()[0].ready


@pytest.mark.parametrize("broken", ["signature", "duplicate", "ordered", "raw", "group", "tuning"])
async def test_what_no_waiting_cures_stops_the_start_up(broken: str) -> None:
    @subscribe_to("t", group_id="g", handler_id="one")
    async def one(message: str) -> None: ...

    @subscribe_to("t", group_id="g", handler_id="one")
    async def other(message: str) -> None: ...

    @subscribe_to("t", group_id="g", handler_id="bad")
    async def bad(message: str, nobody: int) -> None: ...

    @ordered_consumer("t", group_id="g", handler_id="seq", aggregate_key_field="a", sequence_id_field="b")
    async def ordered(message: dict[str, Any]) -> None: ...

    @ordered_consumer("t", group_id="g", handler_id="raw", aggregate_key_field="a", sequence_id_field="b")
    async def undecoded(message: bytes) -> None: ...

    @ordered_consumer("u", group_id="g", handler_id="two", aggregate_key_field="a", sequence_id_field="b")
    async def same_group(message: dict[str, Any]) -> None: ...

    cases: dict[str, tuple[tuple[Callable[..., Any], ...], type[Exception], str]] = {
        "signature": ((one, bad), HandlerSignatureError, "handler bad: nothing provides parameter nobody"),
        "duplicate": ((one, other), DuplicateHandlerError, "handler id one is used twice"),
        "ordered": ((ordered,), ConfigurationError, "seq: an ordered consumer needs a state store .* ATHOMIC_STATE_ST"),
        "raw": ((undecoded,), ConfigurationError, "handler raw: an ordered consumer needs a decoded message"),
        "group": ((ordered, same_group), ConfigurationError, "handler two: group g has another ordered consumer"),
        "tuning": (
            (one,),
            ConfigurationError,
            r"unknown handler nobody \(ATHOMIC_HANDLER_TUNING\); the handlers are: one",
        ),
    }
    handlers, error, said = cases[broken]
    url = "kafka://127.0.0.1:1" if broken == "ordered" else "memory://"
    tuning = {"nobody": HandlerTuning()} if broken == "tuning" else {}
    settings = AthomicSettings(broker_url=url, handler_tuning=tuning)
    with pytest.raises(error, match=said):
        async with running(new_app(settings, *handlers)):
            pass


async def test_a_start_names_everything_that_is_wrong_and_so_does_the_check() -> None:
    @subscribe_to("t", group_id="g", handler_id="good")
    async def good(message: str) -> None: ...

    @subscribe_to("t", group_id="h", handler_id="one")
    async def one(message: str, nobody: int) -> None: ...

    @subscribe_to("t", group_id="i", handler_id="two")
    async def two(message) -> None: ...  # type: ignore[no-untyped-def]

    athomic = new_app(MEMORY, good, one, two)
    for attempt in (athomic.check, athomic.app.router.lifespan_context(athomic.app).__aenter__):
        with pytest.raises(ConfigurationError, match=r"handler one: .*\nhandler two: ") as raised:
            await attempt()
        assert [type(problem) for problem in raised.value.problems] == [HandlerSignatureError] * 2
    fine = new_app(MEMORY, good)
    assert list((await fine.check()).consumers) == ["good"]
    assert fine.health() is None, "nothing was started"
    async with running(fine):
        assert [status.id for status in fine.consumers()] == ["good"], "a check does not disturb a start"


# --- routes


def test_dependencies_guard_every_route_of_the_plugin() -> None:
    def nobody() -> None:
        raise HTTPException(401)

    app = FastAPI()
    athomic = include_athomic(app, MEMORY, dependencies=[Depends(nobody)], prefix="/internal")

    @athomic.subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    with TestClient(app) as client:
        paths = [path for path in client.get("/openapi.json").json()["paths"] if path.startswith("/internal")]
        assert len(paths) == 9
        for path in paths:
            assert client.get(path.replace("{consumer_id}", "h")).status_code == 401, path


def test_the_routes_are_typed_in_openapi() -> None:
    app = FastAPI()
    include_athomic(app, MEMORY)
    schema = TestClient(app).get("/openapi.json").json()
    for path, operations in schema["paths"].items():
        operation = operations["get"]
        if path.endswith(("/metrics", "/events")):
            continue  # Prometheus' format and event streams are no JSON
        assert operation["tags"] == ["consumers"], path
        assert operation["responses"]["200"]["content"]["application/json"]["schema"], path
    fields = schema["components"]["schemas"]["ConsumerStatus"]["properties"]
    assert {"id", "topics", "group_id", "ordering", "state", "ready", "assignment", "counters", "rates"} <= set(fields)
    assert {"oldest_in_flight_seconds", "last_message_at", "last_error", "restarts"} <= set(fields)
    described = schema["components"]["schemas"]["LastError"]["properties"]
    assert described.keys() == {"type", "message", "stage", "topic", "partition", "offset", "at", "count"}
    assert all(field["description"] for field in described.values())
    assert "broke off" in fields["last_restart_reason"]["description"]


async def test_status_tells_what_happened() -> None:
    @subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=2, delay=0))
    async def handle(message: str) -> None:
        if message == "bad":
            raise RuntimeError("no such customer")

    async with running(new_app(MEMORY, handle)) as athomic:
        for message in ("good", "bad", "good"):
            await athomic.publish("t", message, partition=1)
        await athomic.drain()
        (status,) = athomic.consumers()
    assert (status.id, status.topics, status.group_id, status.ordering) == ("h", ["t"], "g", "partition")
    counters = status.counters
    assert (counters.received, counters.processed, counters.failed) == (3, 2, 2)
    assert (counters.retried, counters.dead_lettered) == (1, 1)
    (place,) = [place for place in status.assignment if (place.topic, place.partition) == ("t", 1)]
    assert (place.position, place.committed, place.end_offset, place.lag, place.in_flight) == (3, 3, 3, 0, 0)
    assert status.last_message_at is not None
    assert status.dlq_topics == ["t.g.dlq"]
    assert status.last_error is not None
    assert (status.last_error.message, status.last_error.offset, status.last_error.count) == ("no such customer", 1, 2)


# --- tuning


async def test_a_handler_is_tuned_by_settings_alone() -> None:
    @subscribe_to("t", group_id="g", handler_id="h", concurrency=1)
    async def handle(message: str) -> None: ...

    @subscribe_to("t", group_id="g", handler_id="off")
    async def off(message: str) -> None: ...

    tuning = {"h": HandlerTuning(concurrency=7, paused=True), "off": HandlerTuning(enabled=False)}
    async with running(new_app(AthomicSettings(handler_tuning=tuning), handle, off)) as athomic:
        (status,) = athomic.consumers()
        assert (status.concurrency, status.paused) == (7, True)
        await athomic.publish("t", "waits", partition=0)
        manager = athomic.manager()
        assert manager is not None
        assert status.counters.received == 0
        manager.consumers["h"].resume()
        await eventually(lambda: athomic.consumers()[0].counters.processed == 1)


# --- drain


async def test_what_is_published_while_the_ends_of_topics_are_read_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`first` published to `second`, whose end had been read already; its client had not heard of the message yet."""
    heard = asyncio.Event()

    @subscribe_to("first", group_id="first", handler_id="first")
    async def pass_on(message: str) -> None:
        await athomic.publish("second", message)

    @subscribe_to("second", group_id="second", handler_id="second")
    async def end(message: str) -> None: ...

    take, end_offset = MemoryConsumer.take, MemoryConsumer.end_offset

    def is_unheard(place: TopicPartition) -> bool:
        return place.topic == "second" and not heard.is_set()

    def take_heard(self: MemoryConsumer, places: Collection[TopicPartition], limit: int) -> Any:
        return take(self, [place for place in places if not is_unheard(place)], limit)

    def heard_of(self: MemoryConsumer, place: TopicPartition) -> int | None:
        return self.position(place) if is_unheard(place) else end_offset(self, place)

    monkeypatch.setattr(MemoryConsumer, "take", take_heard)
    monkeypatch.setattr(MemoryConsumer, "end_offset", heard_of)
    async with running(new_app(MEMORY, pass_on, end)) as athomic:
        read = athomic._transport.bounds

        async def bounds(topic: str, timeout: float) -> Any:
            found = await read(topic, timeout)
            if topic == "second":
                monkeypatch.setattr(athomic._transport, "bounds", read)
                await athomic.publish("first", "message")
                await eventually(lambda: sum(each.committed or 0 for each in athomic.consumers()[0].assignment) == 1)
            return found

        monkeypatch.setattr(athomic._transport, "bounds", bounds)
        assert not await athomic.is_drained()
        heard.set()
        await eventually(lambda: athomic.consumers()[1].counters.processed)


async def test_a_message_from_the_waiting_room_is_waited_for() -> None:
    """Its offset was committed when it was parked."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    @ordered_consumer(
        "t", group_id="g", handler_id="h", aggregate_key_field="key", sequence_id_field="number", first_sequence=1
    )
    async def handle(message: dict[str, Any]) -> None:
        if message["number"] == 2:
            begun.set()
            await may_end.wait()

    async with running(new_app(MEMORY, handle)) as athomic:
        await athomic.publish("t", {"key": "k", "number": 2}, key="k")
        await eventually(lambda: athomic.consumers()[0].counters.parked)
        await athomic.publish("t", {"key": "k", "number": 1}, key="k")
        await begun.wait()
        await eventually(lambda: sum(each.committed or 0 for each in athomic.consumers()[0].assignment) == 2)
        assert not await athomic.is_drained()
        may_end.set()
        await athomic.drain()
        assert athomic.consumers()[0].counters.processed == 2


# --- supervision


async def test_a_worker_that_dies_does_not_stop_the_consumer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a fault of our own: handlers cannot kill them."""
    record = Record()

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None:
        record.note(message)
        if message == "first":
            monkeypatch.setattr("fastapi_athomic.consumption.lanes.LaneStrategy._leave", lambda *_: 1 / 0)

    async with running(new_app(AthomicSettings(restart_backoff=0.01), handle)) as athomic:
        await athomic.publish("t", "first")
        await record.count(1)
        await eventually(lambda: athomic.consumers()[0].restarts)
        monkeypatch.undo()
        await athomic.publish("t", "second")
        await record.until(lambda seen: "second" in seen)
        await athomic.drain()
        (status,) = athomic.consumers()
    assert status.last_error is None, "no message failed"
    assert status.last_restart_reason == "ZeroDivisionError"
    (line,) = [line for line in caplog.records if "consumption broke off" in line.getMessage()]
    assert line.getMessage() == "h: consumption broke off (ZeroDivisionError), it will be started again"
    assert line.exc_info is not None, "nobody foresaw it: the traceback says where to look"


def refuse(*_: Any) -> Any:
    raise TransportError("the broker is moody")


async def test_a_consumer_that_cannot_even_close_its_session_is_not_healthy_and_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close = Supervision._close

    async def close_and_break(*arguments: Any) -> None:
        await close(*arguments)
        raise ZeroDivisionError

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    async with running(new_app(AthomicSettings(restart_backoff=0.01), handle)) as athomic:
        with monkeypatch.context() as broken:
            broken.setattr(Supervision, "_close", close_and_break)
            broken.setattr("fastapi_athomic.consumption.lanes.LaneStrategy._leave", refuse)
            await athomic.publish("t", "first")
            await eventually(lambda: athomic.consumers()[0].restarts)
        await athomic.wait_until_ready()
    (line, *_) = [line for line in caplog.records if "consumption broke off (ZeroDivisionError)" in line.getMessage()]
    assert line.exc_info is not None


async def test_an_error_that_stays_is_told_once_until_the_consumer_consumes_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fastapi_athomic")
    now = 0.0
    monkeypatch.setattr("fastapi_athomic.complaints.monotonic", lambda: now)

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    settings = AthomicSettings(restart_backoff=0.001, restart_backoff_max=0.001)
    athomic = new_app(settings, handle)

    def told(what: str) -> list[str]:
        return [line.getMessage() for line in caplog.records if what in line.getMessage()]

    async def break_five_times() -> None:
        before = athomic.consumers()[0].restarts
        await eventually(lambda: athomic.consumers()[0].restarts > before + 5)

    with monkeypatch.context() as broken:
        broken.setattr("fastapi_athomic.consumption.session.ConsumerSession.run", refuse)
        async with athomic.app.router.lifespan_context(athomic.app):
            await break_five_times()
            assert told("broke off") == ["h: consumption broke off (the broker is moody), it will be started again"]
            assert told("h: starting") == ["h: starting"] * 2, "states that only repeat are not told"
            now = BREAK_SECONDS
            await break_five_times()
            assert len(told("broke off")) == 2
            assert re.search(r"started again \(\d+ more times since this was logged\)$", told("broke off")[-1])
            broken.undo()
            await athomic.wait_until_ready()
            broken.setattr("fastapi_athomic.consumption.lanes.LaneStrategy._leave", refuse)
            await athomic.publish("t", "x")
            await eventually(lambda: len(told("broke off")) == 3)


async def test_p07_a_dead_letter_waits_until_the_dlq_can_be_written() -> None:
    record = Record()

    @subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def handle(message: str) -> None:
        record.note(message)
        if message == "bad":
            raise RuntimeError("never")

    async with running(new_app(MEMORY, handle)) as athomic:
        broker = athomic._transport.broker  # type: ignore[attr-defined]
        broker.refuse("t.g.dlq")
        await athomic.publish_many("t", ["bad", "good"], key=lambda _: "k")
        await eventually(lambda: (health := athomic.health()) is not None and health.status == "degraded")
        health = athomic.health()
        assert health is not None
        assert "waits: dead letter to t.g.dlq refused" in health.consumers["h"].reasons[0].message
        assert record.seen == ["bad"], "the partition waits, and the handler is not called again"
        broker.allow("t.g.dlq")
        await record.count(2)
        await athomic.drain()
        health = athomic.health()
        assert health is not None
        assert health.status == "healthy"
        assert athomic.consumers()[0].counters.dead_lettered == 1
    assert record.seen == ["bad", "good"]


async def test_a_start_that_is_refused_leaves_nothing_behind_that_seems_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi_athomic.exporters.openlineage", None)  # as without the extra

    @subscribe_to("t", group_id="g")
    async def handle(message: str) -> None: ...

    athomic = new_app(AthomicSettings(lineage_events=True), handle)
    with pytest.raises(ConfigurationError, match=r"lineage_events needs fastapi-athomic\[lineage\]"):
        async with running(athomic):
            pass
    assert athomic.consumers() == []
    with pytest.raises(PublishError, match="not running"):
        await athomic.publish("t", "message")

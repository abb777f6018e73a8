"""Publishing around the app's own lifespan, and from sync code, on `memory://`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    ExecutionContext,
    PublishError,
    get_context,
    include_athomic,
    set_context,
    subscribe_to,
)
from tests.support.apps import Record, new_app, running

ISOLATIONS = pytest.mark.parametrize("isolation", ["loop", "thread"])


def settings(isolation: Any, **options: Any) -> AthomicSettings:
    return AthomicSettings(isolation=isolation, restart_backoff=0.01, restart_backoff_max=0.01, **options)


# --- the app's own lifespan


@ISOLATIONS
async def test_both_ends_of_the_apps_own_lifespan_publish(isolation: Any) -> None:
    record, steps = Record(), list[str]()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        await athomic.publish("t", "before", key="k")
        steps.append(f"before: {len(athomic.consumers())} consumers")
        yield {"resource": "the app's"}
        steps.append(f"after: {len(athomic.consumers())} consumers")
        await athomic.publish("t", "after", key="k")

    app = FastAPI(lifespan=lifespan)
    athomic = include_athomic(app, settings(isolation))

    @athomic.subscribe_to("t", group_id="g")
    async def handle(message: str) -> None:
        record.note(message)

    for _ in range(2):  # the same app object runs twice
        async with app.router.lifespan_context(app) as state:
            assert state == {"resource": "the app's"}
            await athomic.wait_until_ready()
            await athomic.drain()
    assert record.seen == ["before", "after", "before"], "what was published last is handled by the next run"
    assert steps == ["before: 0 consumers", "after: 0 consumers"] * 2
    assert "athomic-consumers" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.filterwarnings("ignore:.*on_startup and on_shutdown.*:DeprecationWarning")  # of older versions
def test_startup_handlers_and_routers_with_a_lifespan_publish_too() -> None:
    record = Record()

    async def start() -> None:
        await athomic.publish("t", "on_startup")

    async def stop() -> None:
        await athomic.publish("t", "on_shutdown")

    @asynccontextmanager
    async def of_router(_: Any) -> AsyncIterator[None]:
        await athomic.publish("t", "router")
        yield

    app = FastAPI(on_startup=[start], on_shutdown=[stop])
    app.include_router(APIRouter(lifespan=of_router))
    athomic = include_athomic(app, settings("loop"))
    app.include_router(APIRouter(lifespan=of_router))

    @athomic.subscribe_to("t", group_id="g")
    async def handle(message: str) -> None:
        record.note(message)

    with TestClient(app) as client:
        while client.get("/consumers").json()[0]["counters"]["processed"] < 2:
            pass
    with TestClient(app) as client:
        while client.get("/consumers").json()[0]["counters"]["processed"] < 3:
            pass
    assert sorted(record.seen)[:2] == ["on_shutdown", "on_startup"]
    assert record.seen.count("router") >= 2


@ISOLATIONS
@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_lifespan_that_fails_leaves_nothing_behind(isolation: Any, where: str) -> None:
    fail = True

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await athomic.publish("t", "m")
        if fail and where == "start":
            raise LookupError("no database")
        yield
        if fail:
            raise LookupError("no database")

    app = FastAPI(lifespan=lifespan)
    athomic = include_athomic(app, settings(isolation))
    with pytest.raises(LookupError, match="no database"):
        async with app.router.lifespan_context(app):
            pass
    assert "athomic-consumers" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(PublishError, match="not running in this process"):
        await athomic.publish("t", "m")
    fail = False
    async with running(athomic):
        await athomic.publish("t", "m")


@ISOLATIONS
async def test_a_dead_broker_fails_a_start_that_publishes_in_time_and_holds_up_no_other(isolation: Any) -> None:
    errors: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with pytest.raises(PublishError) as caught:
            await athomic.publish("t", "m")
        errors.append(str(caught.value))
        yield

    app = FastAPI(lifespan=lifespan)
    athomic = include_athomic(app, settings(isolation, publish_timeout=0.05))
    athomic._transport.broker.disconnect()  # type: ignore[attr-defined]
    async with app.router.lifespan_context(app):
        health = athomic.health()
        assert health is not None
        assert health.status == "starting"
    assert errors == ["the broker cannot be reached, tried for 0.05 s: the broker is disconnected"]

    other = new_app(settings(isolation))  # it does not publish
    other._transport.broker.disconnect()  # type: ignore[attr-defined]
    async with other.app.router.lifespan_context(other.app):
        assert other.health() is not None


async def test_consumers_are_not_there_yet_in_the_apps_start_and_the_error_says_when() -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for ask in (athomic.drain, athomic.wait_until_ready):
            with pytest.raises(PublishError, match="they start when the app's own lifespan has come to its `yield`"):
                await ask()

        @athomic.subscribe_to("t", group_id="g", handler_id="late")
        async def handle(message: str) -> None: ...

        yield

    app = FastAPI(lifespan=lifespan)
    athomic = include_athomic(app, settings("loop"))
    async with running(athomic):
        assert [status.id for status in athomic.consumers()] == ["late"]


async def test_a_tracer_provider_that_the_apps_start_sets_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        yield

    app = FastAPI(lifespan=lifespan)
    athomic = include_athomic(app, settings("loop"))
    async with app.router.lifespan_context(app):
        await athomic.publish("t", "m")
    assert [span.name for span in exporter.get_finished_spans()] == ["send t"]
    provider.shutdown()


@ISOLATIONS
async def test_who_waits_for_the_broker_while_the_app_stops_is_told_at_once(isolation: Any) -> None:
    athomic = new_app(settings(isolation))
    athomic._transport.broker.disconnect()  # type: ignore[attr-defined]
    async with athomic.app.router.lifespan_context(athomic.app):
        waiting = asyncio.create_task(athomic.publish("t", "m"))
        await asyncio.sleep(0)
    with pytest.raises(PublishError, match=r"not running|ended before the work was done"):
        await waiting


# --- sync code


@ISOLATIONS
def test_sync_routes_handlers_and_dependencies_publish_with_their_trace_and_context(isolation: Any) -> None:
    app, record = FastAPI(), Record()
    athomic = include_athomic(app, settings(isolation))

    def announce(context: ExecutionContext) -> str:
        athomic.publish_sync("from.dependency", "d", key="k")
        return context.tenant_id or ""

    @athomic.subscribe_to("from.route", group_id="g", handler_id="first")
    def first(message: str, tenant: str = Depends(announce)) -> None:
        record.note(("first", message, tenant, get_context().request_id))
        published = athomic.publish_sync("from.handler", "h", headers={"x": "y"}, partition=1)
        assert published.partition == 1

    @athomic.subscribe_to(["from.handler", "from.dependency"], group_id="g", handler_id="second")
    async def second(message: str, context: ExecutionContext) -> None:
        record.note(("second", message, context.tenant_id, context.request_id))

    @app.post("/orders")
    def create() -> str:
        set_context(tenant_id="acme")
        athomic.publish_sync("from.route", "r")
        return get_context().request_id or ""

    with TestClient(app) as client:
        request_id = client.post("/orders").json()
        asyncio.run(record.count(3))
    assert request_id
    assert sorted(record.seen) == [
        ("first", "r", "acme", request_id),
        ("second", "d", "acme", request_id),
        ("second", "h", "acme", request_id),
    ]


@ISOLATIONS
async def test_threads_of_the_app_publish_many_in_order(isolation: Any) -> None:
    used: set[int] = set()

    def orders() -> Iterator[str]:
        for number in range(3):
            used.add(threading.get_ident())
            yield f"order {number}"

    def key(message: str) -> str:
        used.add(threading.get_ident())
        return "k"

    async with running(new_app(settings(isolation))) as athomic:
        thread_id, published = await asyncio.to_thread(
            lambda: (threading.get_ident(), athomic.publish_many_sync("t", orders(), key=key))
        )
        assert [place.offset for place in published] == [0, 1, 2]
        assert len({place.partition for place in published}) == 1
        assert used == {thread_id}, "a database session, for one, belongs to its thread"
        with pytest.raises(PublishError, match="a key is bytes, str, int, UUID or None, not float"):
            await asyncio.to_thread(lambda: athomic.publish_sync("t", "m", key=1.5))


@ISOLATIONS
async def test_where_an_event_loop_runs_it_refuses(isolation: Any) -> None:
    async with running(new_app(settings(isolation))) as athomic:
        with pytest.raises(PublishError, match=r"would block the event loop: await athomic\.publish\(\.\.\.\) instead"):
            athomic.publish_sync("t", "m")
        with pytest.raises(PublishError, match=r"would block .*: await athomic\.publish_many\(\.\.\.\) inst"):
            athomic.publish_many_sync("t", ["m"])

        async def elsewhere() -> None:
            athomic.publish_sync("t", "m")

        with pytest.raises(PublishError, match="would block the event loop"):
            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))


@ISOLATIONS
async def test_publish_works_in_any_event_loop_of_the_process(isolation: Any) -> None:
    async with running(new_app(settings(isolation))) as athomic:
        published = await asyncio.to_thread(lambda: asyncio.run(_in_another_loop(athomic)))
    assert published.topic == "t"


async def _in_another_loop(athomic: Athomic) -> Any:
    return await athomic.publish("t", "m")


@ISOLATIONS
async def test_outside_the_apps_life_it_says_where_to_publish(isolation: Any) -> None:
    athomic = new_app(settings(isolation))
    for _ in range(2):
        with pytest.raises(PublishError, match="not at import time, not after its end, and not from another process"):
            await asyncio.to_thread(athomic.publish_sync, "t", "m")
        async with running(athomic):
            await asyncio.to_thread(athomic.publish_sync, "t", "m")


async def test_a_fork_is_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(new_app(settings("loop"))) as athomic:
        with monkeypatch.context() as patch:
            patch.setattr("fastapi_athomic.uplink.os.getpid", lambda: -1)
            with pytest.raises(PublishError, match="not running in this process"):
                await athomic.publish("t", "m")
        await athomic.publish("t", "m")


@ISOLATIONS
async def test_a_dead_broker_fails_it_within_the_publish_timeout(isolation: Any) -> None:
    athomic = new_app(settings(isolation, publish_timeout=0.05))
    broker = athomic._transport.broker  # type: ignore[attr-defined]
    broker.disconnect()
    async with athomic.app.router.lifespan_context(athomic.app):
        with pytest.raises(PublishError, match=r"tried for 0\.05 s: the broker is disconnected"):
            await asyncio.to_thread(athomic.publish_sync, "t", "m")
        broker.reconnect()
        await athomic.wait_until_ready()
        broker.disconnect()
        with pytest.raises(PublishError, match="message to t was not published: the broker is disconnected"):
            await asyncio.to_thread(athomic.publish_sync, "t", "m")


@ISOLATIONS
async def test_a_timeout_of_its_own_is_kept(isolation: Any) -> None:
    athomic = new_app(settings(isolation))
    athomic._transport.broker.disconnect()  # type: ignore[attr-defined]
    async with athomic.app.router.lifespan_context(athomic.app):
        with pytest.raises(PublishError, match=r"perhaps not published: it took longer than 0\.05 s"):
            await asyncio.to_thread(lambda: athomic.publish_sync("t", "m", timeout=0.05))


@ISOLATIONS
def test_a_thread_that_waits_while_the_app_stops_is_let_go(isolation: Any) -> None:
    athomic, errors = new_app(settings(isolation)), list[str]()
    athomic._transport.broker.disconnect()  # type: ignore[attr-defined]

    def publish() -> None:
        with pytest.raises(PublishError) as caught:
            athomic.publish_sync("t", "m", timeout=600)
        errors.append(str(caught.value))

    threads = [threading.Thread(target=publish) for _ in range(20)]
    with TestClient(athomic.app):
        for thread in threads:
            thread.start()
        assert athomic._uplink is not None
        home: Any = athomic._uplink.home
        while len(home._waiting) < len(threads):
            pass
    for thread in threads:
        thread.join()
    assert len(errors) == 20
    assert all("not running in this process" in error or "ended before" in error for error in errors), errors


async def test_a_loop_that_does_not_answer_is_named() -> None:
    athomic = new_app(settings("loop"))
    done = threading.Event()
    errors: list[str] = []

    def publish() -> None:
        try:
            athomic.publish_sync("t", "m", timeout=0.05)
        except PublishError as error:
            errors.append(str(error))
        done.set()

    async with running(athomic):
        threading.Thread(target=publish).start()
        done.wait(30)  # blocks the event loop
    assert errors == [
        "perhaps not published: the app's event loop has not answered for 0.05 s: does a handler block it?"
    ]


@ISOLATIONS
async def test_a_sync_handler_that_publishes_may_finish_while_the_app_stops(isolation: Any) -> None:
    begun, go_on, record = threading.Event(), threading.Event(), Record()

    @subscribe_to("t", group_id="g")
    def handle(message: str) -> None:
        begun.set()
        go_on.wait(30)
        record.note(athomic.publish_sync("u", message).topic)

    athomic = new_app(settings(isolation), handle)
    async with running(athomic):
        await athomic.publish("t", "m")
        await asyncio.to_thread(begun.wait, 30)
        asyncio.get_running_loop().call_soon(_soon, go_on.set)
    assert record.seen == ["u"]


def _soon(call: Callable[[], None]) -> None:
    """When the stop has begun."""
    asyncio.get_running_loop().call_soon(call)

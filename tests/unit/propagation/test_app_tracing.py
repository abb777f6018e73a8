"""The app's own tracing: which provider, and whose business HTTP spans are."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from importlib.abc import MetaPathFinder
from importlib.metadata import version
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from fastapi_athomic.propagation import app_tracing
from fastapi_athomic.propagation.app_tracing import instrument_app, resolve_tracer_provider
from tests.support.spans import TRACE_ID, TRACEPARENT, Exported, current_span_id

traces_itself = pytest.mark.skipif(not hasattr(FastAPI(), "_telemetry"), reason="this FastAPI does not trace itself")


def app_of(root_path: str = "", **options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.root_path = root_path

    @app.get("/route")
    async def route() -> int:
        return current_span_id()

    @app.get("/plugin/health")
    async def health() -> None: ...

    @app.get("/pluginless")
    async def pluginless() -> None: ...

    return app


def instrumented(app: FastAPI, exported: Exported | None = None) -> FastAPI:
    """As the extension does it: inside the lifespan."""
    before = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with before(app) as state:
            instrument_app(app, exported.provider if exported else None, prefix="/plugin")
            yield state

    app.router.lifespan_context = lifespan
    return app


def server_spans(app: FastAPI, exported: Exported, root_path: str = "") -> list[str]:
    with TestClient(app, root_path=root_path) as client:
        for path in ("/route", "/plugin/health", "/pluginless"):
            assert client.get(root_path + path).status_code == 200  # as uvicorn hands it on
    return [span.name for span in exported.get_finished_spans() if span.kind is SpanKind.SERVER]


def test_without_an_sdk_nothing_is_touched() -> None:
    app = app_of()
    assert resolve_tracer_provider(app) is None
    instrument_app(app)
    assert getattr(app, "_telemetry", {"exclude": None})["exclude"] is None
    assert not hasattr(app, "_is_instrumented_by_opentelemetry")


@traces_itself
def test_the_provider_is_the_given_one_or_the_apps_or_the_global_one(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    global_one, given = TracerProvider(), TracerProvider()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", global_one)
    app = app_of(telemetry={"tracer_provider": exported.provider})
    assert resolve_tracer_provider(app, given) is given
    assert resolve_tracer_provider(app) is exported.provider
    assert resolve_tracer_provider(app_of()) is global_one
    assert resolve_tracer_provider() is global_one
    for provider in (global_one, given):
        provider.shutdown()


@traces_itself
def test_fastapis_own_tracing_is_left_to_it_but_for_the_plugins_routes(exported: Exported) -> None:
    app = instrumented(app_of(telemetry={"tracer_provider": exported.provider}))
    assert server_spans(app, exported) == ["GET /route", "GET /pluginless"]
    exported.clear()
    assert server_spans(app, exported) == ["GET /route", "GET /pluginless"], "a second run of the app"
    assert not getattr(app, "_is_instrumented_by_opentelemetry", False)


@traces_itself
def test_what_the_app_leaves_out_stays_left_out(exported: Exported) -> None:
    def exclude(scope: MutableMapping[str, Any]) -> bool:
        return bool(scope["path"] == "/route")

    app = instrumented(app_of(telemetry={"tracer_provider": exported.provider, "exclude": exclude}))
    assert server_spans(app, exported) == ["GET /pluginless"]


@traces_itself
def test_two_plugins_leave_out_the_routes_of_both(exported: Exported) -> None:
    app = app_of(telemetry={"tracer_provider": exported.provider})
    instrument_app(app, prefix="/pluginless")
    assert server_spans(instrumented(app), exported) == ["GET /route"]


@traces_itself
def test_an_app_behind_a_path_prefix_leaves_out_the_same_routes(exported: Exported) -> None:
    app = instrumented(app_of(telemetry={"tracer_provider": exported.provider}))
    names = server_spans(app, exported, "/behind")
    assert [name.removeprefix("GET ").removeprefix("/behind") for name in names] == ["/route", "/pluginless"]


@pytest.mark.parametrize("root_path", ["", "/behind"])
def test_with_another_provider_the_instrumentor_is_applied_once(
    exported: Exported, caplog: pytest.LogCaptureFixture, root_path: str
) -> None:
    app = instrumented(app_of(root_path=root_path), exported)
    assert server_spans(app, exported) == ["GET /route", "GET /pluginless"]
    exported.clear()
    assert server_spans(app, exported) == ["GET /route", "GET /pluginless"], "a second run of the app"
    assert caplog.records == [], "it would complain of a second time"
    FastAPIInstrumentor.uninstrument_app(app)


def test_the_operators_exclusions_count_too(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXCLUDED_URLS", "route$")
    app = instrumented(app_of(), exported)
    assert server_spans(app, exported) == ["GET /pluginless"]
    FastAPIInstrumentor.uninstrument_app(app)


def test_an_instrumentation_that_does_not_load_is_named_with_what_to_do(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As 0.48b0 does beside setuptools 81."""
    monkeypatch.delitem(sys.modules, "opentelemetry.instrumentation.fastapi")
    monkeypatch.setattr(sys, "meta_path", [NeedsPkgResources(), *sys.meta_path])
    app = app_of()
    instrument_app(app, exported.provider)
    (warning,) = caplog.messages
    assert "HTTP requests have no spans" in warning
    assert f"opentelemetry-instrumentation-fastapi {version('opentelemetry-instrumentation-fastapi')} " in warning
    assert "(No module named 'pkg_resources')" in warning
    assert "setuptools<81" in warning

    monkeypatch.setattr(app_tracing, "_INSTRUMENTATION", "not-installed")
    instrument_app(app, exported.provider)
    assert caplog.messages == [warning], "who has not installed it does not want it"


class NeedsPkgResources(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "opentelemetry.instrumentation.fastapi":
            raise ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources")


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_app_that_instruments_itself_has_one_span_per_request(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", exported.provider)
    app = app_of()
    if when == "before":
        FastAPIInstrumentor.instrument_app(app)
    with TestClient(instrumented(app)) as client:
        if when == "after":
            FastAPIInstrumentor.instrument_app(app)
        client.get("/route")
        client.get("/plugin/health")
    spans = [span.name for span in exported.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert spans.count("GET /route") == 1
    assert ("GET /plugin/health" in spans) == (when == "before"), "who instruments the app itself excludes by himself"
    FastAPIInstrumentor.uninstrument_app(app)


@traces_itself
def test_the_route_is_in_the_span_that_the_next_publish_belongs_to(exported: Exported) -> None:
    app = instrumented(app_of(telemetry={"tracer_provider": exported.provider, "operation_spans": False}))
    with TestClient(app) as client:
        seen = client.get("/route", headers={"traceparent": TRACEPARENT.decode()}).json()
    span = exported.only()
    assert seen == span.context.span_id
    assert span.context.trace_id == TRACE_ID

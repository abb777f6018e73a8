from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Response, WebSocket
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from fastapi_athomic import AthomicSettings, ExecutionContext, get_context, include_athomic, set_context
from fastapi_athomic.propagation.context import headers_from_context
from fastapi_athomic.propagation.middleware import AthomicMiddleware
from fastapi_athomic.settings import ContextSettings

IDENTITY = {"x-tenant-id": "acme", "x-user-id": "ann", "x-role": "admin", "x-feature-flags": "a,b", "x-context-z": "1"}
TRUSTING = AthomicSettings(context=ContextSettings(trust_identity_headers=True))


def app_with(settings: AthomicSettings | None = None) -> FastAPI:
    app = FastAPI()
    include_athomic(app, settings or AthomicSettings())

    @app.get("/context")
    async def context() -> dict[str, str]:
        return {name: (value or b"").decode() for name, value in headers_from_context(get_context())}

    @app.get("/set")
    async def change() -> None:
        set_context(tenant_id="set by the route")

    @app.get("/own")
    async def own(response: Response) -> None:
        response.headers["X-Request-ID"] = "the app's own"

    @app.websocket("/socket")
    async def socket(connection: WebSocket) -> None:
        await connection.accept()
        await connection.send_json({"request_id": get_context().request_id, "tenant": get_context().tenant_id})
        await connection.close()

    return app


def test_the_request_id_is_taken_over_and_sent_back() -> None:
    answer = TestClient(app_with()).get("/context", headers={"x-request-id": "abc", "x-correlation-id": "def"})
    assert answer.json() == {"x-request-id": "abc", "x-correlation-id": "def"}
    assert answer.headers["x-request-id"] == "abc"


@pytest.mark.parametrize("given", ["", "x" * 300, "with space", "über"])
def test_a_request_id_that_makes_no_sense_is_replaced(given: str) -> None:
    answer = TestClient(app_with()).get("/context", headers={b"x-request-id": given.encode()})
    made = answer.headers["x-request-id"]
    assert made != given
    assert len(made) == 32
    assert answer.json()["x-request-id"] == made


def test_an_app_may_send_its_own_request_id() -> None:
    answer = TestClient(app_with()).get("/own")
    assert answer.headers.get_list("x-request-id") == ["the app's own"]


def test_p15_identity_from_outside_is_not_believed() -> None:
    answer = TestClient(app_with()).get("/context", headers={**IDENTITY, "x-request-id": "r"})
    assert answer.json() == {"x-request-id": "r"}


def test_identity_is_believed_where_the_app_says_so() -> None:
    answer = TestClient(app_with(TRUSTING)).get("/context", headers={**IDENTITY, "x-request-id": "r"})
    assert answer.json() == {**IDENTITY, "x-request-id": "r"}


def test_nothing_of_a_request_is_left_for_the_next() -> None:
    client = TestClient(app_with())
    client.get("/set")
    assert "x-tenant-id" not in client.get("/context").json()
    assert get_context() == ExecutionContext()


def test_websockets_have_a_context_too() -> None:
    with TestClient(app_with()).websocket_connect("/socket", headers={"x-request-id": "ws", **IDENTITY}) as socket:
        assert socket.receive_json() == {"request_id": "ws", "tenant": None}


def test_two_plugins_on_one_app_share_the_requests_context() -> None:
    app = app_with()
    include_athomic(app, AthomicSettings(), name="second", prefix="/second")
    answer = TestClient(app).get("/context")
    assert answer.headers.get_list("x-request-id") == [answer.json()["x-request-id"]]


async def test_a_second_plugin_leaves_the_requests_context_alone() -> None:
    seen: list[ExecutionContext] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(get_context())

    def identify(scope: Any, context: ExecutionContext) -> ExecutionContext:
        return ExecutionContext(tenant_id="acme")

    second = AthomicMiddleware(inner, settings=AthomicSettings())
    middleware = AthomicMiddleware(second, settings=AthomicSettings(), identify=identify)
    await middleware({"type": "http", "path": "/", "headers": [(b"x-request-id", b"r")]}, None, None)  # type: ignore[arg-type]
    assert seen == [ExecutionContext(request_id="r", tenant_id="acme")]


async def test_a_hook_of_the_app_may_identify() -> None:
    seen: list[ExecutionContext] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(get_context())

    def identify(scope: Any, context: ExecutionContext) -> ExecutionContext:
        return ExecutionContext(tenant_id=scope["path"])  # that it forgets the request id does no harm

    middleware = AthomicMiddleware(inner, settings=AthomicSettings(), identify=identify)
    await middleware({"type": "http", "path": "/acme", "headers": [(b"x-request-id", b"r")]}, None, None)  # type: ignore[arg-type]
    assert seen == [ExecutionContext(request_id="r", tenant_id="/acme")]


def test_requests_in_flight_are_counted() -> None:
    app = FastAPI()
    athomic = include_athomic(app, AthomicSettings())
    counted: list[int] = []

    @app.get("/count")
    async def count() -> None:
        counted.append(athomic.requests.in_flight)

    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError("broken")

    client = TestClient(app, raise_server_exceptions=False)
    assert client.get("/fail").status_code == 500
    client.get("/count")
    assert counted == [1]
    assert athomic.requests.in_flight == 0


def test_an_identify_that_refuses_leaves_nothing_behind() -> None:
    app = FastAPI()

    def identify(scope: Any, context: ExecutionContext) -> ExecutionContext:
        set_context(tenant_id="half done")
        raise PermissionError

    app.add_middleware(AthomicMiddleware, settings=AthomicSettings(), identify=identify)
    assert TestClient(app, raise_server_exceptions=False).get("/").status_code == 500
    assert get_context() == ExecutionContext()


async def test_nothing_is_left_in_the_servers_own_context() -> None:
    """A server may serve one request after the other in the same task."""

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        set_context(tenant_id="acme")
        if scope["path"] == "/fail":
            raise RuntimeError("broken")

    middleware = AthomicMiddleware(inner, settings=AthomicSettings())
    for kind in ("http", "websocket"):
        await middleware({"type": kind, "path": "/", "headers": []}, None, None)  # type: ignore[arg-type]
        assert get_context() == ExecutionContext()
        with pytest.raises(RuntimeError):
            await middleware({"type": kind, "path": "/fail", "headers": []}, None, None)  # type: ignore[arg-type]
        assert get_context() == ExecutionContext()


def test_a_refused_websocket_is_told_its_request_id() -> None:
    app = app_with()

    @app.websocket("/refuse")
    async def refuse(connection: WebSocket) -> None:
        await connection.send_denial_response(Response(status_code=403))

    refused = TestClient(app).websocket_connect("/refuse", headers={"x-request-id": "ws"})
    with pytest.raises(WebSocketDenialResponse) as caught, refused:
        raise AssertionError("it was accepted")
    assert caught.value.headers["x-request-id"] == "ws"


async def test_what_is_neither_http_nor_websocket_passes() -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, get_context()))

    await AthomicMiddleware(inner, settings=AthomicSettings())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == [({"type": "lifespan"}, ExecutionContext())]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "lifespan has not begun" in record.getMessage()]


def test_a_mounted_app_that_nobody_starts_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    outer = FastAPI()
    outer.mount("/sub", app_with())
    with TestClient(outer) as client:
        for _ in range(2):
            assert client.get("/sub/context").status_code == 200
    (line,) = complaints(caplog)
    assert "for the app at /sub" in line
    assert "none of its consumers runs" in line
    assert "sub_app.router.lifespan_context(sub_app)" in line


def test_a_mounted_app_that_is_started_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sub = app_with()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with sub.router.lifespan_context(sub):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/sub", sub)
    with TestClient(outer) as client:
        client.get("/sub/context")
    assert complaints(caplog) == []

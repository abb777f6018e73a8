"""A route that never gets a request is named when the app starts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from fastapi_athomic import AthomicSettings, include_athomic
from fastapi_athomic.operation_settings import ControlSettings
from tests.support.apps import running

Change = Callable[[FastAPI], object]


async def theirs() -> str:
    return "theirs"


CONTROL = AthomicSettings(control=ControlSettings(enabled=True, allow_anonymous=True))


async def warnings(
    caplog: pytest.LogCaptureFixture,
    before: Change | None = None,
    after: Change | None = None,
    *,
    name: str = "h",
    settings: AthomicSettings | None = None,
) -> list[str]:
    app = FastAPI()
    if before is not None:
        before(app)
    athomic = include_athomic(app, settings or AthomicSettings())
    if after is not None:
        after(app)

    @athomic.subscribe_to("t", group_id="g", handler_id=name)
    async def handle(message: str) -> None: ...

    with caplog.at_level(logging.WARNING, "fastapi_athomic"):
        async with running(athomic):
            pass
    # not those of `unclaimed`, about handlers that other tests have left behind
    return [record.getMessage() for record in caplog.records if record.name == "fastapi_athomic.athomic"]


def routed(path: str, **options: Any) -> Change:
    return lambda app: app.add_api_route(path, theirs, **options)


def included(path: str) -> Change:
    def include(app: FastAPI) -> None:
        router = APIRouter(prefix="/consumers")
        router.add_api_route(path, theirs)
        outer = APIRouter()
        outer.include_router(router)
        app.include_router(outer)

    return include


async def test_a_route_that_comes_first_is_named(caplog: pytest.LogCaptureFixture) -> None:
    (said,) = await warnings(caplog, before=routed("/consumers"))
    assert said == (
        f"routes: /consumers ({__name__}.theirs) comes first and gets the requests for /consumers: call "
        "include_athomic() before that route is added, or give it a prefix other than '/consumers'"
    )


@pytest.mark.parametrize("route", [routed("/consumers/{customer}"), included("/{customer}")])
async def test_one_with_a_parameter_hides_several(caplog: pytest.LogCaptureFixture, route: Change) -> None:
    (said,) = await warnings(caplog, before=route)
    assert f"/consumers/{{customer}} ({__name__}.theirs) comes first" in said
    hidden = ("metrics", "events", "dashboard", "asyncapi.json", "asyncapi", "health", "{consumer_id}")
    assert f"{', '.join(f'/consumers/{path}' for path in hidden)}:" in said


@pytest.mark.parametrize(
    ("before", "name"),
    [
        (routed("/{path:path}"), "/{path:path} ("),
        (lambda app: app.mount("/", StaticFiles(directory=Path(__file__).parent)), "what is mounted at /"),
    ],
)
async def test_what_takes_everything_hides_all_routes(
    caplog: pytest.LogCaptureFixture, before: Change, name: str
) -> None:
    (said,) = await warnings(caplog, before=before)
    assert name in said
    assert said.count("/consumers/health") == 4
    assert "/consumers/metrics" in said


async def test_a_mount_below_the_prefix_hides_what_is_below(caplog: pytest.LogCaptureFixture) -> None:
    (said,) = await warnings(caplog, before=lambda app: app.mount("/consumers", FastAPI()))
    assert "what is mounted at /consumers comes first" in said


async def test_what_is_mounted_need_not_be_hashable(caplog: pytest.LogCaptureFixture) -> None:
    @dataclass
    class Pages:
        folder: str

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    (said,) = await warnings(caplog, before=lambda app: app.mount("/", Pages("static")))
    assert "what is mounted at / comes first" in said


@pytest.mark.parametrize(
    ("after", "route", "by"),
    [
        (routed("/consumers"), "/consumers (", "/consumers"),
        (included("/{customer}"), "/consumers/{customer} (", "/consumers/{consumer_id}"),
        (routed("/consumers/{number:int}"), "/consumers/{number:int} (", "/consumers/{consumer_id}"),
        (routed("/consumers/special"), "/consumers/special (", "/consumers/{consumer_id}"),
        (lambda app: app.mount("/consumers", FastAPI()), "what is mounted at /consumers ", "/consumers/{consumer_id}"),
    ],
)
async def test_a_route_that_comes_too_late_is_named(
    caplog: pytest.LogCaptureFixture, after: Change, route: str, by: str
) -> None:
    (said,) = await warnings(caplog, after=after)
    assert said.startswith(f"routes: {route}")
    assert f"gets no request for what {by} of fastapi_athomic answers" in said
    assert "call include_athomic() after that route is added" in said


def a_websocket(app: FastAPI) -> None:
    @app.websocket("/consumers")
    async def talk(websocket: WebSocket) -> None: ...


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (routed("/consumers", methods=["POST"]), None),
        (None, routed("/consumers/{customer}", methods=["PUT"])),
        (None, routed("/{path:path}")),
        (None, lambda app: app.mount("/", FastAPI())),
        (routed("/consumers/{customer}/orders"), routed("/consumers-of-old")),
        (routed("/consumers/special"), None),
        (a_websocket, None),
    ],
)
async def test_what_disturbs_nothing_is_not_named(
    caplog: pytest.LogCaptureFixture, before: Change | None, after: Change | None
) -> None:
    assert await warnings(caplog, before, after) == []


@pytest.mark.parametrize("name", ["health", "metrics"])
async def test_a_handler_that_is_called_like_a_route_is_named(caplog: pytest.LogCaptureFixture, name: str) -> None:
    (said,) = await warnings(caplog, name=name)
    assert f"handler {name}: its status has no address of its own, as /consumers/{name} is another route" in said
    assert "look into the answer of /consumers, or give the handler another handler_id" in said


async def test_an_id_with_a_slash_is_named(caplog: pytest.LogCaptureFixture) -> None:
    (said,) = await warnings(caplog, name="shop/bill")
    assert "handler shop/bill: its status has no address of its own, as its id has a slash" in said


async def test_two_of_ours_under_one_prefix_are_named(caplog: pytest.LogCaptureFixture) -> None:
    said = await warnings(caplog, after=lambda app: include_athomic(app, AthomicSettings(), name="other"))
    assert any("comes first and gets the requests for /consumers/health/live" in each for each in said)


@pytest.mark.parametrize(
    ("path", "method", "hidden"),
    [
        ("/consumers/{id}/pause", "POST", "/consumers/{consumer_id}/pause"),
        ("/consumers/{id}/{action}", "POST", "/consumers/{consumer_id}/seek"),
        ("/consumers/{id}/dlq", "GET", "/consumers/{consumer_id}/dlq"),
    ],
)
async def test_a_route_that_hides_control_is_named(
    caplog: pytest.LogCaptureFixture, path: str, method: str, hidden: str
) -> None:
    (said,) = await warnings(caplog, before=routed(path, methods=[method]), settings=CONTROL)
    assert f"{path} ({__name__}.theirs) comes first" in said
    assert hidden in said


async def test_a_route_that_control_hides_is_named(caplog: pytest.LogCaptureFixture) -> None:
    after = routed("/consumers/{customer}/pause", methods=["POST"])
    (said,) = await warnings(caplog, after=after, settings=CONTROL)
    assert "gets no request for what /consumers/{consumer_id}/pause of fastapi_athomic answers" in said


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/consumers/{id}/pause", ["GET"]),
        ("/consumers/{id}/dlq", ["DELETE"]),
        ("/consumers/{id}/history", ["GET", "POST"]),
    ],
)
async def test_routes_of_other_methods_disturb_no_control(
    caplog: pytest.LogCaptureFixture, path: str, methods: list[str]
) -> None:
    route = routed(path, methods=methods)
    assert await warnings(caplog, before=route, after=route, settings=CONTROL) == []

"""What a caller names and does not exist: a `LookupError` of ours, and 404 where a route lets it escape."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient

from fastapi_athomic import (
    Athomic,
    AthomicError,
    AthomicSettings,
    ConfigurationError,
    NotFoundError,
    NotIncludedError,
    TransportError,
    get_athomic,
    include_athomic,
    subscribe_to,
)
from fastapi_athomic.exceptions import (
    HandlerNotFoundError,
    PartitionNotFoundError,
    SourceNotFoundError,
    TopicNotFoundError,
)
from tests.support.apps import new_app, running

SETTINGS = AthomicSettings()


@subscribe_to("t", group_id="g", handler_id="billing")
async def handle(message: str) -> None: ...


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (HandlerNotFoundError, ConfigurationError),
        (SourceNotFoundError, ConfigurationError),
        (TopicNotFoundError, TransportError),
        (PartitionNotFoundError, TransportError),
    ],
)
def test_who_catches_what_was_raised_before_still_does(error: type[Exception], also: type[Exception]) -> None:
    assert issubclass(error, also)
    assert issubclass(error, NotFoundError)
    assert issubclass(error, LookupError)


async def test_a_handler_that_does_not_exist_is_named_with_the_nearest() -> None:
    async with running(new_app(SETTINGS, handle)) as athomic:
        said = r"there is no handler biling: did you mean 'billing'\? the handlers are: billing"
        with pytest.raises(HandlerNotFoundError, match=said):
            athomic.dead_letters("biling")
        with pytest.raises(HandlerNotFoundError, match="there is no handler x; the handlers are: billing"):
            await athomic.seek("x", "t", 0, 0)
        async with athomic.offline() as dead_letters:
            with pytest.raises(HandlerNotFoundError, match=said):
                dead_letters("biling")


async def test_topics_and_partitions_that_do_not_exist() -> None:
    async with running(new_app(SETTINGS, handle)) as athomic:
        with pytest.raises(TopicNotFoundError, match="topic nowhere does not exist"):
            await athomic.seek("billing", "nowhere", 0, 0)
        with pytest.raises(PartitionNotFoundError, match="there is no such partition"):
            await athomic.seek("billing", "t", 99, 0)
        with pytest.raises(SourceNotFoundError, match="billing does not consume other"):
            await athomic.dead_letters("billing").count(source="other")


def new_routes() -> tuple[FastAPI, Athomic]:
    app = FastAPI()
    athomic = include_athomic(app, SETTINGS, handlers=[handle])

    @app.get("/letters/{handler_id}")
    async def letters(handler_id: str) -> int:
        return await athomic.dead_letters(handler_id).count()

    @app.get("/broken")
    async def broken() -> None:
        raise ConfigurationError("something else")

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        athomic.dead_letters("biling")

    return app, athomic


def test_a_route_answers_404_with_the_sentence() -> None:
    app, _ = new_routes()
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/letters/biling")
        assert answer.status_code == 404
        assert "did you mean 'billing'?" in answer.json()["detail"]
        assert client.get("/letters/billing").json() == 0
        assert client.get("/broken").status_code == 500, "what is wrong with the app is not the caller's fault"
    with TestClient(app) as client, pytest.raises(HandlerNotFoundError), client.websocket_connect("/socket") as socket:
        socket.receive_text()


@pytest.mark.parametrize("kind", [NotFoundError, HandlerNotFoundError, ConfigurationError, AthomicError, LookupError])
@pytest.mark.parametrize(("sync", "before"), [(False, True), (True, False)])
def test_a_handler_of_the_apps_own_has_the_last_word(kind: type[Exception], sync: bool, before: bool) -> None:
    async def theirs(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(type(error).__name__, status_code=418)

    def theirs_sync(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(type(error).__name__, status_code=418)

    handlers: Any = {kind: theirs_sync if sync else theirs}
    app = FastAPI(exception_handlers=handlers if before else None)
    athomic = include_athomic(app, SETTINGS, handlers=[handle])
    if not before:
        app.add_exception_handler(kind, handlers[kind])

    @app.get("/letters")
    async def letters() -> None:
        athomic.dead_letters("nobody")

    with TestClient(app) as client:
        answer = client.get("/letters")
    assert (answer.status_code, answer.text) == (418, "HandlerNotFoundError")


def test_a_handler_for_all_exceptions_leaves_404_alone() -> None:
    app, _ = new_routes()

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("we are sorry", status_code=500)

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/letters/nobody").status_code == 404
        assert client.get("/broken").text == "we are sorry"


@pytest.mark.parametrize("name", [None, "events"])
def test_an_app_without_athomic_says_what_it_has(name: str | None) -> None:
    app = FastAPI()
    if name:
        include_athomic(app, SETTINGS, name=name)

    @app.get("/x")
    async def route(athomic: Athomic = Depends(get_athomic)) -> None: ...

    said = r"this app has app\.state\.events" if name else r"call include_athomic\(app\) first, for the very app whose"
    with pytest.raises(NotIncludedError, match=said) as caught:
        TestClient(app).get("/x")
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, LookupError)

"""An app's lifespan without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_athomic.exceptions import AthomicError
from fastapi_athomic.workers.lifespan import lifespan_of


def app_that(events: list[str], *, fails: str = "") -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        events.append("up")
        if fails == "startup":
            raise RuntimeError("no database")
        yield
        events.append("down")
        if fails == "shutdown":
            raise RuntimeError("no database")

    return FastAPI(lifespan=lifespan)


async def test_the_app_has_started_inside_the_block() -> None:
    events: list[str] = []
    app = app_that(events)

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        events.append(scope["type"])
        await app(scope, receive, send)

    async with lifespan_of(wrapped):
        events.append("inside")
    assert events == ["lifespan", "up", "inside", "down"]


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_a_failure_is_told(phase: str) -> None:
    events: list[str] = []
    with pytest.raises(AthomicError, match=f"the app's {phase} failed: RuntimeError: no database"):
        async with lifespan_of(app_that(events, fails=phase)):
            events.append("inside")
    assert ("inside" in events) is (phase == "shutdown")


async def test_an_error_inside_does_not_leave_the_app_behind() -> None:
    events: list[str] = []
    with pytest.raises(KeyError):
        async with lifespan_of(app_that(events)):
            raise KeyError
    assert events[0] == "up"


async def test_an_app_without_a_lifespan_is_told() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("only http")

    with pytest.raises(AthomicError, match="startup ended without an answer"):
        async with lifespan_of(app):
            pass

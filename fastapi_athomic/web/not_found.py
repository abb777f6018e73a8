"""Answers a lookup that fails in a route with 404, instead of 500."""

from __future__ import annotations

from inspect import isawaitable, iscoroutinefunction
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse

from ..exceptions import NotFoundError


def answer_not_found(app: FastAPI) -> None:
    """Answers `NotFoundError`s with 404, unless the app has a handler for them, or for one of their bases."""
    app.exception_handlers.setdefault(NotFoundError, _answer)


async def _answer(connection: HTTPConnection, error: Exception) -> Any:
    theirs = _of_the_app(connection.app, type(error))
    if theirs is not None:
        in_thread = not iscoroutinefunction(theirs)
        answer = await run_in_threadpool(theirs, connection, error) if in_thread else theirs(connection, error)
        return await answer if isawaitable(answer) else answer
    if not isinstance(connection, Request):
        raise error  # of a websocket: nothing can be answered
    return JSONResponse({"detail": str(error)}, status_code=404)


def _of_the_app(app: FastAPI, error: type[Exception]) -> Any:
    """A handler for a base of our error. Starlette takes ours first, because `NotFoundError` is nearer.

    `Exception` does not count: that handler is for errors that nobody expected.
    """
    bases = (base for base in error.__mro__ if base not in (NotFoundError, Exception))
    return next((app.exception_handlers[base] for base in bases if base in app.exception_handlers), None)

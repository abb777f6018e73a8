"""The execution context of HTTP requests and websockets."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from secrets import token_hex

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..loop.load import RequestGauge
from ..settings import AthomicSettings
from .context import (
    REQUEST_ID,
    ExecutionContext,
    apply_context,
    context_from_headers,
    set_context,
    undo_context,
)

logger = logging.getLogger(__name__)

Identify = Callable[[Scope, ExecutionContext], ExecutionContext]

_SENT_BACK = REQUEST_ID.encode()
_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_MARK = "fastapi_athomic.request_id"


class AthomicMiddleware:
    """Sets the `ExecutionContext` of each request and websocket, and resets it afterwards.

    The request id comes from `x-request-id`, or is a new one; it is sent back. Correlation id and locale come from
    their headers. Everything that could grant something (tenant, user, role, feature flags, `x-context-*`) is read
    from headers only if `settings.context.trust_identity_headers` is set. Otherwise the app's own code sets it: with
    `set_context` in an async dependency, or by `identify`, a function that gets the ASGI scope and the context so far
    and returns the new one. It cannot change the request id.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: AthomicSettings,
        gauge: RequestGauge | None = None,
        identify: Identify | None = None,
        started: Callable[[], bool] | None = None,
    ) -> None:
        self.app = app
        self._settings = settings.context
        self._gauge = gauge or RequestGauge()
        self._identify = identify
        self._started = started  # None once it was asked: at the first request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._started is not None:
                started, self._started = self._started(), None
                if not started:
                    _tell_unstarted(scope)
            with self._gauge:
                await self._with_context(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._with_context(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _with_context(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _MARK in scope:  # a second `Athomic` on the same app: a request has one context
            await self.app(scope, receive, send)
            return
        context = self._context(scope["headers"])
        scope[_MARK] = context.request_id
        token = apply_context(context)
        try:
            if self._identify is not None:
                set_context(replace(self._identify(scope, context), request_id=context.request_id))
            await self.app(scope, receive, _sending_back(context.request_id or "", send))
        finally:
            undo_context(token)

    def _context(self, raw: Iterable[tuple[bytes, bytes]]) -> ExecutionContext:
        """The context in those of the request's headers that the settings trust.

        It always has a request id, which is valid in a response header.
        """
        headers = tuple([(name.decode("latin-1"), value) for name, value in raw if name.startswith(b"x-")])
        if not headers:
            return ExecutionContext(request_id=_new_id())
        context = context_from_headers(
            headers, self._settings.max_value_length, believe_identity=self._settings.trust_identity_headers
        )
        if context.request_id is not None and _VISIBLE.fullmatch(context.request_id):
            return context
        return replace(context, request_id=_new_id())


def _tell_unstarted(scope: Scope) -> None:
    """A server runs the lifespan of the app that it was given, and of no app that is mounted in that one."""
    mount = scope.get("root_path")
    logger.warning(
        "a request came%s, but the app's lifespan has not begun, so none of its consumers runs: a mounted app must be "
        "started by the app around it (async with sub_app.router.lifespan_context(sub_app): in its lifespan), or call "
        "include_athomic on that one; what replaces app.router.lifespan_context must do so before include_athomic; in "
        "a test stay inside `with TestKit(app)` or `with TestClient(app)`",
        f" for the app at {mount}" if mount else "",
    )


def _new_id() -> str:
    """128 random bits, as many as in a UUID, in a third of the time that takes."""
    return token_hex(16)


def _sending_back(request_id: str, send: Send) -> Send:
    """A `send` that adds the request id to the response, unless the app has set one itself."""

    sent_back = _SENT_BACK, request_id.encode()

    def send_with_id(message: Message) -> Awaitable[None]:
        if message["type"] in _STARTS:
            headers = list(message.get("headers", ()))
            if _SENT_BACK not in [name.lower() for name, _ in headers]:
                headers.append(sent_back)
            message = {**message, "headers": headers}
        return send(message)

    return send_with_id

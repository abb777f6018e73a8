"""The routes of the AsyncAPI document: for machines, and as a page for people. Both are made when asked for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse, JSONResponse

from .asyncapi_page import STYLE, page_of
from .examples import shown

Document = Callable[[], dict[str, Any]]
"""Gives the document as it is now."""

_STYLE_HASH = b64encode(sha256(STYLE.encode()).digest()).decode()
POLICY = "; ".join((
    "default-src 'none'",
    f"style-src 'sha256-{_STYLE_HASH}'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "form-action 'none'",
))  # fmt: skip
"""The content security policy: the page loads nothing, and runs nothing."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_EXAMPLE = {
    "asyncapi": "3.1.0",
    "info": {"title": "Shop", "version": "1.0.0"},
    "channels": {"orders.placed": {"address": "orders.placed"}},
    "operations": {
        "receive.billing.orders.placed": {"action": "receive", "channel": {"$ref": "#/channels/orders.placed"}}
    },
    "components": {},
}


def add_asyncapi(router: APIRouter, document: Document) -> None:
    """Adds both routes. They are sync functions: a large document is made in a thread."""

    @router.get(
        "/asyncapi.json",
        summary="AsyncAPI document of all handlers and declared publishers",
        response_model=dict[str, Any],
        responses={200: {"description": "The document", **shown(_EXAMPLE)}},
    )
    def asyncapi() -> Response:
        return JSONResponse(document(), headers={"cache-control": "no-cache"})

    @router.get("/asyncapi", include_in_schema=False, name="consumers_asyncapi")
    def page() -> Response:
        return HTMLResponse(page_of(document()), headers=HEADERS)

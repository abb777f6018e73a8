"""The dashboard: one page with its files, and the stream of events that it shows. Nothing is loaded from elsewhere.

All addresses in the page are relative, so it works under any prefix, also one that a proxy adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from ..loop.load import RequestGauge
from ..operation_settings import DashboardSettings
from .examples import EVENTS
from .problems import NOT_RUNNING, TOO_MANY_STREAMS, responses
from .streams import EventStream, Streams

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}
POLICY = "; ".join((
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",  # no text becomes HTML
))  # fmt: skip
"""The content security policy: what the page may load, and from where."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # asked for again each time, but sent only if it has changed
}


class DashboardConfig(BaseModel):
    """What the page has to know of the app."""

    version: str
    interval_seconds: float = Field(description="Between two snapshots")
    actions: list[str] = Field(description="The actions that have a route")
    dead_letters: bool = Field(description="Whether dead letters can be looked at")
    payloads: bool = Field(description="Whether their payloads can")


class _Events(Response):
    """Only for the schema. FastAPI would expect a generator behind a route whose class is its own for events."""

    media_type = "text/event-stream"


class _File(NamedTuple):
    content: bytes
    media_type: str
    tag: str  # of this content


def add_dashboard(
    router: APIRouter,
    settings: DashboardSettings,
    streams: Streams,
    requests: RequestGauge,
    all_routers: Callable[[], Sequence[APIRouter]],
) -> None:
    """Adds the page and its stream. `all_routers`: where the routes are that its actions may call."""
    _add_events(router, streams, requests)

    @router.get("/dashboard", include_in_schema=False, name="consumers_dashboard")
    async def page(request: Request) -> Response:
        return _answer(request, PAGE)

    @router.get("/dashboard/", include_in_schema=False)
    async def page_with_slash() -> Response:
        # Relative, so that it stays below whatever prefix a proxy has added
        return Response(status_code=307, headers={**HEADERS, "location": "../dashboard"})

    @router.get("/dashboard/config", include_in_schema=False)
    async def config(response: Response) -> DashboardConfig:
        response.headers["cache-control"] = "no-store"
        return _config(settings, [*_tails(all_routers())])

    @router.get("/dashboard/{file}", include_in_schema=False)
    async def file(request: Request, file: str) -> Response:
        return _answer(request, file)


def _add_events(router: APIRouter, streams: Streams, requests: RequestGauge) -> None:
    @router.get(
        "/events",
        summary="Status of all consumers, again and again, as server-sent events",
        response_class=_Events,
        response_description="Events `snapshot`, and a last one: `end`",
        responses={200: EVENTS, **responses(NOT_RUNNING, TOO_MANY_STREAMS)},
    )
    async def events() -> Response:
        """Each event `snapshot` holds JSON: `time`, `process`, `health` (as in `/health`) and `consumers` (as in the
        status of all). The stream ends by itself after `dashboard.stream_seconds`, and when the app stops; its last
        event, `end`, has the `reason`: `time` or `stopping`."""
        return EventStream(streams, requests)


@cache
def _files() -> dict[str, _File]:
    """The page and its files by name, read once."""
    return {path.name: _read(path) for path in STATIC.iterdir()}


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, MEDIA_TYPES[path.suffix], f'"{sha256(content).hexdigest()[:32]}"')


def _answer(request: Request, name: str) -> Response:
    file = _files().get(name)
    if file is None:
        raise HTTPException(404, "the dashboard has no such file")
    headers = {**HEADERS, "etag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _tails(routers: Iterable[APIRouter]) -> Iterator[tuple[str, str]]:
    """Method and path below the consumer's id, of each route that has one."""
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and (tail := route.path.partition("}/")[2]):
                yield from ((method, tail) for method in route.methods or ())


def _config(settings: DashboardSettings, tails: Sequence[tuple[str, str]]) -> DashboardConfig:
    return DashboardConfig(
        version=version("fastapi-athomic"),
        interval_seconds=settings.interval,
        actions=sorted(tail.rpartition("/")[2] for method, tail in tails if method == "POST"),
        dead_letters=("GET", "dlq") in tails,
        payloads=any(method == "GET" and tail.endswith("/payload") for method, tail in tails),
    )

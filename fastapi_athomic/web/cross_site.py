"""Keeps pages of other sites from steering consumers with the cookies of somebody who is logged in here (CSRF).

A browser says where a request comes from: `sec-fetch-site` (Fetch Metadata) in all browsers of today, `origin` with
each POST. Neither can be set by a page. Programs send neither, and have no cookies that could be misused. Besides, a
page can send JSON to another site only if that site agrees (CORS), so bodies of other types are refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request

from ..addresses import checked_origin
from ..operation_settings import ControlSettings
from .problems import CROSS_SITE, NOT_JSON, ProblemError, is_json

OWN_SITE = ("same-origin", "none")
"""What `sec-fetch-site` says of a page of this very origin, and of an address that somebody typed."""


def refusing_other_sites(settings: ControlSettings) -> Callable[[Request], Awaitable[None]]:
    """A dependency of routes that change something."""

    async def refuse_other_sites(request: Request) -> None:
        if not is_json(request):
            raise ProblemError(NOT_JSON, "send JSON, and the header content-type: application/json")
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if origin is not None and origin in settings.allowed_origins:
            return
        host = request.headers.get("host", "")
        if origin is not None and not _is_own(origin, host):
            raise ProblemError(
                CROSS_SITE,
                f"the page at {origin} is of another site than {host}: name it in control.allowed_origins "
                "if it may do this, or if a proxy in front of the app changes the host header",
            )
        if site is not None and site not in OWN_SITE:
            raise ProblemError(CROSS_SITE, "a page of another site sent this: name it in control.allowed_origins")

    return refuse_other_sites


def _is_own(origin: str, host: str) -> bool:
    """The origin has the host and port of the request. Not the scheme: a proxy in front may speak TLS."""
    scheme = origin.partition("://")[0]
    try:
        return checked_origin(origin) == checked_origin(f"{scheme}://{host}")
    except ValueError:  # "null", of a sandboxed frame, for one
        return False

"""A running service, asked over HTTP: the routes that `include_athomic` has added to it.

By `urllib`, so that nothing need be installed besides the package; it takes proxies from the environment. Redirects are
not followed: a POST would become a GET, and credentials would go to whoever is named there.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from ..error_text import one_line
from ..exceptions import AthomicError

URL, TOKEN = "FASTAPI_ATHOMIC_URL", "FASTAPI_ATHOMIC_TOKEN"
"""Environment variables in place of `--url`, and of a header `authorization: Bearer ...`. They do not begin with
`ATHOMIC_`, as they are no settings of the app."""
CAFILE = "SSL_CERT_FILE"
"""OpenSSL reads it: authorities in place of those of the system."""
TIMEOUT = 60.0
"""Seconds that a service may take to answer."""
PROBLEM = "application/problem+json"


def add_service_options(command: argparse.ArgumentParser, *, default: Any = argparse.SUPPRESS) -> None:
    """Adds the options that say where the service is. They may stand before or behind the command."""
    where = command.add_argument_group("the running service")
    where.add_argument(
        "--url", default=default, help=f"where its routes are: https://host/consumers (default: the variable {URL})"
    )
    where.add_argument(
        "--header",
        action="append",
        default=default,
        metavar="NAME:VALUE",
        help=f"sent with each request, may be repeated; the variable {TOKEN} is sent as a bearer token",
    )
    where.add_argument(
        "--cafile",
        default=default,
        help="an authority for its certificate, besides those of the system",
    )
    where.add_argument(
        "--timeout", type=float, default=default, metavar="SECONDS", help=f"for one answer (default: {TIMEOUT:g})"
    )


def find_service(options: argparse.Namespace, otherwise: str = "") -> Service:
    """The service that the options name, or the environment. `otherwise` ends the sentence if neither does.

    Raises:
        AthomicError: none is named, or what is named is no URL, no header or no file.
    """
    url = options.url or os.environ.get(URL, "")
    if not url:
        raise AthomicError(f"say where the service is: --url https://host/consumers, or the variable {URL}{otherwise}")
    return Service(
        url=_checked(url),
        headers=_headers(options.header or ()),
        timeout=options.timeout or TIMEOUT,
        tls=_tls(options.cafile),
    )


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise AthomicError("--url must be http:// or https://, host and the path of the routes: https://host/consumers")
    if "@" in parts.netloc:
        raise AthomicError(f"credentials do not belong in the URL: set {TOKEN}, or --header 'authorization: ...'")
    return url.rstrip("/")


def _headers(given: Collection[str]) -> dict[str, str]:
    headers = {"accept": f"application/json, {PROBLEM}"}
    if token := os.environ.get(TOKEN, "").strip():
        headers["authorization"] = f"Bearer {token}"
    for header in given:
        name, separator, value = header.partition(":")
        if not separator or not name.strip():
            raise AthomicError("--header must be NAME:VALUE")
        headers[name.strip().lower()] = value.strip()
    return headers


def _tls(cafile: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if cafile is not None:
            context.load_verify_locations(cafile)
        return context
    except (OSError, ssl.SSLError) as error:
        raise AthomicError(f"--cafile {cafile} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where the routes are, and how they are asked."""

    url: str
    headers: Mapping[str, str] = field(repr=False)  # secrets, perhaps
    timeout: float
    tls: ssl.SSLContext

    async def get(self, *path: str, answers: Collection[int] = (200,), **query: Any) -> Any:
        """The JSON at a path. `answers`: statuses that are one; `query`: what is None is left out.

        Raises:
            AthomicError: the service cannot be reached, or says no: why.
        """
        given = urlencode({name: value for name, value in query.items() if value is not None})
        return await asyncio.to_thread(self._ask, _joined(path) + (f"?{given}" if given else ""), None, answers)

    async def post(self, *path: str, **body: Any) -> Any:
        """Sends a body. Raises as `get` does."""
        return await asyncio.to_thread(self._ask, _joined(path), json.dumps(body).encode(), (200,))

    def _ask(self, path: str, content: bytes | None, answers: Collection[int]) -> Any:
        headers = {**self.headers, **({"content-type": "application/json"} if content is not None else {})}
        request = Request(self.url + path, content, headers)
        opener = build_opener(_NoRedirects, HTTPSHandler(context=self.tls))
        try:
            with opener.open(request, timeout=self.timeout) as response:
                return self._read(response.read())
        except HTTPError as error:
            with error:
                text = error.read()
                if error.code in answers:
                    return self._read(text)
                raise AthomicError(self._refusal(error, text)) from None
        except TimeoutError as error:
            raise AthomicError(self._late(content)) from error
        except (URLError, OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, TimeoutError):
                raise AthomicError(self._late(content)) from error
            said = one_line(str(reason)) or type(reason).__name__
            if isinstance(reason, ssl.SSLCertVerificationError):
                said += f"; name the authority of its certificate by --cafile, or the variable {CAFILE}"
            raise AthomicError(f"{self.url} cannot be reached: {said}") from error
        except ValueError as error:  # says what it cannot send, which may be a secret
            raise AthomicError("a header has characters that cannot be sent") from error

    def _late(self, content: bytes | None) -> str:
        text = f"{self.url} did not answer within {self.timeout:g} s"
        return text if content is None else f"{text}: whether it was done, is not known; look at its status"

    def _read(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            raise AthomicError(
                f"{self.url} answers, but not as fastapi_athomic does: is that where its routes are, "
                "https://host/consumers for one?"
            ) from None

    def _refusal(self, error: HTTPError, text: bytes) -> str:
        if error.headers.get_content_type() == PROBLEM:
            return _told(self._read(text))
        if 300 <= error.code < 400:
            return f"{self.url} leads to {one_line(error.headers.get('location', '?'))}: give --url that address"
        if error.code in (401, 403):
            return (
                f"{self.url} wants to know who asks, or does not allow it ({error.code} {one_line(error.reason)}): set "
                f"{TOKEN}, or --header 'authorization: ...'"
            )
        if error.code in (404, 405):
            return (
                f"{self.url} has no such route ({error.code}): is that where the routes of fastapi_athomic are, and "
                "is control.enabled set there?"
            )
        return f"{self.url} answers {error.code} {one_line(error.reason)}"


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> None:
        return None


def _joined(path: Collection[str]) -> str:
    return "".join(f"/{quote(part, safe='')}" for part in path)


def _told(problem: Any) -> str:
    """What a problem says, in a line."""
    if not isinstance(problem, dict):
        return "the service refuses, and does not say why"
    title, detail = (one_line(str(problem.get(name) or ""), 2_000) for name in ("title", "detail"))
    return f"{title}: {detail}" if title and detail and title != detail else title or detail or "the service refuses"

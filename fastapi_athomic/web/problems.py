"""Errors of this package's own routes as problem details (RFC 9457, `application/problem+json`).

Other routes of the app, and what its own dependencies raise in ours (an `HTTPException` of its authentication), are
answered as the app answers them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message

from ..error_text import one_line
from ..exceptions import (
    AthomicError,
    ConfigurationError,
    ControlRefusedError,
    HandlerNotFoundError,
    NotAuthorizedError,
    NotFoundError,
    PartitionNotFoundError,
    PayloadUnavailableError,
    PublishError,
    StateStoreError,
    TransportError,
)

CONTENT_TYPE = "application/problem+json"
PREFIX = "/problems/"
"""Begins each `type`. A type is a name, and nothing is found at that path; docs/control.md has a section for each."""
MOST_BYTES = 65_536
"""No body of a request is longer."""
_TOO_LONG = f"a body has {MOST_BYTES} bytes at most"
MOST_ERRORS = 20
"""At most so many faults of one request are listed."""


class ProblemType(NamedTuple):
    """One kind of problem. Names are never changed: clients decide by them."""

    name: str
    status: int
    title: str  # the same for each problem of this type

    @property
    def uri(self) -> str:
        """The `type` of RFC 9457."""
        return PREFIX + self.name


CONSUMER_NOT_FOUND = ProblemType("consumer-not-found", 404, "No consumer has this id")
TOPIC_NOT_FOUND = ProblemType("topic-not-found", 404, "There is no such topic, or the consumer does not consume it")
PARTITION_NOT_FOUND = ProblemType("partition-not-found", 404, "The topic has no such partition")
LETTER_NOT_FOUND = ProblemType("letter-not-found", 404, "There is no open dead letter at this place")
INVALID_REQUEST = ProblemType("invalid-request", 422, "The request is not what this route takes")
TOO_LARGE = ProblemType("too-large", 413, "The body is too large")
NOT_JSON = ProblemType("not-json", 415, "The body must be JSON, and the content-type header must say so")
CROSS_SITE = ProblemType("cross-site", 403, "Another site must not do this")
NOT_POSSIBLE = ProblemType("not-possible", 409, "This consumer cannot do that")
REFUSED = ProblemType("refused", 409, "That cannot be done now")
IN_PROGRESS = ProblemType("in-progress", 409, "The same is being done already")
NOT_RUNNING = ProblemType("not-running", 503, "The consumers do not run in this process")
BROKER_UNAVAILABLE = ProblemType("broker-unavailable", 503, "The broker refused, or cannot be reached")
STORE_UNAVAILABLE = ProblemType("store-unavailable", 503, "The state store cannot be reached")
PAYLOAD_UNAVAILABLE = ProblemType("payload-unavailable", 503, "What the payload needs cannot be reached")
TOO_MANY_STREAMS = ProblemType("too-many-streams", 503, "So many streams are open already")

TYPES = tuple(value for value in globals().values() if isinstance(value, ProblemType))

_OF_ERRORS: Sequence[tuple[type[AthomicError], ProblemType]] = (
    (ControlRefusedError, REFUSED),
    (HandlerNotFoundError, CONSUMER_NOT_FOUND),
    (PartitionNotFoundError, PARTITION_NOT_FOUND),
    (NotFoundError, TOPIC_NOT_FOUND),
    (PublishError, NOT_RUNNING),
    (PayloadUnavailableError, PAYLOAD_UNAVAILABLE),
    (StateStoreError, STORE_UNAVAILABLE),
    (NotAuthorizedError, BROKER_UNAVAILABLE),
    (TransportError, BROKER_UNAVAILABLE),
    (ConfigurationError, NOT_POSSIBLE),
)
"""The first that fits counts. Errors of other kinds are nobody's fault but ours: 500."""

_PLAINER = {"extra_forbidden": "there is no such field", "missing": "is missing"}
"""What is said instead of pydantic's own sentences."""


class ProblemError(Exception):
    """Ends a request of one of our routes with a problem."""

    def __init__(self, kind: ProblemType, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = headers


@contextmanager
def as_problems() -> Iterator[None]:
    """Raises the package's own errors as problems, where they are told to whoever asked.

    Raises:
        ProblemError: as `_OF_ERRORS` says.
    """
    try:
        yield
    except AthomicError as error:
        kind = next((kind for known, kind in _OF_ERRORS if isinstance(error, known)), None)
        if kind is None:
            raise
        raise ProblemError(kind, str(error)) from error


class ProblemRoute(APIRoute):
    """A route of this package: its errors are problems, and so are requests that do not fit its models."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_problems(request: Request) -> Response:
            try:
                if request.method not in ("GET", "HEAD"):
                    request = await _with_body(request)
                return await handle(request)
            except ProblemError as error:
                return answer(request, error)
            except RequestValidationError as error:
                return answer(request, _invalid(error), _faults(error))

        return handle_with_problems


async def _with_body(request: Request) -> Request:
    """Reads the body before FastAPI does, which would answer some of what is no JSON with 400, and take any length.

    Returns the request with its body. Nothing beyond `MOST_BYTES` is kept, whatever the request says of its length.

    Raises:
        ProblemError: it is too long, or no JSON although it says so.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > 18 or int(declared) > MOST_BYTES:
        raise ProblemError(TOO_LARGE, _TOO_LONG)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                raise ProblemError(TOO_LARGE, _TOO_LONG)
    except ClientDisconnect:
        raise ProblemError(INVALID_REQUEST, "the body has not come completely") from None
    if is_json(request) and body:
        try:
            json.loads(body)
        except (ValueError, RecursionError):  # numbers of thousands of digits, and brackets in thousands, too
            raise ProblemError(INVALID_REQUEST, "the body is no JSON") from None
    left: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def receive() -> Message:
        return left.pop() if left else await request.receive()

    return Request(request.scope, receive)


def is_json(request: Request) -> bool:
    """The request says that its body is JSON. A browser sends that to another site only if that site agrees."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def answer(request: Request, error: ProblemError, faults: Sequence[Mapping[str, str]] = ()) -> Response:
    """The response. `faults`: what is wrong with single parts of the request."""
    kind = error.kind
    members: dict[str, Any] = {
        "type": kind.uri,
        "title": kind.title,
        "status": kind.status,
        "detail": one_line(error.detail, 2_000),
        "instance": quote(request.scope["path"], safe="/:@!$&'()*+,;=~", errors="replace"),
    }
    if faults:
        members["errors"] = faults
    content = json.dumps(members).encode()  # in ASCII: a request may hold what no encoding of Unicode can write
    return Response(content, kind.status, error.headers, CONTENT_TYPE)


def _invalid(error: RequestValidationError) -> ProblemError:
    faults = _faults(error)
    return ProblemError(INVALID_REQUEST, "; ".join(f"{fault['at']}: {fault['message']}" for fault in faults))


def _faults(error: RequestValidationError) -> list[dict[str, str]]:
    """Where and what, without the values, which may be anything."""
    faults = [
        {
            "at": one_line(".".join(map(str, fault["loc"])), 200),
            "message": _PLAINER.get(fault["type"]) or one_line(fault["msg"].removeprefix("Value error, "), 300),
        }
        for fault in error.errors()[:MOST_ERRORS]
    ]
    return faults or [{"at": "body", "message": "it is not valid"}]


# --- OpenAPI


_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "Problem details, RFC 9457",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "What kind of problem"},
        "title": {"type": "string", "description": "The kind as a sentence"},
        "status": {"type": "integer", "description": "The HTTP status"},
        "detail": {"type": "string", "description": "What is wrong, and what to do"},
        "instance": {"type": "string", "format": "uri-reference", "description": "The path of the request"},
        "errors": {
            "type": "array",
            "description": "Each fault of the request, if it does not fit the route",
            "items": {
                "type": "object",
                "required": ["at", "message"],
                "properties": {"at": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
"""In each answer in OpenAPI: a model of pydantic would be shown as `application/json`."""


def responses(*kinds: ProblemType) -> dict[int | str, dict[str, Any]]:
    """These kinds for the `responses` of a route, by status."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({kind.status for kind in kinds}):
        first, *others = (kind for kind in kinds if kind.status == status)
        found[status] = {
            "description": "; or: ".join(f"{kind.title} (`{kind.uri}`)" for kind in (first, *others)),
            "content": {CONTENT_TYPE: {"schema": _SCHEMA, "example": _example(first)}},
        }
    return found


def _example(kind: ProblemType) -> dict[str, Any]:
    return {
        "type": kind.uri,
        "title": kind.title,
        "status": kind.status,
        "detail": kind.title,
        "instance": "/consumers/billing",
    }

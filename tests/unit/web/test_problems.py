"""Problems: their types are documented, errors have one, and what is not ours is left alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from fastapi_athomic import (
    AthomicError,
    ControlRefusedError,
    HandlerNotFoundError,
    PartitionNotFoundError,
    PayloadUnavailableError,
    PublishError,
    SourceNotFoundError,
    StateStoreError,
    TopicNotFoundError,
    TransportError,
)
from fastapi_athomic.web.problems import MOST_BYTES, TYPES, ProblemError, as_problems
from tests.unit.web.control_shop import AT, OPERATOR, Shop, open_shop

PAGE = (Path(__file__).parents[3] / "docs" / "control.md").read_text()


def test_every_type_has_a_section_with_its_status() -> None:
    told = dict(re.findall(r"^#### ([a-z-]+)\n\n(\d{3})\. ", PAGE, re.MULTILINE))
    assert told == {kind.name: str(kind.status) for kind in TYPES}
    assert len(TYPES) == len({kind.title for kind in TYPES})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HandlerNotFoundError(), "consumer-not-found"),
        (SourceNotFoundError(), "topic-not-found"),
        (TopicNotFoundError(), "topic-not-found"),
        (PartitionNotFoundError(), "partition-not-found"),
        (ControlRefusedError(), "refused"),
        (PublishError(), "not-running"),
        (TransportError(), "broker-unavailable"),
        (StateStoreError(), "store-unavailable"),
        (PayloadUnavailableError(), "payload-unavailable"),
    ],
)
def test_every_error_has_its_type(error: AthomicError, kind: str) -> None:
    with pytest.raises(ProblemError) as caught, as_problems():
        raise error
    assert (caught.value.kind.name, caught.value.detail) == (kind, str(error))


def test_an_error_that_nobody_expected_is_no_problem() -> None:
    with pytest.raises(AthomicError, match="a bug"), as_problems():
        raise AthomicError("a bug")


def test_other_routes_and_the_apps_own_handlers_stay_as_they_are() -> None:
    app = FastAPI()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"theirs": True}, 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"theirs": error.detail}, error.status_code)

    @app.get("/theirs")
    async def theirs(number: int) -> int:
        return number

    def nobody() -> Any:
        raise HTTPException(401, "who?")

    with open_shop(app) as shop:
        assert shop.client.get("/theirs?number=x").json() == {"theirs": True}
        assert shop.post("/pause", {}).json()["type"] == "/problems/invalid-request"
        assert shop.client.post(f"{AT}/pause", json={}).json() == {"theirs": "who are you?"}
    other = FastAPI()
    other.add_exception_handler(HTTPException, refused)  # type: ignore[arg-type]
    with open_shop(other, dependencies=[Depends(nobody)]) as shop:
        assert shop.client.get(AT, headers=OPERATOR).json() == {"theirs": "who?"}


def test_a_status_that_there_is_not_is_a_problem_that_names_its_process() -> None:
    with open_shop() as shop:
        answer = shop.client.get("/consumers/nobody")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["type"], answer.json()["instance"]) == ("/problems/consumer-not-found", "/consumers/nobody")
    assert answer.headers["x-athomic-instance"]


class Sender:
    """Sends one request in chunks, past the client, which would put them together. It stops when it is answered."""

    def __init__(self, *chunks: dict[str, Any]) -> None:
        self._chunks = iter(chunks)
        self.sent = 0
        self.answers: list[Any] = []

    async def receive(self) -> Any:
        self.sent += 1
        assert self.sent < 1_000, "nobody stops it"
        return next(self._chunks, None) or {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

    async def send(self, message: Any) -> None:
        self.answers.append(message)

    def post(self, shop: Shop, **headers: str) -> dict[str, Any]:
        sent = {"content-type": "application/json", **OPERATOR, **headers}
        scope = {
            "type": "http",
            "method": "POST",
            "path": f"{AT}/resume",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "http_version": "1.1",
        }
        assert shop.client.portal is not None
        shop.client.portal.call(shop.client.app, scope, self.receive, self.send)
        found: dict[str, Any] = json.loads(b"".join(each.get("body", b"") for each in self.answers))
        return found


def test_of_a_body_without_end_no_more_is_read_than_a_body_may_have() -> None:
    with open_shop() as shop:
        sender = Sender()
        assert sender.post(shop)["type"] == "/problems/too-large"
        assert sender.sent * 10_000 <= MOST_BYTES + 10_000


def test_a_body_in_pieces_is_put_together() -> None:
    pieces = [b'{"rea', b'son": "it is', b' back"}']
    with open_shop() as shop:
        sender = Sender(*({"type": "http.request", "body": piece, "more_body": True} for piece in pieces[:2]),
                        {"type": "http.request", "body": pieces[2], "more_body": False})  # fmt: skip
        assert sender.post(shop)["pauses"] == []
        assert [event.reason for event in shop.events] == ["it is back"]


def test_who_hangs_up_within_the_body_is_nobodys_error() -> None:
    with open_shop() as shop:
        sender = Sender({"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"})
        assert sender.post(shop)["type"] == "/problems/invalid-request"


def test_a_length_of_thousands_of_digits_is_too_large() -> None:
    with open_shop() as shop:
        sender = Sender()
        assert sender.post(shop, **{"content-length": "9" * 5_000})["type"] == "/problems/too-large"
        assert sender.sent == 0

"""Problems: their types are documented, errors have one, and what is not ours is left alone."""

from __future__ import annotations

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
from fastapi_athomic.web.problems import TYPES, ProblemError, as_problems
from tests.unit.web.control_shop import AT, OPERATOR, open_shop

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

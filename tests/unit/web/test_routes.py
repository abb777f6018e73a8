from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from fastapi_athomic import Athomic, AthomicSettings, ConfigurationError, include_athomic
from fastapi_athomic.web.status_routes import INSTANCE_HEADER

PROBES = {"/consumers/health/live", "/consumers/health/ready", "/consumers/health/startup"}
GUARDED = {"/consumers", "/consumers/h", "/consumers/health", "/consumers/metrics"}


def nobody() -> None:
    raise HTTPException(401)


def somebody() -> None:
    raise HTTPException(418)


def with_handlers(athomic: Athomic, *ids: str) -> Athomic:
    for number, handler_id in enumerate(ids):

        @athomic.subscribe_to("t", group_id=f"g{number}", handler_id=handler_id)
        async def handle(message: str) -> None: ...

    return athomic


@contextmanager
def client_of(
    ids: tuple[str, ...] = ("h",), settings: AthomicSettings | None = None, **options: Any
) -> Iterator[TestClient]:
    app = FastAPI()
    with_handlers(include_athomic(app, settings or AthomicSettings(), **options), *ids)
    with TestClient(app) as client:
        while client.app.state.athomic.health().status != "healthy":  # type: ignore[attr-defined]
            pass
        yield client


# --- who may ask


def test_probes_are_open_while_the_rest_is_guarded() -> None:
    with client_of(dependencies=[Depends(nobody)], probe_dependencies=()) as client:
        assert {path: client.get(path).status_code for path in PROBES} == dict.fromkeys(PROBES, 200)
        assert {path: client.get(path).status_code for path in GUARDED} == dict.fromkeys(GUARDED, 401)


def test_probes_are_guarded_like_the_rest_unless_they_have_dependencies_of_their_own() -> None:
    with client_of(dependencies=[Depends(nobody)]) as client:
        assert {client.get(path).status_code for path in PROBES | GUARDED} == {401}
    with client_of(dependencies=[Depends(nobody)], probe_dependencies=[Depends(somebody)]) as client:
        assert {client.get(path).status_code for path in PROBES} == {418}
        assert {client.get(path).status_code for path in GUARDED} == {401}


def test_an_open_probe_says_yes_or_no_and_nothing_of_the_host() -> None:
    with client_of(probe_dependencies=()) as client:
        for path in PROBES:
            answer = client.get(path)
            assert answer.json() == {"ok": True}
            assert INSTANCE_HEADER not in answer.headers


def test_the_routes_may_stay_out_of_the_schema() -> None:
    with client_of(include_in_schema=False) as client:
        assert not client.get("/openapi.json").json()["paths"]
        assert {client.get(path).status_code for path in PROBES | GUARDED} == {200}


# --- which process answers


def test_every_answer_names_its_process() -> None:
    name = f"{socket.gethostname()}:{os.getpid()}"
    process = {"instance_id": name, "host": socket.gethostname(), "pid": os.getpid()}
    with client_of() as client:
        for path in (*PROBES, *GUARDED, "/consumers/nobody"):
            assert client.get(path).headers[INSTANCE_HEADER] == name, path
        assert client.get("/consumers/health").json()["process"] == process
        assert client.get("/consumers").json()[0]["process"] == process
        assert client.get("/consumers/h").json()["process"] == process


def test_an_operator_may_name_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHOMIC_INSTANCE_ID", "shop-7/{pid}")
    with client_of(settings=AthomicSettings()) as client:
        name = f"shop-7/{os.getpid()}"
        assert client.get("/consumers").headers[INSTANCE_HEADER] == name
        assert client.get("/consumers/health").json()["process"]["instance_id"] == name


def test_before_the_start_the_process_is_named_too() -> None:
    app = FastAPI()
    include_athomic(app, AthomicSettings(instance_id="one"))
    client = TestClient(app)  # not entered: no lifespan
    assert client.get("/consumers/health").json()["process"]["instance_id"] == "one"
    assert client.get("/consumers/h").json()["detail"] == "no consumer has the id 'h': the app has not started"


@pytest.mark.parametrize("name", ["", "two words", "zeile\n", "x" * 201])
def test_a_name_that_fits_in_no_header_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="instance_id"):
        AthomicSettings(instance_id=name)


# --- no such consumer


def test_an_unknown_id_is_answered_with_the_ones_nearby() -> None:
    with client_of(("shop.orders.bill", "shop.orders.ship", "mail")) as client:
        answer = client.get("/consumers/shop.order.bill")
        assert answer.status_code == 404
        assert answer.json()["detail"] == (
            "no consumer has the id 'shop.order.bill'; did you mean shop.orders.bill or shop.orders.ship?"
        )
        far = client.get("/consumers/zzz").json()["detail"]
        assert far == "no consumer has the id 'zzz'; there are mail, shop.orders.bill, shop.orders.ship"
    with client_of(()) as client:
        assert client.get("/consumers/zzz").json()["detail"].endswith("the app has no handlers")
    with client_of(tuple(f"h{number:02}" for number in range(22))) as client:
        assert client.get("/consumers/zzz").json()["detail"].endswith("h18, h19 and 2 more")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prefix": ""}, "begin with a slash"),
        ({"prefix": "consumers"}, "begin with a slash"),
        ({"prefix": "/consumers/"}, "not end with one"),
        ({"dependencies": [nobody]}, "dependencies must be a list of Depends"),
        ({"dependencies": Depends(nobody)}, "dependencies must be a list of Depends"),
        ({"probe_dependencies": [nobody]}, "probe_dependencies must be a list of Depends"),
    ],
)
def test_options_that_fastapi_would_choke_on_get_a_sentence(options: dict[str, Any], words: str) -> None:
    app = FastAPI()
    with pytest.raises(ConfigurationError, match=words):
        include_athomic(app, AthomicSettings(), **options)
    include_athomic(app, AthomicSettings())  # the first call left nothing behind

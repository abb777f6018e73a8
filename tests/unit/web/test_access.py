"""Who may do what: every route of the package is asked without credentials, so that a new one cannot be forgotten."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Depends, HTTPException
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from fastapi_athomic.web.overlaps import route_contexts
from tests.unit.web.control_shop import AUDITOR, ID, OPERATOR, Shop, open_shop

OPEN = {
    "/consumers",
    "/consumers/asyncapi",
    "/consumers/asyncapi.json",
    "/consumers/dashboard",
    "/consumers/dashboard/",
    "/consumers/dashboard/config",
    "/consumers/dashboard/{file}",
    "/consumers/events",
    "/consumers/health",
    "/consumers/health/live",
    "/consumers/health/ready",
    "/consumers/health/startup",
    "/consumers/metrics",
    "/consumers/{consumer_id}",
}
"""Only these may be seen with the `dependencies` of all routes alone: a new route is guarded, or is added here."""
PLACES = {"consumer_id": ID, "partition": "0", "offset": "0", "file": "actions.js"}


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        shop.fail({"card": "4929-s3cret"})
        yield shop


def operations(shop: Shop) -> list[tuple[str, str, str]]:
    """Method, path, and the path with its places filled in; of all routes below the prefix, in the schema or not."""
    found = [
        (method.lower(), context.path, context.path.format(**PLACES))
        for context in route_contexts(shop.client.app)  # type: ignore[arg-type]
        if getattr(context, "path", "").startswith("/consumers")
        for method in context.methods
    ]
    shown = {(method, path) for path, methods in schema_of(shop).items() for method in methods}
    assert shown < {(method, path) for method, path, _ in found}
    assert {path for _, path, _ in found} > OPEN
    assert len(found) > len(OPEN) + 8, "control is there"
    return found


def schema_of(shop: Shop) -> dict[str, Any]:
    paths: dict[str, Any] = shop.client.get("/openapi.json").json()["paths"]
    return paths


def body_of(method: str) -> dict[str, Any]:
    return {"json": {"reason": "x", "limit": 1}} if method == "post" else {}


def test_p15_nothing_is_changed_and_no_letter_is_shown_without_credentials(shop: Shop) -> None:
    for method, path, at in operations(shop):
        answer = shop.client.request(method, at, **body_of(method))
        assert (answer.status_code == 401) == (path not in OPEN), path
        assert "4929-s3cret" not in answer.text
    assert shop.events == []


def test_p15_whoever_may_steer_may_not_see_payloads(shop: Shop) -> None:
    for method, path, at in operations(shop):
        if "payload" in path:
            assert shop.client.request(method, at, headers=OPERATOR).status_code == 403
            assert "4929-s3cret" in shop.client.request(method, at, headers=AUDITOR).text
        elif method == "get":
            assert "4929-s3cret" not in shop.client.request(method, at, headers=OPERATOR).text


def test_p15_the_dependencies_of_all_routes_hold_for_each_of_them() -> None:
    def nobody() -> None:
        raise HTTPException(418)

    with open_shop(dependencies=[Depends(nobody)]) as shop:
        for method, path, at in operations(shop):
            headers = AUDITOR | {"sec-fetch-site": "same-origin"}
            assert shop.client.request(method, at, headers=headers, **body_of(method)).status_code == 418, path


def test_p15_nothing_changes_by_get(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    changing = {path for method, path, _ in operations(shop) if method != "get"}
    assert changing
    before = shop.client.get("/consumers").json()[0]
    with caplog.at_level(logging.INFO, "fastapi_athomic"):
        for method, path, at in operations(shop):
            answer = shop.client.get(at, headers=AUDITOR)
            assert answer.status_code == (200 if method == "get" else 405), path
            if method == "get":  # nor is there a way around it
                assert shop.client.post(at, headers=AUDITOR | {"x-http-method-override": "GET"}).status_code == 405
    after = shop.client.get("/consumers").json()[0]
    for name in ("pauses", "paused", "concurrency", "restarts", "counters", "state"):
        assert before[name] == after[name]
    assert shop.events == []
    assert [line for line in caplog.messages if "is shown to" not in line] == []


def test_p15_everything_that_changes_something_refuses_other_sites(shop: Shop) -> None:
    cookie = {"cookie": "session=ann"}
    for method, path, at in operations(shop):
        if method == "get":
            continue
        other = shop.client.request(method, at, json={}, headers=cookie | {"origin": "https://evil.example"})
        fetched = shop.client.request(method, at, json={}, headers=cookie | {"sec-fetch-site": "same-site"})
        form = shop.client.request(method, at, data={"reason": "x"}, headers=cookie)
        assert (other.status_code, fetched.status_code, form.status_code) == (403, 403, 415), path
    assert shop.events == []


def test_every_answer_has_a_model_and_an_example_that_fits_it(shop: Shop) -> None:
    document = shop.client.get("/openapi.json").json()
    models = document["components"]["schemas"]
    routes = [getattr(each, "original_route", each) for each in route_contexts(shop.client.app)]  # type: ignore[arg-type]
    found = 0
    for route in routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in route.methods or ():
            operation = document["paths"][route.path][method.lower()]
            for status, answer in operation["responses"].items():
                ours = status not in ("401", "403", "501")  # of the app's own authentication, say
                assert ours <= ("content" in answer), (route.path, status)
                for kind, content in answer.get("content", {}).items():
                    model = models.get(content["schema"].get("$ref", "").rpartition("/")[2], {})
                    (example,) = [content["example"]] if "example" in content else model["examples"]
                    if kind == "application/json":
                        _check(TypeAdapter(route.response_model), example)
                    found += 1
    assert found > 3 * len(routes)


def _check(model: TypeAdapter[Any], example: Any) -> None:
    """Fills in what is null, which FastAPI leaves out of its OpenAPI document."""
    try:
        model.validate_json(json.dumps(example))
    except ValidationError as error:
        for fault in error.errors():
            assert fault["type"] == "missing"
            place = example
            for part in fault["loc"][:-1]:
                place = place[part]
            place[fault["loc"][-1]] = None
        model.validate_json(json.dumps(example))


def test_every_problem_in_the_schema_is_one_of_ours(shop: Shop) -> None:
    paths = shop.client.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for operation in methods.values():
            assert operation["tags"] == ["consumers"]
            assert operation["summary"]
            assert "HTTPValidationError" not in str(operation), path
            for status, answer in operation["responses"].items():
                for kind, content in answer.get("content", {}).items():
                    assert "schema" in content, (path, status)
                    assert kind != "application/problem+json" or content["example"]["status"] == int(status)
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                name = reference.rpartition("/")[2]
                model = shop.client.get("/openapi.json").json()["components"]["schemas"][name]
                assert model["examples"], path
                assert model["additionalProperties"] is False

"""Steering over HTTP: what is done, by whom, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient

from fastapi_athomic import AthomicSettings, ConfigurationError, ControlAction, StateStoreError, include_athomic
from fastapi_athomic.operation_settings import ControlSettings
from tests.unit.web.control_shop import AT, GUARDED, ID, OPERATOR, REASON, Shop, open_shop, operator, settings

WHY = {"reason": REASON}

# --- what is done


def test_pauses_begin_and_end() -> None:
    with open_shop() as shop:
        (pause,) = shop.post("/pause", WHY | {"seconds": 60}).json()["pauses"]
        assert (pause["topic"], pause["actor"], pause["reason"]) == (None, "operator", REASON)
        assert pause["until"] > pause["since"]
        pauses = shop.post("/pause", WHY | {"topic": "orders", "partition": 2}).json()["pauses"]
        assert {(each["topic"], each["partition"]) for each in pauses} == {(None, None), ("orders", 2)}
        assert [each["partition"] for each in shop.get("").json()["pauses"]] == [None, 2]
        (left,) = shop.post("/resume", {"topic": "orders", "partition": 2}).json()["pauses"]
        assert left["topic"] is None
        assert shop.post("/resume", {}).json() == {"consumer": ID, "pauses": [], "note": None}


def test_who_pauses_is_told_that_the_other_members_do_not_know_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_shop() as shop:
        assert shop.athomic._shared is not None

        async def refuse(*_: Any, **__: Any) -> None:
            raise StateStoreError("it is away")

        monkeypatch.setattr(shop.athomic._shared, "put", refuse)
        told = "the state store is away: other members of the group hear of it when it is back"
        for path in ("/pause", "/resume"):
            assert shop.post(path, WHY).json()["note"] == told


def test_concurrency_changes_and_goes_back() -> None:
    with open_shop() as shop:
        before = shop.get("").json()["concurrency"]
        (process,) = (answer := shop.post("/concurrency", WHY | {"value": 7}).json())["processes"]
        assert (answer["consumer"], answer["done"], answer["note"]) == (ID, True, None)
        assert (process["outcome"], process["in_force"]) == ("applied", {"concurrency": 7})
        assert shop.get("").json()["concurrency"] == 7
        (process,) = shop.post("/concurrency", WHY | {"value": None}).json()["processes"]
        assert process["in_force"] == {"concurrency": before}


def test_the_rate_changes_and_the_breaker_opens_and_closes() -> None:
    with open_shop() as shop:
        assert (shop.get("").json()["rate_limit"], shop.get("").json()["breaker"]) == (None, None)
        body = WHY | {"messages_per_second": 50, "burst": 10}
        assert shop.post("/rate", body).json()["done"]
        assert shop.get("").json()["rate_limit"] == {"messages_per_second": 50, "burst": 10, "waiting": 0}
        shop.post("/rate", WHY | {"messages_per_second": None})
        assert shop.get("").json()["rate_limit"] is None
        assert shop.post("/breaker", WHY | {"state": "open"}).json()["done"]
        found = shop.get("").json()
        assert (found["breaker"]["state"], found["breaker"]["forced"]) == ("open", True)
        assert [reason["code"] for reason in found["health"]["reasons"]] == ["breaker_open"]
        shop.post("/breaker", WHY | {"state": "closed"})
        assert shop.get("").json()["breaker"] is None


def test_a_consumer_is_restarted() -> None:
    with open_shop() as shop:
        assert shop.post("/restart", WHY).json()["done"]
        assert [event.action for event in shop.events] == [ControlAction.RESTART]


@pytest.mark.parametrize(
    ("to", "goes_to", "skipped", "repeated"),
    [
        ("beginning", 0, 0, 2),
        ("end", 2, 0, 0),
        ({"offset": 1}, 1, 0, 1),
        ({"time": "2020-01-01T00:00:00Z"}, 0, 0, 2),
        ({"time": "2020-01-01T00:00:00+02:00"}, 0, 0, 2),
    ],
)
def test_a_seek_says_first_what_it_would_do(to: object, goes_to: int, skipped: int, repeated: int) -> None:
    with open_shop() as shop:
        shop.fail({}, {})
        body = WHY | {"topic": "orders", "partition": 0, "to": to}
        plan = shop.post("/seek", body | {"dry_run": True}).json()
        (partition,) = plan["partitions"]
        assert (plan["done"], partition["to_offset"]) == (False, goes_to)
        assert (plan["skipped"], plan["repeated"]) == (skipped, repeated)
        assert shop.events == []
        assert shop.post("/seek", body).json()["done"]
        (event,) = shop.events
        assert (event.action, event.details["topic"]) == (ControlAction.SEEK, "orders")


def test_what_is_done_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with open_shop() as shop, caplog.at_level(logging.INFO, "fastapi_athomic"):
        shop.post("/pause", WHY | {"topic": "orders"})
    (event,) = shop.events
    assert (event.action, event.consumer, event.actor, event.reason, event.done) == (
        ControlAction.PAUSE,
        ID,
        "operator",
        REASON,
        True,
    )
    assert event.details == {"topic": "orders"}
    assert any(f"{ID}: pause" in line and "by operator: it hangs" in line for line in caplog.messages)


# --- who did it


@pytest.mark.parametrize(
    ("actor", "name"),
    [
        (None, "operator"),  # what the authentication has put into the context
        (lambda request: request.headers["x-name"], "ann"),
        (lambda request: None, "anonymous"),
        (lambda request: "a\nnew line", "a new line"),
        (lambda request: "x" * 999, "x" * 197 + "..."),
    ],
)
def test_the_actor_is_who_the_app_says(actor: Any, name: str) -> None:
    with open_shop(actor=actor) as shop:
        shop.post("/pause", WHY, **{"x-name": "ann"})
    assert shop.events[0].actor == name


def test_the_actor_may_be_asked_for_asynchronously() -> None:
    async def actor(request: Request) -> str:
        return request.method

    with open_shop(actor=actor) as shop:
        shop.post("/pause", WHY)
    assert shop.events[0].actor == "POST"


def test_without_authentication_nobody_is_named() -> None:
    with open_shop(settings=settings(allow_anonymous=True), control_dependencies=()) as shop:
        assert shop.client.post(f"{AT}/pause", json=WHY).status_code == 200
    assert shop.events[0].actor == "anonymous"


# --- whether there are such routes


def test_nothing_can_be_changed_unless_it_is_enabled() -> None:
    with open_shop(settings=AthomicSettings()) as shop:
        assert shop.post("/pause", WHY).status_code == 404
        assert shop.get("/dlq").status_code == 404
        methods = {method for path in shop.client.get("/openapi.json").json()["paths"].values() for method in path}
    assert methods == {"get"}


@pytest.mark.parametrize(
    ("given", "enabled", "warned"),
    [
        ([Depends(operator)], None, True),
        ([Depends(operator)], "false", False),  # said, so meant
        ([Depends(operator)], "true", False),
        ([], None, False),
    ],
)
def test_who_may_steer_what_cannot_be_steered_is_warned_of(
    given: list[Any],
    enabled: str | None,
    warned: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if enabled is not None:
        monkeypatch.setenv("ATHOMIC_CONTROL__ENABLED", enabled)
    include_athomic(FastAPI(), control_dependencies=given)
    assert ("set ATHOMIC_CONTROL__ENABLED=true to have them" in caplog.text) is warned


@pytest.mark.parametrize("options", [{}, {"payload_dependencies": [Depends(operator)]}, {"control_dependencies": []}])
def test_control_that_anybody_could_use_is_refused(options: dict[str, Any]) -> None:
    app = FastAPI()
    with pytest.raises(ConfigurationError, match=r"control_dependencies=\[Depends.*control.allow_anonymous"):
        include_athomic(app, settings(), dependencies=[Depends(operator)], **options)
    include_athomic(app, settings(allow_anonymous=True))  # the first call left nothing behind


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"control_dependencies": [operator]}, "control_dependencies must be a list of Depends"),
        ({"control_dependencies": None}, "control_dependencies must be a list of Depends"),
        ({"payload_dependencies": Depends(operator)}, "payload_dependencies must be a list of Depends"),
        ({"mask": "hide"}, "mask must be a function"),
        ({"actor": "ann"}, "actor must be a function"),
    ],
)
def test_options_that_cannot_work_get_a_sentence(option: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        include_athomic(FastAPI(), settings(allow_anonymous=True), **option)


@pytest.mark.parametrize("origin", ["*", "ops.example.com", "https://ops.example/", "ftp://x", "https://a:b@c", "null"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="each origin must be http"):
        ControlSettings(allowed_origins=(origin,))


# --- what is refused


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """One for all that is refused, as that changes nothing."""
    with open_shop() as shop:
        yield shop


@pytest.mark.parametrize(
    ("path", "body", "at", "message"),
    [
        ("/pause", {}, "body.reason", "is missing"),
        ("/pause", {"reason": ""}, "body.reason", "at least 1 character"),
        ("/pause", {"reason": "  "}, "body.reason", "match pattern"),
        ("/pause", {"reason": "a\nb"}, "body.reason", "match pattern"),
        ("/pause", {"reason": "a\u202eb"}, "body.reason", "match pattern"),
        ("/pause", {"reason": "x" * 501}, "body.reason", "at most 500 characters"),
        ("/pause", WHY | {"second": 5}, "body.second", "there is no such field"),
        ("/pause", WHY | {"\ud800": 5}, "body", "unicode string"),
        ("/pause", WHY | {"seconds": "5"}, "body.seconds", "valid number"),
        ("/pause", WHY | {"seconds": 0}, "body.seconds", "greater than 0"),
        ("/pause", WHY | {"partition": 1}, "body", "partition needs topic"),
        ("/pause", WHY | {"topic": "a b"}, "body.topic", "match pattern"),
        ("/pause", [], "body", "valid dictionary"),
        ("/concurrency", WHY, "body.value", "is missing"),
        ("/concurrency", WHY | {"value": True}, "body.value", "valid integer"),
        ("/concurrency", WHY | {"value": 0}, "body.value", "greater than or equal to 1"),
        ("/rate", WHY | {"messages_per_second": 0}, "body.messages_per_second", "greater than 0"),
        ("/breaker", WHY | {"state": "half_open"}, "body.state", "'open', 'closed' or 'auto'"),
        ("/seek", WHY | {"topic": "orders", "to": "middle"}, "body.to", 'must be {"offset": 42}, {"time": '),
        ("/seek", WHY | {"topic": "orders", "to": {"offset": 1, "time": "x"}}, "body.to", 'must be {"offset": 42}'),
        ("/seek", WHY | {"topic": "orders", "to": {}}, "body.to", 'must be {"offset": 42}'),
        (
            "/seek",
            WHY | {"topic": "orders", "to": {"time": "2026-01-01T00:00:00"}},
            "body.to",
            "time: Input should have timezone",
        ),
        ("/seek", WHY | {"topic": "orders", "to": {"time": 17}}, "body.to", "time: must be a time as text"),
        ("/seek", WHY | {"topic": "orders", "to": "end", "force": 1}, "body.force", "valid boolean"),
    ],
)
def test_a_body_that_does_not_fit_is_a_problem_that_says_where(
    shop: Shop, path: str, body: object, at: str, message: str
) -> None:
    answer = shop.post(path, body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    problem = answer.json()
    assert problem["type"] == "/problems/invalid-request"
    faults = [fault for fault in problem["errors"] if fault["at"].startswith(at)]
    assert any(message in fault["message"] for fault in faults), problem
    assert shop.events == []


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/pause", WHY | {"topic": "elsewhere"}, 404, "topic-not-found"),
        ("/seek", WHY | {"topic": "elsewhere", "to": "end"}, 404, "topic-not-found"),
        ("/seek", WHY | {"topic": "orders", "partition": 99, "to": "end"}, 404, "partition-not-found"),
        ("/seek", WHY | {"topic": "orders", "partition": 0, "to": {"offset": 99}}, 409, "refused"),
    ],
)
def test_what_cannot_be_done_is_a_problem_with_a_type(
    shop: Shop, path: str, body: object, status: int, kind: str
) -> None:
    answer = shop.post(path, body)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}")
    assert answer.json()["instance"] == AT + path


def test_an_unknown_consumer_is_a_problem_that_names_those_nearby(shop: Shop) -> None:
    answer = shop.client.post("/consumers/shop.bil:v1/pause", json=WHY, headers=OPERATOR)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/consumer-not-found")
    assert ID in answer.json()["detail"]


def test_while_the_app_does_not_run_that_is_what_is_said() -> None:
    with open_shop() as shop:
        pass
    answer = shop.client.post(f"{AT}/pause", json=WHY, headers=OPERATOR)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-running")


# --- where the routes are


def test_prefix_schema_and_root_path_are_respected() -> None:
    with open_shop(root_path="/api", prefix="/ops", include_in_schema=False) as shop:
        answer = shop.client.post(f"/ops/{ID}/pause", json=WHY, headers=OPERATOR)
        assert answer.status_code == 200
        assert shop.client.get("/openapi.json").json()["paths"] == {}


def test_a_mounted_app_is_steered_through_the_one_around_it() -> None:
    inner, outer = FastAPI(), FastAPI()
    with open_shop(inner):
        outer.mount("/shop", inner)
        client = TestClient(outer)
        assert client.post(f"/shop{AT}/pause", json=WHY, headers=OPERATOR).status_code == 200
        problem = client.post(f"/shop{AT}/pause", json={}, headers=OPERATOR).json()
        assert problem["instance"] == f"/shop{AT}/pause"


def test_the_dependencies_of_all_routes_hold_for_these_too() -> None:
    def never() -> None:
        raise NotImplementedError("asked")

    with open_shop(dependencies=[Depends(never)]) as shop, pytest.raises(NotImplementedError, match="asked"):
        shop.post("/pause", WHY)
    assert GUARDED["control_dependencies"]

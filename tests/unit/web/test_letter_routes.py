"""Dead letters over HTTP: shown without payloads, unless somebody may see those; sent back and discarded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi import Depends

from fastapi_athomic import ControlAction, DeadLetter, MessageHeaders, TransportError
from fastapi_athomic.control.steering import Steering
from fastapi_athomic.failures.dead_letters import DeadLetters
from fastapi_athomic.failures.settling import Settling
from fastapi_athomic.web.control_parts import ControlOptions, ControlParts
from fastapi_athomic.web.problems import ProblemError
from tests.unit.web.control_shop import AT, AUDITOR, OPERATOR, REASON, Shop, open_shop, operator, settings

WHY = {"reason": REASON}
SECRET = "4929-secret"


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """Three dead letters, which nobody settles."""
    with open_shop(settings=settings(most_letters=10)) as shop:
        shop.fail({"card": SECRET}, {"card": SECRET}, key=SECRET)
        shop.fail({"total": 1}, key=None)
        yield shop


# --- looking


def test_letters_are_listed_without_what_may_be_personal_data(shop: Shop) -> None:
    answer = shop.get("/dlq")
    page = answer.json()
    assert (len(page["letters"]), page["more"], page["next_offset"]) == (3, False, None)
    first, last = page["letters"][0], page["letters"][-1]
    assert (first["topic"], first["partition"], first["original_topic"]) == ("orders.g.dlq", 0, "orders")
    assert (first["error_type"], first["error_stage"], first["has_key"]) == ("builtins.KeyError", "handler", True)
    assert (last["error_message"], last["has_key"], last["value_bytes"]) == ("no money", False, len('{"total":1}'))
    assert SECRET not in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_a_list_can_be_narrowed_and_gone_on_with(shop: Shop) -> None:
    page = shop.get("/dlq", partition=0, limit=2).json()
    assert (len(page["letters"]), page["more"], page["next_offset"]) == (2, True, 2)
    rest = shop.get("/dlq", partition=0, limit=2, offset=page["next_offset"]).json()
    assert (len(rest["letters"]), rest["more"], rest["next_offset"]) == (1, False, None)
    assert len(shop.get("/dlq", error_type="builtins.KeyError").json()["letters"]) == 2
    assert shop.get("/dlq", error_type="KeyError").json()["letters"] == []
    assert shop.get("/dlq", since="2099-01-01T00:00:00Z").json()["letters"] == []
    assert len(shop.get("/dlq", source="orders", since="2020-01-01T00:00:00Z").json()["letters"]) == 3
    assert shop.get("/dlq", limit=1).json()["next_offset"] is None, "of several partitions there is no such place"


def test_one_letter_is_shown_without_its_payload(shop: Shop) -> None:
    answer = shop.get("/dlq/0/1")
    assert (answer.status_code, answer.json()["offset"]) == (200, 1)
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("path", "query", "status", "kind"),
    [
        ("/dlq", {"source": "elsewhere"}, 404, "topic-not-found"),
        ("/dlq", {"limit": 0}, 422, "invalid-request"),
        ("/dlq", {"limit": 501}, 422, "invalid-request"),
        ("/dlq", {"since": "2026-01-01T00:00:00"}, 422, "invalid-request"),
        ("/dlq", {"since": "1767225600"}, 422, "invalid-request"),
        ("/dlq", {"partition": -1}, 422, "invalid-request"),
        ("/dlq", {"offset": 2**63}, 422, "invalid-request"),
        ("/dlq/0/17", {}, 404, "letter-not-found"),
        ("/dlq/99/0", {}, 404, "letter-not-found"),
        ("/dlq/0/x", {}, 422, "invalid-request"),
    ],
)
def test_what_cannot_be_shown_is_a_problem(
    shop: Shop, path: str, query: dict[str, Any], status: int, kind: str
) -> None:
    answer = shop.get(path, **query)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}")


# --- payloads


def test_payloads_are_shown_to_whom_may_see_them_and_that_is_logged(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"{AT}/dlq/0/0/payload"
    assert shop.client.get(path, headers=OPERATOR).status_code == 403
    with caplog.at_level(logging.INFO, "fastapi_athomic"):
        answer = shop.client.get(path, headers=AUDITOR)
    shown = answer.json()
    assert shown["value"] == {"encoding": "utf-8", "data": f'{{"card":"{SECRET}"}}'}
    assert shown["key"] == {"encoding": "utf-8", "data": SECRET}
    assert shown["decoded"] == {"card": SECRET}
    assert (shown["not_decoded"], shown["masked"]) == (None, False)
    assert {"name": "athomic-error-stage", "value": {"encoding": "utf-8", "data": "handler"}} in shown["headers"]
    assert answer.headers["cache-control"] == "no-store"
    assert any("the payload of dead letter" in line and "is shown to auditor" in line for line in caplog.messages)
    assert SECRET not in caplog.text


def test_without_a_permission_of_its_own_there_is_no_route_to_payloads() -> None:
    with open_shop(settings=settings(allow_anonymous=True), control_dependencies=(), payload_dependencies=()) as shop:
        shop.fail({"card": SECRET})
        assert shop.client.get(f"{AT}/dlq/0/0").status_code == 200
        assert shop.client.get(f"{AT}/dlq/0/0/payload").status_code == 404
        assert not any("payload" in path for path in shop.client.get("/openapi.json").json()["paths"])


def test_a_mask_decides_what_is_shown() -> None:
    async def mask(letter: DeadLetter) -> DeadLetter:
        return replace(letter, key=None, value=b'{"card": "***"}', headers=MessageHeaders())

    with open_shop(mask=mask, payload_dependencies=[Depends(operator)]) as shop:
        shop.fail({"card": SECRET}, key=SECRET)
        answer = shop.get("/dlq/0/0/payload")
        assert SECRET not in answer.text
        shown = answer.json()
        assert (shown["key"], shown["headers"], shown["decoded"]) == (None, [], {"card": "***"})
        assert shown["masked"]


@pytest.mark.parametrize(
    ("value", "not_decoded"),
    [(b"{", "JSON"), (b"\xff", "JSON"), (b'{"a": 1e999}', None), (b'{"a": "\\ud800"}', "JSON")],
)
def test_what_cannot_be_decoded_is_shown_as_it_is(value: bytes, not_decoded: str | None) -> None:
    def mask(letter: DeadLetter) -> DeadLetter:
        return replace(letter, value=value)

    with open_shop(mask=mask, payload_dependencies=[Depends(operator)]) as shop:
        shop.fail({})
        shown = shop.get("/dlq/0/0/payload").json()
    assert shown["value"]["encoding"] == ("base64" if value == b"\xff" else "utf-8")
    assert (shown["decoded"] is None) == (shown["not_decoded"] is not None) == (not_decoded is not None)
    assert not_decoded is None or not_decoded in shown["not_decoded"]


# --- settling


def test_letters_are_sent_back_once_it_was_tried_what_that_would_do() -> None:
    with open_shop() as shop:
        shop.fail({"card": 1}, {}, {})
        body = WHY | {"error_type": "builtins.ValueError", "limit": 5}
        tried = shop.post("/dlq/redrive", body | {"dry_run": True}).json()
        assert (tried["selected"], tried["settled"], tried["dry_run"]) == (2, 2, True)
        assert (len(shop.get("/dlq").json()["letters"]), shop.events) == (3, [])
        done = shop.post("/dlq/redrive", body | {"rate": 1000}).json()
        assert (done["selected"], done["settled"], done["topics"]) == (2, 2, {"orders.g.dlq": 2})
        (event,) = shop.events
        assert (event.action, event.actor, event.reason) == (ControlAction.REDRIVE, "operator", REASON)
        assert event.details == {"error_type": "builtins.ValueError", "limit": 5, "selected": 2, "settled": 2}


def test_a_letter_is_discarded_and_the_reason_is_kept() -> None:
    with open_shop() as shop:
        shop.fail({}, {})
        done = shop.post("/dlq/discard", WHY | {"partition": 0, "offset": 1}).json()
        assert (done["selected"], done["settled"]) == (1, 1)
        assert [letter["offset"] for letter in shop.get("/dlq").json()["letters"]] == [0]
        assert shop.get("/dlq/0/1").status_code == 404
        assert [event.action for event in shop.events] == [ControlAction.DISCARD]


def test_what_fails_half_way_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise TransportError("no leader")

    with open_shop() as shop:
        monkeypatch.setattr(Settling, "redrive", fail)
        answer = shop.post("/dlq/redrive", WHY | {"limit": 1})
        assert (answer.status_code, answer.json()["detail"]) == (503, "no leader")
        (event,) = shop.events
        assert (event.done, event.details["error"]) == (False, "no leader")
        assert shop.post("/dlq/redrive", WHY | {"limit": 1}).status_code == 503, "the next one is let in"


def _nobody(handler_id: str) -> DeadLetters:
    raise NotImplementedError


async def test_two_redrives_at_a_time_are_one_too_many() -> None:
    parts = ControlParts(
        steering=Steering(),
        manager=lambda: None,
        letters=_nobody,
        settings=settings().control,
        options=ControlOptions(),
    )
    with parts.alone("h", dry_run=False), parts.alone("other", dry_run=False), parts.alone("h", dry_run=True):
        second = parts.alone("h", dry_run=False)
        with pytest.raises(ProblemError, match="dead letters of h are being settled"):
            second.__enter__()
    with parts.alone("h", dry_run=False):
        assert parts.settling == {"h"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "limit is missing"),
        ({"partition": 0}, "limit is missing"),
        ({"offset": 0, "limit": 1}, "offset needs partition"),
        ({"limit": 11}, "limit must be 10 at most"),
        ({"limit": 10, "rate": 0.1}, "must be 60 s at most"),
        ({"limit": "1"}, "valid integer"),
        ({"limit": 1, "dry_run": "yes"}, "valid boolean"),
        ({"limit": 1, "error": "ValueError"}, "there is no such field"),
    ],
)
def test_a_choice_of_letters_must_be_a_clear_one(shop: Shop, body: dict[str, Any], message: str) -> None:
    answer = shop.post("/dlq/redrive", WHY | body)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert shop.events == []

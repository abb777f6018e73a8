"""A page of another site cannot steer consumers with somebody's cookie (CSRF)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.web.control_shop import AT, OPERATOR, REASON, Shop, open_shop, settings

BODY = {"reason": REASON}
HOST = "testserver"


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """One for all that is refused, as that changes nothing."""
    with open_shop() as shop:
        yield shop


def by_cookie(shop: Shop, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = shop.client.post(f"{AT}/pause", json=BODY, headers=named | {"cookie": "session=ann"})
    assert answer.status_code == 200 or answer.json()["type"] == "/problems/cross-site"
    return answer.status_code


def test_a_page_of_the_app_itself_may() -> None:
    with open_shop() as shop:
        assert by_cookie(shop, origin=f"http://{HOST}", sec_fetch_site="same-origin") == 200
        assert by_cookie(shop, origin=f"https://{HOST}", sec_fetch_site="same-origin") == 200  # TLS ends at a proxy
        assert by_cookie(shop, origin=f"HTTP://{HOST.upper()}:80") == 200
        assert by_cookie(shop, sec_fetch_site="none") == 200
    assert {event.actor for event in shop.events} == {"ann"}


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "something new"},
        {"origin": "https://evil.example"},
        {"origin": f"http://{HOST}:8080"},
        {"origin": f"http://{HOST}.evil.example"},
        {"origin": f"http://evil.example/{HOST}"},
        {"origin": f"http://{HOST}@evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://[", "host": "["},
        {"origin": f"http://{HOST}", "sec_fetch_site": "cross-site"},
    ],
)
def test_a_page_of_another_site_may_not(shop: Shop, headers: dict[str, str]) -> None:
    assert by_cookie(shop, **headers) == 403
    assert shop.events == []


def test_another_site_may_if_the_settings_name_it() -> None:
    with open_shop(settings=settings(allowed_origins=("https://Ops.example:443",))) as shop:
        assert by_cookie(shop, origin="https://ops.example", sec_fetch_site="cross-site") == 200
        assert by_cookie(shop, origin="https://ops.example:8443", sec_fetch_site="cross-site") == 403
        assert by_cookie(shop, origin="http://ops.example", sec_fetch_site="cross-site") == 403


def test_the_sentence_says_what_to_do_behind_a_proxy(shop: Shop) -> None:
    detail = shop.post("/pause", BODY, origin="https://shop.example").json()["detail"]
    assert "https://shop.example is of another site than testserver" in detail
    assert "control.allowed_origins" in detail


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonx"],
)
@pytest.mark.parametrize("path", ["/pause", "/dlq/redrive"])
def test_what_a_form_can_send_is_refused(shop: Shop, kind: str, path: str) -> None:
    headers = OPERATOR | ({"content-type": kind} if kind else {})
    answer = shop.client.post(AT + path, content=b'{"reason": "x", "limit": 1}', headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/not-json")
    assert shop.events == []


def test_json_may_name_its_encoding() -> None:
    with open_shop() as shop:
        headers = OPERATOR | {"content-type": "Application/JSON; charset=utf-8"}
        assert shop.client.post(f"{AT}/pause", content=b'{"reason": "x"}', headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"{", 422, "invalid-request"),
        (b"\xff", 422, "invalid-request"),
        (b"[" * 60_000, 422, "invalid-request"),
        (b'{"reason": ' + b"9" * 5_000 + b"}", 422, "invalid-request"),
        (b"", 422, "invalid-request"),
        (b'{"reason": "' + b"x" * 70_000 + b'"}', 413, "too-large"),
    ],
)
def test_what_is_no_json_or_far_too_long_is_a_problem(shop: Shop, content: bytes, status: int, kind: str) -> None:
    headers = OPERATOR | {"content-type": "application/json"}
    answer = shop.client.post(f"{AT}/pause", content=content, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}")

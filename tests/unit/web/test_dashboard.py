"""The page and its files, over HTTP. What it does in a browser is tested in tests/integration/test_dashboard.py."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from fastapi_athomic import AthomicSettings, include_athomic
from fastapi_athomic.operation_settings import DashboardSettings
from fastapi_athomic.web.dashboard import POLICY, STATIC

FILES = sorted(path.name for path in STATIC.iterdir())
GUARDED = ["dashboard", "dashboard/", "dashboard/config", "events", *(f"dashboard/{name}" for name in FILES)]


def client(settings: AthomicSettings | None = None, **options: Any) -> TestClient:
    """The app is not started: the page and its files are there all the same."""
    app = FastAPI()
    include_athomic(app, settings or AthomicSettings(), **options)
    return TestClient(app)


def nobody() -> None:
    raise HTTPException(401)


@pytest.mark.parametrize("path", GUARDED)
def test_page_files_and_stream_need_what_the_status_needs(path: str) -> None:
    guarded = client(dependencies=[Depends(nobody)], probe_dependencies=())
    assert guarded.get(f"/consumers/{path}", follow_redirects=False).status_code == 401


def test_the_page_is_not_there_if_it_is_switched_off() -> None:
    off = client(AthomicSettings(dashboard=DashboardSettings(enabled=False)))
    assert off.get("/consumers/dashboard").json()["detail"].startswith("no consumer has the id 'dashboard'")
    assert off.get("/consumers/dashboard/dashboard.js").status_code == 404


@pytest.mark.parametrize("name", ["", *(f"/{name}" for name in FILES)])
def test_everything_has_the_policy_and_is_sent_once(name: str) -> None:
    answer = client().get(f"/consumers/dashboard{name}")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    known = {"if-none-match": answer.headers["etag"]}
    again = client().get(f"/consumers/dashboard{name}", headers=known)
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nobody.js", "..%2fdashboard.py", "%2e%2e%2fdashboard.py", ".", "static"])
def test_nothing_else_is_sent(name: str) -> None:
    answer = client().get(f"/consumers/dashboard/{name}")
    assert answer.status_code == 404 or "<title>Consumers</title>" in answer.text, "a dot is the page itself"
    assert "import" not in answer.text


def test_the_slash_at_the_end_is_taken_away_below_any_prefix() -> None:
    answer = client().get("/consumers/dashboard/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "../dashboard")


def test_no_address_of_the_page_is_absolute_and_no_style_or_script_is_in_it() -> None:
    page = (STATIC / "index.html").read_text()
    for address in re.findall(r'(?:src|href|action)="([^"]*)"', page):
        assert address.startswith(("dashboard/", "#")), address
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", page)
    for script in STATIC.glob("*.js"):
        if not script.name.startswith("uPlot"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|https?://", script.read_text()
            )


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r'"dashboard/([^"]+)"', (STATIC / "index.html").read_text()))
    for script in STATIC.glob("*.js"):
        named |= set(re.findall(r'from "\./([^"]+)"', script.read_text()))
    assert named | {"index.html", "uPlot.LICENSE"} == set(FILES)


def test_without_control_the_page_offers_nothing_to_do() -> None:
    config = client(AthomicSettings(dashboard=DashboardSettings(interval=2))).get("/consumers/dashboard/config").json()
    assert config.pop("version")
    assert config == {"interval_seconds": 2.0, "actions": [], "dead_letters": False, "payloads": False}


def test_only_the_stream_is_in_the_schema() -> None:
    paths = client().get("/openapi.json").json()["paths"]
    assert "/consumers/events" in paths
    assert not [path for path in paths if "dashboard" in path]

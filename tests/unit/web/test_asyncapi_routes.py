"""The routes of the AsyncAPI document."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from fastapi_athomic import Athomic, AthomicSettings, Key, RetryPolicy, include_athomic
from fastapi_athomic.operation_settings import AsyncApiSettings

SCRIPT = "<script>alert(1)</script>"


class Item(BaseModel):
    """What is <b>sold</b>."""

    sku: str = Field(min_length=3, description=SCRIPT)
    parts: list[Item] = []


def shop(settings: AthomicSettings | None = None, **options: Any) -> FastAPI:
    app = FastAPI(title=f"Shop {SCRIPT}")
    athomic = include_athomic(app, settings or AthomicSettings(), **options)
    athomic.publisher("items", Item, title=SCRIPT)

    @athomic.subscribe_to(
        "items", group_id="stock", handler_id="stock", ordering="none", retry=RetryPolicy(retry_topics=(5,))
    )
    async def stock(item: Item, key: Key[UUID]) -> None:
        """Counts."""

    return app


def test_both_answer_before_the_app_runs_and_while_it_does() -> None:
    app = shop()
    before = TestClient(app).get("/consumers/asyncapi.json").json()
    with TestClient(app) as client:
        answer = client.get("/consumers/asyncapi.json")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == before
        assert client.get("/consumers/asyncapi").status_code == 200
        app.state.athomic.publisher("late", str)
        assert "late" in client.get("/consumers/asyncapi.json").json()["channels"]
    assert before["asyncapi"] == "3.1.0"
    assert {*before["channels"]} == {
        *("items", "items.stock.retry.5s", "items.stock.dlq", "items.stock.redrive"),
    }


def test_what_handlers_do_is_described_once_and_again_for_a_publisher_that_is_declared_later() -> None:
    described = []

    class Counted(BaseModel):
        @classmethod
        def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
            described.append(cls)
            return handler(schema)

    app = shop()
    athomic = app.state.athomic
    athomic.publisher("counted", Counted)
    with TestClient(app) as client:
        first = client.get("/consumers/asyncapi.json").json()
        times = len(described)
        assert times
        client.get("/consumers/asyncapi")
        athomic.asyncapi()["channels"].clear()
        app.title = "Another shop"
        assert client.get("/consumers/asyncapi.json").json() == first | {"info": {**first["info"], "title": app.title}}
        assert len(described) == times
        athomic.publisher("late", str)
        assert "late" in client.get("/consumers/asyncapi.json").json()["channels"]
        assert len(described) == 2 * times


def test_the_next_run_of_an_app_describes_the_handlers_that_it_has() -> None:
    app = shop()
    with TestClient(app) as client:
        assert "more" not in client.get("/consumers/asyncapi.json").json()["channels"]

    athomic: Athomic = app.state.athomic

    @athomic.subscribe_to("more", group_id="stock", handler_id="more")
    async def more(item: Item) -> None: ...

    with TestClient(app) as client:
        assert "more" in client.get("/consumers/asyncapi.json").json()["channels"]


def test_the_settings_say_version_and_info_and_whether_there_are_routes() -> None:
    info = {"title": "Events", "version": "7", "x-team": "shop"}
    with TestClient(shop(AthomicSettings(asyncapi=AsyncApiSettings(version="3.0.0", info=info)))) as client:
        document = client.get("/consumers/asyncapi.json").json()
    assert document["asyncapi"] == "3.0.0"
    assert document["info"] == info
    with TestClient(shop(AthomicSettings(asyncapi=AsyncApiSettings(enabled=False)))) as client:
        assert client.get("/consumers/asyncapi.json").status_code == 404
        assert client.get("/consumers/asyncapi").status_code == 404


def test_info_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHOMIC_ASYNCAPI__INFO", '{"title": "Events"}')
    monkeypatch.setenv("ATHOMIC_ASYNCAPI__VERSION", "3.0.0")
    document = shop(AthomicSettings()).state.athomic.asyncapi()
    assert (document["asyncapi"], document["info"]["title"]) == ("3.0.0", "Events")


def test_they_have_the_prefix_and_the_dependencies_of_the_others() -> None:
    def nobody() -> None:
        raise HTTPException(401)

    with TestClient(shop(prefix="/ops", dependencies=[Depends(nobody)])) as client:
        assert client.get("/ops/asyncapi.json").status_code == 401
        assert client.get("/ops/asyncapi").status_code == 401
        assert "/ops/asyncapi.json" in client.app.openapi()["paths"]  # type: ignore[attr-defined]
    assert "/consumers/asyncapi.json" not in shop(include_in_schema=False).openapi()["paths"]


class Page(HTMLParser):
    """What a page links to, its ids, and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.elements: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.add(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []


def test_the_page_runs_nothing_loads_nothing_and_leads_everywhere() -> None:
    with TestClient(shop()) as client:
        answer = client.get("/consumers/asyncapi")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script" not in policy
    assert "unsafe" not in policy
    page = Page(answer.text)
    assert not page.elements & {"script", "link", "img", "iframe", "b"}
    assert len(page.ids) == len({*page.ids})
    assert {link for link in page.links if not link.startswith("#")} == {"asyncapi.json"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= {*page.ids}
    assert "What is &lt;b&gt;sold&lt;/b&gt;." in answer.text
    told = re.sub(r"<[^>]+>", " ", answer.text)
    for words in ("Counts.", "stock", "items.stock.retry.5s", "items.stock.dlq", "string (uuid)", "minLength: 3"):
        assert words in told
    assert re.search(r"array of\s+Item", told)


def test_the_page_of_an_app_without_anything_says_so() -> None:
    app = FastAPI()
    include_athomic(app, AthomicSettings())
    with TestClient(app) as client:
        page = client.get("/consumers/asyncapi").text
    assert "The app has no handlers." in page
    assert "The app declares no publishers" in page

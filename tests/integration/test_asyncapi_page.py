"""The page of the AsyncAPI document in a browser: nothing is complained of, in either colours, on desk and phone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from axe_playwright_python.async_playwright import Axe
from fastapi import FastAPI
from playwright.async_api import Browser, expect

from fastapi_athomic import AthomicSettings, RetryPolicy, include_athomic
from tests.support.asyncapi_models import KINDS, Order
from tests.support.browser import BrowserUnavailableError, chromium
from tests.support.processes import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")
PHONE = {"width": 360, "height": 740}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(do_without: Callable[[str], None]) -> AsyncIterator[Browser]:
    try:
        async with chromium() as browser:
            yield browser
    except BrowserUnavailableError as error:
        do_without(str(error))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address() -> AsyncIterator[str]:
    """Of an app with all kinds of models."""
    app = FastAPI(title="Shop")
    athomic = include_athomic(app, AthomicSettings())
    for name, kind in KINDS.items():
        athomic.publisher(name, kind)

    @athomic.subscribe_to("orders", group_id="g", ordering="none", retry=RetryPolicy(retry_topics=(5,)))
    async def bill(order: Order) -> None:
        """Writes a bill."""

    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="warning"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    await task


@pytest.mark.parametrize(("scheme", "viewport"), [("light", None), ("dark", PHONE)])
async def test_axe_finds_nothing_and_all_of_it_fits(browser: Browser, address: str, scheme: Any, viewport: Any) -> None:
    options = {"viewport": viewport} if viewport else {}
    page = await browser.new_page(color_scheme=scheme, reduced_motion="reduce", **options)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(f"{address}/consumers/asyncapi")
    await expect(page.get_by_role("heading", name="Handlers")).to_be_visible()
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 247, 249)", "dark": "rgb(20, 23, 28)"}[scheme], "its style is allowed"
    found = (await Axe().run(page)).response["violations"]
    assert [(each["id"], json.dumps([node["target"] for node in each["nodes"]])[:300]) for each in found] == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="To the content")).to_be_focused()
    await page.get_by_text("JSON of Category", exact=True).click()
    await expect(page.get_by_text('"children"')).to_be_visible()
    assert said == []
    assert {url.rpartition("/")[2] for url in asked} <= {"asyncapi", "favicon.ico"}
    await page.close()

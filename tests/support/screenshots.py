"""Makes the pictures in docs/dashboard.md: `.venv/bin/python -m tests.support.screenshots`. It takes a minute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI
from playwright.async_api import Browser, Page

from fastapi_athomic import Athomic, AthomicSettings, RetryPolicy, include_athomic
from fastapi_athomic.operation_settings import ControlSettings, DashboardSettings
from tests.support.browser import chromium
from tests.support.processes import free_port

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SECONDS = 55
"""So long messages flow before the pictures are made."""


async def everybody() -> None: ...


def new_app() -> FastAPI:
    app = FastAPI()
    settings = AthomicSettings(
        instance_id="shop-1",
        control=ControlSettings(enabled=True, allow_anonymous=True),
        dashboard=DashboardSettings(interval=0.5),
    )
    athomic = include_athomic(app, settings, payload_dependencies=[Depends(everybody)])
    once = RetryPolicy(max_attempts=1)

    @athomic.subscribe_to("orders.placed", group_id="billing", handler_id="billing", concurrency=4, retry=once)
    async def bill(order: dict[str, Any]) -> None:
        await asyncio.sleep(0.01)
        if order["number"] % 97 == 0:
            raise ValueError("the card was declined")

    @athomic.subscribe_to("orders.placed", group_id="shipping", handler_id="shipping", concurrency=2)
    async def ship(order: dict[str, Any]) -> None:
        await asyncio.sleep(0.02)

    @athomic.subscribe_to("orders.placed", group_id="statistics", handler_id="statistics", batch_size=100)
    async def count(orders: list[dict[str, Any]]) -> None: ...

    return app


async def flow(athomic: Athomic) -> None:
    """Orders, now more, now fewer."""
    random, number = Random(4), 0
    while True:
        for _ in range(random.choice((1, 2, 3, 5, 30))):
            number += 1
            await athomic.publish("orders.placed", {"number": number, "item": "book"}, key=str(number))
        await asyncio.sleep(0.1)


@asynccontextmanager
async def running() -> AsyncIterator[str]:
    app, port = new_app(), free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.05)
    flowing = asyncio.create_task(flow(app.state.athomic))
    try:
        yield f"http://127.0.0.1:{port}/consumers/dashboard"
    finally:
        flowing.cancel()
        server.should_exit = True
        await serving


async def opened(browser: Browser, url: str, **options: Any) -> Page:
    context = await browser.new_context(**options)
    page = await context.new_page()
    await page.goto(url)
    return page


async def main() -> None:
    async with running() as url, chromium() as browser:
        desk = {"width": 1100, "height": 520}
        light = await opened(browser, url, color_scheme="light", viewport=desk)
        dark = await opened(browser, f"{url}#/consumer/billing", color_scheme="dark", viewport={**desk, "height": 940})
        phone = await opened(browser, url, color_scheme="dark", viewport={"width": 360, "height": 640})
        await asyncio.sleep(SECONDS)
        await dark.get_by_role("button", name="Show dead letters").click()
        await dark.locator("[data-letter]").first.wait_for()
        await dark.evaluate("scrollTo(0, 0)")
        for name, page in (("dashboard-light", light), ("dashboard-dark", dark), ("dashboard-phone", phone)):
            await page.screenshot(path=IMAGES / f"{name}.png")
            await page.context.close()


if __name__ == "__main__":
    asyncio.run(main())

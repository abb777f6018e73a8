"""The dashboard in a real browser, beside one app on `memory://` under uvicorn, in the same event loop."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from axe_playwright_python.async_playwright import Axe
from fastapi import Depends, FastAPI
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Route, expect

from fastapi_athomic import Athomic, AthomicSettings, RetryPolicy, include_athomic
from fastapi_athomic.operation_settings import ControlSettings, DashboardSettings
from tests.support.browser import BrowserUnavailableError, chromium
from tests.support.processes import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

PHONE = {"width": 360, "height": 740}
SCRIPT = "<img src=x onerror=alert(1)>"
"""What would be an element if texts became HTML."""
INK = """canvas => {
  const ink = getComputedStyle(document.querySelector('.swatch.ink-1')).color.match(/\\d+/g).map(Number);
  const copy = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  [copy.canvas.width, copy.canvas.height] = [canvas.width, canvas.height];
  copy.drawImage(canvas, 0, 0);
  const { data, width, height } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;
  for (let place = 0; place < width * height * 2; place += 4) // the upper half
    found += ink.every((part, number) => Math.abs(data[place + number] - part) < 30);
  return found;
}"""
"""How many pixels in the upper half of a chart have the colour of its line."""


async def everybody() -> None:
    """May see payloads."""


class Shop:
    """An app under uvicorn. `/shop` is the prefix of a proxy that takes it away and tells the app nothing of it."""

    def __init__(self, **settings: Any) -> None:
        self.app = FastAPI()
        self.athomic: Athomic = include_athomic(
            self.app, AthomicSettings(**settings), payload_dependencies=[Depends(everybody)]
        )
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.handled: list[int] = []
        self.fails = True

        @self.athomic.subscribe_to(
            "orders", group_id="billing", handler_id="billing", retry=RetryPolicy(max_attempts=1)
        )
        async def bill(order: int) -> None:
            if order < 0 and self.fails:
                raise ValueError(f"the card was declined {SCRIPT}")
            self.handled.append(order)

        @self.athomic.subscribe_to("orders", group_id="mail", handler_id="mail")
        async def mail(order: int) -> None: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/shop/"):
            path = scope["path"].removeprefix("/shop")
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self.app(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Shop]:
        server = uvicorn.Server(uvicorn.Config(self, port=self.port, log_level="warning"))
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        await self.athomic.wait_until_ready()
        try:
            yield self
        finally:
            server.should_exit = True
            await task


class Visitor:
    """One page, with what it asked for and complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    async def cell(self, consumer: str, column: str) -> str:
        """What the table of consumers says."""
        titles = await self.page.locator("#consumers thead th").all_inner_texts()
        row = self.page.locator("#consumers tbody tr", has=self.page.get_by_role("link", name=consumer, exact=True))
        return await row.locator("th, td").nth(titles.index(column)).inner_text()

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(15):
            while not await holds():  # noqa: ASYNC110 - the page changes by itself
                await asyncio.sleep(0.02)

    async def violations(self) -> list[str]:
        """What axe finds, by WCAG 2.2 AA and its own best practices."""
        results = await Axe().run(self.page)
        return [
            f"{found['id']} ({found['impact']}): {json.dumps([node['target'] for node in found['nodes']])}"
            for found in results.response["violations"]
        ]

    async def fits(self) -> bool:
        return bool(await self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(do_without: Callable[[str], None]) -> AsyncIterator[Browser]:
    try:
        async with chromium() as browser:
            yield browser
    except BrowserUnavailableError as error:
        do_without(str(error))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    control = ControlSettings(enabled=True, allow_anonymous=True)
    dashboard = DashboardSettings(interval=0.2, stream_seconds=2)
    async with Shop(control=control, dashboard=dashboard).running() as shop:
        yield shop


Visit = Callable[..., Awaitable[Visitor]]


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, shop: Shop) -> AsyncIterator[Visit]:
    """Opens the dashboard. In the end no page has complained of anything or asked anybody else."""
    opened: list[Visitor] = []

    async def visit(path: str = "/consumers/dashboard", *, quiet: bool = True, **options: Any) -> Visitor:
        context = await browser.new_context(**options)
        context.set_default_timeout(15_000)
        visitor = Visitor(await context.new_page())
        if quiet:
            opened.append(visitor)
        await visitor.page.goto(shop.url + path)
        return visitor

    yield visit
    for context in browser.contexts:
        await context.close()
    for visitor in opened:
        assert visitor.complaints == []
        assert [url for url in visitor.asked if not url.startswith(f"{shop.url}/")] == []


async def test_charts_and_figures_move_when_messages_flow(visit: Visit, shop: Shop) -> None:
    visitor = await visit()
    page = visitor.page
    await expect(page.locator("#connection")).to_have_text("Live")
    await expect(page.locator("#health")).to_have_text("healthy")
    chart = page.locator("#overview-charts canvas").first
    await expect(chart).to_be_visible()
    assert await chart.evaluate(INK) == 0, "nothing has been processed yet"
    before = len(shop.handled)

    async def flows() -> bool:
        await shop.athomic.publish_many("orders", range(20))
        rate = await visitor.cell("billing", "Processed/s")
        return any(digit in rate for digit in "123456789") and await chart.evaluate(INK) > 0

    await visitor.until(flows)
    assert len(shop.handled) > before
    label = await page.locator("#overview-charts .plot").first.get_attribute("aria-label")
    assert label is not None
    assert label.startswith("Processed per second, the last 5 minutes; now ")


async def test_streams_that_end_are_followed_by_others_without_a_word(visit: Visit) -> None:
    visitor = await visit()
    await expect(visitor.page.locator("#connection")).to_have_text("Live")
    await visitor.page.evaluate(
        "new MutationObserver(() => window.said = true).observe(document.getElementById('connection'), "
        "{childList: true, characterData: true, subtree: true})"
    )

    async def streams() -> bool:
        return sum(url.endswith("/events") for url in visitor.asked) >= 2

    await visitor.until(streams)
    assert not await visitor.page.evaluate("window.said")


async def test_where_no_streams_come_through_the_page_asks_again_and_again(visit: Visit, shop: Shop) -> None:
    async def refuse(route: Route) -> None:
        await route.fulfill(status=502)

    visitor = await visit("/consumers/dashboard/icon.svg", quiet=False)
    await visitor.page.route("**/events", refuse)
    await visitor.page.goto(f"{shop.url}/consumers/dashboard")
    await expect(visitor.page.locator("#connection")).to_have_text("Asking every 2 s, as there is no stream")
    await expect(visitor.page.get_by_role("link", name="billing", exact=True)).to_be_visible()


async def test_a_page_that_loses_the_app_says_so_and_comes_back(visit: Visit, shop: Shop) -> None:
    async def cut(route: Route) -> None:
        await route.abort()

    visitor = await visit(quiet=False)
    await expect(visitor.page.locator("#connection")).to_have_text("Live")
    await visitor.page.route("**/events", cut)
    await expect(visitor.page.locator("#connection")).to_contain_text("Not connected; next try in")
    await visitor.page.unroute("**/events")
    await expect(visitor.page.locator("#connection")).to_have_text("Live")


async def test_processes_that_share_a_state_store_are_shown_as_one(visit: Visit, shop: Shop) -> None:
    """As any of them would tell it; here the answer is made up."""
    (mail,) = [each.model_dump(mode="json") for each in shop.athomic.consumers() if each.id == "mail"]
    (member,) = mail["members"]
    others = [member, {**member, "instance_id": "shop-2", "health": "degraded", "state": "starting"}]
    told = {
        "time": "2026-11-28T12:00:00Z",
        "process": mail["process"],
        "health": shop.athomic.health().model_dump(mode="json"),  # type: ignore[union-attr]
        "consumers": [{**mail, "scope": "group", "members": others, "health": {"status": "degraded", "reasons": []}}],
    }

    async def tell(route: Route) -> None:
        body = f"event: snapshot\ndata: {json.dumps(told)}\n\n"
        await route.fulfill(status=200, content_type="text/event-stream", body=body)

    visitor = await visit("/consumers/dashboard/icon.svg", quiet=False)
    await visitor.page.route("**/events", tell)
    await visitor.page.goto(f"{shop.url}/consumers/dashboard#/consumer/mail")
    await expect(visitor.page.locator("#process")).to_contain_text("2 processes, told by")
    await expect(visitor.page.locator("#health")).to_have_text("degraded")
    row = visitor.page.get_by_role("region", name="Processes").get_by_role("row", name="shop-2")
    await expect(row).to_contain_text("starting")


@pytest.mark.parametrize("path", ["/shop/consumers/dashboard", "/shop/consumers/dashboard/"])
async def test_it_works_behind_a_prefix_that_the_app_does_not_know(visit: Visit, shop: Shop, path: str) -> None:
    visitor = await visit(path)
    await expect(visitor.page.locator("#connection")).to_have_text("Live")
    assert {url.split("/")[3] for url in visitor.asked} == {"shop"}


async def test_texts_of_errors_stay_texts(visit: Visit, shop: Shop) -> None:
    await shop.athomic.publish("orders", -1)
    visitor = await visit("/consumers/dashboard#/consumer/billing")
    shown = visitor.page.get_by_label("What it says")
    await expect(shown).to_have_text(f"ValueError: the card was declined {SCRIPT}")
    assert await visitor.page.locator("img").count() == 0


@pytest.mark.parametrize(("scheme", "viewport"), [("light", None), ("dark", PHONE)])
async def test_axe_finds_nothing_in_either_colours_on_desk_and_phone(
    visit: Visit, shop: Shop, scheme: str, viewport: Any
) -> None:
    await shop.athomic.publish("orders", -1)
    options = {"viewport": viewport} if viewport else {}
    visitor = await visit(color_scheme=scheme, reduced_motion="reduce", **options)
    await expect(visitor.page.locator("#connection")).to_have_text("Live")
    ground = await visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 23, 28)") is (scheme == "dark")
    assert await visitor.violations() == []
    assert await visitor.fits()
    await visitor.page.get_by_role("link", name="billing", exact=True).click()
    await expect(visitor.page.get_by_label("What it says")).to_be_visible()
    assert await visitor.violations() == []
    assert await visitor.fits()


async def test_the_choice_of_colours_is_kept(visit: Visit) -> None:
    visitor = await visit(color_scheme="light")
    await visitor.page.get_by_label("Colours").select_option("dark")
    await expect(visitor.page.locator("body")).to_have_css("background-color", "rgb(20, 23, 28)")
    await visitor.page.reload()
    await expect(visitor.page.locator("body")).to_have_css("background-color", "rgb(20, 23, 28)")
    await expect(visitor.page.get_by_label("Colours")).to_have_value("dark")
    await visitor.page.get_by_label("Colours").select_option("auto")
    await expect(visitor.page.locator("body")).to_have_css("background-color", "rgb(246, 247, 249)")


async def test_without_control_there_is_nothing_to_press(visit: Visit) -> None:
    async with Shop(dashboard=DashboardSettings(stream_seconds=2)).running() as shop:
        visitor = await visit(quiet=False)
        await visitor.page.goto(f"{shop.url}/consumers/dashboard#/consumer/billing")
        await expect(visitor.page.get_by_role("heading", name="Partitions")).to_be_visible()
        assert await visitor.page.locator("main button:visible").all_inner_texts() == ["Lag", "Oldest", "In flight"]
        await visitor.page.close()


# --- actions


def pressed(inside: Page | Locator, name: str) -> Locator:
    return inside.get_by_role("button", name=name, exact=True)


async def test_a_consumer_is_paused_and_resumed_by_clicks(visit: Visit, shop: Shop) -> None:
    visitor = await visit()
    page = visitor.page
    await page.get_by_role("link", name="billing", exact=True).click()
    await pressed(page, "Pause").click()
    dialog = page.get_by_role("dialog", name="Pause billing")
    await pressed(dialog, "Pause").click()
    await expect(dialog).to_be_visible()  # there is no reason yet
    await dialog.get_by_label("Reason").fill("the provider is down")
    assert await visitor.violations() == []
    await pressed(dialog, "Pause").click()
    await expect(page.locator("#announcement")).to_have_text("billing: paused.")
    await expect(page.get_by_label("Pauses")).to_contain_text("reason: the provider is down")
    before = len(shop.handled)
    await shop.athomic.publish_many("orders", range(5))
    await expect(page.locator("#detail .chart h3 span").nth(1)).to_have_text("5")  # the lag
    assert len(shop.handled) == before
    await pressed(page, "Resume").click()
    await pressed(page.get_by_role("dialog"), "Resume").click()
    await expect(page.get_by_label("Pauses")).to_be_hidden()
    await shop.athomic.drain()
    assert len(shop.handled) == before + 5


async def test_a_partition_is_paused_by_keyboard_alone(visit: Visit, shop: Shop) -> None:
    visitor = await visit("/consumers/dashboard")
    keyboard, focus = visitor.page.keyboard, visitor.page.locator(":focus")
    await expect(visitor.page.get_by_role("link", name="mail", exact=True)).to_be_visible()

    async def go_to(name: str) -> None:
        for _ in range(40):
            await keyboard.press("Tab")
            label = await focus.evaluate("node => node.getAttribute('aria-label') ?? node.textContent")
            assert await focus.evaluate("node => getComputedStyle(node).outlineStyle") != "none", f"no focus at {label}"
            if label == name:
                return
        raise AssertionError(f"{name} cannot be reached")

    await go_to("Skip to the consumers")
    await keyboard.press("Enter")
    await go_to("mail")
    await keyboard.press("Enter")
    await expect(visitor.page.get_by_role("heading", name="mail", exact=True)).to_be_focused()
    await go_to("Pause orders [1]")
    await keyboard.press("Enter")
    await expect(visitor.page.get_by_role("dialog")).to_be_visible()
    await expect(visitor.page.get_by_label("Reason")).to_be_focused()
    await keyboard.type("it is looked at")
    await keyboard.press("Enter")
    await expect(visitor.page.locator("#announcement")).to_have_text("mail: orders [1]: paused.")
    await expect(visitor.page.get_by_role("dialog")).to_have_count(0)
    (mail,) = [each for each in shop.athomic.consumers() if each.id == "mail"]
    assert [(pause.topic, pause.partition, pause.reason) for pause in mail.pauses] == [("orders", 1, "it is looked at")]
    await shop.athomic.resume("mail")


def fact(page: Page, term: str) -> Locator:
    """What the list of facts says."""
    entry = page.locator("#detail dl.facts > div", has=page.locator("dt", has_text=re.compile(f"^{term}$")))
    return entry.locator("dd")


async def act(page: Page, action: str, title: str, reason: str, **fields: str) -> Locator:
    """Opens the dialog of an action, fills it in, and sends it off."""
    await pressed(page, action).click()
    dialog = page.get_by_role("dialog", name=title)
    for label, value in fields.items():
        field = dialog.get_by_label(label.replace("_", " "))
        if await field.evaluate("node => node.tagName") == "SELECT":
            await field.select_option(value)
        else:
            await field.fill(value)
    await dialog.get_by_label("Reason").fill(reason)
    await pressed(dialog, action).click()
    return dialog


async def test_limits_are_shown_as_they_are_and_set_by_forms(visit: Visit, shop: Shop) -> None:
    visitor = await visit("/consumers/dashboard#/consumer/mail")
    page = visitor.page

    async def says(term: str, words: str) -> None:
        await expect(fact(page, term)).to_contain_text(words)

    await says("Rate limit", "none")
    await says("Circuit breaker", "none")
    await act(page, "Rate", "Limit the rate of mail", "the host asks for less", Messages_per_second="50", At_once="9")
    await expect(page.locator("#announcement")).to_have_text("mail: done.")
    await says("Rate limit", "50/s, 9 at once; 0 wait (in the code: none)")
    await act(page, "Concurrency", "Set the concurrency of mail", "to see it", At_once="3")
    await says("Concurrency", "3")
    await act(page, "Breaker", "Switch the circuit breaker of mail", "the host is down", State="open")
    await says("Circuit breaker", "open: by an operator, until it is closed, since ")
    reasons = page.locator("#detail").get_by_label("Why not all is well")
    await expect(reasons).to_contain_text("opened by an operator")
    await pressed(page, "Breaker").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_label("State")).to_have_value("closed")
    assert await visitor.violations() == []
    await page.keyboard.press("Escape")
    await act(page, "Breaker", "Switch the circuit breaker of mail", "it is back", State="auto")
    await says("Circuit breaker", "none")
    await act(page, "Rate", "Limit the rate of mail", "as before", Messages_per_second="")
    await says("Rate limit", "none")
    await act(page, "Concurrency", "Set the concurrency of mail", "as before", At_once="")
    await says("Concurrency", "1")


async def test_what_single_processes_say_is_shown_as_it_changes(visit: Visit, shop: Shop) -> None:
    """What only a store that is away, and a breaker that opens by itself, would show; here the answer is made up."""
    (mail,) = [each.model_dump(mode="json") for each in shop.athomic.consumers() if each.id == "mail"]
    until = "2026-11-28T12:00:10Z"
    breaker = {"state": "open", "since": "2026-11-28T12:00:00Z", "until": until, "forced": False, "failures": 3}
    away: dict[str, Any] = {
        "pauses_note": "the state store is away",
        "breaker": {**breaker, "error": "ConnectionError"},
    }
    half_open: dict[str, Any] = {
        "pauses_note": None,
        "breaker": {**breaker, "state": "half_open", "until": None, "error": None},
    }
    told = iter([away, half_open])
    now: dict[str, Any] = away

    async def tell(route: Route) -> None:
        nonlocal now
        now = next(told, now)
        snapshot = {
            "time": "2026-11-28T12:00:00Z",
            "process": mail["process"],
            "health": shop.athomic.health().model_dump(mode="json"),  # type: ignore[union-attr]
            "consumers": [{**mail, **now}],
        }
        await shown.wait()
        shown.clear()
        body = f"event: snapshot\ndata: {json.dumps(snapshot)}\n\n"
        await route.fulfill(status=200, content_type="text/event-stream", body=body)

    shown = asyncio.Event()
    shown.set()
    visitor = await visit("/consumers/dashboard/icon.svg", quiet=False)
    page = visitor.page
    await page.route("**/events", tell)
    await page.goto(f"{shop.url}/consumers/dashboard#/consumer/mail")
    await expect(page.get_by_role("status").filter(has_text="Pauses: the state store is away.")).to_be_visible()
    local = await page.evaluate("text => new Date(text).toLocaleString()", until)
    await expect(fact(page, "Circuit breaker")).to_contain_text(f"open: until {local}")
    await expect(fact(page, "Circuit breaker")).to_contain_text("ConnectionError")
    assert await visitor.violations() == []
    shown.set()
    await expect(page.get_by_text("Pauses: the state store")).to_be_hidden()
    await expect(fact(page, "Circuit breaker")).to_contain_text("half open: one message is tried")
    shown.set()


async def test_what_is_not_done_everywhere_stays_in_the_dialog_with_each_process(visit: Visit, shop: Shop) -> None:
    processes = [
        {"instance_id": "shop-1", "outcome": "applied", "detail": None},
        {"instance_id": "shop-2", "outcome": "no_answer", "detail": "it did not answer within 10 s"},
    ]

    async def answer(route: Route) -> None:
        told = {"consumer": "mail", "done": False, "processes": processes, "note": "it is kept"}
        await route.fulfill(status=200, json=told)

    visitor = await visit("/consumers/dashboard#/consumer/mail")
    page = visitor.page
    await page.route("**/restart", answer)
    dialog = await act(page, "Restart", "Restart mail", "to see it")
    await expect(dialog.get_by_role("alert")).to_have_text("It is not done everywhere.")
    await expect(dialog.get_by_role("list", name="Processes").get_by_role("listitem")).to_have_text(
        [
            "shop-1: applied",
            "shop-2: no answer, it did not answer within 10 s",
        ]
    )
    assert await visitor.violations() == []
    processes[1] = {"instance_id": "shop-2", "outcome": "applied", "detail": None}
    await page.unroute("**/restart")
    await page.route("**/restart", lambda route: route.fulfill(status=200, json={"done": True, "processes": processes}))
    await pressed(dialog, "Restart").click()
    await expect(page.locator("#announcement")).to_have_text("mail: restarted in 2 processes.")


async def test_a_dead_letter_is_found_read_and_sent_back_by_clicks(visit: Visit, shop: Shop) -> None:
    await shop.athomic.publish("orders", -77)
    await shop.athomic.drain()
    (letter,) = [each for each in await shop.athomic.dead_letters("billing").browse() if each.value == b"-77"]
    visitor = await visit("/consumers/dashboard#/consumer/billing")
    page = visitor.page
    await pressed(page, "Show dead letters").click()
    await page.locator(f"[data-letter='{letter.partition}/{letter.offset}']").click()
    dialog = page.get_by_role("dialog", name="Dead letter")
    await expect(dialog).to_contain_text(f"the card was declined {SCRIPT}")
    await pressed(dialog, "Show payload").click()
    await expect(dialog.locator("pre").nth(1)).to_have_text("-77")
    assert await visitor.violations() == []
    shop.fails = False
    try:
        await pressed(dialog, "Send back").click()
        asking = page.get_by_role("dialog", name="Send dead letters back of billing")
        await asking.get_by_label("Reason").fill("the card is valid again")
        await pressed(asking, "Look first").click()
        await expect(asking).to_contain_text("1 letter would be sent back")
        assert -77 not in shop.handled
        await pressed(asking, "Send back").click()
        await expect(page.locator("#announcement")).to_contain_text("1 dead letter sent back.")
        await shop.athomic.drain()
        assert -77 in shop.handled
    finally:
        shop.fails = True
    await expect(page.locator(f"[data-letter='{letter.partition}/{letter.offset}']")).to_have_count(0)


async def test_a_seek_says_first_what_it_would_do(visit: Visit, shop: Shop) -> None:
    await shop.athomic.publish_many("orders", [1, 2, 3], key=lambda _: "the same partition")
    await shop.athomic.drain()
    before = len(shop.handled)
    visitor = await visit("/consumers/dashboard#/consumer/mail")
    page = visitor.page
    await pressed(page, "Seek").click()
    dialog = page.get_by_role("dialog", name="Seek mail")
    await expect(dialog.get_by_label("Topic", exact=True)).to_have_value("orders")
    await dialog.get_by_label("To", exact=True).select_option("end")
    await dialog.get_by_label("Reason").fill("to see it")
    await pressed(dialog, "Look first").click()
    await expect(dialog).to_contain_text("0 messages would be skipped, 0 messages handled again")
    await dialog.get_by_label("To", exact=True).select_option("beginning")
    await pressed(dialog, "Look first").click()
    await expect(dialog).to_contain_text("handled again")
    await pressed(dialog, "Seek").click()
    await expect(page.locator("#announcement")).to_have_text("mail: it goes on at the other place.")
    assert len(shop.handled) == before, "only the other consumer has gone back"


async def test_a_seek_that_is_not_done_everywhere_stays_in_the_dialog_with_each_partition(visit: Visit) -> None:
    async def answer(route: Route) -> None:
        dry = json.loads(route.request.post_data or "{}")["dry_run"]
        part = {"topic": "orders", "from_offset": 3, "to_offset": 0, "skipped": 0, "repeated": 3}
        partitions = [
            {**part, "partition": 0, "done": not dry, "problems": []},
            {**part, "partition": 1, "done": False, "problems": [] if dry else ["no member took it over"]},
        ]
        told = {"skipped": 0, "repeated": 6, "partitions": partitions, "problems": [], "notes": [], "done": False}
        await route.fulfill(status=200, json=told)

    visitor = await visit("/consumers/dashboard#/consumer/mail")
    await visitor.page.route("**/seek", answer)
    await pressed(visitor.page, "Seek").click()
    dialog = visitor.page.get_by_role("dialog", name="Seek mail")
    await dialog.get_by_label("To", exact=True).select_option("beginning")
    await dialog.get_by_label("Reason").fill("to see it")
    await pressed(dialog, "Look first").click()
    await expect(dialog).to_contain_text("6 messages handled again")
    await expect(dialog.get_by_role("alert")).to_be_hidden()
    await pressed(dialog, "Seek").click()
    await expect(dialog.get_by_role("alert")).to_have_text("It is not done everywhere.")
    await expect(dialog.get_by_role("list", name="Partitions").get_by_role("listitem")).to_have_text(
        ["orders [0]: goes on at 0", "orders [1]: no member took it over"]
    )


async def test_what_is_refused_stays_in_the_dialog_with_its_reason(visit: Visit, shop: Shop) -> None:
    async def refuse(route: Route) -> None:
        problem = {"type": "/problems/not-allowed", "title": "Not allowed", "status": 403, "detail": "ask the owner"}
        await route.fulfill(status=403, content_type="application/problem+json", body=json.dumps(problem))

    visitor = await visit("/consumers/dashboard#/consumer/mail", quiet=False)
    await visitor.page.route("**/restart", refuse)
    await pressed(visitor.page, "Restart").click()
    dialog = visitor.page.get_by_role("dialog")
    await dialog.get_by_label("Reason").fill("to see it")
    await pressed(dialog, "Restart").click()
    await expect(dialog.get_by_role("alert")).to_have_text("ask the owner (403). You may not do this.")

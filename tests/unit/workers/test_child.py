"""The side of a process: what it says to its supervisor, and when it ends. Its app runs in the test's event loop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI

from fastapi_athomic import Athomic, AthomicSettings, ConfigurationError, include_athomic, subscribe_to
from fastapi_athomic.workers.channel import Channel
from fastapi_athomic.workers.child import Child
from tests.support.apps import Record

SECONDS = 30.0
record = Record()


@subscribe_to("orders", group_id="billing", handler_id="billing")
async def bill(order: str) -> None:
    record.note(order)


class Lifeline:
    seconds = 0.0


@pytest.fixture(autouse=True)
def _signal_as_before() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Side:
    """The supervisor's side."""

    def __init__(self, channel: Channel, running: asyncio.Task[int], athomic: Athomic) -> None:
        self.channel, self.running, self.athomic = channel, running, athomic

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(SECONDS):
            message = await self.channel.receive()
        assert message is not None
        return message

    async def ask(self, what: str) -> Any:
        self.channel.send("ask", number=7, what=what)
        answer = await self.next()
        assert (answer["kind"], answer["number"]) == ("answer", 7)
        return answer["body"]

    async def status(self) -> int:
        async with asyncio.timeout(SECONDS):
            return await self.running


@asynccontextmanager
async def child(
    *handlers: Any, lifespan: Any = None, error: Exception | None = None, **more: Any
) -> AsyncIterator[Side]:
    app = FastAPI(lifespan=lifespan)
    athomic = include_athomic(app, AthomicSettings(shutdown_timeout=3), handlers=handlers, **more)
    athomic.take_role("worker")
    lifeline: Any = Lifeline()
    ours, theirs = socket.socketpair()

    def load() -> tuple[FastAPI, list[Athomic]]:
        if error is not None:
            raise error
        return app, [athomic]

    end, other = await Channel.opened(theirs), await Channel.opened(ours)
    running = asyncio.create_task(Child(load, end, lifeline).run())
    try:
        yield Side(other, running, athomic)
    finally:
        running.cancel()
        await asyncio.wait([running])
        await end.flushed()
        await other.flushed()
    assert lifeline.seconds in (0.0, 6.0), "the time for an end in good order, and a reserve"


async def test_it_says_what_it_has_waits_to_go_and_answers_until_it_is_told_to_end() -> None:
    record.seen.clear()
    async with child(bill) as side:
        hello = await side.next()
        assert (hello["kind"], hello["handlers"], hello["prefix"]) == ("hello", ["billing"], "/consumers")
        assert (hello["shutdown_timeout"], hello["guarded"], hello["worker"]["port"]) == (3, False, 8081)
        assert side.athomic.consumers() == [], "nothing has started"
        side.channel.send("go")
        ready = await side.next()
        assert (ready["kind"], ready["partitions"]) == ("ready", {"billing": 4})
        await side.athomic.publish("orders", "one")
        await side.athomic.drain()
        assert record.seen == ["one"]
        assert await side.ask("sign of life") is True
        assert await side.ask("ready") is True
        (health,) = await side.ask("health")
        assert (health["status"], health["role"]) == ("healthy", "worker")
        (status,) = await side.ask("consumers")
        assert status["counters"]["processed"] == 1
        (metrics,) = await side.ask("metrics")
        assert 'athomic_consumer_processed_total{group="billing",handler="billing",' in metrics
        signal.raise_signal(signal.SIGTERM)
        assert await side.status() == 0
        assert side.athomic.health() is None, "the app's lifespan has ended"


async def test_an_app_that_would_not_start_is_refused() -> None:
    @subscribe_to("orders", group_id="broken", handler_id="broken")
    async def broken(order: str, unknown: int) -> None: ...

    async with child(broken) as side:
        refused = await side.next()
        assert refused["kind"] == "refused"
        assert "nothing provides parameter unknown" in refused["error"]
        assert await side.status() == 1
    async with child(bill, error=ConfigurationError("there is no module shop")) as side:
        assert await side.next() == {"kind": "refused", "error": "there is no module shop"}
        assert await side.status() == 1


async def test_without_a_supervisor_it_does_not_begin() -> None:
    async with child(bill) as side:
        assert (await side.next())["kind"] == "hello"
        side.channel.close()
        assert await side.status() == 0
        assert side.athomic.health() is None


async def test_an_app_that_cannot_start_is_told_and_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if app.title:
            raise RuntimeError("no database")
        yield

    async with child(bill, lifespan=lifespan) as side:
        assert (await side.next())["kind"] == "hello"
        side.channel.send("go")
        assert await side.status() == 1
    assert "the app does not run: the app's startup failed: RuntimeError: no database" in caplog.text


async def test_consumers_that_cannot_start_end_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with child(bill) as side:
        assert (await side.next())["kind"] == "hello"

        async def fail(timeout: float) -> Any:
            raise ConfigurationError("the group is not allowed")

        monkeypatch.setattr(side.athomic, "wait_until_ready", fail)
        side.channel.send("go")
        assert await side.status() == 1
    assert "the consumers cannot start: the group is not allowed" in caplog.text


async def test_it_says_whether_the_app_guards_its_status() -> None:
    async with child(bill, dependencies=[Depends(lambda: None)]) as side:
        assert (await side.next())["guarded"] is True

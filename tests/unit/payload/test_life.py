"""Parts are opened and closed once in each event loop, however many apps share them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI

from fastapi_athomic import Athomic, AthomicSettings, ConfigurationError, PayloadPipeline, include_athomic
from fastapi_athomic.payload.life import OpenParts
from fastapi_athomic.payload.steps import BytesStep, Incoming, Outgoing
from tests.support.apps import Gate, eventually, running

ISOLATIONS = pytest.mark.parametrize("isolation", ["loop", "thread"])


class Opening(BytesStep):
    name = "opening"

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.said: list[tuple[str, int]] = []

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
        return data

    def decode(self, data: bytes, incoming: Incoming) -> bytes:
        return data

    async def open(self) -> None:
        self.said.append(("open", threading.get_ident()))
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.said.append(("close", threading.get_ident()))
        if self.error is not None:
            raise self.error

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.said]


def new_app(isolation: Any = "loop", **options: Any) -> Athomic:
    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", isolation=isolation)
    return include_athomic(FastAPI(), settings, **options)


@ISOLATIONS
async def test_every_pipeline_of_an_app_is_open_while_it_runs_and_again_after_a_restart(isolation: Any) -> None:
    steps = [Opening() for _ in range(4)]
    of_app, of_topic, of_handler, of_publish = (PayloadPipeline([step]) for step in steps)
    athomic = new_app(isolation, payload=of_app, topic_payloads={"a": of_topic})

    @athomic.subscribe_to("b", group_id="g", payload=of_handler)
    async def handle(message: dict[str, int]) -> None: ...

    for number in (1, 2):
        async with running(athomic):
            for _ in range(2):
                await athomic.publish("c", {}, payload=of_publish)
            assert [step.events for step in steps] == [["open", "close"] * (number - 1) + ["open"]] * 4
            threads = {thread for step in steps for _, thread in step.said[-1:]}
            assert (threads == {threading.get_ident()}) is (isolation == "loop")
        assert [step.events for step in steps] == [["open", "close"] * number] * 4
    assert all(opened == closed for step in steps for (_, opened), (_, closed) in [step.said[-2:]])


async def test_apps_in_one_event_loop_share_what_is_open() -> None:
    step = Opening()
    first, second = new_app(payload=PayloadPipeline([step])), new_app(payload=PayloadPipeline([step]))
    async with AsyncExitStack() as stack:
        async with running(first):
            await stack.enter_async_context(running(second))
            assert step.events == ["open"]
        assert step.events == ["open"], "the other app still uses it"
    assert step.events == ["open", "close"]


async def test_apps_in_several_event_loops_each_open_and_close_it_there() -> None:
    step = Opening()
    apps = [new_app("thread", payload=PayloadPipeline([step])) for _ in range(2)]
    async with running(apps[0]), running(apps[1]):
        assert step.events == ["open", "open"]
    assert step.events == ["open", "open", "close", "close"]
    opened, closed = ({thread for event, thread in step.said if event == wanted} for wanted in ("open", "close"))
    assert opened == closed
    assert len(opened) == 2


@ISOLATIONS
async def test_one_that_cannot_be_opened_or_closed_does_not_hold_up_the_app(
    isolation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [Opening(OSError("s3cret")), Opening()]
    pipelines = [PayloadPipeline([step]) for step in steps]
    athomic = new_app(isolation, payload=pipelines[0], topic_payloads={"a": pipelines[1]})
    async with running(athomic):
        await athomic.publish("t", {})
    assert [step.events for step in steps] == [["open", "close"]] * 2
    assert "payload step opening could not be opened, and is used all the same: OSError in " in caplog.text
    assert "payload step opening could not be closed: OSError in " in caplog.text
    assert "s3cret" not in caplog.text


async def test_one_that_takes_too_long_does_not_hold_up_the_app(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(Opening):
        async def open(self) -> None:
            await asyncio.Event().wait()

    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", request_timeout=0.05)
    async with running(include_athomic(FastAPI(), settings, payload=PayloadPipeline([Hanging()]))):
        assert "could not be opened, and is used all the same: it took too long" in caplog.text


@ISOLATIONS
async def test_one_that_can_never_work_stops_the_start_and_all_is_closed(isolation: Any) -> None:
    steps = [Opening(), Opening(ConfigurationError("no such key"))]
    athomic = new_app(isolation, payload=PayloadPipeline([steps[0]]), topic_payloads={"a": PayloadPipeline([steps[1]])})
    with pytest.raises(ConfigurationError, match="no such key"):
        async with running(athomic):
            pass
    assert [step.events for step in steps] == [["open", "close"]] * 2


async def test_all_is_closed_after_the_app_has_failed_to_start() -> None:
    step = Opening()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        if app.title:
            raise LookupError
        yield

    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}")
    athomic = include_athomic(FastAPI(lifespan=lifespan), settings, payload=PayloadPipeline([step]))
    with pytest.raises(LookupError):
        async with running(athomic):
            pass
    assert step.events == ["open", "close"]


class Slow(Opening):
    """Says what is published while it is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
        self.said.append(("encode", 0))
        return data

    async def open(self) -> None:
        self.said.append(("opening", 0))
        await self.gate.wait()
        await super().open()


async def test_every_publish_waits_until_its_pipeline_is_open() -> None:
    step = Slow()
    pipeline = PayloadPipeline([step])
    async with running(new_app()) as athomic:
        publishing = [asyncio.create_task(athomic.publish("t", {}, payload=pipeline)) for _ in range(3)]
        await eventually(lambda: step.events)
        publishing[0].cancel()  # it was the one that opened it
        await asyncio.wait(publishing[:1])
        step.gate.set()
        await asyncio.gather(*publishing[1:])
    assert step.events == ["opening", "opening", "open", "encode", "encode", "close"]


async def test_an_app_waits_until_another_one_has_opened_what_they_share() -> None:
    step = Slow()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        step.said.append(("lifespan", 0))
        yield

    async def run() -> None:
        settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}")
        async with running(include_athomic(FastAPI(lifespan=lifespan), settings, payload=PayloadPipeline([step]))):
            pass

    works = [asyncio.create_task(run()) for _ in range(2)]
    for _ in range(100):
        await asyncio.sleep(0)
    step.gate.set()
    await asyncio.gather(*works)
    assert step.events == ["opening", "open", "lifespan", "lifespan", "close"]


async def test_each_publish_says_that_its_pipeline_can_never_work() -> None:
    pipeline = PayloadPipeline([Opening(ConfigurationError("no such key"))])
    async with running(new_app()) as athomic:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="no such key"):
                await athomic.publish("t", {}, payload=pipeline)


def test_what_was_open_in_an_event_loop_that_was_given_up_is_opened_in_the_next_one() -> None:
    step = Opening()
    parts = OpenParts()
    for _ in range(2):
        asyncio.run(parts.open([PayloadPipeline([step])], 1))
    assert step.events == ["open", "open"]

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.testclient import TestClient

from fastapi_athomic import Athomic, AthomicSettings, include_athomic
from fastapi_athomic.loop.dropped import told_if_dropped
from tests.support.apps import new_app, running


@told_if_dropped(lambda given: f"{given['what']} is lost")
async def send(what: str) -> str:
    """Sends."""
    await asyncio.sleep(0)
    return what


@pytest.mark.parametrize("isolation", ["loop", "thread"])
def test_a_def_route_that_publishes_without_await_is_named_with_its_line(
    isolation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    athomic = include_athomic(app, AthomicSettings(isolation=isolation))

    @app.post("/orders")
    def create() -> None:
        athomic.publish("orders", "one")  # type: ignore[unused-coroutine]  # mypy tells, and so says this comment

    @app.post("/many")
    def create_many() -> None:
        athomic.publish_many("orders", ["one"])  # type: ignore[unused-coroutine]

    with TestClient(app) as client:
        for path in ("/orders", "/many"):
            with pytest.warns(RuntimeWarning, match=r"'Publishing\.publish.*' was never awaited"):
                assert client.post(path).status_code == 200
    one, many = [record for record in caplog.records if "never awaited" in record.message]
    line = create.__code__.co_firstlineno + 2
    assert one.levelno == logging.ERROR
    assert one.message.startswith(f"athomic.publish(...) at {__name__}.test_a_def_route")
    assert f"create, line {line}, was never awaited: the message was not sent to 'orders'; in a `def`" in one.message
    assert one.message.endswith("call athomic.publish_sync")
    assert "the messages were not sent to 'orders'" in many.message
    assert many.message.endswith("call athomic.publish_many_sync")


async def test_it_is_a_coroutine_in_every_way_that_is_used(caplog: pytest.LogCaptureFixture) -> None:
    assert await send("plain") == "plain"
    assert await asyncio.create_task(send("task")) == "task"
    assert [*await asyncio.gather(send("a"), send("b"))] == ["a", "b"]
    assert await asyncio.wait_for(send("limited"), 30) == "limited"
    async with asyncio.TaskGroup() as group:
        grouped = group.create_task(send("grouped"))
    assert grouped.result() == "grouped"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send, "any")
    loop = asyncio.get_running_loop()
    from_thread = partial(lambda: asyncio.run_coroutine_threadsafe(send("threadsafe"), loop).result(30))
    assert await asyncio.to_thread(from_thread) == "threadsafe"
    assert await anyio.to_thread.run_sync(partial(anyio.from_thread.run, send, "portal")) == "portal"
    assert await asyncio.to_thread(lambda: asyncio.run(send("a loop of its own"))) == "a loop of its own"
    gc.collect()
    assert "never awaited" not in caplog.text


async def test_what_is_given_up_before_it_begins_is_not_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(send("cancelled"))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    closed = send("closed")
    closed.close()
    del task, closed
    gc.collect()
    assert "never awaited" not in caplog.text


async def test_errors_and_cancellations_reach_it() -> None:
    begun = asyncio.Event()

    @told_if_dropped(lambda _: "")
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise LookupError("cleaned up") from None

    task = asyncio.create_task(wait())
    await begun.wait()
    assert "wait() running" in repr(task)
    task.cancel()
    with pytest.raises(LookupError, match="cleaned up"):
        await task


def test_who_asks_is_told_that_it_is_a_coroutine_function() -> None:
    assert asyncio.iscoroutinefunction(send)
    assert asyncio.iscoroutinefunction(new_app(AthomicSettings()).publish)
    pending = send("x")
    assert inspect.isawaitable(pending)
    assert isinstance(pending, Coroutine)
    pending.close()
    assert inspect.signature(Athomic.publish).parameters.keys() >= {"topic", "message", "key", "partition"}
    assert (Athomic.publish.__doc__ or "").startswith("Publishes one message")
    assert send.__doc__ == "Sends."


def test_background_tasks_await_it(caplog: pytest.LogCaptureFixture) -> None:
    app, handled = FastAPI(), threading.Event()
    athomic = include_athomic(app, AthomicSettings())

    @athomic.subscribe_to("orders", group_id="g")
    async def handle(message: str) -> None:
        handled.set()

    @app.post("/orders")
    def create(background: BackgroundTasks) -> None:
        background.add_task(athomic.publish, "orders", "one", key="k")

    with TestClient(app) as client:
        client.post("/orders")
        assert handled.wait(30)
    assert "never awaited" not in caplog.text


async def test_its_callers_variables_do_not_outlive_the_call() -> None:
    class Big:
        alive = 0

        def __init__(self) -> None:
            Big.alive += 1

        def __del__(self) -> None:
            Big.alive -= 1

    def make() -> Coroutine[Any, Any, str]:
        big = Big()
        assert big.alive == 1
        return send("x")

    pending = make()
    assert Big.alive == 0
    await pending


async def test_a_dropped_call_in_an_async_function_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    async with running(new_app(AthomicSettings())) as athomic:
        with pytest.warns(RuntimeWarning, match="never awaited"):
            athomic.publish(topic="orders", message="m")  # type: ignore[unused-coroutine]
    assert "the message was not sent to 'orders'" in caplog.text

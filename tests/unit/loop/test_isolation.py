from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import partial
from random import Random
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_athomic import AthomicSettings, PublishError, TransportError, include_athomic
from fastapi_athomic.loop.isolation import SWITCH_SECONDS, LoopThread, SameLoop
from tests.support.apps import Gate, Record, eventually, running
from tests.support.interleaving import with_seeds

variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.fixture
async def home() -> AsyncIterator[LoopThread]:
    thread = LoopThread(patience=5)
    await thread.open()
    yield thread
    await thread.close(5)


async def where() -> tuple[int, asyncio.AbstractEventLoop]:
    return threading.get_ident(), asyncio.get_running_loop()


async def test_work_is_done_in_the_thread_with_the_callers_context(home: LoopThread) -> None:
    async def work() -> tuple[str, Any]:
        seen = variable.get()
        variable.set("changed there")
        return seen, await where()

    variable.set("the caller's")
    seen, (thread, loop) = await home.run(work)
    assert seen == "the caller's"
    assert variable.get() == "the caller's"
    assert thread != threading.get_ident()
    assert loop is not asyncio.get_running_loop()
    assert type(loop) is type(asyncio.get_running_loop())


async def test_threads_wait_less_for_the_gil_while_it_lives() -> None:
    before = sys.getswitchinterval()
    threads = LoopThread(patience=5), LoopThread(patience=5)
    for thread in threads:
        await thread.open()
    assert sys.getswitchinterval() == SWITCH_SECONDS < before
    for thread in reversed(threads):
        assert sys.getswitchinterval() == SWITCH_SECONDS
        await thread.close(5)
    assert sys.getswitchinterval() == before


async def test_work_from_within_the_loop_stays_there(home: LoopThread) -> None:
    async def outer() -> bool:
        return await home.run(where) == await where()

    assert await home.run(outer)


async def test_errors_and_cancellations_are_passed_on(home: LoopThread) -> None:
    async def fail() -> None:
        raise LookupError("there")

    with pytest.raises(LookupError, match="there"):
        await home.run(fail)

    begun, cancelled = Gate(), Gate()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = asyncio.create_task(home.run(wait))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await cancelled.wait()


async def test_a_blocked_loop_is_told_and_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    home, go_on = LoopThread(patience=0.05), threading.Event()
    await home.open()

    async def block() -> None:
        go_on.wait(30)

    blocking = asyncio.create_task(home.run(block))
    await asyncio.sleep(0)
    with pytest.raises(TransportError, match=r"has not answered for 0\.05 s"):
        await home.run(where)
    await home.close(0.05)
    assert "is abandoned" in caplog.text
    go_on.set()
    await asyncio.wait([blocking])
    await home.close(5)


async def test_after_the_end_work_is_refused(home: LoopThread) -> None:
    await home.close(5)
    with pytest.raises(TransportError, match="has ended"):
        await home.run(where)
    await home.close(5)


@with_seeds(5)
def test_p22_work_that_meets_the_end_is_done_or_refused_with_a_word(random: Random) -> None:
    """The call never ends as if someone had cancelled it, and never hangs."""

    async def work(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    async def meet() -> None:
        home = LoopThread(patience=5)
        await home.open()
        lengths = [random.choice([0, 1, 10, 1_000]) for _ in range(20)]
        early = [asyncio.create_task(home.run(partial(work, length))) for length in lengths]
        for _ in range(random.randint(0, 3)):
            await asyncio.sleep(0)
        closing = asyncio.create_task(home.close(5))
        late = [asyncio.create_task(home.run(partial(work, 0))) for _ in range(5)]
        results = await asyncio.gather(*early, *late, return_exceptions=True)
        await closing
        for length, result in zip([*lengths, *[0] * 5], results, strict=True):
            assert result == length or isinstance(result, TransportError), repr(result)

    asyncio.run(meet())


async def test_without_a_thread_work_is_done_here() -> None:
    home = SameLoop(patience=5)
    await home.open()
    assert await home.run(where) == await where()
    await home.close(1)


KINDS = pytest.mark.parametrize("kind", [SameLoop, LoopThread])


@KINDS
async def test_a_thread_without_a_loop_gets_results_and_errors_with_its_context(kind: type[SameLoop]) -> None:
    home = kind(patience=5)
    await home.open()

    async def work() -> tuple[str, Any]:
        return variable.get(), await where()

    async def fail() -> None:
        raise LookupError("there")

    def ask() -> tuple[str, Any]:
        variable.set("of the thread")
        with pytest.raises(LookupError, match="there"):
            home.call(fail, 30)
        return home.call(work, 30)

    seen, place = await asyncio.to_thread(ask)
    assert seen == "of the thread"
    assert variable.get() == "unset"
    assert place == await home.run(where)
    await home.close(5)


@KINDS
async def test_a_thread_that_waits_for_work_is_let_go_at_the_end(kind: type[SameLoop]) -> None:
    home, begun, cancelled = kind(patience=5), Gate(), Gate()
    await home.open()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    waiting = asyncio.create_task(asyncio.to_thread(home.call, wait, 600))
    await begun.wait()
    await home.close(5)
    with pytest.raises(TransportError, match="ended before the work was done"):
        await waiting
    await cancelled.wait()
    with pytest.raises(TransportError, match="has ended"):
        await asyncio.to_thread(home.call, wait, 600)


@KINDS
async def test_work_for_another_loop_or_thread_has_a_limit(kind: type[SameLoop]) -> None:
    home = kind(patience=5)
    await home.open()
    forever = partial(asyncio.sleep, 600)
    with pytest.raises(TransportError, match=r"it took longer than 0\.05 s"):
        await asyncio.to_thread(home.call, forever, 0.05)
    with pytest.raises(TransportError, match=r"it took longer than 0\.05 s"):
        await asyncio.to_thread(lambda: asyncio.run(home.run(forever, 0.05)))
    await home.close(5)


async def test_all_handlers_of_an_app_share_one_thread_which_ends_with_it() -> None:
    athomic = include_athomic(FastAPI(), AthomicSettings(isolation="thread"))
    record = Record()

    @athomic.subscribe_to("a", group_id="g", handler_id="first")
    async def first(message: str) -> None:
        await athomic.publish("b", message)
        record.note(threading.current_thread().name)

    @athomic.subscribe_to("b", group_id="g", handler_id="second")
    async def second(message: str) -> None:
        record.note(threading.current_thread().name)

    for count in (2, 4):  # the app runs twice
        async with running(athomic):
            await athomic.publish("a", "message")
            assert await record.count(count) == ["athomic-consumers"] * count
        names = [thread.name for thread in threading.enumerate()]
        assert not {"athomic-consumers", "athomic-blocking"} & set(names), names


async def test_publishing_past_a_blocked_thread_fails_in_time() -> None:
    athomic = include_athomic(FastAPI(), AthomicSettings(isolation="thread", request_timeout=0.1))
    go_on, begun = threading.Event(), Record()

    @athomic.subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None:
        begun.note(message)
        go_on.wait(30)

    async with running(athomic):
        await athomic.publish("t", "block")
        await begun.count(1)
        with pytest.raises(PublishError, match="does a handler block it"):
            await athomic.publish("t", "more")
        go_on.set()


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_what_keeps_consumers_from_starting_is_raised_by_the_lifespan(isolation: Any) -> None:
    settings = AthomicSettings(
        isolation=isolation, create_topics=False, startup_timeout=5, restart_backoff=0.01, shutdown_timeout=1
    )
    athomic = include_athomic(FastAPI(), settings)
    athomic.subscribe_to("t", group_id="g", handler_id="h", dlq=False)(lambda message: None)
    with pytest.raises(Exception, match="h"):
        async with running(athomic):
            pass


async def test_the_thread_ends_also_when_the_shutdown_is_cancelled() -> None:
    record = Record()
    athomic = include_athomic(FastAPI(), AthomicSettings(isolation="thread"))

    @athomic.subscribe_to("t", group_id="g")
    async def handle(number: int) -> None:
        record.note(number)
        await asyncio.Event().wait()

    lifespan = athomic.app.router.lifespan_context(athomic.app)
    await lifespan.__aenter__()
    await athomic.wait_until_ready()
    await athomic.publish("t", 0)
    await record.count(1)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "athomic-consumers"]
    shutdown = asyncio.create_task(lifespan.__aexit__(None, None, None))
    await eventually(lambda: athomic.consumers()[0].state == "stopping")
    shutdown.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shutdown
    await eventually(lambda: not thread.is_alive())
    assert athomic.consumers() == []

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import re
import sys
import threading
import time
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_athomic import Athomic, AthomicSettings, include_athomic
from fastapi_athomic.loop import blocking as blocking_module
from fastapi_athomic.loop.load import LAG_INTERVAL, LoopLag
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.operation_settings import HealthSettings
from tests.support.apps import Record, eventually, running
from tests.support.causes import comes, goes, provokes
from tests.support.clock import SESSION, set_clock

BLOCKING = 0.05


def new_app(isolation: Any = "loop", **options: Any) -> tuple[Any, Record]:
    settings = AthomicSettings(isolation=isolation, blocking_after=BLOCKING, **options)
    athomic, record = include_athomic(FastAPI(), settings), Record()

    @athomic.subscribe_to("t", group_id="g", handler_id="shop.bill")
    async def handle(message: str) -> None:
        if message == "block":
            time.sleep(BLOCKING * 8)  # noqa: ASYNC251 - that is the fault
        record.note(message)

    return athomic, record


def status_of(athomic: Athomic) -> str:
    report = athomic.health()
    return report.status if report is not None else "not running"


@provokes(ReasonCode.EVENT_LOOP_BLOCKED)
@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_p13_a_handler_that_blocks_the_loop_is_named_with_its_duration(
    isolation: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    athomic, record = new_app(isolation)
    async with running(athomic):
        await athomic.publish("t", "fine")
        await record.count(1)
        assert athomic.health().status == "healthy"
        assert "blocked" not in caplog.text
        await athomic.publish("t", "block")
        await eventually(lambda: "blocked the event loop" in caplog.text)
        found = re.search(r"handler shop\.bill \(in (\S+), line \d+\) blocked the event loop for (\S+) s", caplog.text)
        assert found is not None, caplog.text
        assert found[1].endswith("test_blocking.new_app.<locals>.handle")
        assert float(found[2]) >= BLOCKING
        assert athomic.health().status == "degraded"
        await comes(athomic, ReasonCode.EVENT_LOOP_BLOCKED, of=["shop.bill"])
        set_clock(monkeypatch, lambda: time.monotonic() + 31, "consumption.account", *SESSION)
        await eventually(lambda: athomic.health().status == "healthy")
        await goes(athomic, ReasonCode.EVENT_LOOP_BLOCKED)


async def test_p13_with_a_thread_of_their_own_health_tells_of_a_blocked_loop_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking_module, "QUIET_SECONDS", 0.1)
    settings = AthomicSettings(isolation="thread", blocking_after=BLOCKING, health=HealthSettings(poll_late=0.5))
    athomic = include_athomic(FastAPI(), settings)
    go_on, begun = threading.Event(), Record()

    @athomic.subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None:
        begun.note(message)
        go_on.wait(30)

    async with running(athomic):
        await athomic.publish("t", "block")
        await begun.count(1)
        await eventually(lambda: "has been blocking the event loop" in caplog.text)
        await eventually(lambda: status_of(athomic) == "unhealthy")
        assert "has not polled" in str(athomic.health())
        go_on.set()
        await eventually(lambda: status_of(athomic) in ("degraded", "healthy"))


async def test_what_is_no_handler_is_named_by_its_place(caplog: pytest.LogCaptureFixture) -> None:
    athomic, _ = new_app()

    async def route() -> None:
        time.sleep(BLOCKING * 8)  # noqa: ASYNC251 - that is the fault

    async with running(athomic):
        await asyncio.sleep(0)
        await asyncio.create_task(route())
        await eventually(lambda: "blocked the event loop" in caplog.text)
        assert athomic.health().status == "healthy", "no consumer is to blame"
    assert "test_what_is_no_handler_is_named_by_its_place.<locals>.route, line" in caplog.text


async def test_who_imports_is_named_not_the_import_itself(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        """Finds nothing, for long, in a frame of Python's own."""

        @staticmethod
        def find_spec(*_: object) -> None:
            exec(compile(f"import time; time.sleep({BLOCKING * 8})", "<frozen slowly>", "exec"))

    athomic, _ = new_app()
    monkeypatch.setattr(sys, "meta_path", [Slow, *sys.meta_path])

    async def route() -> None:
        with contextlib.suppress(ImportError):
            importlib.import_module("no_such_module_at_all")

    async with running(athomic):
        await asyncio.sleep(0)
        await asyncio.create_task(route())
        await eventually(lambda: "blocked the event loop" in caplog.text)
    assert "Slow.find_spec, line" in caplog.text


async def test_a_loop_that_waits_for_its_sockets_is_blocked_by_nobody() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert thread.ident is not None
    ident = thread.ident
    try:
        await eventually(lambda: sys._current_frames()[ident].f_code.co_name == "select")
        assert blocking_module._running_in(loop, ident) is None
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def test_a_handler_that_blocks_again_and_again_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    athomic, record = new_app()
    async with running(athomic):
        await athomic.publish_many("t", ["block", "block", "block"])
        await record.count(3)
        await eventually(lambda: athomic.loop_lag.seconds > BLOCKING)
    assert len(warnings_in(caplog)) == 1


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.levelno >= logging.WARNING and "blocked" in r.getMessage()]


async def test_p18_a_handler_that_blocks_again_after_a_while_is_warned_of_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    athomic, _ = new_app()
    async with running(athomic):
        await athomic.publish("t", "block")
        await eventually(lambda: len(warnings_in(caplog)) == 1)
        monkeypatch.setattr(blocking_module, "QUIET_SECONDS", 0.0)  # over
        await athomic.publish("t", "block")
        await eventually(lambda: len(warnings_in(caplog)) == 2)


async def test_routes_that_block_by_turns_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    athomic, _ = new_app()
    lag = athomic.loop_lag

    async def one() -> None:
        time.sleep(BLOCKING * 8)  # noqa: ASYNC251 - that is the fault

    async def other() -> None:
        time.sleep(BLOCKING * 8)  # noqa: ASYNC251 - that is the fault

    async with running(athomic):
        for route in (one, other):
            await asyncio.sleep(0)
            await asyncio.create_task(route())
            await eventually(lambda: lag.seconds > BLOCKING)
            lag.seconds = 0.0
    assert len(warnings_in(caplog)) == 1


def test_a_loop_that_waits_for_its_sockets_does_not_block_itself() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert thread.ident is not None
    try:
        end = time.monotonic() + 5
        while (found := blocking_module._running_in(loop, thread.ident)) is not None:
            assert time.monotonic() < end, f"{found} is what an idle loop runs"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Waiting:
    """Stands for the detector's event: each wait ends at the next of these times, the last one for good."""

    def __init__(self, now: list[float], ends: list[float]) -> None:
        self._now, self._ends = now, iter(ends)

    def wait(self, seconds: float) -> bool:
        self._now[0] = next(self._ends, float("inf"))
        return self._now[0] == float("inf")


def test_a_loop_that_turns_is_looked_at_no_more_often_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lag, looks = [0.0], LoopLag(), list[float]()
    monkeypatch.setattr(blocking_module, "monotonic", lambda: now[0])
    monkeypatch.setattr(blocking_module, "process_time", lambda: now[0])
    monkeypatch.setattr(blocking_module, "_running_in", lambda *_: blocking_module.Culprit("h", "a place"))
    detector: Any = blocking_module.BlockingDetector(lag, 0.1, lambda *_: None)
    blocks_at, found, turn = 10.0, list[float](), LAG_INTERVAL * 1.01  # timers come a little late

    class Event:
        def wait(self, seconds: float) -> bool:
            now[0] += seconds
            looks.append(now[0])
            if now[0] < blocks_at:
                lag.turned_at = now[0] // turn * turn
            elif detector._culprit is not None:
                found.append(now[0] - blocks_at)
            return bool(found)

    detector._ended = Event()
    detector._look(None, 0)
    assert sum(look < blocks_at for look in looks) <= blocks_at / (1.9 * LAG_INTERVAL)
    assert found[0] <= 0.1 + LAG_INTERVAL + 0.1, "found as soon as before"


@pytest.mark.parametrize(("turns_after", "said"), [(0.18, []), (1.05, [0.95])], ids=["soon", "late"])
def test_p13_a_loop_that_turns_late_after_the_process_stood_still_is_no_fault_of_16_seconds(
    turns_after: float, said: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the loop may need longer to turn again than the thread that watches it needs to look again."""
    now, blamed, lag, thaw = [0.0], list[float](), LoopLag(), 16.0
    monkeypatch.setattr(blocking_module, "monotonic", lambda: now[0])
    monkeypatch.setattr(blocking_module, "process_time", lambda: 0.0)
    monkeypatch.setattr(blocking_module, "_running_in", lambda *_: blocking_module.Culprit("h", "a place"))
    detector: Any = blocking_module.BlockingDetector(lag, 0.1, lambda _, seconds: blamed.append(round(seconds, 2)))
    lag.turned_at = 0.0
    looks = [0.05, thaw + 0.1]
    while looks[-1] + 0.05 < thaw + turns_after:
        looks.append(looks[-1] + 0.05)
    detector._ended = Waiting(now, looks)
    detector._look(None, 0)
    now[0] = thaw + turns_after
    detector._turned(now[0] - LAG_INTERVAL)
    assert blamed == said

"""The streams of open dashboards, on a clock that is put forward."""

from __future__ import annotations

import asyncio
import json
import signal
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from fastapi_athomic import AthomicSettings
from fastapi_athomic.loop.load import RequestGauge
from fastapi_athomic.observation.status import ConsumerStatus
from fastapi_athomic.operation_settings import DashboardSettings
from fastapi_athomic.web.streams import EventStream, Streams
from tests.support.interleaving import run_shuffled


class Desk:
    """Streams without consumers. Each look at them is noted."""

    def __init__(self, **settings: Any) -> None:
        self.looks: list[float] = []
        self.requests = RequestGauge()
        self.streams = Streams(AthomicSettings(dashboard=DashboardSettings(**settings)), lambda: None, self.look)

    async def look(self) -> list[ConsumerStatus]:
        self.looks.append(asyncio.get_running_loop().time())
        return []

    def open(self) -> Viewer:
        return Viewer(EventStream(self.streams, self.requests), self.requests)


class Viewer:
    """Somebody who reads one stream."""

    def __init__(self, response: EventStream, requests: RequestGauge) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self._gone = asyncio.Event()
        self.task = asyncio.create_task(self._read(response, requests))

    async def _read(self, response: EventStream, requests: RequestGauge) -> None:
        with requests:  # as the middleware does
            scope = {"type": "http", "path": "/consumers/events", "asgi": {"spec_version": "2.3"}}
            await response(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        elif body := message.get("body"):
            self.events.put_nowait(body.decode())

    async def event(self) -> tuple[str, dict[str, Any]]:
        first, second, *_ = (await self.events.get()).split("\n")
        return first.removeprefix("event: "), json.loads(second.removeprefix("data: "))

    async def leave(self) -> None:
        self._gone.set()
        await self.task


def run(work: Coroutine[Any, Any, None]) -> None:
    run_shuffled(work, Random(1))


def test_a_snapshot_comes_at_once_and_then_once_an_interval() -> None:
    async def look() -> None:
        desk = Desk(interval=2)
        with desk.streams.running():
            viewer = desk.open()
            for _ in range(3):
                name, snapshot = await viewer.event()
                assert name == "snapshot"
                assert snapshot["health"]["status"] == "starting"
                assert snapshot["process"] == snapshot["health"]["process"]
                assert snapshot["consumers"] == []
            assert viewer.status == 200
            assert viewer.headers[b"content-type"].startswith(b"text/event-stream")
            assert viewer.headers[b"cache-control"] == b"no-store"
            await viewer.leave()
        assert [round(at) for at in desk.looks] == [1_000, 1_002, 1_004]

    run(look())


def test_the_consumers_are_looked_at_once_an_interval_however_many_look() -> None:
    async def look() -> None:
        desk = Desk()
        with desk.streams.running():
            viewers = [desk.open() for _ in range(5)]
            await asyncio.sleep(0.4)
            viewers += [desk.open() for _ in range(5)]  # between two intervals
            await asyncio.sleep(3.2)
            assert len(desk.looks) == 4
            assert [viewer.events.qsize() for viewer in viewers] == [4] * 10
            for viewer in viewers:
                await viewer.leave()

    run(look())


def test_nobody_looks_at_the_consumers_while_no_stream_is_open() -> None:
    async def look() -> None:
        desk = Desk()
        with desk.streams.running():
            before = len(asyncio.all_tasks())
            await asyncio.sleep(10)
            viewer = desk.open()
            await viewer.event()
            await viewer.leave()
            assert len(asyncio.all_tasks()) == before
            await asyncio.sleep(10)
        assert len(desk.looks) == 1

    run(look())


def test_p18_a_stream_ends_by_itself_and_the_next_one_is_like_the_first() -> None:
    async def look() -> None:
        desk = Desk()
        with desk.streams.running():
            for _ in range(2):
                began = asyncio.get_running_loop().time()
                viewer = desk.open()
                await viewer.task
                assert round(asyncio.get_running_loop().time() - began) == 30
                events = [await viewer.event() for _ in range(viewer.events.qsize())]
                assert {name for name, _ in events[:-1]} == {"snapshot"}
                assert events[-1] == ("end", {"reason": "time"})

    run(look())


def test_streams_end_at_once_when_the_app_stops() -> None:
    async def look() -> None:
        desk = Desk(interval=3600, stream_seconds=3600)
        with desk.streams.running():
            viewers = [desk.open(), desk.open()]
            for viewer in viewers:
                await viewer.event()
            began = asyncio.get_running_loop().time()
        for viewer in viewers:
            assert await viewer.event() == ("end", {"reason": "stopping"})
            await viewer.task
        assert asyncio.get_running_loop().time() - began < 1
        late = desk.open()
        await late.task
        assert late.status == 503

    run(look())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_end_with_the_signal_before_the_server_waits_for_them(number: signal.Signals) -> None:
    async def look() -> None:
        desk = Desk(interval=3600, stream_seconds=3600)
        with desk.streams.running():
            viewer = desk.open()
            await viewer.event()
            signal.raise_signal(number)
            assert await viewer.event() == ("end", {"reason": "stopping"})
            await viewer.task
            late = desk.open()  # the server still answers
            await late.task
            assert late.status == 503

    before = signal.signal(number, lambda *_: None)  # as a server has one
    try:
        run(look())
    finally:
        signal.signal(number, before)


def test_there_is_room_for_so_many_and_no_more() -> None:
    async def look() -> None:
        desk = Desk(most_streams=2)
        with desk.streams.running():
            first, second = desk.open(), desk.open()
            await first.event()
            await second.event()
            third = desk.open()
            await third.task
            assert third.status == 503
            assert third.headers[b"retry-after"] == b"5"
            assert "most_streams" in await third.events.get()
            await first.leave()
            fourth = desk.open()
            assert (await fourth.event())[0] == "snapshot"
            await second.leave()
            await fourth.leave()
        assert desk.streams.open == 0

    run(look())


def test_an_open_stream_is_no_request_for_which_consumers_hold_back() -> None:
    async def look() -> None:
        desk = Desk()
        with desk.streams.running():
            viewer = desk.open()
            await viewer.event()
            assert desk.requests.in_flight == 0
            viewer.task.cancel()
            with suppress(asyncio.CancelledError):
                await viewer.task
        assert desk.requests.in_flight == 0
        assert desk.streams.open == 0

    run(look())


def test_a_look_that_fails_ends_one_stream_and_no_other() -> None:
    async def look() -> None:
        desk = Desk()
        broken = [True]

        async def fail() -> list[ConsumerStatus]:
            if broken.pop():
                raise RuntimeError("this once")
            return []

        desk.streams = Streams(AthomicSettings(), lambda: None, fail)
        with desk.streams.running():
            viewer = desk.open()
            with pytest.raises((RuntimeError, ExceptionGroup)) as raised:  # a group with early versions of Starlette
                await viewer.task
            assert "this once" in "".join(traceback.format_exception(raised.value))
            broken.append(False)
            viewer = desk.open()
            await viewer.event()
            await viewer.leave()
        assert desk.streams.open == 0

    run(look())


def test_who_does_not_read_keeps_nobody_out_for_ever() -> None:
    async def look() -> None:
        desk = Desk(most_streams=1, stream_seconds=30)
        with desk.streams.running():
            viewer = desk.open()
            await viewer.event()
            viewer.reads.clear()
            await asyncio.sleep(20)
            assert desk.streams.open == 1
            await asyncio.sleep(20)
            assert viewer.task.done()
            assert desk.streams.refusal is None
            await viewer.task

    run(look())

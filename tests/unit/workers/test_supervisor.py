"""The supervisor with processes that tests let come and go: no clock, no signals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import fastapi_athomic.workers.supervisor as module
from fastapi_athomic.operation_settings import WorkerSettings
from fastapi_athomic.workers.channel import Hello
from fastapi_athomic.workers.process import EndedError, RefusedError
from fastapi_athomic.workers.supervisor import Supervisor

SECONDS = 30.0
KILLED, TERMINATED = -9, 0


def hello(timeout: float = 25.0) -> Hello:
    return Hello(handlers=["h"], prefix="/consumers", guarded=False, shutdown_timeout=timeout, worker=WorkerSettings())


class FakeProcess:
    """A process that gets ready, and ends, when a test says so, or at once as far as `World` says."""

    def __init__(self, world: World, pid: int, place: int) -> None:
        self.world, self.pid, self.place = world, pid, place
        self.ready = asyncio.Event()
        self.partitions = {"h": 4}
        self.end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.answers = True
        self.stubborn = world.stubborn

    def note(self, what: str) -> None:
        self.world.note(f"{what} {self.pid}")

    async def hello(self) -> Hello:
        if self.world.refusal is not None:
            raise self.world.refusal
        return hello()

    def go(self) -> None:
        self.note("go")
        if self.world.gets_ready:
            self.ready.set()
        if self.world.crashes:
            self.world.crashes -= 1
            self.finish(1)

    async def ended(self) -> int:
        return await asyncio.shield(self.end)

    async def ask(self, what: str, timeout: float) -> Any | None:
        return True if self.answers else None

    def terminate(self) -> None:
        if not self.end.done():
            self.note("terminate")
            if not self.stubborn:
                self.finish(TERMINATED)

    def kill(self) -> None:
        if not self.end.done():
            self.note("kill")
            self.finish(KILLED)

    def finish(self, code: int) -> None:
        if not self.end.done():
            self.ready.clear()
            self.end.set_result(code)


class World:
    """All processes, and all that happened, in its order."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.events: list[str] = []
        self.slept: list[float] = []
        self.gets_ready = True
        self.stubborn = False  # SIGTERM does not end a process
        self.crashes = 0  # so many more processes end as soon as they go
        self.refusal: Exception | None = None
        self.sleeps = True  # a back-off takes no time; else it lasts for ever
        self._changed = asyncio.Event()

    async def spawn(self, place: int) -> FakeProcess:
        process = FakeProcess(self, 100 + len(self.processes), place)
        self.processes.append(process)
        process.note("load")
        return process

    async def sleep(self, seconds: float) -> None:
        if seconds == WorkerSettings().silent_timeout / 4:
            await asyncio.Event().wait()
        self.slept.append(seconds)
        self._changed.set()
        if not self.sleeps:
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    def note(self, event: str) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._changed.clear()
                turning = asyncio.create_task(asyncio.sleep(0))
                await asyncio.wait(
                    [turning, asyncio.create_task(self._changed.wait())], return_when=asyncio.FIRST_COMPLETED
                )


@pytest.fixture
async def world() -> World:
    return World()


@asynccontextmanager
async def supervised(world: World, processes: int, **more: Any) -> AsyncIterator[Supervisor]:
    settings = WorkerSettings(processes=processes, restart_backoff=1, restart_backoff_max=8, **more)
    supervisor = Supervisor(world.spawn, await world.spawn(1), hello(), settings, sleep=world.sleep)
    running = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        supervisor.stop_at_once()
        await running


def up(supervisor: Supervisor) -> bool:
    return all(place.up.is_set() for place in supervisor.places)


async def test_each_place_gets_a_process(world: World) -> None:
    async with supervised(world, 3) as supervisor:
        await world.until(lambda: up(supervisor))
        assert sorted(process.place for process in world.processes) == [1, 2, 3]
        assert [place.state for place in supervisor.places] == ["running"] * 3


async def test_a_stop_ends_all_processes_and_is_clean(world: World) -> None:
    supervisor = Supervisor(world.spawn, await world.spawn(1), hello(), WorkerSettings(processes=2), sleep=world.sleep)
    running = asyncio.create_task(supervisor.run())
    await world.until(lambda: up(supervisor))
    supervisor.stop()
    assert await running
    assert {"terminate 100", "terminate 101"} <= set(world.events)
    assert all(process.end.done() for process in world.processes)
    assert len(world.processes) == 2, "what was told to end is not started again"


async def test_who_does_not_end_in_time_is_killed_and_the_stop_is_not_clean(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "STOP_RESERVE", 0.01)
    world.stubborn = True
    supervisor = Supervisor(world.spawn, await world.spawn(1), hello(0.01), WorkerSettings(), sleep=world.sleep)
    running = asyncio.create_task(supervisor.run())
    await world.until(lambda: up(supervisor))
    supervisor.stop()
    assert not await running
    assert world.events[-2:] == ["terminate 100", "kill 100"]
    assert "process 100 is killed" in caplog.text


async def test_a_stop_at_once_does_not_wait(world: World) -> None:
    world.stubborn = True
    supervisor = Supervisor(world.spawn, await world.spawn(1), hello(), WorkerSettings(), sleep=world.sleep)
    running = asyncio.create_task(supervisor.run())
    await world.until(lambda: up(supervisor))
    supervisor.stop()
    await world.until(lambda: "terminate 100" in world.events)
    supervisor.stop_at_once()
    assert not await running
    assert world.events[-1] == "kill 100"


async def test_a_process_that_dies_is_replaced_and_counted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with supervised(world, 2) as supervisor:
        await world.until(lambda: up(supervisor))
        victim = supervisor.places[1].process
        assert isinstance(victim, FakeProcess)
        victim.finish(KILLED)
        await world.until(lambda: supervisor.places[1].process not in (None, victim) and up(supervisor))
        assert [place.restarts for place in supervisor.places] == [0, 1]
        assert supervisor.places[1].last_end == f"process {victim.pid} was killed by SIGKILL"
        assert world.slept == [1], "after the shortest back-off"
    assert f"process {victim.pid} was killed by SIGKILL, unasked" in caplog.text


async def test_a_process_that_crashes_at_once_again_and_again_does_not_spin(world: World) -> None:
    world.crashes = 6
    async with supervised(world, 1) as supervisor:
        await world.until(lambda: up(supervisor))
        assert world.slept == [1, 2, 4, 8, 8, 8], "pauses double, up to the longest"
        assert supervisor.places[0].restarts == 6


async def test_after_a_steady_life_the_back_off_begins_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.crashes = 3
    async with supervised(world, 1) as supervisor:
        await world.until(lambda: up(supervisor))
        monkeypatch.setattr(module, "STEADY_SECONDS", -1.0)
        world.crashes = 1
        world.processes[-1].finish(1)
        await world.until(lambda: len(world.slept) >= 5)
        assert world.slept == [1, 2, 4, 1, 1]


async def test_a_process_that_cannot_be_loaded_is_tried_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with supervised(world, 1) as supervisor:
        await world.until(lambda: up(supervisor))
        world.refusal = EndedError("it was killed by SIGSEGV before it had loaded the app")
        world.processes[0].finish(1)
        await world.until(lambda: len(world.slept) >= 3)
        world.refusal = None
        await world.until(lambda: up(supervisor))
    assert "the process of place 1 did not come up: it was killed by SIGSEGV" in caplog.text
    assert world.slept[:3] == [1, 2, 4]


async def test_processes_are_replaced_one_by_one_and_the_next_only_when_the_new_one_is_ready(world: World) -> None:
    async with supervised(world, 2) as supervisor:
        await world.until(lambda: up(supervisor))
        world.events.clear()
        world.gets_ready = False
        supervisor.replace_all()
        old = [place.process for place in supervisor.places]
        await world.until(lambda: "go 102" in world.events)
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.events == ["load 102", f"terminate {old[0].pid}", "go 102"]  # type: ignore[union-attr]
        assert supervisor.places[1].process is old[1], "the next one waits until this one is ready"
        world.gets_ready = True
        world.processes[2].ready.set()
        await world.until(lambda: up(supervisor) and len(world.processes) == 4)
        await world.until(lambda: supervisor.places[1].process is world.processes[3])
        assert [place.restarts for place in supervisor.places] == [0, 0]
        assert world.slept == [], "no back-off: these ends were asked for"


async def test_asked_again_meanwhile_it_replaces_once_more(world: World) -> None:
    async with supervised(world, 1) as supervisor:
        await world.until(lambda: up(supervisor))
        world.gets_ready = False
        supervisor.replace_all()
        await world.until(lambda: "go 101" in world.events)
        supervisor.replace_all()
        supervisor.replace_all()
        world.gets_ready = True
        world.processes[1].ready.set()
        await world.until(lambda: "go 102" in world.events and up(supervisor))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(world.processes) == 3, "once, not twice"


async def test_code_that_would_not_start_replaces_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with supervised(world, 2) as supervisor:
        await world.until(lambda: up(supervisor))
        before = [place.process for place in supervisor.places]
        world.refusal = RefusedError("handler h: nothing provides parameter x")
        supervisor.replace_all()
        await world.until(lambda: "those that run go on" in caplog.text)
        assert "nothing provides parameter x" in caplog.text
        assert world.events[-1] == "kill 102", "it is not left behind"
        assert [place.process for place in supervisor.places] == before
        assert up(supervisor)
        world.refusal = None
        supervisor.replace_all()
        await world.until(lambda: len(world.processes) == 5 and up(supervisor))


async def test_a_replacement_ends_a_back_off(world: World) -> None:
    world.crashes, world.sleeps = 1, False
    async with supervised(world, 1) as supervisor:
        await world.until(lambda: world.slept)
        assert supervisor.places[0].state == "backing_off"
        supervisor.replace_all()
        await world.until(lambda: up(supervisor))
        assert world.events[-1] == "go 101"


async def test_a_process_that_does_not_answer_is_killed_and_replaced(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(world, 2, silent_timeout=0.4) as supervisor:
        await world.until(lambda: up(supervisor))
        silent = world.processes[1]
        silent.answers = False
        await world.until(lambda: silent.end.done())
        await world.until(lambda: len(world.processes) == 3 and up(supervisor))
        assert not world.processes[0].end.done()
    assert f"process {silent.pid} has not answered for 0.4 s: it is killed" in caplog.text


@pytest.mark.parametrize(("processes", "idle"), [(4, None), (6, 2)])
async def test_processes_without_partitions_are_told(
    world: World, caplog: pytest.LogCaptureFixture, processes: int, idle: int | None
) -> None:
    with caplog.at_level(logging.WARNING):
        async with supervised(world, processes) as supervisor:
            await world.until(lambda: up(supervisor))
    told = [record.getMessage() for record in caplog.records if "partition" in record.getMessage()]
    wanted = [
        f"handler h: its topics have 4 partitions, so at least {idle} of {processes} processes will get none of them"
    ]
    assert told == (wanted if idle else [])

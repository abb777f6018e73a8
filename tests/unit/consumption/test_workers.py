"""The pool of workers while its size changes."""

from __future__ import annotations

import asyncio
import random
from contextvars import ContextVar

import pytest

from fastapi_athomic.consumption.workers import Worker, WorkerPool
from tests.support.apps import eventually

SPOKEN_FOR: ContextVar[str] = ContextVar("spoken_for", default="nobody")


class Lanes:
    """A pool whose lanes wait until they are let go."""

    def __init__(self, size: int) -> None:
        self.running: dict[int, asyncio.Event] = {}
        self.served: list[int] = []
        self.spoken_for: list[str] = []
        self.woken = 0  # times
        self.pool: WorkerPool[int] = WorkerPool(size, self._serve, "pool", wake=self._wake)

    def _wake(self) -> None:
        self.woken += 1

    async def _serve(self, worker: Worker, lane: int) -> None:
        assert lane not in self.running
        self.spoken_for.append(SPOKEN_FOR.get())
        self.running[lane] = event = asyncio.Event()
        await event.wait()
        del self.running[lane]
        self.served.append(lane)

    def let_go(self, *lanes: int) -> None:
        for lane in lanes:
            self.running[lane].set()


async def test_a_pool_that_grows_serves_what_waits_and_one_that_shrinks_interrupts_nothing() -> None:
    lanes = Lanes(2)
    pool = lanes.pool
    for lane in range(8):
        pool.put(lane)
    await eventually(lambda: set(lanes.running) == {0, 1})
    pool.resize(4)
    await eventually(lambda: set(lanes.running) == {0, 1, 2, 3})
    pool.resize(1)
    assert pool.excess
    lanes.let_go(0, 1, 2)
    await eventually(lambda: lanes.served == [0, 1, 2])
    assert set(lanes.running) == {3}
    assert (len(pool.workers), pool.excess) == (1, False)
    lanes.let_go(3)
    await eventually(lambda: set(lanes.running) == {4})
    pool.resize(2)
    await eventually(lambda: set(lanes.running) == {4, 5})
    await pool.close(1)
    assert pool.failure is None


async def test_who_was_told_that_a_pool_is_not_hungry_is_woken_when_it_is() -> None:
    lanes = Lanes(10)
    pool = lanes.pool
    assert pool.hungry(2)
    for lane in range(8):
        pool.put(lane)
    assert not pool.hungry(2)
    await eventually(lambda: len(lanes.running) == 8)
    assert lanes.woken == 0
    lanes.let_go(0)
    await eventually(lambda: lanes.woken == 1)
    lanes.let_go(1)
    await eventually(lambda: lanes.served == [0, 1])
    assert pool.hungry(2)
    await pool.close(1)
    assert lanes.woken == 1, "it did not ask again"


async def test_a_worker_knows_nothing_of_the_request_that_it_was_started_for() -> None:
    """An operator resumes a consumer, or wants more workers. They live on, for messages of others."""
    lanes = Lanes(1)
    SPOKEN_FOR.set("a request")
    for lane in range(2):
        lanes.pool.put(lane)
    lanes.pool.resize(2)
    await eventually(lambda: len(lanes.running) == 2)
    assert lanes.spoken_for == ["nobody", "nobody"]
    await lanes.pool.close(1)


async def test_idle_workers_that_are_too_many_end_at_once_and_no_lane_is_lost() -> None:
    lanes = Lanes(4)
    pool = lanes.pool
    for lane in range(4):
        pool.put(lane)
    await eventually(lambda: len(lanes.running) == 4)
    lanes.let_go(0, 1, 2, 3)
    await eventually(lambda: len(lanes.served) == 4)
    tasks = [worker.task for worker in pool.workers]
    pool.resize(1)
    for lane in (4, 5):
        pool.put(lane)  # before those that were woken have looked
    await eventually(lambda: set(lanes.running) == {4})
    await eventually(lambda: sum(task is not None and task.done() for task in tasks) == 3)
    pool.resize(3)
    await eventually(lambda: set(lanes.running) == {4, 5})
    await pool.close(1)


@pytest.mark.parametrize("seed", range(5))
async def test_each_lane_is_served_once_whatever_the_size_becomes(seed: int) -> None:
    chance, lanes = random.Random(seed), Lanes(2)
    for lane in range(100):
        lanes.pool.put(lane)
        lanes.pool.resize(chance.randrange(1, 6))
        for running in list(lanes.running):
            if chance.random() < 0.3:
                lanes.let_go(running)
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
    while len(lanes.served) < 100:
        lanes.let_go(*lanes.running)
        await asyncio.sleep(0)
    assert sorted(lanes.served) == list(range(100))
    assert len(lanes.pool.workers) <= 5
    await lanes.pool.close(1)

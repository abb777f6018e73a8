"""The threads of sync handlers: every interleaving of what they decide, then real ones, then a handler in an app."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from random import Random
from time import sleep
from typing import Any
from uuid import uuid4

import pytest
from fastapi import Depends
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastapi_athomic import AthomicSettings, ThreadStartError, subscribe_to
from fastapi_athomic.handling.threads import HandlerThreads, Roster, Seat, _Job
from tests.support.apps import Record, eventually, new_app, running
from tests.support.interleaving import with_seeds

IDLE = "fastapi_athomic.handling.threads.IDLE_SECONDS"


# --- what is decided


class Threads(RuleBasedStateMachine):
    """Threads of which each does its next step when it likes: between any two steps of any others.

    A roster decides under a lock, so these steps, in any order, are all that can happen.
    """

    @initialize(size=st.integers(1, 4))
    def begin(self, size: int) -> None:
        self.size = self.most = size
        self.roster: Roster[int] = Roster(size)
        self.submitted = 0
        self.waiting: deque[int] = deque()
        self.starting: list[Seat] = []
        self.idle: list[Seat] = []
        self.busy: dict[Seat, int] = {}
        self.lacked_threads = False

    # --- steps

    @rule()
    def submit(self) -> None:
        self.waiting.append(self.submitted)
        seat = self.roster.submit(self.submitted)
        self.submitted += 1
        if seat is not None:
            self.starting.append(seat)

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def starts(self, data: st.DataObject) -> None:
        self.look(_take(data, self.starting))

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def cannot_be_started(self, data: st.DataObject) -> None:
        failed = self.roster.start_failed(_take(data, self.starting))
        self.lacked_threads = True
        assert failed == ([] if self.threads else list(self.waiting)), "those for whom nobody is left"
        if failed:
            self.waiting.clear()

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def finishes(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(list(self.busy)))
        del self.busy[seat]
        self.look(seat)

    @precondition(lambda self: any(map(_woken, self.idle)))
    @rule(data=st.data())
    def notices_that_it_was_woken(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from([seat for seat in self.idle if _woken(seat)]))
        self.idle.remove(seat)
        seat.woken.acquire()
        self.look(seat)

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def has_been_idle_for_long(self, data: st.DataObject) -> None:
        """It does not know yet whether it was woken at that very moment."""
        seat = data.draw(st.sampled_from(self.idle))
        ends = self.roster.may_end(seat)
        assert ends == (not _woken(seat) and not self.waiting)
        if ends:
            self.idle.remove(seat)

    @rule(size=st.integers(1, 5))
    def resize(self, size: int) -> None:
        """Those that there are too many of stay until they are idle for long."""
        self.size = size
        self.most = max(size, self.threads)
        while (seat := self.roster.resize(size)) is not None:
            self.starting.append(seat)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def is_cancelled(self, data: st.DataObject) -> None:
        job = data.draw(st.integers(0, self.submitted - 1))
        waits = job in self.waiting
        assert self.roster.take_back(job) == waits
        if waits:
            self.waiting.remove(job)

    def look(self, seat: Seat) -> None:
        job = self.roster.next_job(seat)
        if job is None:
            assert not self.waiting
            self.idle.append(seat)
        else:
            assert job == self.waiting.popleft(), "who came first"
            self.busy[seat] = job

    # --- what always holds

    @property
    def threads(self) -> int:
        return len(self.starting) + len(self.idle) + len(self.busy)

    @property
    def coming(self) -> int:
        return len(self.starting) + sum(map(_woken, self.idle))

    @invariant()
    def no_more_threads_than_allowed(self) -> None:
        assert self.threads <= self.most
        self.most = max(self.size, self.threads)

    @invariant()
    def what_waits_is_taken(self) -> None:
        """One is on its way, or all are busy and there is one at least."""
        if self.waiting:
            assert self.coming or (self.busy and not self.idle)

    @invariant()
    def there_are_threads_enough(self) -> None:
        if not self.lacked_threads and self.threads < self.size:
            assert len(self.waiting) <= len(self.starting) + len(self.idle)

    def teardown(self) -> None:
        """Nothing new comes: all is done, then all threads end, and the next job finds one."""
        if not hasattr(self, "roster"):
            return
        while self.starting or self.busy or any(map(_woken, self.idle)):
            woken = [seat for seat in self.idle if _woken(seat)]
            self.idle = [seat for seat in self.idle if seat not in woken]
            for seat in woken:
                seat.woken.acquire()
            free, self.starting, self.busy = [*self.starting, *self.busy, *woken], [], {}
            for seat in free:
                self.look(seat)
        assert not self.waiting
        assert all(map(self.roster.may_end, self.idle))
        assert self.roster.submit(-1) is not None


def _take(data: st.DataObject, seats: list[Seat]) -> Seat:
    return seats.pop(data.draw(st.integers(0, len(seats) - 1)))


def _woken(seat: Seat) -> bool:
    return not seat.woken.locked()


class TestFault01EveryInterleavingOfThreads(Threads.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


# --- real threads


@with_seeds(3)
def test_p18_fault_01_threads_that_end_and_begin_again_do_every_job(
    random: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bursts beyond the size, pauses about as long as the idle time, and longer ones after which no thread is left."""
    name, idle = uuid4().hex, 0.002
    monkeypatch.setattr(IDLE, idle)

    async def bursts() -> None:
        threads, done = HandlerThreads(3, name), list[int]()

        def work(burst: int) -> None:
            sleep(random.choice([0, 0, idle / 4]))
            done.append(burst)

        for burst in range(60):
            running = [asyncio.create_task(threads.run(partial(work, burst))) for _ in range(random.randint(1, 8))]
            _, late = await asyncio.wait(running, timeout=20)
            assert not late, f"{len(late)} of burst {burst} found no thread"
            assert done.count(burst) == len(running)
            await asyncio.sleep(random.random() * 2 * idle)
            if random.random() < 0.2:
                await eventually(lambda: not _alive(name))

    asyncio.run(bursts())


def _alive(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


async def test_no_more_threads_than_allowed_and_all_are_daemons() -> None:
    threads, name, gate = HandlerThreads(3, "size"), "size", threading.Event()
    running = [asyncio.create_task(threads.run(gate.wait)) for _ in range(10)]
    await eventually(lambda: len(_alive(name)) == 3)
    assert all(thread.daemon for thread in _alive(name)), "a handler that hangs does not keep the process from ending"
    gate.set()
    await asyncio.wait(running)
    assert len(_alive(name)) == 3


async def test_a_job_that_has_begun_is_not_left_alone() -> None:
    threads, begun, gate = HandlerThreads(1), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait()

    running = asyncio.create_task(threads.run(work))
    await eventually(begun.is_set)
    for _ in range(2):
        running.cancel()
        await asyncio.sleep(0)
    assert not running.done(), "nothing takes its place while it runs"
    gate.set()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_a_job_that_was_cancelled_before_it_began_never_begins() -> None:
    threads, gate, done = HandlerThreads(1), threading.Event(), list[str]()
    busy = asyncio.create_task(threads.run(gate.wait))
    waiting = [asyncio.create_task(threads.run(partial(done.append, name))) for name in ("first", "second")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    assert waiting[0].cancelled(), "at once: nobody has it in hand"
    gate.set()
    await asyncio.gather(busy, waiting[1])
    assert done == ["second"]


async def test_without_a_new_thread_jobs_wait_for_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    threads, gate = HandlerThreads(3), threading.Event()
    busy = asyncio.create_task(threads.run(gate.wait))
    await asyncio.sleep(0)
    monkeypatch.setattr(threading.Thread, "start", _no_more_threads)
    waiting = [asyncio.create_task(threads.run(partial(int, number))) for number in range(4)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(busy, *waiting) == [True, 0, 1, 2, 3]
    assert [record.message for record in caplog.records] == [
        "athomic: no further thread could be started (can't start new thread): its calls wait for the threads it has"
    ]


async def test_without_any_thread_a_job_fails_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = HandlerThreads(3, "billing")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_more_threads)
        with pytest.raises(ThreadStartError, match="billing: no thread could be started"):
            await threads.run(lambda: 1)
    assert await threads.run(lambda: 2) == 2


def _no_more_threads(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_loop_that_is_closed_meanwhile_costs_only_its_own_jobs() -> None:
    threads, gate, done = HandlerThreads(1, "closed"), threading.Event(), list[str]()

    def work() -> None:
        gate.wait()
        done.append("begun")

    async def abandon() -> None:
        for function in (work, lambda: done.append("not begun")):
            task = asyncio.create_task(threads.run(function))
            asyncio.tasks._unregister_task(task)  # so that `run` does not wait for it
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    asyncio.run(abandon())
    gate.set()
    assert asyncio.run(asyncio.wait_for(threads.run(lambda: "another"), 20)) == "another"
    assert done == ["begun"], "for what has not begun nobody waits any more"


async def test_each_job_has_a_copy_of_its_callers_context() -> None:
    threads, variable = HandlerThreads(1), ContextVar("variable", default="nobody")

    def work() -> str:
        found = variable.get()
        variable.set("the thread")
        return found

    variable.set("the caller")
    assert [await threads.run(work), await threads.run(work)] == ["the caller", "the caller"]
    assert variable.get() == "the caller"


@pytest.mark.parametrize("fails", [False, True])
async def test_p16_an_idle_thread_keeps_nothing_of_its_last_message(fails: bool) -> None:
    class Message:
        pass

    def work(message: Message) -> Message:
        if fails:
            raise ValueError
        return message

    threads, message = HandlerThreads(1), Message()
    kept = weakref.ref(message)
    gc.disable()  # who waits for it keeps a message for long
    try:
        await asyncio.gather(threads.run(partial(work, message)), return_exceptions=True)
        del message
        await eventually(lambda: kept() is None)
    finally:
        gc.enable()


async def test_who_waits_goes_on_in_the_turn_after_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, turns, conclude = asyncio.get_running_loop(), list[int](), _Job._conclude

    def turn() -> None:
        turns.append(len(turns))
        loop.call_soon(turn)

    def concluded(job: _Job, *what: Any) -> None:
        loop.call_soon(turn)
        conclude(job, *what)

    monkeypatch.setattr(_Job, "_conclude", concluded)
    assert await HandlerThreads(1).run(lambda: "result") == "result"
    assert turns == [0], "each turn more costs a look at the sockets"


async def test_stop_iteration_is_an_error_like_others() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await HandlerThreads(1).run(iter(()).__next__)


# --- in an app


@pytest.mark.parametrize("dependency", [False, True], ids=["handler", "dependency"])
async def test_p18_fault_01_a_sync_handler_goes_on_after_a_burst_and_a_pause(
    monkeypatch: pytest.MonkeyPatch, dependency: bool
) -> None:
    monkeypatch.setattr(IDLE, 0.01)
    record, loop = Record(), asyncio.get_running_loop()

    def note(number: int) -> None:
        loop.call_soon_threadsafe(record.note, number)

    def noting() -> Callable[[int], None]:
        return note

    def sync(number: int) -> None:
        note(number)

    async def depending(number: int, note: Any = Depends(noting)) -> None:
        note(number)

    handler: Any = depending if dependency else sync
    subscribe_to("t", group_id="g", handler_id="pausing", concurrency=4)(handler)
    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}")
    async with running(new_app(settings, handler)) as athomic:
        await athomic.publish_many("t", list(range(200)))
        await record.count(200)
        await eventually(lambda: not _alive("athomic-pausing"))
        for number in range(200, 203):
            await athomic.publish("t", number)
            assert (await record.count(number + 1))[-1] == number
        await athomic.drain()

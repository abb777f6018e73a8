"""P12, by counts: how often everybody else gets a turn, and how much is taken in. How fast that is, benchmarks say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from itertools import pairwise
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from fastapi_athomic import Athomic, AthomicSettings, include_athomic
from fastapi_athomic.loop.fairness import (
    INTAKE_SHARE,
    LATE_SECONDS,
    LOOK_SECONDS,
    QUIET_SHARE,
    SHARE_BESIDE_REQUESTS,
    SHORTEST_SLICE,
    LoopShare,
)
from fastapi_athomic.loop.load import QUIET_SECONDS, LoopLag, RequestGauge
from fastapi_athomic.loop.turns import TURNS, TURNS_FOR_REQUESTS
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from tests.support.apps import Record, running
from tests.support.clock import set_clock
from tests.unit.loop.test_turns import something_waits

BACKLOG = 400
SLICE = 0.002
LOOP = ("loop.fairness", "loop.load", "loop.turns")
"""What tells the time of slices."""


class Clock:
    """Stands still unless a handler works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        set_clock(monkeypatch, lambda: self.now, "consumption.lanes", *LOOP)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class FixedLag(LoopLag):
    """A loop that is always late by the same time."""

    async def watch(self, late: Callable[[float], None] | None = None) -> None:
        await asyncio.Event().wait()


def new_app(handle: Callable[[Any], Any], **options: Any) -> Athomic:
    athomic = include_athomic(FastAPI(), AthomicSettings(slice_seconds=SLICE, max_buffered_messages=2_000))
    athomic.subscribe_to("t", group_id="g", handler_id="h", **options)(handle)

    @athomic.app.get("/ping")
    async def ping() -> str:
        return "pong"

    return athomic


@asynccontextmanager
async def with_backlog(athomic: Athomic, count: int = BACKLOG) -> AsyncIterator[Athomic]:
    """The consumer is paused until the body resumes it, so that what it has to do is there when it starts."""
    async with running(athomic):
        manager = athomic.manager()
        assert manager is not None
        manager.consumers["h"].pause()
        await athomic.publish_many("t", map(str, range(count)), key=lambda _: "one")
        yield athomic


def resume(athomic: Athomic) -> None:
    manager = athomic.manager()
    assert manager is not None
    manager.consumers["h"].resume()


async def others(record: Record, turns: list[int]) -> None:
    """Everybody else in the loop: notes at each turn how many messages have been handled."""
    while True:
        turns.append(len(record.seen))
        await asyncio.sleep(0)


async def turns_beside(athomic: Athomic, record: Record) -> list[int]:
    """How many messages were handled at each turn of the loop, until all were."""
    turns: list[int] = []
    async with with_backlog(athomic):
        other = asyncio.create_task(others(record, turns))
        resume(athomic)
        await record.count(BACKLOG)
        other.cancel()
    return [seen for seen in turns if 0 < seen < BACKLOG]


def steps(turns: list[int]) -> list[int]:
    """How many messages were handled from one turn to the next, where there were any."""
    return [later - earlier for earlier, later in pairwise(turns) if later != earlier]


def runs(turns: list[int]) -> list[int]:
    """How many turns in a row saw the same number of messages."""
    return [turns.count(seen) for seen in dict.fromkeys(turns)]


@pytest.fixture
def without_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in loops that cannot be asked whether anything waits."""
    monkeypatch.setattr("fastapi_athomic.loop.fairness.readiness", lambda _: None)


async def test_p12_after_each_slice_everybody_else_gets_several_turns(clock: Clock, without_readiness: None) -> None:
    record = Record()

    async def handle(message: str) -> None:
        clock.now += SLICE / 4
        record.note(message)

    athomic = new_app(handle)
    with athomic.requests:
        pass  # somebody has just asked for something
    turns = await turns_beside(athomic, record)
    assert max(steps(turns)) == 4, "no more messages than fit into a slice"
    assert min(runs(turns)[1:-1]) >= TURNS


async def test_p12_slices_are_longer_where_nobody_asks_for_anything(clock: Clock, without_readiness: None) -> None:
    record = Record()

    async def handle(message: str) -> None:
        clock.now += SLICE / 4
        record.note(message)

    turns = await turns_beside(new_app(handle), record)
    assert max(steps(turns)) in (10, 11), "QUIET_SHARE of a slice, and what it takes to notice its end"
    assert min(runs(turns)[1:-1]) >= TURNS


@pytest.mark.parametrize("waits", [False, True])
async def test_p12_a_slice_ends_when_something_waits_at_a_socket(clock: Clock, waits: bool) -> None:
    record = Record()

    async def handle(message: str) -> None:
        clock.now += LOOK_SECONDS / 4
        if len(record.seen) < BACKLOG - 1:
            record.seen.append(message)  # `note` calls the loop, as if from another thread: then something waits
        else:
            record.note(message)

    athomic = new_app(handle)
    with athomic.requests:
        pass  # somebody has just asked for something
    if not waits:
        turns = await turns_beside(athomic, record)
        assert max(steps(turns)) >= SLICE * QUIET_SHARE / (LOOK_SECONDS / 4), "a whole slice"
        return
    with something_waits():
        turns = await turns_beside(athomic, record)
    assert max(steps(turns)) in (4, 5), "as many as fit between two looks, and what it takes to notice"
    assert min(runs(turns)[1:-1]) >= TURNS + TURNS_FOR_REQUESTS


async def test_where_nobody_asks_for_anything_answers_to_consumers_do_not_end_their_slices(clock: Clock) -> None:
    record = Record()

    async def handle(message: str) -> None:
        clock.now += SLICE / 4
        record.note(message)

    with something_waits():
        turns = await turns_beside(new_app(handle), record)
    assert max(steps(turns)) in (10, 11), "QUIET_SHARE of a slice, and what it takes to notice its end"


async def test_p12_while_requests_are_answered_slices_are_shorter_and_turns_more(
    clock: Clock, without_readiness: None
) -> None:
    record = Record()

    async def handle(message: str) -> None:
        clock.now += SLICE / 4
        record.note(message)

    athomic = new_app(handle)
    athomic.requests.in_flight = 1
    turns = await turns_beside(athomic, record)
    assert max(steps(turns)[1:]) == 2
    assert min(runs(turns)[1:-1]) >= TURNS + TURNS_FOR_REQUESTS


async def test_p12_a_request_is_answered_within_a_few_slices(clock: Clock) -> None:
    record = Record()

    async def handle(message: str) -> None:
        clock.now += SLICE  # each message is a slice of its own
        record.note(message)

    athomic = new_app(handle)
    async with with_backlog(athomic), AsyncClient(transport=ASGITransport(athomic.app), base_url="http://app") as http:
        resume(athomic)
        await record.count(10)
        before = len(record.seen)
        assert (await http.get("/ping")).json() == "pong"
        during = len(record.seen) - before
    assert during <= 10


async def test_p12_batches_give_way_after_each_call(clock: Clock) -> None:
    record = Record()

    async def handle(messages: list[str]) -> None:
        clock.now += SLICE
        for message in messages:
            record.note(message)

    turns = await turns_beside(new_app(handle, batch_size=20), record)
    assert max(steps(turns)) == 20
    assert min(runs(turns)[1:-1]) >= TURNS


@pytest.mark.parametrize(("late", "most"), [(0.0, 125), (LATE_SECONDS, 125), (LATE_SECONDS * 8, 15), (60.0, 10)])
async def test_p12_less_is_taken_in_while_the_loop_is_late(
    late: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    take = MemoryConsumer.take

    def noted(consumer: MemoryConsumer, wanted: Any, limit: int) -> Any:
        asked.append(limit)
        return take(consumer, wanted, limit)

    monkeypatch.setattr(MemoryConsumer, "take", noted)
    record = Record()

    async def handle(message: str) -> None:
        record.note(message)

    athomic = new_app(handle)
    athomic.loop_lag = FixedLag()
    athomic.loop_lag.seconds = late
    async with with_backlog(athomic):
        resume(athomic)
        await record.count(BACKLOG)
    assert max(asked) == most, "a second look in the same round asks for the rest"


def test_slices_shrink_with_the_lag_to_a_limit() -> None:
    lag, requests = LoopLag(), RequestGauge()
    share = LoopShare(SLICE, requests, lag)
    with requests:
        assert share.slice(monotonic()) == SLICE * SHARE_BESIDE_REQUESTS
    now = monotonic()
    assert share.slice(now) == SLICE
    assert share.slice(now + QUIET_SECONDS * 2) == SLICE * QUIET_SHARE
    lag.seconds = LATE_SECONDS * 2
    assert share.slice(now) == pytest.approx(SLICE / 2)
    lag.seconds = 1_000.0
    assert share.slice(now) == SHORTEST_SLICE
    short = SHORTEST_SLICE / 2
    assert LoopShare(short, requests, lag).slice(now) == short, "what is set is not lengthened"
    assert share.intake(5) == 5


def test_fetches_follow_each_other_only_where_nobody_asks_for_anything() -> None:
    requests = RequestGauge()
    share = LoopShare(SLICE, requests)
    assert share.intake_seconds(monotonic(), turn=0.02) == 0.02 * INTAKE_SHARE
    with requests:
        assert share.intake_seconds(monotonic(), turn=0.02) == 0.0
    assert share.intake_seconds(monotonic(), turn=0.02) == 0.0


Situation = Callable[[RequestGauge], None]


def nobody_asks(requests: RequestGauge) -> None: ...


def somebody_has_asked(requests: RequestGauge) -> None:
    with requests:
        pass


def somebody_asks(requests: RequestGauge) -> None:
    requests.in_flight = 1


@pytest.mark.parametrize(
    ("situation", "loop_turns", "waited", "goes_on"),
    [
        (nobody_asks, True, False, True),
        (nobody_asks, False, True, True),
        (nobody_asks, False, False, False),
        (somebody_has_asked, True, True, True),
        (somebody_has_asked, False, True, False),
        (somebody_asks, True, True, False),
    ],
)
async def test_who_waits_for_something_goes_on_without_a_rest(
    clock: Clock, situation: Situation, loop_turns: bool, waited: bool, goes_on: bool
) -> None:
    requests = RequestGauge()
    situation(requests)
    share = LoopShare(SLICE, requests)
    before = clock.now
    clock.now += 0.001
    await share.give_way()  # a slice begins
    if loop_turns:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    clock.now = share.deadline
    assert share.turned(before if waited else clock.now, clock.now) is goes_on
    assert (share.deadline > clock.now) is goes_on


async def test_while_some_rest_nobody_goes_on_where_somebody_has_asked(clock: Clock) -> None:
    requests = RequestGauge()
    somebody_has_asked(requests)
    share = LoopShare(SLICE, requests)
    resting = asyncio.create_task(share.give_way())
    await asyncio.sleep(0)
    assert not share.turned(clock.now - 1, clock.now)
    await resting


async def test_who_comes_is_noticed_so_slices_may_be_long() -> None:
    requests = RequestGauge()
    share = LoopShare(SLICE, requests, routes=asyncio.get_running_loop())
    with requests:
        assert share.slice(monotonic()) == SLICE * SHARE_BESIDE_REQUESTS
    assert share.slice(monotonic()) == SLICE * QUIET_SHARE


class ConsumerThread:
    """A share of consumers that do not live in the loop of the routes."""

    def __init__(self, routes: asyncio.AbstractEventLoop, requests: RequestGauge) -> None:
        self.share = LoopShare(SLICE, requests, routes=routes, own_thread=True)

    async def look(self) -> bool:
        """Within a slice that has just begun."""

        async def in_the_thread() -> bool:
            await self.share.give_way()
            return self.share.turned(0.0, self.share.deadline - LOOK_SECONDS / 2)

        return await asyncio.to_thread(asyncio.run, in_the_thread())


@pytest.mark.parametrize(
    ("in_flight", "waits", "wanted"),
    [(0, False, 0), (1, False, 1), (0, True, 2)],
    ids=["nobody asks", "after a slice", "after a slice and within one"],
)
async def test_a_thread_of_its_own_lends_the_gil(
    in_flight: int, waits: bool, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_athomic.loop.turns.LENT_SECONDS", 10.0)
    routes, lend = asyncio.get_running_loop(), LoopShare._lend
    turned: list[int] = []  # how often the loop of the routes has, each time before this thread went on

    def hop(hops: list[int]) -> None:
        hops.append(len(hops))
        if len(hops) < TURNS:
            routes.call_soon(hop, hops)

    def noted(share: LoopShare, to: asyncio.AbstractEventLoop) -> None:
        hops: list[int] = []
        routes.call_soon_threadsafe(hop, hops)
        lend(share, to)
        turned.append(len(hops))

    monkeypatch.setattr(LoopShare, "_lend", noted)
    requests = RequestGauge()
    requests.in_flight = in_flight
    consumers = ConsumerThread(routes, requests)
    with something_waits() if waits else nullcontext():
        assert await consumers.look(), "the slice goes on"
    assert turned == [TURNS] * wanted


def test_a_loop_of_routes_that_stands_holds_up_the_thread_once(monkeypatch: pytest.MonkeyPatch) -> None:
    routes, requests = asyncio.new_event_loop(), RequestGauge()
    ask, asked = routes.call_soon_threadsafe, list[Any]()

    def noted(callback: Callable[..., Any], *arguments: Any) -> asyncio.Handle:
        asked.append(callback)
        return ask(callback, *arguments)

    monkeypatch.setattr(routes, "call_soon_threadsafe", noted)
    requests.in_flight = 1
    share = LoopShare(SLICE, requests, routes=routes, own_thread=True)
    for _ in range(3):
        asyncio.run(asyncio.wait_for(share.give_way(), 10))
    assert len(asked) == 1
    monkeypatch.setattr("fastapi_athomic.loop.turns.LENT_SECONDS", 0.0)
    requests.in_flight = 0
    for _ in range(TURNS + TURNS_FOR_REQUESTS + 1):  # it runs again, and has its turns
        routes.run_until_complete(asyncio.sleep(0))
    requests.in_flight = 1
    asyncio.run(asyncio.wait_for(share.give_way(), 10))
    assert len(asked) == 2
    routes.close()


@pytest.mark.parametrize("what", ["stands", "turns", "begins to answer", "has answered"])
def test_a_loop_of_routes_that_gets_on_is_lent_the_gil_for_longer(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.loop.turns.LENT_SECONDS", 0.0)
    routes, requests = asyncio.new_event_loop(), RequestGauge()
    requests.in_flight = 1
    share = LoopShare(SLICE, requests, routes=routes, own_thread=True)
    asyncio.run(share.give_way())
    loan: Any = share._loan
    lock, waits = loan._back, list[float]()

    def acquire(*, timeout: float) -> bool:
        waits.append(timeout)
        return False

    loan._back = SimpleNamespace(acquire=acquire, locked=lock.locked)
    if what == "turns":
        routes.run_until_complete(asyncio.sleep(0))
    elif what == "begins to answer":
        requests.in_flight += 1
    elif what == "has answered":
        with requests:
            pass
    for _ in range(2):
        asyncio.run(share.give_way())
    assert share._loan is loan, "it is still out"
    assert len(waits) == (what != "stands"), "no more than once for what has become of it"
    routes.close()


def test_a_loop_of_routes_that_is_closed_does_not_hold_up_the_thread() -> None:
    routes, requests = asyncio.new_event_loop(), RequestGauge()
    share = LoopShare(SLICE, requests, routes=routes, own_thread=True)
    routes.close()
    requests.in_flight = 1
    asyncio.run(asyncio.wait_for(share.give_way(), 10))

"""The clock of a kit: what waits for a time has it come at once, in order, and nothing else notices.

`drain` runs out of real time where something is not skipped: no test here waits for a delay.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import (
    AthomicSettings,
    CircuitBreaker,
    ConfigurationError,
    HandlerTimeoutError,
    PayloadPipeline,
    RateLimit,
    RawMessage,
    RetryPolicy,
    include_athomic,
    ordered_consumer,
    subscribe_to,
)
from fastapi_athomic.consumption import intake, session
from fastapi_athomic.loop import blocking, load
from fastapi_athomic.observation import process_health
from fastapi_athomic.payload.claim_check import ClaimCheck
from fastapi_athomic.stores import memory
from fastapi_athomic.testing import AsyncTestKit, TestKit
from fastapi_athomic.testing import clock as clock_module
from fastapi_athomic.testing.bench import Bench
from fastapi_athomic.testing.clock import AsyncClock

HOUR, LONG = 3600.0, 600.0
SOON = 30.0
"""Real seconds for what is skipped, at the most; what is not skipped takes a minute or more."""
LATER = RetryPolicy(max_attempts=1, retry_topics=(10, 60, 600), allow_reordering=True)


class Step(BaseModel):
    order: str
    number: int


@pytest.fixture(params=["loop", "thread"])
def settings(request: pytest.FixtureRequest) -> AthomicSettings:
    return AthomicSettings(isolation=request.param)


SETTINGS = AthomicSettings()


def new_app(settings: AthomicSettings, *handlers: Callable[..., Any], **options: Any) -> FastAPI:
    app = FastAPI(**options)
    include_athomic(app, settings, handlers=handlers)
    return app


def failing(times: int, moments: list[float], kit: Callable[[], TestKit], **options: Any) -> Callable[..., Any]:
    """A handler that fails so many times, and notes when it was called."""

    @subscribe_to("t", group_id="g", handler_id="h", **options)
    async def handle(message: RawMessage) -> None:
        moments.append(kit().clock.now.timestamp())
        if len(moments) <= times:
            raise RuntimeError("not yet")

    return handle


def pauses(moments: list[float]) -> list[float]:
    return [round(later - sooner, 1) for sooner, later in pairwise(moments)]


# --- drain


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        (LATER, [10, 60, 600]),
        (RetryPolicy(max_attempts=4, delay=100, backoff=2, max_delay=HOUR, jitter=0), [100, 200, 400]),
    ],
    ids=["retry topics", "delays in place"],
)
def test_retries_come_at_once_and_when_they_are_due(
    settings: AthomicSettings, retry: RetryPolicy, expected: list[float]
) -> None:
    moments: list[float] = []
    handle = failing(3, moments, lambda: kit, retry=retry)
    with TestKit(new_app(settings, handle)) as kit, kit.expect_failures():
        kit.publish("t", "x")
        kit.drain(SOON)
        [handled] = kit.handled(handle)
        assert (handled.outcome, handled.attempts) == ("completed", 4)
    assert pauses(moments) == pytest.approx(expected, abs=3)


def test_a_batch_that_is_not_full_does_not_linger(settings: AthomicSettings) -> None:
    batches: list[int] = []

    @subscribe_to("t", group_id="g", batch_size=100, batch_linger_ms=59_000)
    async def handle(messages: list[str]) -> None:
        batches.append(len(messages))

    with TestKit(new_app(settings, handle)) as kit:
        for _ in range(3):
            kit.publish("t", "x", partition=0)
        kit.drain(SOON)
        assert batches == [3]


def test_a_gap_runs_out_of_time_at_once(settings: AthomicSettings) -> None:
    seen: list[int] = []

    @ordered_consumer(
        "t",
        group_id="g",
        aggregate_key_field="order",
        sequence_id_field="number",
        gap_timeout=300,
        on_gap="skip",
    )
    async def handle(message: Step) -> None:
        seen.append(message.number)

    with TestKit(new_app(settings, handle)) as kit:
        kit.publish("t", Step(order="a", number=1))
        kit.publish("t", Step(order="a", number=3))
        kit.drain(SOON)
    assert seen == [1, 3]


def test_a_lease_that_was_idle_for_hours_is_taken_again(settings: AthomicSettings) -> None:
    seen: list[int] = []

    @ordered_consumer("t", group_id="g", aggregate_key_field="order", sequence_id_field="number")
    async def handle(message: Step) -> None:
        seen.append(message.number)

    with TestKit(new_app(settings, handle)) as kit:
        for number in (1, 2, 3):
            kit.publish("t", Step(order="a", number=number))
            kit.drain(SOON)
            kit.clock.advance(200)
        assert kit.client.get("/consumers/health").json()["status"] == "healthy"
    assert seen == [1, 2, 3]


def test_a_breaker_lets_one_through_at_once(settings: AthomicSettings) -> None:
    moments: list[float] = []
    handle = failing(2, moments, lambda: kit, breaker=CircuitBreaker(exceptions=(RuntimeError,), failures=1, pause=120))
    with TestKit(new_app(settings, handle)) as kit, kit.expect_failures():
        kit.publish("t", "x")
        kit.drain(SOON)
    assert pauses(moments) == pytest.approx([120, 240], abs=3)


def test_a_rate_limit_takes_no_time(settings: AthomicSettings) -> None:
    moments: list[float] = []
    handle = failing(0, moments, lambda: kit, rate_limit=RateLimit(messages_per_second=0.01, burst=1))
    with TestKit(new_app(settings, handle)) as kit:
        for _ in range(3):
            kit.publish("t", "x", key="k")
        kit.drain(SOON)
    assert pauses(moments) == pytest.approx([100, 100], abs=3)


async def test_a_pause_with_an_end_ends(settings: AthomicSettings) -> None:
    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    async with AsyncTestKit(new_app(settings, handle)) as kit:
        await kit.athomic.pause("h", seconds=LONG)
        begun = kit.clock.now
        await kit.publish("t", "x")
        await kit.drain(SOON)
        assert len(kit.handled(handle)) == 1
        assert timedelta(seconds=LONG) <= kit.clock.now - begun < timedelta(seconds=LONG + 5)


def test_what_waits_for_no_time_is_told_when_real_time_is_up() -> None:
    gate = asyncio.Event()

    @subscribe_to("t", group_id="g", handler_id="h", timeout=60)
    async def handle(message: str) -> None:
        await gate.wait()

    with TestKit(new_app(SETTINGS, handle)) as kit:
        kit.publish("t", "x")
        begun = kit.clock.now
        with pytest.raises(TimeoutError, match=r"not all messages are handled and committed after 0\.2 s: h"):
            kit.drain(0.2)
        assert kit.clock.now - begun < timedelta(seconds=30), "no time is skipped while a handler runs"
        kit.client.portal.call(gate.set)  # type: ignore[union-attr]


def test_time_is_real_while_a_handler_works(settings: AthomicSettings) -> None:
    """One handler waits for ten minutes: what another does in a thread meanwhile has its timeout in real time."""
    other = failing(1, [], lambda: kit, retry=RetryPolicy(delay=600, max_delay=600, jitter=0))
    may_end = threading.Event()

    @subscribe_to("slow", group_id="slow", timeout=60)
    async def works(message: str) -> None:
        await asyncio.to_thread(may_end.wait)

    with TestKit(new_app(settings, other, works)) as kit, kit.expect_failures(other):
        kit.publish("slow", "x")
        kit.publish("t", "x")
        timer = threading.Timer(0.2, may_end.set)
        timer.start()
        kit.drain(SOON)
        timer.join()
        assert [handled.outcome for handled in kit.handled()] == ["completed", "completed"]


def test_a_drain_that_is_told_to_waits() -> None:
    handle = failing(1, [], lambda: kit, retry=LATER)
    with TestKit(new_app(SETTINGS, handle), strict=False) as kit:
        kit.publish("t", "x")
        with pytest.raises(TimeoutError, match=r"retry\.10s"):
            kit.drain(0.2, skip_delays=False)


# --- advance


def test_what_is_due_comes_and_no_more(settings: AthomicSettings) -> None:
    moments: list[float] = []
    handle = failing(3, moments, lambda: kit, retry=LATER)
    with TestKit(new_app(settings, handle)) as kit, kit.expect_failures():
        kit.publish("t", "x")
        found = []
        for seconds in (0, 5, 8, 40, 30, 500, 130):
            kit.clock.advance(seconds)
            found.append(len(moments))
        assert found == [1, 1, 2, 2, 3, 3, 4]


def test_what_is_due_comes_in_order(settings: AthomicSettings) -> None:
    order: list[tuple[str, float]] = []

    def waiting(name: str, delay: float) -> Callable[..., Any]:
        @subscribe_to(
            "t", group_id=name, handler_id=name, retry=RetryPolicy(delay=delay, max_delay=delay, backoff=1, jitter=0)
        )
        async def handle(message: str) -> None:
            order.append((name, round((kit.clock.now - begun).total_seconds(), -1)))
            raise RuntimeError("never")

        return handle

    with TestKit(new_app(settings, waiting("a", 70), waiting("b", 50)), strict=False) as kit:
        begun = kit.clock.now
        kit.publish("t", "x")
        kit.clock.advance(300)
    assert sorted(order[:2]) == [("a", 0), ("b", 0)]
    assert order[2:] == [("b", 50), ("a", 70), ("b", 100), ("a", 140)]


def test_an_hour_goes_by_and_nobody_takes_it_for_a_frozen_process(
    settings: AthomicSettings, caplog: pytest.LogCaptureFixture
) -> None:
    @subscribe_to("t", group_id="g")
    async def handle(message: str) -> None: ...

    with TestKit(new_app(settings, handle)) as kit, caplog.at_level(logging.WARNING):
        kit.clock.advance(HOUR)
        assert kit.client.get("/consumers/health").json()["status"] == "healthy"
        assert kit.athomic.consumers()[0].restarts == 0
        kit.publish("t", "x")
        kit.drain(SOON)
        assert len(kit.handled(handle)) == 1
    assert [record.getMessage() for record in caplog.records if record.name.startswith("fastapi_athomic")] == []


def test_a_handler_that_sleeps_goes_on_in_its_time(settings: AthomicSettings) -> None:
    @subscribe_to("t", group_id="g", timeout=50, retry=RetryPolicy(max_attempts=1))
    async def handle(message: str) -> str:
        await asyncio.sleep(float(message))
        return "slept"

    with TestKit(new_app(settings, handle)) as kit, kit.expect_failures(error=HandlerTimeoutError):
        kit.publish("t", "40")
        kit.clock.advance(20)
        assert kit.handled() == []
        kit.clock.advance(25)
        [first] = kit.handled()
        assert first.result == "slept"
        kit.publish("t", "90")
        kit.clock.advance(80)
        assert isinstance(kit.handled()[1].error, HandlerTimeoutError)


def test_a_handler_in_a_thread_is_waited_for(settings: AthomicSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that it would see minutes go by in its moment, and run out of its `timeout`."""
    monkeypatch.setattr(clock_module, "GRACE", 20)

    @subscribe_to("t", group_id="g", timeout=5, retry=RetryPolicy(max_attempts=1))
    def handle(message: str) -> None:
        threading.Event().wait(0.2)

    with TestKit(new_app(settings, handle)) as kit:
        kit.publish("t", "x")
        kit.clock.advance(600)
        [handled] = kit.handled()
        assert handled.outcome == "completed"


def test_tasks_of_the_app_go_by_the_clock() -> None:
    calls: list[int] = []

    async def work() -> None:
        while True:
            await asyncio.sleep(60)
            calls.append(1)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(work())
        yield
        task.cancel()

    with TestKit(new_app(SETTINGS, lifespan=lifespan)) as kit:
        kit.clock.advance(600)
        assert len(calls) in (9, 10), "it may have begun a moment before"
        calls.clear()
        kit.clock.advance(600)
        assert len(calls) == 10


def test_messages_are_as_old_as_the_clock_says() -> None:
    @subscribe_to("t", group_id="g")
    async def handle(message: RawMessage) -> None: ...

    with TestKit(new_app(SETTINGS, handle)) as kit:
        kit.publish("t", b"x")
        kit.clock.advance(LONG)
        kit.publish("t", b"x")
        kit.drain(SOON)
        first, second = kit.handled()
        assert second.raw.timestamp - first.raw.timestamp == pytest.approx(LONG * 1000, abs=5000)
        assert second.raw.timestamp / 1000 == pytest.approx(kit.clock.now.timestamp(), abs=5)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1"])
def test_a_clock_goes_forward_by_a_number_of_seconds(seconds: Any) -> None:
    with TestKit(new_app(SETTINGS)) as kit, pytest.raises(ConfigurationError, match="seconds must be a number of 0 or"):
        kit.clock.advance(seconds)


# --- the test itself


async def test_the_tests_own_timers_are_real() -> None:
    handle = failing(3, [], lambda: kit, retry=LATER)  # type: ignore[arg-type, return-value]
    async with asyncio.timeout(30):
        async with AsyncTestKit(new_app(SETTINGS, handle)) as kit:
            with kit.expect_failures():
                await kit.publish("t", "x")
                async with asyncio.timeout(30):
                    await kit.drain()
            [handled] = kit.handled(handle)
            assert handled.attempts == 4


async def test_timers_that_are_left_when_a_kit_ends_come_in_time() -> None:
    loop = asyncio.get_running_loop()
    came, before = asyncio.Event(), loop.time()
    timers = [loop.call_later(60, came.set)]
    async with AsyncTestKit(new_app(SETTINGS)) as kit:
        await kit.clock.advance(LONG)
        assert loop.time() > before + LONG
        timers += [loop.call_later(70, came.set), loop.call_later(0.05, came.set)]
        assert not came.is_set()
    assert before <= loop.time() < before + LONG
    assert [timer.when() - before < LONG for timer in timers] == [True, True, True]
    async with asyncio.timeout(20):
        await came.wait()
    for timer in timers:
        timer.cancel()


# --- beginning and end


def clocks() -> list[Any]:
    return [vars(session)["monotonic"], vars(intake)["time"], vars(memory)["monotonic"]]


def test_how_late_the_loop_is_is_measured_on_the_real_clock() -> None:
    machine = [vars(load)["monotonic"], vars(blocking)["monotonic"], vars(process_health)["monotonic"]]
    with TestKit(new_app(SETTINGS)) as kit:
        kit.clock.advance(10)
        assert [vars(module)["monotonic"] for module in (load, blocking, process_health)] == machine
    assert machine == [time.monotonic] * 3


def test_everything_is_as_it_was_afterwards() -> None:
    before = clocks()
    for _ in range(2):
        with pytest.raises(KeyError), TestKit(new_app(SETTINGS)) as kit:
            assert not set(clocks()) & set(before)
            kit.clock.advance(LONG)
            raise KeyError("of the test")
        assert clocks() == before


def test_two_kits_at_once_are_refused() -> None:
    with TestKit(new_app(SETTINGS)) as kit:
        with pytest.raises(ConfigurationError, match="another test kit is open in this process"):
            TestKit(new_app(SETTINGS)).__enter__()
        kit.clock.advance(LONG)
    with TestKit(new_app(SETTINGS)) as kit:
        kit.clock.advance(1)


@pytest.mark.parametrize(
    ("options", "what"),
    [({"broker": "kafka://localhost:9"}, "the broker"), ({"store": "redis://localhost:9"}, "the store")],
)
async def test_where_something_real_is_waited_for_no_time_is_skipped(options: dict[str, str], what: str) -> None:
    clock = AsyncClock(Bench(new_app(SETTINGS), **options))  # type: ignore[arg-type]
    assert not clock.skips
    with pytest.raises(ConfigurationError, match=rf"only where nothing real is waited for: {what} is not memory://"):
        await clock.advance(1)


async def test_a_loop_that_is_not_asyncios_own_is_named() -> None:
    Uvloop = type("Uvloop", (asyncio.AbstractEventLoop,), {})  # noqa: N806 - its methods are of no interest
    clock = AsyncClock(Bench(new_app(SETTINGS)))
    clock.adopt(Uvloop(), shared=True)
    assert not clock.skips
    with pytest.raises(ConfigurationError, match=r"in an event loop of \S+Uvloop: it needs asyncio's own"):
        await clock.advance(1)


@pytest.mark.parametrize("isolation", ["loop", "thread"])
def test_a_call_that_hangs_does_not_hold_up_the_end(isolation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "END_GRACE", 0.05)
    began = threading.Event()

    @subscribe_to("t", group_id="g")
    async def handle(message: str) -> None:
        began.set()
        await asyncio.Event().wait()

    kit = TestKit(new_app(AthomicSettings(isolation=isolation, shutdown_timeout=300), handle), strict=False)
    with kit:
        kit.publish("t", "x")
        assert began.wait(20)


class SlowStore:
    """An `ObjectStore` that really takes its time, and has a limit for it."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self.real_seconds = 0.3
        self.limit = 3.0

    async def put(self, name: str, data: bytes) -> None:
        self._objects[name] = data

    async def get(self, name: str, size: int) -> bytes:
        async with asyncio.timeout(self.limit):
            await asyncio.to_thread(time.sleep, self.real_seconds)
        return self._objects[name]


def test_time_is_real_while_a_payload_is_fetched(settings: AthomicSettings, caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    checked = PayloadPipeline([ClaimCheck(SlowStore(), threshold=0)])
    athomic = include_athomic(app, settings, topic_payloads={"steps": checked})

    @athomic.ordered_consumer(
        "steps", group_id="g", handler_id="steps", aggregate_key_field="order", sequence_id_field="number"
    )
    async def steps(step: Step) -> None: ...

    with TestKit(app) as kit:
        kit.publish("steps", Step(order="a", number=1))
        kit.drain(SOON)
        assert [each.outcome for each in kit.handled(steps)] == ["completed"]
    assert "does not answer" not in caplog.text


def test_a_health_check_has_its_real_time_while_delays_are_skipped(settings: AthomicSettings) -> None:
    begun, answered, cut_short = threading.Event(), threading.Event(), list[str]()

    async def check() -> None:
        begun.set()
        try:
            await asyncio.to_thread(answered.wait, SOON)
        except asyncio.CancelledError:
            cut_short.append("by its timeout")
            raise

    @subscribe_to("t", group_id="g", handler_id="h", retry=LATER)
    async def handle(message: str) -> None: ...

    app = FastAPI()
    include_athomic(app, settings, handlers=[handle], health_checks={"database": check})
    with TestKit(app) as kit:
        assert begun.wait(SOON)
        kit.fail(handle, times=3)
        kit.publish("t", "x")
        try:
            kit.drain()  # skips 670 seconds
            assert cut_short == []
        finally:
            answered.set()

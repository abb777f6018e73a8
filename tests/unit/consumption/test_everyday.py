"""What a quiet consumer and a trickled message cost, counted in turns of the event loop: the same on every machine.

Everything that the loop runs counts (steps of tasks, timers), on `memory://` and a clock of its own. What the app does
once for all handlers does not: the figures are the difference between many handlers and few. If something has become
quieter, lower its bound.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from random import Random
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, subscribe_to
from fastapi_athomic.bell import LONG
from fastapi_athomic.consumption.session import POLL_SECONDS, ConsumerSession
from fastapi_athomic.loop.load import ThreadLoad
from fastapi_athomic.observation.rates import LOOK_SECONDS, SAMPLE_SECONDS, RateMeter
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from tests.support.apps import new_app, running
from tests.support.interleaving import run_shuffled

FEW, MANY = 4, 10
"""Handlers."""
MINUTE = 60.0
TOLERANCE = 1.05
"""As in test_hot_path.py."""
WARM_UP, MESSAGES = 10, 40
"""To each handler. During the first ones each hears how many others there are."""
AT_ONCE = 0.001
"""Seconds: each turn of the loop takes a few microseconds."""
PACE = 0.02
"""Seconds between two messages to one handler."""


@pytest.fixture(autouse=True)
def idle_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """How busy this machine is makes no difference."""
    monkeypatch.setattr(ThreadLoad, "share", lambda _: 0.0)


def app_of(handlers: int) -> Athomic:
    def handler(number: int) -> object:
        async def handle(message: str) -> None: ...

        return subscribe_to(f"t{number}", group_id=f"g{number}", handler_id=f"h{number}")(handle)

    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}")
    return new_app(settings, *map(handler, range(handlers)))  # type: ignore[arg-type]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts what happens inside of the `with` block."""
    counts = Counter[str]()
    run, poll = asyncio.Handle._run, ConsumerSession._poll
    take, commit = MemoryConsumer.take, MemoryConsumer.commit

    def run_counted(handle: asyncio.Handle) -> None:
        counts["turns"] += 1
        run(handle)

    def counting(what: str, function: object) -> object:
        def call(*arguments: object) -> object:
            counts[what] += 1
            return function(*arguments)  # type: ignore[operator]

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", run_counted)
        patch.setattr(ConsumerSession, "_poll", counting("polls", poll))
        patch.setattr(MemoryConsumer, "take", counting("takes", take))
        patch.setattr(MemoryConsumer, "commit", counting("commits", commit))
        yield counts


def per_handler(few: Counter[str], many: Counter[str]) -> dict[str, float]:
    return {what: (many[what] - few[what]) / (MANY - FEW) for what in many}


async def idle_minute(handlers: int) -> Counter[str]:
    async with running(app_of(handlers)):
        await asyncio.sleep(MINUTE)
        with counted() as counts:
            await asyncio.sleep(MINUTE)
    return counts


async def trickle(handlers: int) -> Counter[str]:
    """One message to each handler, and again, and so on, each time to the next one a little later."""
    athomic = app_of(handlers)

    async def publish(rounds: int) -> None:
        for _ in range(rounds):
            for number in range(handlers):
                await athomic.publish(f"t{number}", "m")
                await asyncio.sleep(PACE / handlers)

    async with running(athomic):
        await asyncio.sleep(MINUTE)
        await publish(WARM_UP)
        with counted() as counts:
            await publish(MESSAGES)
            await asyncio.sleep(PACE * 10)
        assert sum(consumer.counters.processed for consumer in athomic.consumers()) == handlers * (WARM_UP + MESSAGES)
    return counts


def check(what: str, count: float, bound: float) -> None:
    assert count <= bound * TOLERANCE, f"{count:.2f} {what}, {bound} are allowed: it has become less quiet"
    assert count >= bound / TOLERANCE, f"{count:.2f} {what}: lower the bound of {bound}"


def test_an_idle_minute() -> None:
    few, many = (run_shuffled(idle_minute(handlers), Random(1)) for handlers in (FEW, MANY))
    counts = per_handler(few, many)
    check("polls", counts["polls"], 30)
    check("looks for messages", counts["takes"], 30)
    check("turns of the loop", counts["turns"], 75)
    assert not many["commits"]


async def moments_of_polls() -> list[float]:
    """When polls begin in an idle minute, though each handler became quiet at another time."""
    athomic, loop, moments = app_of(MANY), asyncio.get_running_loop(), list[float]()
    poll = ConsumerSession._poll

    async def noted(session: ConsumerSession) -> int:
        moments.append(loop.time())
        return await poll(session)

    async with running(athomic):
        for number in range(MANY):
            await athomic.publish(f"t{number}", "m")
            await asyncio.sleep(0.137)
        await asyncio.sleep(MINUTE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ConsumerSession, "_poll", noted)
            await asyncio.sleep(MINUTE)
    return moments


def test_quiet_consumers_wake_together() -> None:
    moments = run_shuffled(moments_of_polls(), Random(1))
    assert len(moments) >= MANY * MINUTE / (POLL_SECONDS + LONG)
    apart = [later - moment for moment, later in pairwise(moments) if later - moment > AT_ONCE]
    assert len(apart) <= MINUTE / LONG


def test_whether_samples_of_rates_are_due_is_not_asked_at_each_turn() -> None:
    """The loop's lag is measured 20 times a second: with many handlers that would be most of what an idle app does."""
    asked = Counter[RateMeter]()
    sample = RateMeter.sample

    def noted(meter: RateMeter) -> None:
        asked[meter] += 1
        sample(meter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RateMeter, "sample", noted)
        run_shuffled(idle_minute(FEW), Random(1))
    assert len(asked) == FEW
    assert all(2 * MINUTE / SAMPLE_SECONDS <= times <= 2 * MINUTE / LOOK_SECONDS for times in asked.values())


def test_a_trickled_message() -> None:
    few, many = (run_shuffled(trickle(handlers), Random(1)) for handlers in (FEW, MANY))
    counts = {what: count / MESSAGES for what, count in per_handler(few, many).items()}
    assert "polls" not in counts
    check("looks for messages", counts["takes"], 1.0)
    check("commits of all together", many["commits"] / (MANY * MESSAGES), 0.225)
    check("turns of the loop", counts["turns"], 3.95)

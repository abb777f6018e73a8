"""Readiness answers for this instance's own faults. The clock is moved, nobody waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, subscribe_to
from fastapi_athomic.observation.status import ConsumerHealth
from tests.support.apps import SECONDS, Gate, Record, eventually, new_app, owned, running
from tests.support.clock import set_clock

Shift = Callable[[float], None]


@pytest.fixture
def shift(monkeypatch: pytest.MonkeyPatch) -> Shift:
    """Moves the clock of consumers and their sessions by so many seconds."""

    def move(seconds: float) -> None:
        set_clock(monkeypatch, lambda: time.monotonic() + seconds, "consumption.service", "consumption.session")

    return move


def health_of(athomic: Athomic) -> ConsumerHealth:
    report = athomic.health()
    assert report is not None
    return report.consumers["h"]


async def seen_by(athomic: Athomic, shift: Shift, seconds: float) -> ConsumerHealth:
    """Its health when the clock has moved on, and it has polled since."""
    shift(seconds)
    session: Any = athomic.manager().consumers["h"]._session  # type: ignore[union-attr]
    await eventually(lambda: session.polled_at > time.monotonic() + seconds - 1)
    return health_of(athomic)


def ready(athomic: Athomic) -> bool:
    manager = athomic.manager()
    assert manager is not None
    return manager.ready


def member(name: str, begun: Record, gate: Gate, **settings: Any) -> Athomic:
    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None:
        begun.note(message)
        await gate.wait()

    return new_app(AthomicSettings(broker_url=f"memory://{name}", memory={"partitions": 4}, **settings), handle)  # type: ignore[arg-type]


async def test_p13_fault_16_a_rebalance_that_takes_long_is_no_fault_of_those_who_wait(shift: Shift) -> None:
    begun, gate = Record(), Gate()
    name = uuid4().hex
    busy, idle, newcomer = (member(name, begun, gate) for _ in range(3))
    async with running(busy):
        await busy.publish("t", "slow", partition=0)
        await begun.count(1)
        async with idle.app.router.lifespan_context(idle.app):  # it has to wait, and is not there yet
            assert (health_of(idle).status, ready(idle)) == ("starting", False)
            gate.set()
            await idle.wait_until_ready(SECONDS)
            gate.clear()
            await busy.publish("t", "slow", partition=0)
            await begun.count(2)
            slow, waits = (busy, idle) if 0 in owned(busy, "t") else (idle, busy)
            async with newcomer.app.router.lifespan_context(newcomer.app):
                await eventually(lambda: not waits.consumers()[0].assignment)
                assert health_of(waits).status == "healthy"
                health = await seen_by(waits, shift, 15)
                assert (health.status, ready(waits)) == ("degraded", True)
                assert "a rebalance of its group has been under way for" in health.reasons[0]
                assert (health_of(newcomer).status, ready(newcomer)) == ("starting", False)
                assert (await seen_by(slow, shift, 15)).status == "healthy", "it drains"
                health = await seen_by(waits, shift, 40)
                assert (health.status, ready(waits)) == ("degraded", True)
                health = await seen_by(waits, shift, 55)  # drain 20, requests 2 * 10, and a margin
                assert (health.status, ready(waits)) == ("unhealthy", False)
                assert "has been waiting for its partitions for" in health.reasons[0]
                gate.set()
                await newcomer.wait_until_ready(SECONDS)
                await eventually(lambda: health_of(waits).status == "healthy")


async def test_p13_fault_16_a_drain_longer_than_the_stall_timeout_is_progress(shift: Shift) -> None:
    begun, gate = Record(), Gate()
    name = uuid4().hex
    busy, newcomer = member(name, begun, gate), member(name, begun, gate)
    async with running(busy):
        await busy.publish("t", "slow", partition=0)
        await begun.count(1)
        session: Any = busy.manager().consumers["h"]._session  # type: ignore[union-attr]
        async with newcomer.app.router.lifespan_context(newcomer.app):
            await eventually(lambda: not any(state.open for state in session.states.values()))
            await busy.publish_many("t", ["more"] * 10)  # which it may not fetch
            health = await seen_by(busy, shift, 70)  # stall_timeout is 60
            assert "no progress" not in str(health)
            assert session.states, "it drains still"
            gate.set()
            await newcomer.wait_until_ready(SECONDS)
        assert busy.consumers()[0].restarts == 0


async def test_p13_fault_16_who_joins_waits_as_long_as_the_others_drain(shift: Shift) -> None:
    """To be built anew meanwhile would make the group begin again."""
    begun, gate = Record(), Gate()
    name, settings = uuid4().hex, {"drain_timeout": 100.0}
    busy, newcomer = member(name, begun, gate, **settings), member(name, begun, gate, **settings)
    async with running(busy):
        await busy.publish("t", "slow", partition=0)
        await begun.count(1)
        async with newcomer.app.router.lifespan_context(newcomer.app):
            session: Any = busy.manager().consumers["h"]._session  # type: ignore[union-attr]
            await eventually(lambda: not any(state.open for state in session.states.values()))
            assert (await seen_by(newcomer, shift, 110)).status == "starting"
            gate.set()
            await newcomer.wait_until_ready(SECONDS)
            assert newcomer.consumers()[0].restarts == 0


@pytest.mark.parametrize(
    ("options", "fine", "stuck"),
    [({}, 59, 61), ({"timeout": 300}, 305, 311), ({"timeout": 10}, 59, 61), ({"batch_size": 1, "timeout": 75}, 84, 86)],
)
async def test_p13_fault_16_a_handler_within_its_own_timeout_is_not_stuck(
    shift: Shift, options: dict[str, Any], fine: float, stuck: float
) -> None:
    begun, gate = Record(), Gate()

    @subscribe_to("t", group_id="g", handler_id="h", target_type=str, **options)
    async def handle(given: Any) -> None:
        begun.note(given)
        await gate.wait()

    athomic = new_app(AthomicSettings(), handle)
    async with running(athomic):
        await athomic.publish("t", "slow")
        await begun.count(1)
        health = await seen_by(athomic, shift, fine)
        assert (health.status, ready(athomic)) == ("healthy", True)
        health = await seen_by(athomic, shift, stuck)
        assert (health.status, ready(athomic)) == ("unhealthy", False)
        assert "a message has been in the handler for" in health.reasons[0]
        gate.set()
        await eventually(lambda: health_of(athomic).status == "healthy")

"""Readiness answers for this instance's own faults. The clock is moved, nobody waits."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, subscribe_to
from fastapi_athomic.observation.health import ConsumerFacts, judge
from fastapi_athomic.observation.reasons import Reason, ReasonCode
from fastapi_athomic.observation.status import ConsumerHealth
from fastapi_athomic.subscriptions import Subscription
from tests.support.apps import SECONDS, Gate, Record, eventually, new_app, owned, running, sentences
from tests.support.clock import SESSION, set_clock

Shift = Callable[[float], None]


@pytest.fixture
def shift(monkeypatch: pytest.MonkeyPatch) -> Shift:
    """Moves the clock of consumers and their sessions by so many seconds."""

    def move(seconds: float) -> None:
        set_clock(monkeypatch, lambda: time.monotonic() + seconds, "consumption.account", *SESSION)

    return move


def health_of(athomic: Athomic) -> ConsumerHealth:
    report = athomic.health()
    assert report is not None
    return report.consumers["h"]


async def seen_by(athomic: Athomic, shift: Shift, seconds: float) -> ConsumerHealth:
    """Its health when the clock has moved on, and it has polled since."""
    shift(seconds)
    session: Any = athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
    session._bell.ring()
    await eventually(lambda: session.polled_at > time.monotonic() + seconds - 1)
    return health_of(athomic)


def consumes(athomic: Athomic) -> bool:
    manager = athomic.manager()
    assert manager is not None
    return manager.consumes


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
            assert (health_of(idle).status, consumes(idle)) == ("starting", False)
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
                assert (health.status, consumes(waits)) == ("degraded", True)
                assert "a rebalance of its group has been under way for" in sentences(health)[0]
                assert (health_of(newcomer).status, consumes(newcomer)) == ("starting", False)
                assert (await seen_by(slow, shift, 15)).status == "healthy", "it drains"
                health = await seen_by(waits, shift, 40)
                assert (health.status, consumes(waits)) == ("degraded", True)
                health = await seen_by(waits, shift, 55)  # drain 20, requests 2 * 10, and a margin
                assert (health.status, consumes(waits)) == ("unhealthy", False)
                assert "has been waiting for its partitions for" in sentences(health)[0]
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
        session: Any = busy.manager().consumers["h"].life.session  # type: ignore[union-attr]
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
            session: Any = busy.manager().consumers["h"].life.session  # type: ignore[union-attr]
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
        assert (health.status, consumes(athomic)) == ("healthy", True)
        health = await seen_by(athomic, shift, stuck)
        assert (health.status, consumes(athomic)) == ("unhealthy", False)
        assert "a message has been in the handler for" in sentences(health)[0]
        gate.set()
        await eventually(lambda: health_of(athomic).status == "healthy")


NOW = datetime(2026, 11, 28, tzinfo=UTC)
UNWRITABLE = Reason(code=ReasonCode.DEAD_LETTER_UNWRITABLE, message="t[1] waits: no room")
COMMIT = Reason(code=ReasonCode.COMMIT_FAILING, message="no commit")
FULL = Reason(code=ReasonCode.WAITING_ROOM_FULL, message="no room")
SETTINGS = AthomicSettings(stall_timeout=60, stuck_after=60)
BY_NAME = Subscription(topics=("t", "u"), pattern=None, group_id="g", handler_id="h")
BY_PATTERN = Subscription(topics=(), pattern=re.compile("t.*"), group_id="g", handler_id="h")
SLOW = Subscription(topics=("t",), pattern=None, group_id="g", handler_id="h", timeout=300.0)


def facts(**changed: Any) -> ConsumerFacts:
    """Of a consumer that nothing is wrong with, but for what was changed."""
    sound: dict[str, Any] = {
        "now": NOW,
        "since_poll": 0.1,
        "since_progress": 0.1,
        "without_partitions": 0.0,
        "longest_rebalance": 50.0,
        "in_handler": 0.0,
        "in_queue": 0.0,
        "full": {},
        "in_doubt": 0.0,
        "cut_off": False,
        "evicted": 0.0,
        "restarts": 0,
        "since_restarts": 0.0,
        "restart_error": None,
        "absent_since": {},
        "since_blocking": float("inf"),
        "blocked_for": 0.0,
        "unwritable": [],
        "problems": [],
        "sequence_problems": [],
        "topics": None,
    }
    return ConsumerFacts(**sound | changed)


@pytest.mark.parametrize(
    ("subscription", "changed", "status", "reasons"),
    [
        (BY_NAME, {}, "healthy", []),
        (BY_NAME, {"since_poll": 12.0}, "unhealthy", ["has not polled for 12 s"]),
        (BY_NAME, {"since_progress": 30.0}, "healthy", []),
        (
            BY_NAME,
            {"since_progress": 31.0},
            "unhealthy",
            ["no progress for 31 s although there is something to consume"],
        ),
        (BY_NAME, {"in_handler": 60.0}, "healthy", []),
        (BY_NAME, {"in_handler": 61.0}, "unhealthy", ["a message has been in the handler for 61 s"]),
        (SLOW, {"in_handler": 310.0}, "healthy", []),
        (SLOW, {"in_handler": 311.0}, "unhealthy", ["a message has been in the handler for 311 s"]),
        (BY_NAME, {"without_partitions": 10.0}, "healthy", []),
        (
            BY_NAME,
            {"without_partitions": 50.0},
            "degraded",
            ["a rebalance of its group has been under way for 50 s: other members still drain"],
        ),
        (BY_NAME, {"without_partitions": 51.0}, "unhealthy", ["has been waiting for its partitions for 51 s"]),
        (
            BY_NAME,
            {"since_blocking": 29.0, "blocked_for": 1.25},
            "degraded",
            ["blocked the event loop for 1.2 s"],
        ),
        (BY_NAME, {"since_blocking": 30.0, "blocked_for": 1.25}, "healthy", []),
        (BY_NAME, {"unwritable": [UNWRITABLE]}, "degraded", ["t[1] waits: no room"]),
        (BY_NAME, {"topics": {"t": object(), "u": object()}}, "healthy", []),
        (
            BY_NAME,
            {"topics": {"t": None, "u": object()}},
            "degraded",
            ["topic t does not exist (any more): until it does, nothing is consumed"],
        ),
        (BY_PATTERN, {"topics": {"t1": object()}}, "healthy", []),
        (BY_PATTERN, {"topics": {}}, "degraded", ["no topic matches the pattern t.*: nothing is consumed"]),
        (
            BY_NAME,
            {"since_poll": 12.0, "sequence_problems": [FULL], "problems": [COMMIT]},
            "unhealthy",
            ["has not polled for 12 s", "no commit", "no room"],
        ),
    ],
)
def test_p13_health_follows_from_facts(
    subscription: Subscription, changed: dict[str, Any], status: str, reasons: list[str]
) -> None:
    health = judge(facts(**changed), subscription, SETTINGS)
    assert (health.status, sentences(health)) == (status, reasons)

"""Causes for which something is not healthy: whether they are told, by the right probe, and no longer afterwards."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TypeVar

import pytest
from httpx import ASGITransport, AsyncClient, Response

from fastapi_athomic import Athomic, AthomicSettings, subscribe_to
from fastapi_athomic.manager import ConsumerManager
from fastapi_athomic.observation.meanings import MEANINGS, Part, keeps_from_being_ready, keeps_from_living
from fastapi_athomic.observation.reasons import Reason, ReasonCode
from fastapi_athomic.observation.status import SEVERITY, HealthReport, HealthStatus
from fastapi_athomic.operation_settings import HealthSettings
from tests.support.apps import SECONDS, eventually

C = ReasonCode
F = TypeVar("F", bound=Callable[..., Any])
OF_THE_APP = frozenset(
    {
        *(C.NOT_STARTED, C.START_FAILED, C.CONSUMER_LOOP_ENDED, C.CONSUMER_LOOP_STALLED, C.CONSUMER_LOOP_BLOCKED),
        *(C.EVENT_LOOP_LATE, C.BROKER_CONNECTING, C.BROKER_UNREACHABLE, C.REGISTRY_UNREACHABLE),
        *(C.CHECK_PENDING, C.CHECK_FAILED),
    }
)
"""Told of the process; all others are told of a consumer."""
THE_APP = ""
came, gone = set[ReasonCode](), set[ReasonCode]()
"""What the test that runs has seen come, and go afterwards."""


def provokes(*codes: ReasonCode) -> Callable[[F], F]:
    """Marks a test that provokes these causes, and sees them go: it fails if it has not.

    test_meanings.py looks for it, and takes from the fixtures of the test on which broker that is.
    """
    assert codes

    def mark(test: F) -> F:
        @functools.wraps(test)
        async def provoking(*arguments: Any, **fixtures: Any) -> None:
            came.clear()
            gone.clear()
            await test(*arguments, **fixtures)
            assert (set(codes) - came, set(codes) - gone) == (set(), set()), "it has not seen these come, go"

        return provoking  # type: ignore[return-value]

    return mark


def shorten_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consumers and the broker's connection look around often."""
    monkeypatch.setattr("fastapi_athomic.broker.PING_INTERVAL", 0.02)
    monkeypatch.setattr("fastapi_athomic.consumption.placement.TOPICS_SECONDS", 0.02)
    monkeypatch.setattr("fastapi_athomic.failures.topic_watch.FOLLOW_SECONDS", 0.02)
    monkeypatch.setattr("fastapi_athomic.consumption.session.POLL_SECONDS", 0.01)


def settings(health: dict[str, Any] | None = None, **options: Any) -> AthomicSettings:
    usual: dict[str, Any] = {"restart_backoff": 0.01, "restart_backoff_max": 0.01, "memory": {"partitions": 1}}
    return AthomicSettings(**(usual | options), health=HealthSettings(**(health or {})))


def session_of(athomic: Athomic) -> Any:
    return manager_of(athomic).consumers["h"].life.session


def stand_still(session: Any) -> None:
    """As if the process had stood still for so long that the session may have lost its membership."""
    assignment = session._assignment
    assignment.away_limit = min(assignment.away_limit, 60.0)  # members of `memory://` have none
    assignment.polled_at = assignment.trusted_until = monotonic() - assignment.away_limit - 1.0


def broker_of(athomic: Athomic) -> Any:
    return athomic._transport.broker  # type: ignore[attr-defined]


def handler(act: Callable[[str], Any] | None = None, **options: Any) -> Callable[..., Any]:
    """Of topic t; `act` gets each message first, and may be async."""

    @subscribe_to("t", group_id="g", handler_id="h", **options)
    async def handle(message: str) -> None:
        if act is not None and asyncio.iscoroutine(done := act(message)):
            await done

    return handle


def manager_of(athomic: Athomic) -> ConsumerManager:
    manager = athomic.manager()
    assert manager is not None, "it does not run"
    return manager


CHOICES = [part for part in Part if part not in (Part.LIFE, Part.NONE)]


def told(athomic: Athomic) -> dict[ReasonCode, Reason]:
    """All that health says now, of the app and of its consumers."""
    report = manager_of(athomic).health()
    reasons = [*report.reasons, *(reason for health in report.consumers.values() for reason in health.reasons)]
    return {reason.code: reason for reason in reasons}


def not_ready(athomic: Athomic, report: HealthReport, part: Part) -> list[ReasonCode]:
    """What readiness would say if only this part counted."""
    reached = manager_of(athomic)._broker.reached_since
    return keeps_from_being_ready(report, [part.value], now=datetime.now(UTC), broker_reached=reached)


async def comes(
    athomic: Athomic, code: ReasonCode, seconds: float = SECONDS, *, of: Collection[str] = ("h",)
) -> Reason:
    """Returns when health tells it, of the app or of exactly the consumers `of`.

    Each probe says what docs/operations.md says of it, for each choice of parts; the routes for the app's own choice.
    """
    owners = {THE_APP} if code in OF_THE_APP else {*of}

    async def is_told_right() -> bool:
        told_of_them = tellers(athomic, code) == owners
        return told_of_them and fails_as_it_should(athomic, code) and await is_answered(athomic, code)

    await eventually(lambda: code in told(athomic), seconds)
    await _until(athomic, is_told_right, seconds)
    came.add(code)
    return told(athomic)[code]


async def goes(athomic: Athomic, code: ReasonCode, seconds: float = SECONDS) -> None:
    """Returns when health tells it no more, and both probes are fine."""

    async def are_fine() -> bool:
        said = [(await answer(athomic, probe)).json() for probe in ("live", "ready")]
        return said == [{"ok": True}] * 2

    await eventually(lambda: code not in told(athomic), seconds)
    await _until(athomic, are_fine, seconds)
    gone.add(code)


async def _until(athomic: Athomic, holds: Callable[[], Awaitable[bool]], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await holds():  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"it says {manager_of(athomic).health()}") from None


def tellers(athomic: Athomic, code: ReasonCode) -> set[str]:
    """Of what it is told: the app, and ids of consumers."""
    report = manager_of(athomic).health()
    reasons = {THE_APP: report.reasons} | {name: health.reasons for name, health in report.consumers.items()}
    return {name for name, of_it in reasons.items() if code in {reason.code for reason in of_it}}


def fails_as_it_should(athomic: Athomic, code: ReasonCode) -> bool:
    """Each probe says what it should of this code, for each choice of parts."""
    meaning, report = MEANINGS[code], manager_of(athomic).health()
    right = (code in keeps_from_living(report)) is (meaning.part is Part.LIFE)
    counted = {part for part in CHOICES if code in not_ready(athomic, report, part)}
    wanted = {*CHOICES} if meaning.part is Part.LIFE else {meaning.part} - {Part.NONE}
    bad_enough = SEVERITY.index(report.status) >= SEVERITY.index(meaning.status)
    return right and counted == wanted and (bad_enough or report.status is HealthStatus.STARTING)


async def is_answered(athomic: Athomic, code: ReasonCode) -> bool:
    """The routes of both probes name this code if it fails them, and answer 503 then."""
    live, ready = await answer(athomic, "live"), await answer(athomic, "ready")
    part, includes = MEANINGS[code].part, athomic.settings.ready_includes
    return names(live, code) is (part is Part.LIFE) and names(ready, code) is (part is Part.LIFE or part in includes)


async def answer(athomic: Athomic, probe: str) -> Response:
    """What a route of health says: `live`, `ready`, `startup`."""
    async with AsyncClient(transport=ASGITransport(athomic.app), base_url="http://app") as http:
        return await http.get(f"/consumers/health/{probe}")


def names(said: Response, code: ReasonCode) -> bool:
    codes = said.json().get("codes", [])
    assert said.status_code == (503 if codes else 200), said.text
    return code in codes

"""Causes for which something is not healthy: whether they are told, by the right probe, and no longer afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from fastapi_athomic import Athomic, AthomicSettings, subscribe_to
from fastapi_athomic.manager import ConsumerManager
from fastapi_athomic.observation.meanings import MEANINGS, Part, keeps_from_being_ready, keeps_from_living
from fastapi_athomic.observation.reasons import Reason, ReasonCode
from fastapi_athomic.observation.status import SEVERITY, HealthReport, HealthStatus
from fastapi_athomic.operation_settings import HealthSettings
from tests.support.apps import SECONDS, eventually

F = TypeVar("F", bound=Callable[..., object])


def provokes(*codes: ReasonCode) -> Callable[[F], F]:
    """Marks a test that provokes these causes, and sees them go. test_meanings.py looks for it."""
    assert codes
    return lambda test: test


def shorten_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consumers and the broker's connection look around often."""
    monkeypatch.setattr("fastapi_athomic.broker.PING_INTERVAL", 0.02)
    monkeypatch.setattr("fastapi_athomic.consumption.placement.TOPICS_SECONDS", 0.02)
    monkeypatch.setattr("fastapi_athomic.consumption.session.POLL_SECONDS", 0.01)


def settings(health: dict[str, Any] | None = None, **options: Any) -> AthomicSettings:
    usual: dict[str, Any] = {"restart_backoff": 0.01, "restart_backoff_max": 0.01, "memory": {"partitions": 1}}
    return AthomicSettings(**(usual | options), health=HealthSettings(**(health or {})))


def session_of(athomic: Athomic) -> Any:
    return manager_of(athomic).consumers["h"].life.session


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


def told(athomic: Athomic) -> dict[ReasonCode, Reason]:
    """All that health says now, of the app and of its consumers."""
    report = manager_of(athomic).health()
    reasons = [*report.reasons, *(reason for health in report.consumers.values() for reason in health.reasons)]
    return {reason.code: reason for reason in reasons}


def not_ready(athomic: Athomic, report: HealthReport, part: Part) -> list[ReasonCode]:
    """What readiness would say if only this part counted."""
    reached = manager_of(athomic)._broker.reached_since
    return keeps_from_being_ready(report, [part.value], now=datetime.now(UTC), broker_reached=reached)


async def comes(athomic: Athomic, code: ReasonCode, seconds: float = SECONDS) -> Reason:
    """Returns when health tells it. Each probe says what docs/operations.md says of it, for each choice of parts."""
    meaning, manager = MEANINGS[code], manager_of(athomic)
    choices = [part for part in Part if part not in (Part.LIFE, Part.NONE)]

    def is_told_right() -> bool:
        report, reason = manager.health(), told(athomic).get(code)
        if reason is None:
            return False
        right = (code in keeps_from_living(report)) is (meaning.part is Part.LIFE)
        counted = {part for part in choices if code in not_ready(athomic, report, part)}
        wanted = {*choices} if meaning.part is Part.LIFE else {meaning.part} - {Part.NONE}
        bad_enough = SEVERITY.index(report.status) >= SEVERITY.index(meaning.status)
        return right and counted == wanted and (bad_enough or report.status is HealthStatus.STARTING)

    await eventually(lambda: code in told(athomic), seconds)
    await eventually(is_told_right, seconds)
    return told(athomic)[code]


async def goes(athomic: Athomic, code: ReasonCode, seconds: float = SECONDS) -> None:
    """Returns when health tells it no more, and both probes are fine."""
    manager = manager_of(athomic)
    await eventually(lambda: code not in told(athomic), seconds)
    await eventually(lambda: not manager.why_not_live() and not manager.why_not_ready(), seconds)

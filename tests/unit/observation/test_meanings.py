"""docs/operations.md has a row for each code, which says what the package does, and a test provokes each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi.routing import APIRoute
from starlette.responses import Response

from fastapi_athomic import AthomicSettings, subscribe_to
from fastapi_athomic.observation.meanings import MEANINGS, Part, keeps_from_being_ready
from fastapi_athomic.observation.process import this_process
from fastapi_athomic.observation.reasons import Reason, ReasonCode
from fastapi_athomic.observation.status import HealthReport, HealthStatus
from fastapi_athomic.operation_settings import HealthSettings
from fastapi_athomic.transports.memory.transport import MemoryTransport
from fastapi_athomic.web.control_parts import ControlOptions
from fastapi_athomic.web.routes import RouteOptions, RouteParts, new_routers
from fastapi_athomic.web.streams import Streams
from tests.support.apps import eventually, new_app, running
from tests.support.causes import came, gone, manager_of, provokes
from tests.support.sources import parsed

ROOT = Path(__file__).parents[3]


class Row(NamedTuple):
    cause: str
    status: str
    fails: str
    setting: str
    what_to_do: str


def rows() -> dict[str, Row]:
    table = (ROOT / "docs" / "operations.md").read_text().partition("\n## Causes\n")[2].partition("\n## ")[0]
    found = {}
    for line in table.splitlines():
        if line.startswith("| `"):
            code, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            found[code.strip("`")] = Row(*cells)
    return found


def test_p13_every_code_has_a_row_that_says_what_it_does() -> None:
    said = {code: (row.status, row.fails, row.setting) for code, row in rows().items()}
    assert said == {
        code.value: (meaning.status.value, fails(code), setting(code)) for code, meaning in MEANINGS.items()
    }
    assert all(row.cause and row.what_to_do for row in rows().values())
    assert {code.value for code in ReasonCode} == said.keys(), "and no others"


def fails(code: ReasonCode) -> str:
    part = MEANINGS[code].part
    if code is ReasonCode.NOT_STARTED:
        return "`ready`, `startup`"
    return {Part.LIFE: "`live`, `ready`", Part.NONE: ""}.get(part, f"`ready`, if it includes `{part}`")


def setting(code: ReasonCode) -> str:
    limit = MEANINGS[code].limit
    return f"`{limit}`" if limit is not None else ""


def test_the_settings_in_the_table_exist() -> None:
    for meaning in MEANINGS.values():
        place: Any = AthomicSettings()
        for name in (meaning.limit or "").split(".") if meaning.limit else ():
            place = getattr(place, name)


ON_KAFKA = {"ground", "apache_kafka", "mortal_kafka", "awake", "secure_kafka"}
"""Fixtures of tests that run on Apache Kafka; `ground` is `memory://`, too."""
ON_MEMORY_ONLY: dict[ReasonCode, str] = {}
"""Causes in which Apache Kafka can play no part, with the reason. There are none."""


def test_p13_every_code_is_provoked_by_a_test_on_memory_and_on_apache_kafka() -> None:
    found = [each for path in (ROOT / "tests").rglob("test_*.py") for each in provoked(path)]
    assert {code for code, fixtures in found if not fixtures & (ON_KAFKA - {"ground"})} == set(ReasonCode)
    on_kafka = {code for code, fixtures in found if fixtures & ON_KAFKA}
    assert on_kafka == set(ReasonCode) - ON_MEMORY_ONLY.keys()
    assert all(ON_MEMORY_ONLY.values())


def provoked(path: Path) -> Iterator[tuple[ReasonCode, set[str]]]:
    """What `@provokes(C.STARTING, ...)` names above the tests of a file, with the fixtures of each."""
    if "@provokes(" not in (text := path.read_text()):
        return
    for node in ast.walk(parsed(text)):
        for mark in getattr(node, "decorator_list", ()):
            if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "provokes":
                assert isinstance(node, ast.AsyncFunctionDef)
                assert re.match("test_p13_", node.name), f"{path.name}: {node.name} proves P13"
                fixtures = {argument.arg for argument in node.args.args}
                yield from ((ReasonCode[code.attr], fixtures) for code in mark.args if isinstance(code, ast.Attribute))


@pytest.mark.parametrize("seen", ["nothing", "come", "come and go"])
async def test_p13_a_test_that_has_not_seen_its_cause_come_and_go_fails(seen: str) -> None:
    async def test() -> None:
        if seen != "nothing":
            came.add(ReasonCode.STARTING)
        if seen == "come and go":
            gone.add(ReasonCode.STARTING)

    with nullcontext() if seen == "come and go" else pytest.raises(AssertionError, match="has not seen"):
        await provokes(ReasonCode.STARTING)(test)()


# --- readiness

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def report(*reasons: Reason) -> HealthReport:
    return HealthReport(status=HealthStatus.UNHEALTHY, process=this_process("i"), consumers={}, reasons=list(reasons))


@pytest.mark.parametrize(
    ("since", "reached", "counts"),
    [
        (100, 200, True),
        (60, 60, True),
        (59, 200, False),
        (100, 59, False),
        (100, None, False),
    ],
)
def test_a_fault_counts_when_it_has_lasted_for_its_limit_with_a_broker_that_answers(
    since: float, reached: float | None, counts: bool
) -> None:
    began, answers = NOW - timedelta(seconds=since), None if reached is None else NOW - timedelta(seconds=reached)
    stuck = Reason(code=ReasonCode.HANDLER_STUCK, message="", since=began, limit_seconds=60.0)
    found = keeps_from_being_ready(report(stuck), ["faults"], now=NOW, broker_reached=answers)
    assert found == ([ReasonCode.HANDLER_STUCK] if counts else [])
    assert keeps_from_being_ready(report(stuck), [], now=NOW, broker_reached=answers) == []


def test_what_counts_is_the_operators_choice_and_the_roles() -> None:
    assert AthomicSettings().ready_includes == ("faults", "checks")
    assert AthomicSettings(role="worker").ready_includes == ("faults", "checks", "consumers")
    assert AthomicSettings(role="worker", health=HealthSettings(ready_includes=())).ready_includes == ()


def test_the_choice_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHOMIC_HEALTH__READY_INCLUDES", "faults,broker")
    assert AthomicSettings().ready_includes == ("faults", "broker")
    monkeypatch.setenv("ATHOMIC_HEALTH__READY_INCLUDES", "[]")
    assert AthomicSettings().ready_includes == ()


# --- nobody waits


async def test_p13_health_and_probes_await_nothing_and_ask_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a broker that is away. A coroutine that has nothing to wait for ends with its first step."""

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    athomic = new_app(AthomicSettings(), handle)
    monkeypatch.setattr("fastapi_athomic.broker.PING_INTERVAL", 0.02)
    parts = RouteParts(
        manager=athomic.manager,
        lag=athomic.loop_lag,
        settings=athomic.settings,
        group_status=athomic.group_status,
        streams=Streams(athomic.settings, athomic.manager, athomic.group_status),
        requests=athomic.requests,
        steering=athomic,
        letters=athomic.dead_letters,
        asyncapi=athomic.asyncapi,
    )
    options = RouteOptions(
        prefix="/consumers", dependencies=(), probe_dependencies=None, include_in_schema=True, control=ControlOptions()
    )
    every = [route for router in new_routers(parts, options) for route in router.routes]
    routes = {route.path: route.endpoint for route in every if isinstance(route, APIRoute)}
    paths = [f"/consumers/health{probe}" for probe in ("", "/live", "/ready", "/startup")]
    assert routes.keys() >= set(paths)
    async with running(athomic):
        athomic._transport.broker.disconnect()  # type: ignore[attr-defined]
        await eventually(lambda: manager_of(athomic).broker_error is not None)
        called: list[str] = []
        for name in ("ping", "bounds", "partition_counts", "read"):
            monkeypatch.setattr(MemoryTransport, name, lambda *_, name=name: called.append(name))
        for path in paths:
            answer = routes[path](response=Response())
            with pytest.raises(StopIteration) as stopped:
                answer.send(None)
            assert stopped.value.value is not None
        assert called == []

"""The app's own checks: in the background, with a limit, never in a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_athomic import Athomic, AthomicSettings, ConfigurationError, include_athomic
from fastapi_athomic.observation.app_checks import AppChecks
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.operation_settings import HealthSettings
from tests.support.apps import Record, eventually, running
from tests.support.causes import comes, goes, manager_of, provokes, told

C = ReasonCode


def new_app(check: Callable[[], object], limits: dict[str, Any] | None = None, **settings: Any) -> Athomic:
    usual: dict[str, Any] = {"check_interval": 0.01, "check_idle_interval": 0.05}
    health = HealthSettings(**(usual | (limits or {})))
    return include_athomic(FastAPI(), AthomicSettings(health=health, **settings), health_checks={"database": check})


class Database:
    """Its checks fail while `error` is set."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.answer: object = None
        self.asked = Record()

    def check(self) -> object:
        self.asked.note(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        return self.answer

    async def check_async(self) -> object:
        await asyncio.sleep(0)
        return self.check()

    def check_later(self) -> object:
        return self.check_async()


@provokes(C.CHECK_FAILED)
@pytest.mark.parametrize("kind", ["check", "check_async", "check_later"])
async def test_p13_a_check_that_fails_takes_the_instance_out_until_it_does_not(kind: str) -> None:
    database = Database()
    athomic = new_app(getattr(database, kind))
    async with running(athomic):
        await goes(athomic, C.CHECK_PENDING)
        assert manager_of(athomic).health().checks["database"].ok
        database.error = RuntimeError("no connection")
        reason = await comes(athomic, C.CHECK_FAILED)
        assert reason.message == "check database fails: RuntimeError: no connection"
        assert manager_of(athomic).why_not_ready() == [C.CHECK_FAILED]
        status = manager_of(athomic).health().checks["database"]
        assert (status.ok, status.message) == (False, "RuntimeError: no connection")
        asked = len(database.asked.seen)
        await database.asked.count(asked + 2)
        assert told(athomic)[C.CHECK_FAILED].since == reason.since is not None, "since it failed first"
        await athomic.drain()  # what the app checks does not concern its consumers
        database.error = None
        await goes(athomic, C.CHECK_FAILED)
        database.answer = False
        assert (await comes(athomic, C.CHECK_FAILED)).message == "check database fails: it returned False"
    if kind == "check":
        assert set(database.asked.seen) == {"athomic-check-database"}, "a thread of its own"


async def test_a_sync_check_that_hangs_gets_no_second_thread_and_holds_nothing_up() -> None:
    begun, go_on = Record(), threading.Event()

    def check() -> None:
        begun.note("")
        go_on.wait(30)

    athomic = new_app(check, {"check_timeout": 0.05})
    try:
        async with running(athomic):
            await eventually(lambda: "the last call has not returned yet" in str(told(athomic)))
            assert len(begun.seen) == 1
            assert sum(each.name == "athomic-check-database" for each in threading.enumerate()) == 1
            go_on.set()
            await goes(athomic, C.CHECK_FAILED)
    finally:
        go_on.set()


async def test_the_app_closes_what_a_check_uses_when_the_check_has_given_it_back() -> None:
    asked, given_back = asyncio.Event(), asyncio.Event()
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        steps.append("closed")

    async def check() -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:  # as a connection is given back: it takes a while, in another thread
            asyncio.get_running_loop().call_later(0.3, given_back.set)
            await given_back.wait()
            steps.append("given back")

    athomic = include_athomic(FastAPI(lifespan=lifespan), health_checks={"database": check})
    async with running(athomic):
        await asked.wait()
    assert steps == ["given back", "closed"]


async def test_a_check_that_goes_on_when_it_is_cancelled_does_not_hold_up_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked, end = asyncio.Event(), asyncio.Event()

    async def check() -> None:
        asked.set()
        while not end.is_set():
            with suppress(asyncio.CancelledError):
                await end.wait()

    async with running(new_app(check, {"check_timeout": 0.2})):
        await asked.wait()
    assert "a health check of the app goes on although it was cancelled" in caplog.text
    end.set()


async def test_what_exceptions_say_is_shown_only_if_it_may_be_and_no_error_ends_the_checks() -> None:
    database = Database()
    athomic = new_app(database.check, expose_error_messages=False)
    async with running(athomic):
        for error in (RuntimeError("s3cret"), SystemExit("s3cret")):
            database.error = error
            reason = await comes(athomic, C.CHECK_FAILED)
            assert reason.message.startswith("check database fails: ")
            assert "s3cret" not in str(manager_of(athomic).health())
            database.error = None
            await goes(athomic, C.CHECK_FAILED)


async def test_a_request_runs_no_check_and_somebody_who_asks_has_them_run_sooner() -> None:
    database = Database()
    athomic = new_app(database.check_async, {"check_interval": 0.01, "check_idle_interval": 3600.0})
    async with running(athomic):
        await database.asked.count(1)
        asked = len(database.asked.seen)
        manager_of(athomic).health()
        assert len(database.asked.seen) == asked, "not in the call"
        await database.asked.count(asked + 3)


@pytest.mark.parametrize(("seldom", "runs"), [(3600.0, 1), (0.03, 3)])
async def test_checks_run_seldom_while_nobody_asks(seldom: float, runs: int) -> None:
    database = Database()
    checks = AppChecks({"db": database.check_async}, HealthSettings(check_interval=0.01, check_idle_interval=seldom))
    watching = asyncio.create_task(checks.watch())
    await database.asked.count(runs)
    await eventually(lambda: checks._asked._waiters)  # it waits for somebody to ask, longer than the short interval
    assert seldom < 1 or len(database.asked.seen) == runs
    watching.cancel()
    await asyncio.wait([watching])


def test_the_answers_of_checks_are_in_health_and_probes_without_details_for_all() -> None:
    app = FastAPI()
    database = Database()
    database.error = RuntimeError("no connection")
    settings = AthomicSettings(health=HealthSettings(check_interval=0.01))
    include_athomic(app, settings, health_checks={"database": database.check}, probe_dependencies=())
    with TestClient(app) as client:
        while (health := client.get("/consumers/health")).json()["checks"]["database"]["ok"] is None:
            pass
        assert health.status_code == 503
        assert health.json()["checks"]["database"]["message"] == "RuntimeError: no connection"
        assert health.json()["checks"]["database"]["age_seconds"] >= 0
        assert client.get("/consumers/health/ready").json() == {"ok": False}
        assert client.get("/consumers/health/live").json() == {"ok": True}


@pytest.mark.parametrize("checks", [["a"], {"a": 1}, {1: print}])
def test_what_are_no_checks(checks: Any) -> None:
    with pytest.raises(ConfigurationError, match="health_checks must be a dict of functions"):
        AppChecks(checks, HealthSettings())

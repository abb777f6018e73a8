"""When a circuit breaker opens, lets one through, and closes."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_athomic import CircuitBreaker
from fastapi_athomic.consumption.breaker import Breaker
from tests.support.clock import Clock, set_clock
from tests.unit.test_limits import failure


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    set_clock(monkeypatch, clock, "consumption.breaker")
    return clock


def new_breaker(**options: Any) -> Breaker:
    return Breaker("h", CircuitBreaker(exceptions=(OSError,), **options))


def fail(breaker: Breaker, *, times: int = 1) -> list[bool]:
    return [breaker.excuses(failure(OSError())) for _ in range(times)]


def test_it_opens_after_so_many_failures_in_a_row(clock: Clock) -> None:
    breaker = new_breaker(failures=3)
    assert fail(breaker, times=2) == [False, False]
    breaker.succeeded(began=None, probe=False)
    assert fail(breaker, times=2) == [False, False]
    assert not breaker.excuses(failure(ValueError())), "others do not count, and interrupt nothing"
    assert breaker.admits()
    assert fail(breaker) == [True]
    assert breaker.state == "open"
    assert not breaker.admits()
    assert fail(breaker) == [True], "of a call that began before"
    assert not breaker.excuses(failure(ValueError()))


def test_calls_that_began_before_the_failures_prove_nothing_when_they_succeed(clock: Clock) -> None:
    breaker = new_breaker(failures=3)
    began = breaker.now()
    clock.now += 1
    for opened in (False, False, True):
        assert fail(breaker) == [opened]
        breaker.succeeded(began=began, probe=False)
    breaker = new_breaker(failures=3)
    fail(breaker)
    clock.now += 1
    breaker.succeeded(began=breaker.now(), probe=False)
    assert fail(breaker, times=3) == [False, False, True], "the count began anew"


def test_failures_that_are_far_apart_do_not_open_it(clock: Clock) -> None:
    breaker = new_breaker(failures=3, window=60.0)
    for _ in range(6):
        assert fail(breaker) == [False]
        clock.now += 30.1
    assert fail(breaker, times=2) == [False, True], "three within the window"


def test_half_open_it_lets_one_through_which_closes_it(clock: Clock) -> None:
    breaker = new_breaker(failures=1, pause=10.0)
    fail(breaker)
    assert breaker.seconds_until_half_open() == 10
    clock.now += 9.9
    assert not breaker.admits()
    clock.now += 0.1
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    assert breaker.state == "half_open"
    breaker.succeeded(began=None, probe=False)
    assert breaker.state == "half_open", "a call that began before it opened proves nothing"
    breaker.succeeded(began=None, probe=True)
    assert breaker.state == "closed"
    assert [breaker.admits() for _ in range(3)] == [True] * 3


def test_a_probe_that_tells_nothing_makes_way_for_the_next(clock: Clock) -> None:
    breaker = new_breaker(failures=1)
    fail(breaker)
    clock.now += 10
    assert breaker.admits()
    breaker.probe_over()
    assert [breaker.admits() for _ in range(2)] == [True, False]


def test_p18_each_opening_in_a_row_lasts_twice_as_long_up_to_the_longest(clock: Clock) -> None:
    breaker = new_breaker(failures=2)
    fail(breaker, times=2)
    pauses = []
    for _ in range(8):
        pause = breaker.seconds_until_half_open()
        assert pause is not None
        pauses.append(pause)
        clock.now += pause
        assert breaker.admits()
        assert fail(breaker) == [True], "one failure is enough"
    assert pauses == pytest.approx([10, 20, 40, 80, 160, 300, 300, 300])
    clock.now += 300
    assert breaker.admits()
    breaker.succeeded(began=None, probe=True)
    assert fail(breaker, times=2) == [False, True], "the count begins anew"
    assert breaker.seconds_until_half_open() == pytest.approx(10), "so does the pause"


def test_what_an_operator_opened_stays_open_until_one_closes_it(clock: Clock) -> None:
    for breaker in (new_breaker(failures=1), Breaker("h", None)):
        breaker.force(opened=True)
        clock.now += 100_000
        assert not breaker.admits()
        assert breaker.seconds_until_half_open() is None
        assert breaker.watches
        assert "was opened by an operator" in str(breaker.problem())
        breaker.succeeded(began=None, probe=False)
        assert not breaker.admits()
        breaker.force(opened=False)
        assert breaker.admits()
        assert breaker.problem() is None
    assert not breaker.watches
    assert breaker.status() is None


def test_an_operator_closes_one_that_opened_by_itself(clock: Clock) -> None:
    breaker = new_breaker(failures=2)
    fail(breaker, times=2)
    breaker.force(opened=False)
    assert breaker.admits()
    assert fail(breaker) == [False], "the failures are forgotten"


def test_left_to_itself_again_it_tries_one_message_at_once(clock: Clock) -> None:
    breaker = new_breaker(failures=1, pause=10.0)
    for open_it in (lambda: fail(breaker), lambda: breaker.force(opened=True)):
        open_it()
        breaker.release()
        assert (breaker.state, breaker.forced) == ("half_open", False)
        assert [breaker.admits() for _ in range(2)] == [True, False]
        assert fail(breaker) == [True]
        assert breaker.seconds_until_half_open() is not None, "it opens for a while, as no operator holds it"
        breaker.release()
        assert breaker.admits()
        breaker.succeeded(began=None, probe=True)
        assert breaker.state == "closed"
        breaker.release()
        assert breaker.state == "closed", "nothing to do"
    without = Breaker("h", None)
    without.force(opened=True)
    without.release()
    assert (without.state, without.status()) == ("closed", None)


def test_an_operator_s_half_open_breaker_says_so_without_an_error(clock: Clock) -> None:
    breaker = new_breaker()
    breaker.force(opened=True)
    breaker.release()
    problem = breaker.problem()
    assert problem is not None
    assert problem.message.endswith("UTC: one message is tried")


def test_each_change_is_told_and_shown(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    breaker = new_breaker(failures=1, pause=10.0)
    told: list[tuple[str, str | None]] = []
    changes: list[str] = []
    breaker.told = lambda details: told.append((details["state"], details["error"]))
    breaker.changed = lambda: changes.append(breaker.state.value)
    assert breaker.problem() is None
    fail(breaker)
    status = breaker.status()
    assert status is not None
    assert status.until is not None
    assert (status.until - status.since).total_seconds() == pytest.approx(10, abs=1)
    assert (status.state, status.forced, status.failures, status.error) == ("open", False, 1, "OSError")
    assert "its circuit breaker is open since" in str(breaker.problem())
    assert (
        "h: its circuit breaker opens: nothing begins for 10 s, as the handler keeps failing with OSErr" in caplog.text
    )
    clock.now += 10
    breaker.admits()
    assert "is half open" in str(breaker.problem())
    breaker.succeeded(began=None, probe=True)
    assert told == [("open", "OSError"), ("half_open", None), ("closed", None)]
    breaker.force(opened=True)
    breaker.force(opened=False)
    assert len(told) == 3, "who asked for it is told by others"
    assert changes == ["open", "half_open", "closed", "open", "closed"]

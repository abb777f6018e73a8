"""Rate limits and circuit breakers as values, and with a handler's tuning."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastapi_athomic import CircuitBreaker, ConfigurationError, HandlerTuning, RateLimit
from fastapi_athomic.messages import RawMessage
from fastapi_athomic.outcomes import FailureContext, Stage
from fastapi_athomic.subscriptions import Subscription


def failure(error: BaseException, stage: Stage = Stage.HANDLER) -> FailureContext:
    message = RawMessage("t", 0, 0, 0, None, b"", ())
    return FailureContext(
        message=message,
        origin=None,  # type: ignore[arg-type]
        error=error,
        stage=stage,
        attempt=1,
        handler_id="h",
        group_id="g",
        first_failed_at=0.0,
        failed_at=0.0,
    )


def test_what_is_not_said_has_a_value() -> None:
    assert [RateLimit(messages_per_second=rate).capacity for rate in (0.1, 2.5, 50)] == [1, 3, 50]
    assert RateLimit(messages_per_second=50, burst=2).capacity == 2
    watched = (OSError,)
    assert CircuitBreaker(exceptions=watched).longest_pause == 300
    assert CircuitBreaker(exceptions=watched, pause=900).longest_pause == 900
    assert CircuitBreaker(exceptions=watched, max_pause=20).longest_pause == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"messages_per_second": 0}, "messages_per_second must be a number above 0, not 0"),
        ({"messages_per_second": "5"}, "messages_per_second must be a number above 0, not '5'"),
        ({"messages_per_second": float("inf")}, "messages_per_second must be a number above 0, not inf"),
        ({"messages_per_second": 10**400}, "messages_per_second must be a number above 0, not 1000"),
        ({"messages_per_second": 5, "burst": 0}, "burst must be a whole number of 1 or more, or None"),
        ({"messages_per_second": 5, "burst": 10**400}, "burst must be a whole number of 1 or more, or None"),
    ],
)
def test_a_wrong_rate_limit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^RateLimit: {said}"):
        RateLimit(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"exceptions": ()}, "exceptions must be a tuple of exception types"),
        ({"exceptions": OSError}, "exceptions must be a tuple of exception types"),
        ({"failures": 0}, "failures must be a whole number of 1 or more"),
        ({"window": 0}, "window must be a number of seconds above 0"),
        ({"pause": 0}, "pause must be a number of seconds above 0"),
        ({"pause": 30, "max_pause": 10}, r"pause \(30 s\) exceeds max_pause \(10 s\): raise max_pause, too"),
    ],
)
def test_a_wrong_circuit_breaker_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^CircuitBreaker: {said}"):
        CircuitBreaker(**{"exceptions": (OSError,), **options})


class Odd(type):
    def __instancecheck__(cls, instance: object) -> bool:
        raise RuntimeError("no")


class StrangeError(Exception, metaclass=Odd):
    pass


@pytest.mark.parametrize(
    ("error", "stage", "counts"),
    [
        (ConnectionRefusedError(), Stage.HANDLER, True),
        (ValueError(), Stage.HANDLER, False),
        (ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [OSError()])]), Stage.HANDLER, True),
        (ExceptionGroup("g", [ValueError()]), Stage.HANDLER, False),
        (TimeoutError(), Stage.TIMEOUT, True),
        (OSError(), Stage.DECODE, False),
        (asyncio.CancelledError(), Stage.HANDLER, False),
    ],
)
def test_which_failures_count(error: BaseException, stage: Stage, counts: bool) -> None:
    assert CircuitBreaker(exceptions=(OSError,)).counts(failure(error, stage)) is counts


def test_a_type_that_cannot_be_asked_counts_nothing() -> None:
    assert not CircuitBreaker(exceptions=(StrangeError,)).counts(failure(ValueError()))


RATE, BREAKER = RateLimit(messages_per_second=10, burst=2), CircuitBreaker(exceptions=(OSError,))


def tuned(tuning: HandlerTuning, **options: Any) -> tuple[RateLimit | None, CircuitBreaker | None]:
    subscription = Subscription(handler_id="h", topics=("t",), pattern=None, group_id="g", **options).tuned(tuning)
    return subscription.rate_limit, subscription.breaker


def test_an_operator_tunes_them() -> None:
    declared = {"rate_limit": RATE, "breaker": BREAKER}
    assert tuned(HandlerTuning(), **declared) == (RATE, BREAKER)
    assert tuned(HandlerTuning(rate_limit=0, breaker=False), **declared) == (None, None)
    assert tuned(HandlerTuning(burst=7, breaker=True), **declared) == (
        RateLimit(messages_per_second=10, burst=7),
        BREAKER,
    )
    assert tuned(HandlerTuning(rate_limit=99), **declared) == (RateLimit(messages_per_second=99), BREAKER)
    assert tuned(HandlerTuning(rate_limit=1, burst=3)) == (RateLimit(messages_per_second=1, burst=3), None)


def test_a_tuning_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"(?m)^handler h: tuning sets burst, but there is no rate_limit$"):
        tuned(HandlerTuning(burst=3))
    with pytest.raises(ConfigurationError, match=r"^handler h: tuning switches a circuit breaker on, but the handler"):
        tuned(HandlerTuning(breaker=True))

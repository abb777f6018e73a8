"""What a handler may begin: so many messages a second, and nothing while what it depends on fails."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from .checks import COUNT, POSITIVE_SECONDS, Check, first_problem, is_number, or_none
from .exceptions import ConfigurationError
from .outcomes import FailureContext, Stage

DEFAULT_MAX_PAUSE = 300.0
"""Seconds. A longer `pause` makes it longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How many messages each process begins for a handler: a token bucket, full at the start.

    Each attempt at a message takes one token, the first and each other; a batch as many as it has messages. What finds
    none waits for its turn, in order. A batch larger than `burst` needs a full bucket, and leaves it in debt.

    The limit is one of the process: a group of four processes begins up to four times as many.

    Raises:
        ConfigurationError: a value of a wrong type or out of its range.
    """

    messages_per_second: float  # above 0
    burst: int | None = None  # so many may begin at once after a pause; None: what comes in one second, at least 1

    def __post_init__(self) -> None:
        if (problem := first_problem(self, _RATE_CHECKS)) is not None:
            raise ConfigurationError(f"RateLimit: {problem}")

    @property
    def capacity(self) -> int:
        """`burst`, or what holds where it is not set."""
        return self.burst if self.burst is not None else max(1, ceil(self.messages_per_second))


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreaker:
    """Lets a handler begin nothing while what it depends on fails.

    It opens after `failures` calls in a row that raised one of `exceptions`, all within `window` seconds. After `pause`
    seconds it lets one message through (half open). If that succeeds it closes, else it opens again, each time for
    twice as long, up to `max_pause`. A call that succeeds begins the count anew; other errors do not count.

    The failure that opens it, and those while it is open, use up no attempt of their message. With `failures` no
    greater than the `max_attempts` of the retry policy an outage makes no dead letters.

    Raises:
        ConfigurationError: a value of a wrong type or out of its range, or values that contradict each other.
    """

    exceptions: tuple[type[BaseException], ...]  # what the handler raises when its dependency fails
    failures: int = 3  # calls in a row
    window: float = 60.0  # seconds
    pause: float = 10.0  # seconds
    max_pause: float | None = None  # seconds; None: 300, or `pause` where that is longer

    def __post_init__(self) -> None:
        problem = first_problem(self, _BREAKER_CHECKS)
        if problem is None and self.pause > self.longest_pause:
            problem = f"pause ({self.pause:g} s) exceeds max_pause ({self.longest_pause:g} s): raise max_pause, too"
        if problem is not None:
            raise ConfigurationError(f"CircuitBreaker: {problem}")

    @property
    def longest_pause(self) -> float:
        """`max_pause`, or what holds where it is not set."""
        return self.max_pause if self.max_pause is not None else max(DEFAULT_MAX_PAUSE, self.pause)

    def counts(self, failure: FailureContext) -> bool:
        """Whether this failure says that the dependency fails: the handler raised it, alone or in a group."""
        if failure.stage not in (Stage.HANDLER, Stage.TIMEOUT):
            return False
        error = failure.error
        try:
            if isinstance(error, self.exceptions):
                return True
            return isinstance(error, BaseExceptionGroup) and error.subgroup(self.exceptions) is not None
        except Exception:  # types may override `isinstance`
            return False


def _are_exceptions(types: Any) -> bool:
    return (
        isinstance(types, tuple)
        and bool(types)
        and all(isinstance(each, type) and issubclass(each, BaseException) for each in types)
    )


_RATE_CHECKS = {
    "messages_per_second": Check(lambda value: is_number(value) and value > 0, "a number above 0"),
    "burst": or_none(COUNT, "what comes in one second"),
}
_BREAKER_CHECKS = {
    "exceptions": Check(_are_exceptions, "a tuple of exception types, such as (ConnectionError,)"),
    "failures": COUNT,
    "window": POSITIVE_SECONDS,
    "pause": POSITIVE_SECONDS,
    "max_pause": or_none(POSITIVE_SECONDS, f"{DEFAULT_MAX_PAUSE:g}, or the pause where that is longer"),
}

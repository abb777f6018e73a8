"""Is a failed message tried again, and when? A policy, and its decision as a value."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .checks import BOOLEAN, POSITIVE_SECONDS, SECONDS, Check, first_problem, is_number, is_whole, or_none, shown
from .exceptions import ConfigurationError
from .outcomes import Stage
from .settings import RetryTuning

Delay = float | Callable[[int, BaseException], float]
"""Seconds, or a function that returns them, given the number of the attempt that failed (from 1) and its error."""


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What to do with a failed message: try it again in place, move it to a retry topic, or give it up (neither)."""

    delay: float | None = None  # seconds until it is tried again in place
    later: float | None = None  # seconds until it comes back from a retry topic
    free: bool = False  # this attempt does not count: a circuit breaker has opened
    problem: str | None = None  # for a warning: what the user's own functions and types did wrong; without payload

    @property
    def again(self) -> bool:
        """It is tried again in place."""
        return self.delay is not None


GIVE_UP = RetryDecision()
EXCUSED = RetryDecision(0.0, free=True)

DEFAULT_DELAY = 0.5
"""Seconds."""
DEFAULT_MAX_DELAY = 30.0
"""Seconds. A longer `delay` makes it longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Tries a message again: first in place, while later messages of its partition or key wait, then from retry topics.

    By default whatever a handler raises is tried again: an `Exception`, `SystemExit`, the panic of a Rust extension,
    the `CancelledError` of a task that somebody else cancelled. With `retry_on=(Exception,)` the last three become dead
    letters at once.

    The delay after attempt n is `delay * backoff ** (n - 1)`, at most `max_delay`, less a random part of up to
    `jitter` of it. Errors in decoding and those in `fatal` are never tried again. An exception group is fatal if one
    of its members is, and is tried again if each of its members would be.

    If a `delay` function raises or does not return a number of seconds, the default delay is used instead, and a
    warning names the handler. If an `isinstance` check with `retry_on` or `fatal` raises, the message is tried again
    while attempts are left, with a warning.

    Raises:
        ConfigurationError: a value of a wrong type or out of its range, or values that contradict each other.
    """

    max_attempts: int = 3  # all attempts, the first included; 0: no limit
    delay: Delay = DEFAULT_DELAY  # seconds
    backoff: float = 2.0
    max_delay: float | None = None  # seconds; None: 30, or `delay` where that is longer
    jitter: float = 0.1  # 0 to 1
    max_elapsed: float | None = None  # seconds since the first failure, after which no attempt is started
    retry_on: tuple[type[BaseException], ...] = (BaseException,)
    fatal: tuple[type[BaseException], ...] = ()
    # after the attempts in place: ascending seconds in retry topics, one attempt after each. Later messages do not wait
    retry_topics: tuple[float, ...] = ()
    allow_reordering: bool = False  # the user accepts that retry topics break the order of partition and key

    def __post_init__(self) -> None:
        problem = first_problem(self, _CHECKS) or self._contradiction()
        if problem is not None:
            raise ConfigurationError(f"RetryPolicy: {problem}")

    def _contradiction(self) -> str | None:
        """What is wrong with options that are each right."""
        if not callable(self.delay) and self.delay > self.longest_delay and self.delay != DEFAULT_DELAY:
            return f"delay ({self.delay:g} s) exceeds max_delay ({self.longest_delay:g} s): raise max_delay, too"
        if self.max_attempts == 0 and (self.delay == 0 or self.longest_delay == 0):
            return (
                "max_attempts=0 means no limit, and a message would be tried again without a pause: set a delay, or "
                "max_attempts=1 for a single attempt"
            )
        if self.max_attempts == 0 and self.retry_topics:
            return "max_attempts=0 means no limit, so no message would ever come to the retry_topics: set max_attempts"
        names = [f"{delay:g}" for delay in self.retry_topics]
        if len(set(names)) < len(names):
            return f"retry_topics must differ: each topic is named after its delay, {', '.join(names)}"
        if list(self.retry_topics) != sorted(self.retry_topics):
            ascending = shown(tuple(sorted(self.retry_topics)))
            return f"retry_topics must ascend, each delay longer than the one before: {ascending}"
        return None

    def decide(
        self,
        error: BaseException,
        *,
        stage: Stage,
        attempt: int,
        elapsed: float = 0.0,
        place: int = 0,
        chance: Callable[[], float] = random.random,
    ) -> RetryDecision:
        """The decision after `attempt` failed, `elapsed` seconds after the first failure. Pure except for `chance`.

        `place` is the number of the retry topic that the message came from (1 for the first), 0 if from none. A
        message from a retry topic has one attempt. `chance` returns a number from 0 to 1, for the jitter.
        """
        if stage in (Stage.DECODE, Stage.HEADERS):
            return GIVE_UP
        hopeless, problem = self._is_hopeless(error)
        if hopeless:
            return GIVE_UP
        if place == 0 and (not self.max_attempts or attempt < self.max_attempts):
            delay, wrong = self._delay_after(attempt, error)
            delay *= 1 - self.jitter * chance()
            return RetryDecision(delay, problem=wrong or problem) if self._in_time(elapsed + delay) else GIVE_UP
        if place < len(self.retry_topics):
            later = self.retry_topics[place]
            return RetryDecision(later=later) if self._in_time(elapsed + later) else GIVE_UP
        return GIVE_UP

    @property
    def total_attempts(self) -> int:
        """All attempts, in place and from retry topics; 0: no limit."""
        return self.max_attempts + len(self.retry_topics) if self.max_attempts else 0

    @property
    def longest_delay(self) -> float:
        """`max_delay`, or what holds where it is not set."""
        if self.max_delay is not None:
            return self.max_delay
        return DEFAULT_MAX_DELAY if callable(self.delay) else max(DEFAULT_MAX_DELAY, self.delay)

    def _in_time(self, elapsed: float) -> bool:
        return self.max_elapsed is None or elapsed <= self.max_elapsed

    def tuned(self, tuning: RetryTuning | None) -> RetryPolicy:
        """The policy with the fields that an operator set in the settings.

        Raises:
            ConfigurationError: they contradict those of the policy.
        """
        if tuning is None:
            return self
        return replace(self, **tuning.model_dump(exclude_none=True))

    def _is_hopeless(self, error: BaseException) -> tuple[bool, str | None]:
        """Whether it must not be tried again, and what went wrong in the check.

        The check can run user code: exception types may override `isinstance`, groups their members.
        """
        try:
            return (
                _any_leaf(error, self.fatal) or not all(isinstance(leaf, self.retry_on) for leaf in _leaves(error))
            ), None
        except KeyboardInterrupt:
            raise
        except BaseException as broken:
            return False, f"retry_on or fatal raised {type(broken).__name__}"

    def _delay_after(self, attempt: int, error: BaseException) -> tuple[float, str | None]:
        """Seconds, and what went wrong in the `delay` function."""
        if not callable(self.delay):
            return self._backed_off(self.delay, attempt), None
        try:
            given: Any = self.delay(attempt, error)
            if (seconds := _seconds(given)) is not None:
                return min(seconds, self.longest_delay), None
            problem = f"the delay function returned a {type(given).__name__} that is not a number of seconds"
        except KeyboardInterrupt:
            raise
        except BaseException as broken:
            problem = f"the delay function raised {type(broken).__name__}"
        return self._backed_off(DEFAULT_DELAY, attempt), problem

    def _backed_off(self, delay: float, attempt: int) -> float:
        exponent = min(attempt - 1, 64)  # beyond that every delay is at its maximum
        try:
            return float(min(float(delay) * self.backoff**exponent, self.longest_delay))
        except OverflowError:
            return self.longest_delay


def _seconds(given: Any) -> float | None:
    """None if it is not a number of seconds. Whatever `float` takes is one, except text and truth values."""
    if inspect.iscoroutine(given):
        given.close()  # otherwise Python warns that nobody awaited it
    if isinstance(given, str | bytes | bytearray | bool) or not hasattr(given, "__float__"):
        return None
    seconds = float(given)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _any_leaf(error: BaseException, types: tuple[type[BaseException], ...]) -> bool:
    return bool(types) and (isinstance(error, types) or any(isinstance(leaf, types) for leaf in _leaves(error)))


def _are_exceptions(types: Any) -> bool:
    return isinstance(types, tuple) and all(isinstance(t, type) and issubclass(t, BaseException) for t in types)


_EXCEPTIONS = Check(_are_exceptions, "a tuple of exception types, such as (ValueError,)")
_CHECKS = {
    "max_attempts": Check(lambda value: is_whole(value) and value >= 0, "a whole number: 1 or more, or 0 for no limit"),
    "delay": Check(
        lambda value: callable(value) or SECONDS.holds(value), f"{SECONDS.text}, or a function that returns them"
    ),
    "backoff": Check(lambda value: is_number(value) and value >= 1, "a number of 1 or more"),
    "max_delay": or_none(SECONDS, f"{DEFAULT_MAX_DELAY:g}, or the delay where that is longer"),
    "jitter": Check(lambda value: is_number(value) and 0 <= value <= 1, "a number between 0 and 1"),
    "max_elapsed": or_none(POSITIVE_SECONDS, "no limit"),
    "retry_on": _EXCEPTIONS,
    "fatal": _EXCEPTIONS,
    "retry_topics": Check(
        lambda value: isinstance(value, tuple) and all(map(POSITIVE_SECONDS.holds, value)),
        "a tuple of numbers of seconds above 0, such as (10, 60)",
    ),
    "allow_reordering": BOOLEAN,
}

"""When a failed message is tried again: a policy, and its decision as a value."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .exceptions import ConfigurationError
from .outcomes import Stage
from .settings import RetryTuning

Delay = float | Callable[[int, BaseException], float]
"""Seconds, or a function of the attempt that failed (1 for the first) and its error."""


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What to do with a failed message. `delay` in seconds; None: no further attempt."""

    delay: float | None

    @property
    def again(self) -> bool:
        return self.delay is not None


GIVE_UP = RetryDecision(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Tries a message again in its place: what comes later in its order waits, polling goes on.

    The delay after attempt n is `delay * backoff ** (n - 1)`, at most `max_delay`, less a random part of up to
    `jitter` of it. Errors in decoding and those in `fatal` are never tried again. An exception group is fatal if one
    of its members is, and is tried again if each of its members would be.

    Raises:
        ConfigurationError: a value out of its range.
    """

    max_attempts: int = 3  # all attempts, the first included; 0: no limit
    delay: Delay = 0.5  # seconds
    backoff: float = 2.0
    max_delay: float = 30.0  # seconds
    jitter: float = 0.1  # 0 to 1
    max_elapsed: float | None = None  # seconds since the first failure, after which no attempt is started
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    fatal: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        for problem, message in (
            (self.max_attempts < 0, "max_attempts must be 0 (no limit) or more"),
            (not callable(self.delay) and self.delay < 0, "delay must not be negative (seconds)"),
            (self.backoff < 1, "backoff must be 1 or more"),
            (self.max_delay < 0, "max_delay must not be negative (seconds)"),
            (not 0 <= self.jitter <= 1, "jitter must lie between 0 and 1"),
            (self.max_elapsed is not None and self.max_elapsed <= 0, "max_elapsed must be positive (seconds)"),
            (not _are_exceptions(self.retry_on), "retry_on must be a tuple of exception types"),
            (not _are_exceptions(self.fatal), "fatal must be a tuple of exception types"),
        ):
            if problem:
                raise ConfigurationError(f"RetryPolicy: {message}")

    def decide(
        self,
        error: BaseException,
        *,
        stage: Stage,
        attempt: int,
        elapsed: float = 0.0,
        chance: Callable[[], float] = random.random,
    ) -> RetryDecision:
        """The decision after `attempt` failed, `elapsed` seconds after the first failure. Pure but for `chance`."""
        if stage in (Stage.DECODE, Stage.HEADERS) or (self.max_attempts and attempt >= self.max_attempts):
            return GIVE_UP
        if _any_leaf(error, self.fatal) or not all(isinstance(leaf, self.retry_on) for leaf in _leaves(error)):
            return GIVE_UP
        delay = self._delay_after(attempt, error) * (1 - self.jitter * chance())
        if self.max_elapsed is not None and elapsed + delay > self.max_elapsed:
            return GIVE_UP
        return RetryDecision(delay)

    def tuned(self, tuning: RetryTuning | None) -> RetryPolicy:
        """The policy with the fields that an operator set."""
        if tuning is None:
            return self
        return replace(self, **tuning.model_dump(exclude_none=True))

    def _delay_after(self, attempt: int, error: BaseException) -> float:
        if callable(self.delay):
            return min(max(0.0, self.delay(attempt, error)), self.max_delay)
        exponent = min(attempt - 1, 64)  # beyond that every delay is at its maximum, and floats would overflow
        return float(min(self.delay * self.backoff**exponent, self.max_delay))


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


NO_RETRY = RetryPolicy(max_attempts=1)

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
    """What to do with a failed message: try it again in its place, move it to a retry topic, or give it up."""

    delay: float | None = None  # seconds until it is tried again in its place
    later: float | None = None  # seconds until it comes back from a retry topic

    @property
    def again(self) -> bool:
        return self.delay is not None


GIVE_UP = RetryDecision()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Tries a message again: first in its place, where what comes later in its order waits, then from retry topics.

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
    # then, without blocking: seconds until the message comes back from a retry topic, one attempt for each
    retry_topics: tuple[float, ...] = ()
    allow_reordering: bool = False  # retry topics break the order of partition and key: say that this is wanted

    def __post_init__(self) -> None:
        for problem, message in (
            (self.max_attempts < 0, "max_attempts must be 0 (no limit) or more"),
            (not callable(self.delay) and self.delay < 0, "delay must not be negative (seconds)"),
            (self.backoff < 1, "backoff must be 1 or more"),
            (self.max_delay < 0, "max_delay must not be negative (seconds)"),
            (not 0 <= self.jitter <= 1, "jitter must lie between 0 and 1"),
            (self.max_elapsed is not None and self.max_elapsed <= 0, "max_elapsed must be positive (seconds)"),
            (
                not isinstance(self.retry_topics, tuple) or any(not _is_delay(delay) for delay in self.retry_topics),
                "retry_topics must be a tuple of positive numbers (seconds)",
            ),
            (
                len(set(self.retry_topics)) < len(self.retry_topics),
                "retry_topics must differ: the delay is in the name",
            ),
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
        place: int = 0,
        chance: Callable[[], float] = random.random,
    ) -> RetryDecision:
        """The decision after `attempt` failed, `elapsed` seconds after the first failure. Pure but for `chance`.

        `place` is the number of the retry topic the message came from, 0 if from none: there it has one attempt.
        """
        if stage in (Stage.DECODE, Stage.HEADERS):
            return GIVE_UP
        if _any_leaf(error, self.fatal) or not all(isinstance(leaf, self.retry_on) for leaf in _leaves(error)):
            return GIVE_UP
        if place == 0 and (not self.max_attempts or attempt < self.max_attempts):
            delay = self._delay_after(attempt, error) * (1 - self.jitter * chance())
            return RetryDecision(delay=delay) if self._in_time(elapsed + delay) else GIVE_UP
        if place < len(self.retry_topics):
            later = self.retry_topics[place]
            return RetryDecision(later=later) if self._in_time(elapsed + later) else GIVE_UP
        return GIVE_UP

    @property
    def total_attempts(self) -> int:
        """In place and from retry topics; 0: no limit."""
        return self.max_attempts + len(self.retry_topics) if self.max_attempts else 0

    def _in_time(self, elapsed: float) -> bool:
        return self.max_elapsed is None or elapsed <= self.max_elapsed

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


def _is_delay(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _are_exceptions(types: Any) -> bool:
    return isinstance(types, tuple) and all(isinstance(t, type) and issubclass(t, BaseException) for t in types)


NO_RETRY = RetryPolicy(max_attempts=1)

"""What one handler consumes, and how: the options of a decorator, checked, and noted on the function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import MethodType
from typing import Any, Literal, TypedDict, TypeVar

from .checks import (
    BOOLEAN,
    COUNT,
    NAME,
    POSITIVE_SECONDS,
    Check,
    first_problem,
    is_whole,
    one_of,
    or_none,
    shown,
)
from .exceptions import ConfigurationError
from .limits import CircuitBreaker, RateLimit
from .payload.pipeline import PayloadPipeline
from .retry import RetryPolicy
from .settings import HandlerTuning
from .sightings import Site, module_of, place, qualified_name, see

F = TypeVar("F", bound=Callable[..., Any])
Topics = str | Iterable[str] | re.Pattern[str]
Ordering = Literal["partition", "key", "none"]
OnGap = Literal["wait", "skip", "dead_letter"]
OnFailure = Literal["dead_letter", "block"]

MARK = "__athomic_subscriptions__"
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")  # Kafka's `Topic.validate`
_PATTERN = re.compile(r"[*+?^$|()\[\]\\]")  # characters of a regular expression that no topic name has


class CommonOptions(TypedDict, total=False):
    """The options of every handler. The decorators' docstrings explain each."""

    target_type: Any
    concurrency: int
    retry: RetryPolicy
    dlq: bool | str
    payload: PayloadPipeline | None
    timeout: float | None
    rate_limit: RateLimit | None
    breaker: CircuitBreaker | None
    auto_offset_reset: Literal["earliest", "latest"]
    handler_id: str | None
    enable_lineage: bool


class ConsumerOptions(CommonOptions, total=False):
    """The options of `subscribe_to`."""

    ordering: Ordering
    batch_size: int | None
    batch_linger_ms: int


class OrderedOptions(CommonOptions, total=False):
    """The options of `ordered_consumer`."""

    first_sequence: int
    gap_timeout: float
    on_gap: OnGap
    on_failure: OnFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequencing:
    """How an ordered consumer finds the order of its messages, and what it does where the order breaks."""

    aggregate_key_field: str
    sequence_id_field: str
    first_sequence: int = 1
    gap_timeout: float = 60.0  # seconds to wait for a missing number before `on_gap` decides
    # 'skip' gives the missing number up; 'dead_letter' dead-letters what waits behind it, and still expects the number
    on_gap: OnGap = "wait"
    # what happens when all attempts have failed; 'block' parks the message and all later ones of its aggregate, and
    # tries again
    on_failure: OnFailure = "dead_letter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What one handler consumes, and how."""

    handler_id: str
    topics: tuple[str, ...]
    pattern: re.Pattern[str] | None  # in place of `topics`; must match the whole topic name
    group_id: str
    target_type: Any = None  # None: the annotation of the handler's first parameter decides
    ordering: Ordering = "partition"
    concurrency: int = 1  # messages (or batches) handled at once
    batch_size: int | None = None  # None: one message at a time
    batch_linger_ms: int = 100  # how long a batch that is not full waits for more
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    dlq: bool | str = True  # True: the topic by the settings' template; False: skip failed messages; or a topic name
    payload: PayloadPipeline | None = None  # None: the app's
    timeout: float | None = None  # seconds that one attempt may take
    rate_limit: RateLimit | None = None  # None: no limit
    breaker: CircuitBreaker | None = None  # None: nothing is watched
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"  # for a group without a commit on the topic
    enable_lineage: bool = True
    sequencing: Sequencing | None = None  # set by `ordered_consumer`
    # where the function was decorated; None for handlers of one app (`athomic.subscribe_to`), which are never searched
    site: Site | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        problem = first_problem(self, _CHECKS) or self._contradiction()
        if problem is not None:
            raise ConfigurationError(f"handler {shown_id(self.handler_id)}: {problem}")
        for topic in self.topics:
            check_topic(topic, f"handler {self.handler_id}")
        if isinstance(self.dlq, str):
            check_topic(self.dlq, f"handler {self.handler_id}: dlq")

    def _contradiction(self) -> str | None:
        """What is wrong with options that are each right."""
        ordered = self.sequencing is not None
        for problem, message in (
            (
                self.batch_size is not None and self.ordering != "partition",
                "a batch comes from one partition: ordering must be 'partition'",
            ),
            (
                self._loses_order(),
                "retry topics let later messages overtake: set ordering='none', or RetryPolicy(allow_reordering=True)",
            ),
            (
                ordered and bool(self.retry.retry_topics),
                "an ordered consumer has no retry topics: later messages of the sequence would overtake",
            ),
            (
                ordered and self.batch_size is not None,
                "an ordered consumer takes one message at a time: batch_size must be None",
            ),
            (
                self.dlq in self.topics,
                "dlq must not be a topic that the handler consumes: its dead letters would come back",
            ),
        ):
            if problem:
                return message
        return None

    def _loses_order(self) -> bool:
        keeps_order = self.ordering != "none" and self.sequencing is None
        return bool(self.retry.retry_topics) and keeps_order and not self.retry.allow_reordering

    @property
    def source(self) -> str:
        """The topics for people to read: their names, or the pattern."""
        return self.pattern.pattern if self.pattern else ", ".join(self.topics)

    def tuned(self, tuning: HandlerTuning | None) -> Subscription:
        """The subscription with the options that an operator has set for this handler.

        Raises:
            ConfigurationError: an option is out of range, or sets a batch size for a handler of single messages.
        """
        if tuning is None:
            return self
        names = ("concurrency", "batch_size", "batch_linger_ms", "timeout", "auto_offset_reset", "enable_lineage")
        changes = {name: value for name in names if (value := getattr(tuning, name)) is not None}
        if "batch_size" in changes and self.batch_size is None:
            raise ConfigurationError(
                f"handler {self.handler_id}: tuning sets batch_size, but the handler takes single messages"
            )
        try:
            retry = self.retry.tuned(tuning.retry)
        except ConfigurationError as error:
            raise ConfigurationError(f"handler {self.handler_id}: with its tuning, {error}") from error
        return replace(
            self, retry=retry, rate_limit=self._tuned_rate(tuning), breaker=self._tuned_breaker(tuning), **changes
        )

    def _tuned_rate(self, tuning: HandlerTuning) -> RateLimit | None:
        declared, rate = self.rate_limit, tuning.rate_limit
        if rate == 0:
            return None
        if rate is not None:
            return RateLimit(messages_per_second=rate, burst=tuning.burst)
        if tuning.burst is None:
            return declared
        if declared is None:
            raise ConfigurationError(f"handler {self.handler_id}: tuning sets burst, but there is no rate_limit")
        return replace(declared, burst=tuning.burst)

    def _tuned_breaker(self, tuning: HandlerTuning) -> CircuitBreaker | None:
        if tuning.breaker and self.breaker is None:
            raise ConfigurationError(
                f"handler {self.handler_id}: tuning switches a circuit breaker on, but the handler has none: only code "
                "can say which exceptions it watches"
            )
        return None if tuning.breaker is False else self.breaker


def note(function: F, subscription: Subscription) -> F:
    """Adds the subscription to those of the function, and returns the function.

    Raises:
        ConfigurationError: it is a class, or takes no attributes: search could not find the subscription again.
    """
    where = f"handler {subscription.handler_id}"
    if isinstance(function, type):
        raise ConfigurationError(f"{where}: a class cannot be a handler; decorate a function or a method")
    target = _holder(function)
    known = subscriptions_of(function)
    try:
        setattr(target, MARK, known)
    except (AttributeError, TypeError):
        raise ConfigurationError(
            f"{where}: {place(function)} takes no attributes; decorate a function that calls it"
        ) from None
    setattr(target, MARK, (*known, replace(subscription, site=see(function))))
    return function


def subscriptions_of(function: object) -> tuple[Subscription, ...]:
    """The subscriptions of this function itself, not of one that it wraps."""
    try:
        # not `getattr`: a search meets proxies that raise when they are asked for an attribute outside of a request
        noted = object.__getattribute__(_holder(function), "__dict__").get(MARK, ())
    except AttributeError:  # it has slots
        return ()
    return noted if isinstance(noted, tuple) else ()


def _holder(function: Any) -> Any:
    """What carries the subscriptions: a bound method takes no attributes."""
    return function.__func__ if issubclass(type(function), MethodType | staticmethod | classmethod) else function


def default_id(function: Callable[..., Any]) -> str:
    """The handler id of a function that was given none: its module and qualified name.

    The module's name is the one by which it would be imported, so the id is the same however the app is started.
    """
    return f"{module_of(function)}.{qualified_name(function)}"


def topic_names(topic: Any, handler_id: str) -> tuple[str, ...]:
    """One name or several as a tuple, each once.

    Raises:
        ConfigurationError: names the handler.
    """
    names = (topic,) if isinstance(topic, str) else topic
    if not isinstance(names, Iterable) or isinstance(names, bytes):
        raise ConfigurationError(
            f"handler {handler_id}: topic must be a name, a list of names or a compiled pattern, not {shown(topic)}"
        )
    names = tuple(names)
    for name in names:
        check_topic(name, f"handler {handler_id}")
    if not names:
        raise ConfigurationError(f"handler {handler_id}: at least one topic is needed")
    return tuple(dict.fromkeys(names))


def check_topic(name: object, where: str) -> None:
    """Raises `ConfigurationError` if Kafka does not allow this as a topic name. `where` begins the error."""
    if is_topic_name(name):
        return
    pattern = isinstance(name, str) and _PATTERN.search(name)
    raise ConfigurationError(
        f"{where}: invalid topic name {shown(name)}: "
        "1 to 249 of the characters a-z A-Z 0-9 . _ - are allowed, but not '.' or '..'"
        + ("; for all topics that match a pattern give re.compile(...)" if pattern else "")
    )


def is_topic_name(name: object) -> bool:
    """Whether Kafka allows this as a topic name."""
    return isinstance(name, str) and _TOPIC.fullmatch(name) is not None and name not in (".", "..")


def check_sequencing(handler_id: str, sequencing: Sequencing) -> None:
    """Raises `ConfigurationError`, which names the handler and the option, if a value makes no sense."""
    problem = first_problem(sequencing, _SEQUENCING_CHECKS)
    if problem is not None:
        raise ConfigurationError(f"handler {shown_id(handler_id)}: {problem}")


def shown_id(handler_id: object) -> str:
    """The id as errors show it, also one that is wrong itself."""
    return handler_id if NAME.holds(handler_id) else shown(handler_id)  # type: ignore[return-value]


_FIELD = NAME._replace(text="the name of a field of the message")
_CHECKS = {
    "handler_id": NAME,
    "group_id": NAME,
    "ordering": one_of("partition", "key", "none"),
    "concurrency": COUNT,
    "batch_size": or_none(COUNT, "one message at a time"),
    "batch_linger_ms": Check(lambda value: is_whole(value) and value >= 0, "a whole number of milliseconds, 0 or more"),
    "retry": Check(lambda value: isinstance(value, RetryPolicy), "a RetryPolicy, such as RetryPolicy(max_attempts=5)"),
    "dlq": Check(
        lambda value: isinstance(value, bool | str),
        "True (a topic by the settings' template), False (failed messages are skipped) or the name of a topic",
    ),
    "payload": or_none(Check(lambda value: isinstance(value, PayloadPipeline), "a PayloadPipeline"), "the app's"),
    "timeout": or_none(POSITIVE_SECONDS, "no limit"),
    "rate_limit": or_none(
        Check(lambda value: isinstance(value, RateLimit), "a RateLimit, such as RateLimit(messages_per_second=50)"),
        "no limit",
    ),
    "breaker": or_none(
        Check(
            lambda value: isinstance(value, CircuitBreaker),
            "a CircuitBreaker, such as CircuitBreaker(exceptions=(ConnectionError,))",
        ),
        "nothing is watched",
    ),
    "auto_offset_reset": one_of("earliest", "latest"),
    "enable_lineage": BOOLEAN,
}
_SEQUENCING_CHECKS = {
    "aggregate_key_field": _FIELD,
    "sequence_id_field": _FIELD,
    "first_sequence": Check(lambda value: is_whole(value) and abs(value) < 2**53, "a whole number below 2**53"),
    "gap_timeout": POSITIVE_SECONDS,
    "on_gap": one_of("wait", "skip", "dead_letter"),
    "on_failure": one_of("dead_letter", "block"),
}

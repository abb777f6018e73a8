"""`@subscribe_to` and `@ordered_consumer`: they note a subscription on a function and return the function unchanged.

The two signatures are written out, so that editors and `help()` show each option with its default. A test holds them
to `ConsumerOptions`, `OrderedOptions` and the defaults of `Subscription` and `Sequencing`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields as dataclass_fields
from functools import wraps
from inspect import signature
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast

from .checks import did_you_mean
from .exceptions import ConfigurationError
from .limits import CircuitBreaker, RateLimit
from .payload.pipeline import PayloadPipeline
from .retry import RetryPolicy
from .sightings import place
from .subscriptions import (
    ConsumerOptions,
    OnFailure,
    OnGap,
    OrderedOptions,
    Ordering,
    Sequencing,
    Subscription,
    Topics,
    check_sequencing,
    default_id,
    note,
    shown_id,
    topic_names,
)

F = TypeVar("F", bound=Callable[..., Any])

_NO_OPTIONS = {"topics", "pattern", "group_id", "sequencing", "site"}
_OPTION_NAMES = {field.name for field in dataclass_fields(Subscription)} - _NO_OPTIONS
_SEQUENCING = ("first_sequence", "gap_timeout", "on_gap", "on_failure")


def with_brackets(decorator: F) -> F:
    """Without brackets Python calls a decorator with the handler in place of the topic: says so, or what is missing."""

    @wraps(decorator)
    def checked(*args: Any, **options: Any) -> Any:
        if args and callable(args[-1]):
            name, topic = decorator.__name__, '("topic", group_id="...")'
            raise ConfigurationError(
                f"{name} above {place(args[-1])} needs brackets that say what to consume: @{name}{topic}"
            )
        _refuse_missing(decorator, len(args), options)
        return decorator(*args, **options)

    return cast("F", checked)


class NoOptions(TypedDict):
    """Type checkers refuse what is not in the signature; at run time it gets a sentence that names the handler."""


@with_brackets
def subscribe_to(
    topic: Topics,
    *,
    group_id: str,
    target_type: Any = None,
    ordering: Ordering = "partition",
    concurrency: int = 1,
    batch_size: int | None = None,
    batch_linger_ms: int = 100,
    retry: RetryPolicy = RetryPolicy(),
    dlq: bool | str = True,
    payload: PayloadPipeline | None = None,
    timeout: float | None = None,
    rate_limit: RateLimit | None = None,
    breaker: CircuitBreaker | None = None,
    auto_offset_reset: Literal["earliest", "latest"] = "earliest",
    handler_id: str | None = None,
    enable_lineage: bool = True,
    **unknown: Unpack[NoOptions],
) -> Callable[[F], F]:
    """Makes the function a handler of one topic, of several, or of all whose whole name matches a compiled pattern.

    Args:
        topic: a topic's name, a list of names, or `re.compile(...)`.
        group_id: the consumer group; its processes share the partitions of the topic.
        target_type: what a message is decoded into; None: the annotation of the handler's first parameter.
        ordering: 'partition' and 'key' handle the messages of a partition or key one after the other, 'none' as they
            come.
        concurrency: how many messages (or batches) each process handles at once.
        batch_size: the handler takes a list of up to so many messages; None: one message at a time.
        batch_linger_ms: milliseconds that a batch which is not full waits for more.
        retry: how often a message that fails is tried again, and when.
        dlq: True: dead letters go to the topic by the settings' template `dlq_topic`; or the name of a topic; False:
            failed messages are skipped.
        payload: the steps between bytes and JSON; None: those of the app.
        timeout: seconds that one attempt may take; None: no limit.
        rate_limit: how many messages a second each process begins at most; None: no limit.
        breaker: nothing begins while the handler keeps failing with certain exceptions; None: none are watched.
        auto_offset_reset: where a group begins that has no commit on the topic.
        handler_id: its name in status, metrics, tuning and on the command line; None: module and function name.
        enable_lineage: OpenLineage headers are read and run events sent.

    Raises:
        ConfigurationError: names the handler and the option that is wrong.
    """
    options = ConsumerOptions(
        target_type=target_type,
        ordering=ordering,
        concurrency=concurrency,
        batch_size=batch_size,
        batch_linger_ms=batch_linger_ms,
        retry=retry,
        dlq=dlq,
        payload=payload,
        timeout=timeout,
        rate_limit=rate_limit,
        breaker=breaker,
        auto_offset_reset=auto_offset_reset,
        handler_id=handler_id,
        enable_lineage=enable_lineage,
    )

    def decorate(function: F) -> F:
        return note(function, build_subscription(function, topic, group_id, {**options, **unknown}))

    return decorate


@with_brackets
def ordered_consumer(
    topic: Topics,
    *,
    group_id: str,
    aggregate_key_field: str,
    sequence_id_field: str,
    first_sequence: int = 1,
    gap_timeout: float = 60.0,
    on_gap: OnGap = "wait",
    on_failure: OnFailure = "dead_letter",
    target_type: Any = None,
    concurrency: int = 1,
    retry: RetryPolicy = RetryPolicy(),
    dlq: bool | str = True,
    payload: PayloadPipeline | None = None,
    timeout: float | None = None,
    rate_limit: RateLimit | None = None,
    breaker: CircuitBreaker | None = None,
    auto_offset_reset: Literal["earliest", "latest"] = "earliest",
    handler_id: str | None = None,
    enable_lineage: bool = True,
    **unknown: Unpack[NoOptions],
) -> Callable[[F], F]:
    """Makes the function handle the messages of each aggregate in the order of their sequence numbers, each once.

    Args:
        topic: a topic's name, a list of names, or `re.compile(...)`.
        group_id: the consumer group; it may have one ordered consumer. Its processes share the partitions.
        aggregate_key_field: the field of the message that names its aggregate: text, a whole number, a UUID or bytes.
        sequence_id_field: the field of the message with its sequence number: a whole number below 2**53.
        first_sequence: the number of an aggregate's first message.
        gap_timeout: seconds to wait for a missing number before `on_gap` decides.
        on_gap: 'wait' goes on waiting, 'skip' gives the missing number up, 'dead_letter' dead-letters what waits
            behind it and still expects the number.
        on_failure: when all attempts have failed, 'dead_letter' goes on with the next number; 'block' parks the
            message and all later ones of its aggregate, and tries again.
        target_type: what a message is decoded into; None: the annotation of the handler's first parameter.
        concurrency: how many aggregates each process handles at once, one message at a time of each.
        retry: how often a message that fails is tried again, and when; without retry topics.
        dlq: True: dead letters go to the topic by the settings' template `dlq_topic`; or the name of a topic; False:
            failed messages are skipped.
        payload: the steps between bytes and JSON; None: those of the app.
        timeout: seconds that one attempt may take; None: no limit.
        rate_limit: how many messages a second each process begins at most; None: no limit.
        breaker: nothing begins while the handler keeps failing with certain exceptions; None: none are watched.
        auto_offset_reset: where a group begins that has no commit on the topic.
        handler_id: its name in status, metrics, tuning and on the command line; None: module and function name.
        enable_lineage: OpenLineage headers are read and run events sent.

    Raises:
        ConfigurationError: names the handler and the option that is wrong.
    """
    options = OrderedOptions(
        first_sequence=first_sequence,
        gap_timeout=gap_timeout,
        on_gap=on_gap,
        on_failure=on_failure,
        target_type=target_type,
        concurrency=concurrency,
        retry=retry,
        dlq=dlq,
        payload=payload,
        timeout=timeout,
        rate_limit=rate_limit,
        breaker=breaker,
        auto_offset_reset=auto_offset_reset,
        handler_id=handler_id,
        enable_lineage=enable_lineage,
    )

    def decorate(function: F) -> F:
        fields = (aggregate_key_field, sequence_id_field)
        return note(function, build_ordered_subscription(function, topic, group_id, fields, {**options, **unknown}))

    return decorate


def build_subscription(
    function: Callable[..., Any],
    topic: Topics,
    group_id: str,
    options: Mapping[str, Any],
    sequencing: Sequencing | None = None,
) -> Subscription:
    """The subscription that the arguments of a decorator describe.

    Raises:
        ConfigurationError: names the handler and the option that is wrong.
    """
    handler_id = _id_of(function, options)
    known = _OPTION_NAMES if sequencing is None else _OPTION_NAMES | set(_SEQUENCING)
    for name in options:
        if name not in _OPTION_NAMES:
            raise ConfigurationError(f"handler {shown_id(handler_id)}: {_unknown(name, known)}")
    pattern = topic if isinstance(topic, re.Pattern) else None
    if pattern is not None and not isinstance(pattern.pattern, str):
        raise ConfigurationError(f"handler {shown_id(handler_id)}: the topic pattern must be a str pattern, not bytes")
    topics = () if pattern else topic_names(topic, handler_id)
    return Subscription(
        **{**options, "handler_id": handler_id},
        topics=topics,
        pattern=pattern,
        group_id=group_id,
        sequencing=sequencing,
    )


def build_ordered_subscription(
    function: Callable[..., Any], topic: Topics, group_id: str, fields: tuple[str, str], options: Mapping[str, Any]
) -> Subscription:
    """The same for `ordered_consumer`. `fields`: of the aggregate's key and of the sequence number."""
    own = {name: options[name] for name in _SEQUENCING if name in options}
    sequencing = Sequencing(aggregate_key_field=fields[0], sequence_id_field=fields[1], **own)
    check_sequencing(_id_of(function, options), sequencing)
    others = {name: value for name, value in options.items() if name not in own}
    return build_subscription(function, topic, group_id, others, sequencing)


def _refuse_missing(decorator: Callable[..., Any], given: int, options: Mapping[str, Any]) -> None:
    """Python would name what is missing, but not the misspelt option that was meant for it."""
    parameters = [each for each in signature(decorator).parameters.values() if each.kind is not each.VAR_KEYWORD]
    missing = [each.name for each in parameters[given:] if each.default is each.empty and each.name not in options]
    if missing:
        unknown = set(options) - {each.name for each in parameters}
        misspelt = [f"unknown option {name}{near}" for name in sorted(unknown) if (near := did_you_mean(name, missing))]
        problem = "; ".join(misspelt) or f"it needs {' and '.join(missing)}"
        raise ConfigurationError(f"{decorator.__name__}: {problem}")


def _id_of(function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    given = options.get("handler_id")
    return default_id(function) if given is None else given


def _unknown(name: str, known: Iterable[str]) -> str:
    if name in _SEQUENCING:
        return f"{name} is an option of ordered_consumer, not of subscribe_to"
    near = did_you_mean(name, known)
    return f"unknown option {name}" + (near or f"; known are {', '.join(sorted(known))}")

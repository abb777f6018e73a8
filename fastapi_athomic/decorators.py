"""`@subscribe_to` and `@ordered_consumer`: they note a subscription on a function and return the function unchanged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields as dataclass_fields
from functools import wraps
from typing import Any, TypeVar, Unpack, cast

from .exceptions import ConfigurationError
from .sightings import place
from .subscriptions import (
    ConsumerOptions,
    OrderedOptions,
    Sequencing,
    Subscription,
    Topics,
    check_sequencing,
    default_id,
    note,
    topic_names,
)

F = TypeVar("F", bound=Callable[..., Any])

_NO_OPTIONS = {"topics", "pattern", "group_id", "sequencing", "site"}
_OPTION_NAMES = {field.name for field in dataclass_fields(Subscription)} - _NO_OPTIONS
_SEQUENCING = ("first_sequence", "gap_timeout", "on_gap", "on_failure")


def with_brackets(decorator: F) -> F:
    """Without brackets Python calls a decorator with the handler in place of the topic: says so."""

    @wraps(decorator)
    def checked(*args: Any, **options: Any) -> Any:
        if args and callable(args[-1]):
            name, topic = decorator.__name__, '("topic", group_id="...")'
            raise ConfigurationError(
                f"{name} above {place(args[-1])} needs brackets that say what to consume: @{name}{topic}"
            )
        return decorator(*args, **options)

    return cast("F", checked)


@with_brackets
def subscribe_to(topic: Topics, *, group_id: str, **options: Unpack[ConsumerOptions]) -> Callable[[F], F]:
    """Makes the function a handler of one topic, of several, or of all whose whole name matches a compiled pattern.

    Raises:
        ConfigurationError: names the handler and the option that is wrong.
    """

    def decorate(function: F) -> F:
        return note(function, build_subscription(function, topic, group_id, dict(options)))

    return decorate


@with_brackets
def ordered_consumer(
    topic: Topics,
    *,
    group_id: str,
    aggregate_key_field: str,
    sequence_id_field: str,
    **options: Unpack[OrderedOptions],
) -> Callable[[F], F]:
    """Makes the function handle the messages of each aggregate in the order of their sequence numbers, each once.

    `aggregate_key_field` and `sequence_id_field` name fields of the decoded message.

    Raises:
        ConfigurationError: names the handler and the option that is wrong.
    """

    def decorate(function: F) -> F:
        fields = (aggregate_key_field, sequence_id_field)
        return note(function, build_ordered_subscription(function, topic, group_id, fields, dict(options)))

    return decorate


def build_subscription(
    function: Callable[..., Any],
    topic: Topics,
    group_id: str,
    options: dict[str, Any],
    sequencing: Sequencing | None = None,
) -> Subscription:
    """The subscription that the arguments of a decorator describe.

    Raises:
        ConfigurationError: names the handler and the option that is wrong.
    """
    handler_id = options.pop("handler_id", None) or default_id(function)
    unknown = sorted(set(options) - _OPTION_NAMES)
    if unknown:
        raise ConfigurationError(
            f"handler {handler_id}: unknown option {', '.join(unknown)}; known are {', '.join(sorted(_OPTION_NAMES))}"
        )
    pattern = topic if isinstance(topic, re.Pattern) else None
    if pattern is not None and not isinstance(pattern.pattern, str):
        raise ConfigurationError(f"handler {handler_id}: the topic pattern must be a str pattern, not bytes")
    topics = () if pattern else topic_names(topic, handler_id)
    return Subscription(
        handler_id=handler_id, topics=topics, pattern=pattern, group_id=group_id, sequencing=sequencing, **options
    )


def build_ordered_subscription(
    function: Callable[..., Any], topic: Topics, group_id: str, fields: tuple[str, str], options: dict[str, Any]
) -> Subscription:
    """The same for `ordered_consumer`. `fields`: of the aggregate's key and of the sequence number."""
    own = {name: options.pop(name) for name in _SEQUENCING if name in options}
    sequencing = Sequencing(aggregate_key_field=fields[0], sequence_id_field=fields[1], **own)
    check_sequencing(options.get("handler_id") or default_id(function), sequencing)
    return build_subscription(function, topic, group_id, options, sequencing)

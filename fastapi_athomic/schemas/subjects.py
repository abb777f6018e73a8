"""Under which subject does a registry keep the schema of a message? By the rules that Confluent's serializers have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from ..exceptions import ConfigurationError, PayloadEncodeError
from ..payload.steps import Part

SubjectRule = Literal["topic", "record", "topic_record"]
"""Confluent's `TopicNameStrategy`, `RecordNameStrategy` and `TopicRecordNameStrategy`."""
SubjectStrategy = SubjectRule | Callable[[str, Part, str | None], str]
"""A rule, or a function of the topic, the part of the message and the record's full name."""


def check_strategy(strategy: SubjectStrategy) -> None:
    """Raises `ConfigurationError` if it is neither one of the rules nor a function."""
    if not callable(strategy) and strategy not in get_args(SubjectRule):
        raise ConfigurationError(f"subject must be one of {', '.join(get_args(SubjectRule))}, or a function")


def subject_of(strategy: SubjectStrategy, topic: str, part: Part, record: str | None) -> str:
    """The subject of a message's schema.

    Args:
        strategy: how subjects are named.
        topic: where the message was first published.
        part: the value or the key.
        record: the full name of the record: of an Avro record, a Protobuf message; the title of a JSON Schema.

    Raises:
        PayloadEncodeError: the strategy needs the record's name, and it has none.
    """
    if callable(strategy):
        return strategy(topic, part, record)
    if strategy == "topic":
        return f"{topic}-{part}"
    if record is None:
        raise PayloadEncodeError(
            f"a schema without a name has no subject by {strategy}: use subject='topic', or publish a model"
        )
    return record if strategy == "record" else f"{topic}-{record}"

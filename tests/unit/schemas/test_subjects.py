"""Names of subjects, beside those that confluent-kafka makes."""

from __future__ import annotations

import pytest
from confluent_kafka.schema_registry import (
    record_subject_name_strategy,
    topic_record_subject_name_strategy,
    topic_subject_name_strategy,
)
from confluent_kafka.serialization import MessageField, SerializationContext

from fastapi_athomic import ConfigurationError, PayloadEncodeError
from fastapi_athomic.payload.steps import Part
from fastapi_athomic.schemas.subjects import SubjectRule, SubjectStrategy, check_strategy, subject_of

THEIRS = {
    "topic": topic_subject_name_strategy,
    "record": record_subject_name_strategy,
    "topic_record": topic_record_subject_name_strategy,
}


@pytest.mark.parametrize("part", ["value", "key"])
@pytest.mark.parametrize("rule", ["topic", "record", "topic_record"])
def test_subjects_are_named_as_confluent_names_them(rule: SubjectRule, part: Part) -> None:
    field = MessageField.KEY if part == "key" else MessageField.VALUE
    theirs = THEIRS[rule](SerializationContext("orders.v1", field), "shop.Order")
    assert subject_of(rule, "orders.v1", part, "shop.Order") == theirs


def test_a_function_may_name_them() -> None:
    def own(topic: str, part: Part, record: str | None) -> str:
        return f"{part} {record} of {topic}"

    check_strategy(own)
    assert subject_of(own, "t", "key", "R") == "key R of t"


@pytest.mark.parametrize("rule", ["record", "topic_record"])
def test_a_schema_without_a_name_needs_the_topic(rule: SubjectStrategy) -> None:
    with pytest.raises(PayloadEncodeError, match="without a name"):
        subject_of(rule, "t", "value", None)


def test_other_words_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one of topic, record, topic_record"):
        check_strategy("TopicNameStrategy")  # type: ignore[arg-type]

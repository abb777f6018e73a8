"""Rights: which operations on which topics and groups, from plain names."""

from __future__ import annotations

from fastapi_athomic.rights import Right, rights_of, rights_to_settle


def _said(rights: tuple[Right, ...]) -> list[str]:
    return [str(right) for right in rights]


def test_a_handler_with_all_its_topics() -> None:
    assert _said(rights_of(group_id="g", sources=["orders"], dlqs=["d"], retries=["r"], redrives=["back"])) == [
        "Read, Describe on group g",
        "Read, Describe, Create on topic orders",
        "Write, Describe, Create on topic d",
        "Read, Write, Describe, Create on topic r",
        "Read, Describe on topic back",
    ]


def test_nothing_is_created_where_somebody_else_makes_the_topics() -> None:
    rights = rights_of(group_id="g", sources=["orders"], dlqs=["d"], retries=["r"], create_topics=False)
    assert not any("Create" in right.operations for right in rights)


def test_who_only_reads_still_has_a_producer() -> None:
    assert _said(rights_of(group_id="g", sources=["orders"]))[-1] == "IdempotentWrite on cluster kafka-cluster"
    published = rights_of(group_id="g", sources=["orders"], published=["invoices"])
    assert _said(published)[-1] == "Write, Describe, Create on topic invoices"


def test_a_star_at_the_end_is_a_prefix() -> None:
    (_, shop, _) = rights_of(group_id="g", sources=["shop.*"])
    assert (shop.name, shop.pattern_type) == ("shop.", "Prefixed")
    (_, all_topics, _) = rights_of(group_id="g", sources=["*"])
    assert (all_topics.name, all_topics.pattern_type) == ("*", "Literal")


def test_settling_reads_and_marks_the_dlq_and_writes_to_the_redrive_topic() -> None:
    assert _said(rights_to_settle(sources=["orders"], dlqs=["d"], redrives=["back"], create_topics=False)) == [
        "Read, Write, Describe on topic d",
        "Read, Write, Describe on topic back",
        "Read, Describe on topic orders",
    ]

"""The topics that the package makes: who makes them when, who follows them, and what operators do to them.

On `memory://`; tests/integration/test_own_topics.py has what Apache Kafka makes of it.
"""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_athomic import NotAuthorizedError
from fastapi_athomic.failures import topic_watch
from fastapi_athomic.rights import Operation
from fastapi_athomic.transports.base import TopicCounts
from tests.support.apps import eventually, running
from tests.unit.failures.topic_shop import Shop, factory_of, followed, later

# --- made when they are needed, and followed then


async def test_p20_fault_11_no_topic_is_made_before_it_is_needed(shop: Shop) -> None:
    athomic = shop.app("t", retry=later(0.01))
    async with running(athomic):
        assert shop.topics() == {"t"}, "a source that was missing"
        await athomic.publish("t", "x")
        await athomic.drain()
        assert shop.record.seen == [("g", "t"), ("g", "t.g.retry.0.01s")], "what waits to come back is not drained"
        assert shop.topics() == {"t", "t.g.retry.0.01s", "t.g.dlq"}
        assert (await athomic.dead_letters("g").redrive(dry_run=True)).settled == 1
        assert "t.g.redrive" not in shop.topics()
        assert (await athomic.dead_letters("g").redrive()).settled == 1
        await athomic.drain()
    assert shop.record.seen[-2:] == [("g", "t.g.redrive"), ("g", "t.g.retry.0.01s")]


async def test_p20_fault_11_there_are_no_dead_letters_before_the_first(shop: Shop) -> None:
    async with running(shop.app("t")) as athomic:
        assert await athomic.dead_letters("g").count() == 0
        assert (await athomic.dead_letters("g").redrive()).selected == 0
    assert shop.topics() == {"t"}


async def test_p20_fault_11_topics_that_others_make_are_followed(shop: Shop) -> None:
    async with running(shop.app("t", retry=later(0.01))):
        shop.broker.create_topics({"t.g.redrive": 2})  # as the command line does
        shop.write("t.g.redrive", 4)
        await shop.record.until(lambda seen: seen.count(("g", "t.g.redrive")) == 4)
        shop.broker.delete_topics(["t.g.redrive"])
        shop.write("t")
        await shop.record.until(lambda seen: ("g", "t") in seen)
        shop.broker.create_topics({"t.g.redrive": 1})
        shop.write("t.g.redrive")
        await shop.record.until(lambda seen: seen.count(("g", "t.g.redrive")) == 5)


async def test_p20_fault_11_all_members_of_a_group_follow_and_one_may_leave(shop: Shop) -> None:
    shop.broker.create_topics({"t": 2})
    shop.sound = True
    first, other = shop.app("t"), shop.app("t")
    async with running(other):
        async with running(first):
            shop.write("t", partition=0)
            shop.broker.create_topics({"t.g.redrive": 2})
            await eventually(lambda: followed(first) == followed(other) == {"t", "t.g.redrive"})
        shop.write("t.g.redrive", partition=0)
        shop.write("t.g.redrive", partition=1)
        await shop.record.until(lambda seen: seen.count(("g", "t.g.redrive")) == 2)


async def test_p20_fault_11_a_topic_is_made_once_however_many_need_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_watch, "COUNT_SECONDS", 60.0)
    made, create = list[Any](), shop.broker.create_topics

    def note_and_create(topics: Any) -> None:
        made.append(topics)
        create(topics)

    async with running(shop.app("t", ordering="none", concurrency=50)) as athomic:
        monkeypatch.setattr(shop.broker, "create_topics", note_and_create)
        await athomic.publish_many("t", ["x"] * 50)
        await athomic.drain()
    assert made == [{"t.g.dlq": 4}]
    assert len(shop.kept("t.g.dlq")) == 50


async def test_p20_fault_11_what_is_gone_is_followed_no_more_and_disturbs_nothing(shop: Shop) -> None:
    shop.broker.create_topics({"t.g.redrive": 1})
    async with running(shop.app("t")) as athomic:
        assert followed(athomic) == {"t", "t.g.redrive"}
        manager: Any = athomic.manager()
        member = manager.consumers["g"].life.session.client()._member
        assert member.followed == {"t.g.redrive"}
        shop.broker.delete_topics(["t.g.redrive"])
        await eventually(lambda: not member.followed and followed(athomic) == {"t"})
        shop.write("t")
        await shop.record.count(1)
        health = athomic.health()
    assert health is not None
    assert health.status == "healthy"


async def test_p20_fault_11_topics_of_other_services_are_not_asked_for_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {f"t.other{number}.{kind}" for number in range(5) for kind in ("dlq", "redrive", "retry.1s")}
    shop.broker.create_topics(dict.fromkeys({*others, "t.g.retry.9s"}, 1))
    athomic = shop.app("t")
    asked = list[Any]()
    counts = shop.broker.partition_counts

    def count(topics: Any) -> dict[str, int]:
        asked.append(topics)
        return counts(topics)

    monkeypatch.setattr(shop.broker, "partition_counts", count)
    async with running(athomic):
        await eventually(lambda: {"t", "t.g.dlq", "t.g.redrive", "t.g.retry.9s"} in asked)
    assert not others & {topic for topics in asked for topic in topics or ()}


async def test_p20_fault_11_one_question_for_all_handlers(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_watch, "FOLLOW_SECONDS", 3_600.0)
    athomic = shop.app("t0", "g0")
    for number in range(1, 10):
        shop.add(athomic, f"t{number}", f"g{number}")
    asked = list[Any]()
    counts = shop.broker.partition_counts

    def count(topics: Any) -> dict[str, int]:
        asked.append(topics)
        return counts(topics)

    async with running(athomic):
        manager: Any = athomic.manager()
        watch = factory_of(athomic)._watch
        await eventually(lambda: not factory_of(athomic)._left_behind._unsaid)
        watch._asked_at = float("-inf")
        monkeypatch.setattr(shop.broker, "partition_counts", count)
        for service in manager.consumers.values():
            await watch.existing(service.dlq_handler.returns.brings_back)
    names = [f"t{number}{end}" for number in range(10) for end in ("", f".g{number}.dlq", f".g{number}.redrive")]
    assert asked == [set(names)]


# --- what operators do


@pytest.mark.parametrize("partitions", [4, 1])
async def test_p20_fault_11_a_dlq_that_was_deleted_or_shrunk_takes_letters(shop: Shop, partitions: int) -> None:
    shop.broker.create_topics({"t": 4})
    async with running(shop.app("t")) as athomic:
        shop.write("t", partition=2)
        await eventually(lambda: len(shop.kept("t.g.dlq")) == 1)
        shop.broker.delete_topics(["t.g.dlq"])
        if partitions != 4:
            shop.broker.create_topics({"t.g.dlq": partitions})
        shop.write("t", partition=2)
        await eventually(lambda: len(shop.kept("t.g.dlq")) == 1)
        assert shop.broker.partition_counts(["t.g.dlq"]) == {"t.g.dlq": partitions}
        assert await athomic.dead_letters("g").count() == 1
        shop.sound = True
        assert (await athomic.dead_letters("g").redrive()).settled == 1
        await shop.record.until(lambda seen: ("g", "t.g.redrive") in seen)


async def test_p20_fault_11_what_is_known_of_a_topic_is_asked_again_after_an_error(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_watch, "COUNT_SECONDS", 3_600.0)
    shop.broker.create_topics({"t": 4})
    async with running(shop.app("t")):
        shop.write("t", partition=3)
        await eventually(lambda: len(shop.kept("t.g.dlq")) == 1)
        shop.broker.delete_topics(["t.g.dlq"])
        shop.broker.create_topics({"t.g.dlq": 1})
        shop.write("t", partition=3)
        await eventually(lambda: len(shop.kept("t.g.dlq")) == 1)
        shop.broker.delete_topics(["t.g.dlq"])
        shop.write("t", partition=3)
        await eventually(lambda: len(shop.kept("t.g.dlq")) == 1)


async def test_p20_fault_11_a_dlq_that_may_not_be_made_is_waited_for(shop: Shop) -> None:
    shop.broker.create_topics({"t": 1, "t.g.dlq": 1})
    async with running(shop.app("t", settings={"create_topics": False})) as athomic:
        shop.broker.delete_topics(["t.g.dlq"])
        shop.write("t")
        await eventually(lambda: "topic t.g.dlq does not exist and create_topics is off" in str(athomic.health()))
        shop.broker.create_topics({"t.g.dlq": 1})
        await athomic.drain()
    assert len(shop.kept("t.g.dlq")) == 1


async def test_p20_fault_11_a_retry_topic_may_be_purged_or_deleted_while_messages_wait(shop: Shop) -> None:
    athomic = shop.app("t", retry=later(60))
    async with running(athomic):
        shop.write("t", 3)
        await eventually(lambda: len(shop.kept("t.g.retry.60s")) == 3)
        shop.broker.delete_records("t.g.retry.60s")
        shop.write("t")
        await eventually(lambda: len(shop.kept("t.g.retry.60s")) == 1)
        shop.broker.delete_topics(["t.g.retry.60s"])
        shop.write("t")
        await eventually(lambda: len(shop.kept("t.g.retry.60s")) == 1)
        await eventually(lambda: followed(athomic) == {"t", "t.g.retry.60s"})


# --- what an authorizer hides or forbids


def deny(shop: Shop, athomic: Any, monkeypatch: pytest.MonkeyPatch, denied: dict[str, frozenset[Operation]]) -> None:
    """The app's broker answers as one with an authorizer does: without Describe it does not show the topic."""
    transport = factory_of(athomic)._parts.transport

    async def partition_counts(topics: Any, timeout: float) -> TopicCounts:
        counts = shop.broker.partition_counts(topics)
        shown = {topic: count for topic, count in counts.items() if "Describe" not in denied.get(topic, ())}
        asked = denied if topics is not None else {topic: denied[topic] for topic in shown if topic in denied}
        return TopicCounts(shown, {topic: asked[topic] for topic in asked if topics is None or topic in topics})

    monkeypatch.setattr(transport, "partition_counts", partition_counts)


@pytest.mark.parametrize("operations", [{"Read"}, {"Describe", "Read", "Write"}])
async def test_a_followed_topic_without_rights_is_not_gone_and_comes_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, operations: set[Operation]
) -> None:
    shop.broker.create_topics({"t": 1, "t.g.redrive": 1})
    denied: dict[str, frozenset[Operation]] = {}
    async with running(shop.app("t")) as athomic:
        deny(shop, athomic, monkeypatch, denied)
        await eventually(lambda: followed(athomic) == {"t", "t.g.redrive"})
        denied["t.g.redrive"] = frozenset(operations)
        await eventually(lambda: followed(athomic) == {"t"})
        for _ in range(topic_watch.MISSES + 1):
            await factory_of(athomic)._watch._ask()
        assert "t.g.redrive" in await factory_of(athomic)._watch.existing(lambda topic: True)
        waits = "what comes to t.g.redrive waits: not authorized: the right Read on topic t.g.redrive is missing"
        assert waits in str(athomic.health())
        shop.write("t")
        await shop.record.until(lambda seen: ("g", "t") in seen)
        denied.clear()
        await eventually(lambda: followed(athomic) == {"t", "t.g.redrive"})
        assert "waits" not in str(athomic.health())


async def test_a_dlq_without_rights_is_neither_made_nor_missing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    athomic = shop.app("t", settings={"create_topics": True})
    shop.broker.create_topics({"t": 2})
    denied: dict[str, frozenset[Operation]] = {"t.g.dlq": frozenset({"Describe", "Read", "Write"})}
    async with running(athomic):
        deny(shop, athomic, monkeypatch, denied)
        shop.write("t", partition=0)
        refused = "dead letter to t.g.dlq refused: not authorized: the right Write on topic t.g.dlq is missing"
        await eventually(lambda: refused in str(athomic.health()))
        assert "t.g.dlq" not in shop.topics()
        shop.write("t", partition=1)
        await shop.record.count(2)
        with pytest.raises(NotAuthorizedError, match=r"Read on topic t\.g\.dlq"):
            await athomic.dead_letters("g").count()
        denied.clear()
        await eventually(lambda: athomic.consumers()[0].counters.dead_lettered == 2)
    assert len(shop.kept("t.g.dlq")) == 2


async def test_a_source_without_rights_is_not_said_to_be_missing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    athomic = shop.app("t", settings={"create_topics": False, "restart_backoff": 0.01})
    denied: dict[str, frozenset[Operation]] = {"t": frozenset({"Describe", "Read", "Write"})}
    async with athomic.app.router.lifespan_context(athomic.app):
        deny(shop, athomic, monkeypatch, denied)
        await eventually(lambda: "the right Read on topic t is missing" in str(athomic.health()))
    assert shop.topics() == set()


async def test_the_start_tells_of_a_dlq_that_must_not_be_written_to(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    athomic = shop.app("t", settings={"create_topics": False}, retry=later(0.01))
    shop.broker.create_topics({"t": 1})
    denied: dict[str, frozenset[Operation]] = {"t.g.dlq": frozenset({"Write"})}
    async with athomic.app.router.lifespan_context(athomic.app):
        deny(shop, athomic, monkeypatch, denied)
        await eventually(lambda: "the right Write on topic t.g.dlq is missing" in str(athomic.health()))
        assert "topic t.g.retry.0.01s does not exist" in str(athomic.health())

"""The topics that the product makes: who makes them when, who follows them, and what operators and deploys do to them.

On `memory://`; tests/integration/test_own_topics.py has what Apache Kafka makes of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from time import time
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, ConfigurationError, RawMessage, RetryPolicy
from fastapi_athomic.decorators import build_subscription
from fastapi_athomic.failures import topic_watch
from fastapi_athomic.failures.own_topics import LONGEST_NAME, OwnTopics
from fastapi_athomic.messages import OutgoingMessage, TopicPartition
from fastapi_athomic.settings import MemorySettings
from fastapi_athomic.transports.memory.broker import MemoryBroker
from fastapi_athomic.transports.memory.transport import broker_named
from tests.support.apps import Record, eventually, new_app, running

ONCE = RetryPolicy(max_attempts=1)
EVERYTHING = re.compile(".*")


def later(*delays: float) -> RetryPolicy:
    return RetryPolicy(max_attempts=1, retry_topics=delays, allow_reordering=True)


class Shop:
    """Apps on one broker, whose handlers note the topic of what they get and fail until `sound`."""

    def __init__(self) -> None:
        self.name = uuid4().hex
        self.broker: MemoryBroker = broker_named(self.name)
        self.record = Record()
        self.sound = False

    def app(
        self, topics: Any, group_id: str = "g", settings: Mapping[str, Any] | None = None, **options: Any
    ) -> Athomic:
        athomic = new_app(AthomicSettings(broker_url=f"memory://{self.name}", **(settings or {})))
        return self.add(athomic, topics, group_id, **options)

    def add(self, athomic: Athomic, topics: Any, group_id: str = "g", **options: Any) -> Athomic:
        async def handle(message: bytes, raw: RawMessage) -> None:
            self.record.note((group_id, raw.topic))
            if not self.sound:
                raise RuntimeError("broken")

        defaults: Any = {"handler_id": group_id, "retry": ONCE}
        athomic.subscribe_to(topics, group_id=group_id, **(defaults | options))(handle)
        return athomic

    def topics(self) -> set[str]:
        return set(self.broker.partition_counts(None))

    def write(self, topic: str, count: int = 1, partition: int | None = None) -> None:
        messages = [OutgoingMessage(topic, b"k%d" % number, b"x", (), partition) for number in range(count)]
        results = self.broker.append(messages, MemorySettings())
        assert not [result for result in results if isinstance(result, Exception)]

    def kept(self, topic: str) -> list[RawMessage]:
        counts = self.broker.partition_counts([topic])
        return [
            message
            for number in range(counts.get(topic, 0))
            if (log := self.broker.log(TopicPartition(topic, number))) is not None
            for message in log.messages
        ]


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(topic_watch, "FOLLOW_SECONDS", 0.01)
    monkeypatch.setattr(topic_watch, "COUNT_SECONDS", 0.0)
    return Shop()


# --- names


@pytest.mark.parametrize(
    ("topic", "made"),
    [
        ("orders", False),
        ("orders.placed", False),
        ("orders.billing.dlq", True),
        ("orders.billing.redrive", True),
        ("orders.billing.retry.0.5s", True),
        ("orders.billing.retry.1e+06s", True),
        ("orders.billing.retry.soon", False),
        ("orders.g1.dlq.g2.redrive", True),
        ("errors", True),
        ("dead-orders", True),
        ("orders.dlq", False),
    ],
)
def test_p20_fault_02_what_the_product_makes_is_known_by_its_name(topic: str, made: bool) -> None:
    named = build_subscription(lambda message: None, "t", "g", {"dlq": "errors", "handler_id": "h"})
    assert OwnTopics(AthomicSettings(dlq_topic="dead-{topic}"), [named]).made(topic) == made


def test_p20_fault_02_a_template_without_text_of_its_own_knows_only_this_apps_groups() -> None:
    handler = build_subscription(lambda message: None, "t", "g", {"handler_id": "h"})
    own = OwnTopics(AthomicSettings(dlq_topic="{topic}.{group_id}"), [handler])
    assert own.made("orders.g")
    assert not own.made("orders.placed")


# --- patterns


@pytest.mark.timeout(30)
async def test_p20_fault_02_two_patterns_that_match_each_others_dead_letters_end(shop: Shop) -> None:
    shop.broker.create_topics({"orders": 1})
    athomic = shop.add(shop.app(EVERYTHING, "a"), EVERYTHING, "b", retry=later(0.01))
    async with running(athomic):
        await athomic.publish("orders", "x")
        await shop.record.count(3)
        await athomic.drain()
    assert sorted(shop.record.seen) == [("a", "orders"), ("b", "orders"), ("b", "orders.b.retry.0.01s")]
    assert shop.topics() == {"orders", "orders.a.dlq", "orders.b.retry.0.01s", "orders.b.dlq"}


@pytest.mark.timeout(30)
async def test_p20_fault_02_patterns_end_also_where_names_do_not_tell(shop: Shop) -> None:
    """Apps that know nothing of each other's DLQs."""
    shop.broker.create_topics({"orders": 1})
    one = shop.app(EVERYTHING, "a", dlq="a-errors")
    other = shop.app(EVERYTHING, "b", {"dlq_topic": "{topic}-{group_id}-dead"})
    async with running(one), running(other):
        await one.publish("orders", "x")
        await shop.record.count(4)
        await one.drain()
        await other.drain()
        counters = one.consumers()[0].counters
    assert sorted(shop.record.seen) == [("a", "orders"), ("a", "orders-b-dead"), ("b", "a-errors"), ("b", "orders")]
    assert shop.topics() == {"orders", "a-errors", "orders-b-dead"}
    assert (counters.dead_lettered, counters.skipped) == (1, 1), "it stays where it is"


async def test_p20_fault_02_a_copy_of_a_dead_letter_in_another_topic_is_a_message_like_others(shop: Shop) -> None:
    shop.broker.create_topics({"orders": 1, "copies": 1})
    async with running(shop.app("orders", "a", dlq="errors")) as athomic:
        await athomic.publish("orders", "x")
        await athomic.drain()
    (letter,) = shop.kept("errors")
    shop.broker.append([OutgoingMessage("copies", letter.key, letter.value, letter.headers)], MemorySettings())
    async with running(shop.app(re.compile("cop.*"), "b")) as athomic:
        await athomic.drain()
    assert len(shop.kept("copies.b.dlq")) == 1


async def test_p20_fault_02_what_is_named_outright_is_consumed(shop: Shop) -> None:
    shop.broker.create_topics({"orders.a.dlq": 1})
    async with running(shop.app("orders.a.dlq", "b")) as athomic:
        await athomic.publish("orders.a.dlq", "x")
        await athomic.drain()
    assert shop.record.seen == [("b", "orders.a.dlq")]
    assert len(shop.kept("orders.a.dlq.b.dlq")) == 1


async def test_p20_fault_02_a_pattern_says_once_what_it_leaves_out(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastapi_athomic.failures.pattern_topics")
    shop.broker.create_topics({"orders": 1, "orders.a.dlq": 1, "other": 1})
    async with running(shop.app(re.compile("orders.*"), "g")):
        shop.broker.create_topics({"orders.new": 1})
        await eventually(lambda: "leaves out" in caplog.text)
        shop.broker.rebalance("g")
    said = [
        record.getMessage() for record in caplog.records if record.name == "fastapi_athomic.failures.pattern_topics"
    ]
    assert said == [
        "g: the pattern leaves out orders.a.dlq, which is made for dead letters or retries: name it to consume it"
    ]


async def test_p20_fault_02_a_pattern_may_have_groups_of_its_own(shop: Shop) -> None:
    """It used to be built into a larger expression, once for each kind of topic."""
    shop.broker.create_topics({"eu-orders-eu": 1})
    pattern = re.compile(r"(?P<region>eu|us)-orders-\1")
    async with running(shop.app(pattern, "g", retry=later(0.01))) as athomic:
        await athomic.publish("eu-orders-eu", "x")
        await shop.record.count(2)
    assert shop.record.seen == [("g", "eu-orders-eu"), ("g", "eu-orders-eu.g.retry.0.01s")]


async def test_p20_fault_02_a_name_that_becomes_too_long_keeps_the_app_from_starting(shop: Shop) -> None:
    athomic = shop.app("t" * (LONGEST_NAME - 5), "g")
    with pytest.raises(ConfigurationError, match=f"handler g: .* a name of {LONGEST_NAME + 1} characters"):
        athomic._assemble()


@pytest.mark.parametrize("dlq", ["t.g.redrive", "t.g.retry.5s"])
async def test_p20_fault_02_dead_letters_do_not_come_back_by_themselves(shop: Shop, dlq: str) -> None:
    athomic = shop.app("t", dlq=dlq)
    with pytest.raises(ConfigurationError, match=f"handler g: its dead letters must not go to {dlq}"):
        athomic._assemble()


async def test_p20_fault_02_a_patterns_topic_with_a_long_name_has_dead_letters_and_retries(shop: Shop) -> None:
    long, too = ("t" * (LONGEST_NAME - 1) + end for end in "12")
    shop.broker.create_topics({long: 1, too: 1})
    async with running(shop.app(re.compile("t+[12]"), "g", retry=later(0.01))) as athomic:
        await athomic.publish(long, "x")
        await athomic.publish(too, "x")
        await shop.record.count(4)
        await athomic.drain()
        letters = athomic.dead_letters("g")
        assert [letter.original_topic for letter in await letters.browse(source=long)] == [long]
        shop.sound = True
        assert (await letters.redrive(source=too)).settled == 1
        await shop.record.count(5)
        await athomic.drain()
    made = shop.topics() - {long, too}
    assert len(made) == 5, "of each source its own"
    assert all(len(name) <= LONGEST_NAME for name in made)
    assert shop.record.seen[-1][1].endswith(".g.redrive")


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
            await eventually(lambda: _followed(first) == _followed(other) == {"t", "t.g.redrive"})
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
        assert _followed(athomic) == {"t", "t.g.redrive"}
        manager: Any = athomic.manager()
        member = manager.consumers["g"]._session.client._member
        assert member.followed == {"t.g.redrive"}
        shop.broker.delete_topics(["t.g.redrive"])
        await eventually(lambda: not member.followed and _followed(athomic) == {"t"})
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
        await eventually(lambda: {"t.g.redrive", "t.g.retry.9s"} in asked)
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
        watch = _parts(athomic)._watch
        await eventually(lambda: not _parts(athomic)._left_behind._unsaid)
        watch._asked_at = float("-inf")
        monkeypatch.setattr(shop.broker, "partition_counts", count)
        for service in manager.consumers.values():
            await watch.existing(service.dlq_handler.returns.brings_back)
    assert asked == [{f"t{number}.g{number}.redrive" for number in range(10)}]


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
        await eventually(lambda: _followed(athomic) == {"t", "t.g.retry.60s"})


# --- what deploys do


@pytest.mark.parametrize("after", [ONCE, later(60), later(0.05, 60)], ids=["no retry topics", "others", "one more"])
async def test_p20_fault_11_what_waits_under_delays_of_before_comes_back_when_due(
    shop: Shop, after: RetryPolicy
) -> None:
    async with running(shop.app("t", retry=later(0.3))) as athomic:
        await athomic.publish("t", "x")
        await shop.record.count(1)
        await eventually(lambda: len(shop.kept("t.g.retry.0.3s")) == 1)
    (waiting,) = shop.kept("t.g.retry.0.3s")
    due = int(dict(waiting.headers)["athomic-retry-due"] or 0) / 1000
    shop.sound = True
    async with running(shop.app("t", retry=after)) as athomic:
        await shop.record.until(lambda seen: ("g", "t.g.retry.0.3s") in seen)
        assert time() >= due
        await athomic.drain()
    assert len(shop.record.seen) == 2


async def test_p20_fault_11_what_an_old_process_leaves_is_found_when_it_has_gone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling deploy: the new process is there before the old one makes its retry topic."""
    shop.sound = True
    async with running(shop.app("t", retry=later(60))) as new:
        await eventually(lambda: not _parts(new)._left_behind._unsaid)
        async with running(shop.app("t", retry=later(0.01))):
            shop.broker.create_topics({"t.g.retry.0.01s": 1})
        monkeypatch.setattr(topic_watch, "LISTING_SECONDS", 0.0)
        shop.write("t.g.retry.0.01s")
        await shop.record.until(lambda seen: ("g", "t.g.retry.0.01s") in seen)


async def test_p20_fault_11_what_fails_again_goes_to_the_next_longer_delay_of_now(shop: Shop) -> None:
    async with running(shop.app("t", retry=later(0.05))) as athomic:
        await athomic.publish("t", "x")
        await eventually(lambda: len(shop.kept("t.g.retry.0.05s")) == 1)
    async with running(shop.app("t", retry=later(0.01, 0.1))) as athomic:
        await athomic.drain()
    assert shop.record.seen[-2:] == [("g", "t.g.retry.0.05s"), ("g", "t.g.retry.0.1s")]
    assert "t.g.retry.0.01s" not in shop.topics()
    assert len(shop.kept("t.g.dlq")) == 1


async def test_p20_fault_11_a_deploy_with_other_templates_follows_the_default_ones_too(shop: Shop) -> None:
    shop.broker.create_topics({"t": 1, "t.g.redrive": 1, "t.g.retry.1s": 1})
    shop.write("t.g.redrive")
    templates = {"retry_topic": "again.{topic}.{group_id}.{delay}", "redrive_topic": "back.{topic}.{group_id}"}
    async with running(shop.app("t", settings=templates)) as athomic:
        await athomic.drain()
        assert _followed(athomic) == {"t", "t.g.redrive", "t.g.retry.1s"}
    assert shop.record.seen == [("g", "t.g.redrive")]


STILL = r"They are listed, sent back and discarded as before: fastapi-athomic dlq list g"
CHANGES: dict[str, tuple[Callable[[Shop], Athomic], str]] = {
    "named": (lambda shop: shop.app("t", dlq="errors"), f"dead letters of t go to errors now. {STILL}"),
    "none": (lambda shop: shop.app("t", dlq=False), rf"the handler has none any more \(dlq=False\). {STILL}"),
    "template": (
        lambda shop: shop.app("t", settings={"dlq_topic": "dead.{topic}"}),
        rf"dead letters of t go to dead\.t now. {STILL}",
    ),
    "source": (
        lambda shop: shop.app("u"),
        "no handler of this app consumes t for group g any more. To send them back, consume it again",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_p20_fault_11_dead_letters_that_a_deploy_leaves_behind_are_named(
    shop: Shop, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(shop.app("t")) as athomic:
        await athomic.publish("t", "x")
        await athomic.drain()
    assert "earlier deploy" not in caplog.text
    new_app, said = CHANGES[change]
    async with running(new_app(shop)) as athomic:
        await eventually(lambda: "earlier deploy" in caplog.text)
        if STILL in said:
            shop.sound = True
            assert (await athomic.dead_letters("g").redrive()).settled == 1
            await shop.record.until(lambda seen: ("g", "t.g.redrive") in seen)
    pattern = f"g: topic t.g.dlq holds 1 records, dead letters of an earlier deploy; {said}"
    assert re.search(pattern, caplog.text)


async def test_p20_fault_11_messages_of_a_source_that_nobody_consumes_any_more_are_named(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(shop.app("t", retry=later(0.01, 60))) as athomic:
        await athomic.publish("t", "x")
        await eventually(lambda: len(shop.kept("t.g.retry.60s")) == 1)
    async with running(shop.app("u")):
        await eventually(lambda: "consumes t any more" in caplog.text)
    assert "g: topic t.g.retry.60s holds 1 messages that wait for group g" in caplog.text
    assert "t.g.retry.0.01s holds" not in caplog.text, "it was handled"


async def test_p20_fault_11_what_other_handlers_of_the_group_use_is_not_left_behind(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.broker.create_topics({"t": 1, "t.g.dlq": 1, "u.g.redrive": 1})
    shop.write("t.g.dlq")
    shop.write("u.g.redrive")
    shop.sound = True
    athomic = shop.add(shop.app("t"), "u", handler_id="other")
    async with running(athomic):
        await athomic.drain()
        await eventually(lambda: not _parts(athomic)._left_behind._unsaid)
    assert "holds" not in caplog.text


def _parts(athomic: Athomic) -> Any:
    """The app's factory."""
    manager: Any = athomic.manager()
    return manager._factory


def _followed(athomic: Athomic) -> set[str]:
    return {place.topic for place in athomic.consumers()[0].assignment}

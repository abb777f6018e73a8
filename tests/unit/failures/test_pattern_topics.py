"""What subscriptions by pattern consume, and what they leave out."""

from __future__ import annotations

import logging
import re

import pytest

from fastapi_athomic.failures.own_topics import LONGEST_NAME
from fastapi_athomic.messages import OutgoingMessage
from fastapi_athomic.settings import MemorySettings
from tests.support.apps import eventually, running
from tests.unit.failures.topic_shop import EVERYTHING, Shop, later


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
        "g: the pattern leaves out orders.a.dlq, a topic of dead letters or retries: to consume it, subscribe by name"
    ]


async def test_p20_fault_02_a_pattern_may_have_groups_of_its_own(shop: Shop) -> None:
    """It used to be built into a larger expression, once for each kind of topic."""
    shop.broker.create_topics({"eu-orders-eu": 1})
    pattern = re.compile(r"(?P<region>eu|us)-orders-\1")
    async with running(shop.app(pattern, "g", retry=later(0.01))) as athomic:
        await athomic.publish("eu-orders-eu", "x")
        await shop.record.count(2)
    assert shop.record.seen == [("g", "eu-orders-eu"), ("g", "eu-orders-eu.g.retry.0.01s")]


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

"""What a kit tells of each message, whatever kind of handler it goes to and whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from fastapi_athomic import (
    AthomicSettings,
    HandlerTimeoutError,
    PayloadDecodeError,
    PublishError,
    RetryPolicy,
    include_athomic,
)
from fastapi_athomic.testing import Published, TestKit
from tests.support.kit_shop import Invoice, Order, Rates, Shop, rates


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(AthomicSettings(isolation="thread"))


@pytest.fixture
def kit(shop: Shop) -> Iterator[TestKit]:
    with TestKit(shop.app) as kit:
        yield kit


def test_a_dead_letter_is_told_once_with_all_its_attempts(shop: Shop, kit: TestKit) -> None:
    with kit.expect_failures(shop.bill, ValueError):
        kit.publish("orders", Order(number=1, customer="broke"), key="1")
        kit.drain()
    [handled] = kit.handled()
    assert (handled.outcome, handled.attempts, handled.result) == ("dead_lettered", 3, None)
    assert isinstance(handled.error, ValueError)
    assert handled.message == Order(number=1, customer="broke")
    [letter] = kit.dead_letters(shop.bill)
    assert (letter.original_topic, letter.original_offset, letter.error_message) == (
        "orders",
        handled.offset,
        "no money",
    )
    assert kit.dead_letters(shop.ship) == kit.dead_letters(shop.mail) == []
    assert kit.published("invoices") == []


def test_a_letter_that_is_redriven_is_handled_once_more(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.bill, times=3)
    kit.publish("orders", Order(number=1))
    kit.drain()
    assert kit.client.portal is not None
    kit.client.portal.call(kit.athomic.dead_letters("bill").redrive)
    kit.drain()
    first, second = kit.handled(shop.bill)
    assert (first.outcome, second.outcome, second.attempts) == ("dead_lettered", "completed", 1)
    assert (first.topic, first.offset) == (second.topic, second.offset)
    assert kit.dead_letters(shop.bill) == []


def test_a_message_that_does_not_decode_has_no_message(shop: Shop, kit: TestKit) -> None:
    with kit.expect_failures(error=PayloadDecodeError):
        kit.publish("orders", b"{")
        kit.drain()
    [handled] = kit.handled(shop.bill)
    assert (handled.outcome, handled.message, handled.attempts) == ("dead_lettered", None, 1)
    assert isinstance(handled.error, PayloadDecodeError)


def test_without_a_dlq_it_is_skipped(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.mail)
    kit.publish("mails", Order(number=1), key="k")
    kit.drain()
    [handled] = kit.handled(shop.mail)
    assert (handled.outcome, handled.attempts) == ("skipped", 1)


def test_a_sync_handler_gets_its_key_and_what_the_app_overrides(shop: Shop, kit: TestKit) -> None:
    class Cheap(Rates):
        vat = 0.05

    shop.app.dependency_overrides[rates] = Cheap
    try:
        kit.publish("mails", Order(number=1), key="k")
        kit.drain()
    finally:
        shop.app.dependency_overrides.clear()
    assert kit.handled(shop.mail)[0].result == ("k", 0.05)


def test_a_message_in_a_retry_topic_waits_until_it_is_handled(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.ship, times=2)
    place = kit.publish("parcels", Order(number=1), key="1")
    kit.clock.advance(1)
    [waits] = kit.deferred(shop.ship)
    assert kit.deferred() == [waits]
    assert [*kit.deferred(shop.bill), *kit.handled()] == []
    assert (waits.handler_id, waits.message, waits.attempts) == ("ship", Order(number=1), 1)
    assert (waits.topic, waits.partition, waits.offset) == place
    assert 28 <= waits.due_in_seconds <= 30
    kit.clock.advance(30)
    [waits] = kit.deferred(shop.ship)
    assert waits.attempts == 2
    assert 118 <= waits.due_in_seconds <= 120
    kit.drain()
    [handled] = kit.handled()
    assert kit.deferred() == []
    assert (handled.outcome, handled.attempts, handled.result) == ("completed", 3, "sent 1")
    assert (handled.topic, handled.partition, handled.offset) == place
    assert [each.topic for each in kit.published()] == ["parcels"]


def test_batches_give_one_record_for_each_message(shop: Shop, kit: TestKit) -> None:
    kit.expect_failures(shop.count)
    orders = [Order(number=number, customer="broke" if number == 2 else "ada") for number in range(1, 5)]
    for order in orders:
        kit.publish("clicks", order, partition=0)
    kit.drain()
    records = {each.message.number: each for each in kit.handled(shop.count)}
    assert [each.message.number for each in kit.handled(shop.count)] == [1, 2, 3, 4]
    assert [records[number].outcome for number in (1, 2, 3, 4)] == [
        "completed",
        "dead_lettered",
        "completed",
        "completed",
    ]
    assert records[1].batch == 0
    assert records[2].batch is not None
    assert records[4].batch is not None
    assert records[4].batch > records[2].batch >= 0
    assert records[3].result in (1, 2)


def test_an_injected_failure_of_a_batch_is_one_of_its_call(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.count)
    for number in range(3):
        kit.publish("clicks", Order(number=number), partition=0)
    kit.drain()
    assert [(each.outcome, each.attempts, each.batch, each.result) for each in kit.handled(shop.count)] == [
        ("completed", 2, 1, 3)
    ] * 3


def test_a_pattern_tells_the_real_topic(shop: Shop, kit: TestKit) -> None:
    kit.publish("audit.eu", {"a": 1})
    kit.drain()
    [handled] = kit.handled(shop.audit)
    assert (handled.topic, handled.result) == ("audit.eu", "audit.eu")
    assert handled.message == handled.raw


def test_ordered_messages_are_told_in_their_order(shop: Shop, kit: TestKit) -> None:
    for number in (2, 1, 3, 1):
        kit.publish("entries", Order(number=number), key="ada")
    kit.drain()
    assert [each.result for each in kit.handled(shop.post)] == [1, 2, 3], "the duplicate is not handled"


def test_a_tombstone_is_a_message(shop: Shop, kit: TestKit) -> None:
    kit.publish("profiles", None, key="1")
    kit.drain()
    assert kit.published("profiles")[0].value is None
    [handled] = kit.handled(shop.profile)
    assert (handled.message, handled.result) == (None, True)


def test_what_is_published_decodes_as_its_topic_says(kit: TestKit) -> None:
    kit.publish("invoices", Invoice(order=1))
    [published] = kit.published("invoices")
    assert isinstance(published, Published)
    with pytest.raises(PayloadDecodeError):
        published.decode(Order)


def test_what_the_broker_refuses_is_not_published(kit: TestKit) -> None:
    with pytest.raises(PublishError, match="max_message_bytes"):
        kit.publish("invoices", b"x" * 2_000_000)
    assert kit.published() == []


def test_records_show_neither_payload_nor_key(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.ship)
    kit.publish("parcels", Order(number=1, customer="secret"), key="secret")
    kit.clock.advance(1)
    shown = repr([*kit.published(), *kit.deferred()])
    kit.drain()
    assert "secret" not in shown + repr(kit.handled())


def test_what_returns_after_its_timeout_has_not_completed() -> None:
    app = FastAPI()
    athomic = include_athomic(app, AthomicSettings())

    @athomic.subscribe_to("orders", group_id="g", handler_id="late", timeout=0.05, retry=RetryPolicy(max_attempts=1))
    async def late(order: Order) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "swallowed"
        return "done"

    with TestKit(app) as kit:
        kit.expect_failures(late, HandlerTimeoutError)
        kit.publish("orders", Order(number=1))
        kit.drain()
        assert [each.outcome for each in kit.handled(late)] == ["dead_lettered"]
        assert kit.deliver(late, Order(number=2)).outcome == "dead_lettered"

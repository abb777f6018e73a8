"""`deliver`: one handler alone gets a message, and its fate is known when the call returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from fastapi_athomic import (
    AthomicError,
    ConfigurationError,
    PayloadDecodeError,
    RetryPolicy,
    SourceNotFoundError,
    TransportError,
    subscribe_to,
)
from fastapi_athomic.settings import AthomicSettings
from fastapi_athomic.testing import TestKit
from fastapi_athomic.transports.memory.transport import MemoryTransport
from tests.support.apps import new_app
from tests.support.kit_shop import Invoice, Order, Shop


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(AthomicSettings(isolation="thread"))


@pytest.fixture
def kit(shop: Shop) -> Iterator[TestKit]:
    with TestKit(shop.app) as kit:
        yield kit


def test_the_handler_gets_it_at_once_and_alone(shop: Shop, kit: TestKit) -> None:
    handled = kit.deliver(shop.bill, Order(number=1), key="1", headers={"x-tenant-id": "acme"})
    assert (handled.outcome, handled.attempts, handled.result) == ("completed", 1, Invoice(order=1))
    assert (handled.topic, handled.key, handled.headers.text("x-tenant-id")) == ("orders", b"1", "acme")
    assert kit.handled() == [handled]
    assert [each.topic for each in kit.published()] == ["invoices"], "it was not published itself"


def test_attempts_follow_one_another_at_once(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.bill, times=2)
    handled = kit.deliver(shop.bill, Order(number=1))
    assert (handled.outcome, handled.attempts) == ("completed", 3)


def test_retry_topics_are_gone_through_without_being_written_to(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.ship, times=2)
    handled = kit.deliver(shop.ship, Order(number=1), key="k")
    assert (handled.outcome, handled.attempts, handled.result) == ("completed", 3, "sent 1")
    assert handled.raw.topic == "parcels.shipping.retry.120s"
    assert (handled.topic, handled.message) == ("parcels", Order(number=1))
    assert kit.deferred() == []
    kit.drain()
    assert kit.handled() == [handled]


def test_a_dead_letter_is_written(shop: Shop, kit: TestKit) -> None:
    with kit.expect_failures(shop.bill, ValueError):
        handled = kit.deliver(shop.bill, Order(number=1, customer="broke"))
    assert (handled.outcome, handled.attempts) == ("dead_lettered", 3)
    [letter] = kit.dead_letters(shop.bill)
    assert letter.error_message == "no money"


def test_what_does_not_decode_and_what_has_no_dlq(shop: Shop, kit: TestKit) -> None:
    kit.expect_failures(error=PayloadDecodeError)
    assert kit.deliver(shop.bill, b"{").outcome == "dead_lettered"
    assert kit.deliver(shop.count, b"{").outcome == "dead_lettered"
    assert kit.deliver(shop.mail, b"{", key="k").outcome == "skipped"


def test_every_kind_of_handler_takes_one(shop: Shop, kit: TestKit) -> None:
    assert kit.deliver(shop.mail, Order(number=1), key="k").result == ("k", 0.2)
    assert kit.deliver(shop.count, Order(number=1)).result == 1
    assert kit.deliver(shop.audit, {"a": 1}, topic="audit.eu").result == "audit.eu"
    assert kit.deliver(shop.profile, None).result is True
    assert kit.deliver("both-b", Order(number=1)).topic == "both.b"
    assert kit.deliver(shop.post, Order(number=5)).result == 5, "the order is not asked for"


def test_a_batch_of_one_is_tried_again_and_dead_lettered(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.count)
    assert kit.deliver(shop.count, Order(number=1)).attempts == 2
    kit.expect_failures(shop.count)
    assert kit.deliver(shop.count, Order(number=1, customer="broke")).outcome == "dead_lettered"


def test_it_must_be_clear_which_topic_is_meant(shop: Shop, kit: TestKit) -> None:
    with pytest.raises(ConfigurationError, match="topic=, as audit consumes a pattern"):
        kit.deliver(shop.audit, {})
    with pytest.raises(SourceNotFoundError, match="bill does not consume 'invoices'"):
        kit.deliver(shop.bill, Order(number=1), topic="invoices")


def test_a_dead_letter_that_cannot_be_written_is_an_error(shop: Shop, kit: TestKit) -> None:
    kit.expect_failures()
    kit.deliver(shop.bill, b"{")
    broker = cast(MemoryTransport, kit._bench.transport).broker
    broker.refuse("orders.billing.dlq")
    with pytest.raises(TransportError, match="could not be written"):
        kit.deliver(shop.bill, b"{")
    broker.allow("orders.billing.dlq")
    assert kit.deliver(shop.bill, b"{").outcome == "dead_lettered"


def test_a_policy_that_never_gives_up_ends_in_an_error() -> None:
    @subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=0))
    async def handle(message: str) -> None:
        raise ValueError(message)

    app = new_app(AthomicSettings(), handle).app
    with TestKit(app, strict=False) as kit, pytest.raises(AthomicError, match="does not give up"):
        kit.deliver(handle, "x")

"""`fail`: the next attempts of one handler fail as the test wants, and that is expected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fastapi_athomic import ConfigurationError
from fastapi_athomic.testing import TestKit
from tests.support.kit_shop import Order, Shop


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop()


@pytest.fixture
def kit(shop: Shop) -> Iterator[TestKit]:
    with TestKit(shop.app) as kit:
        yield kit


def test_so_many_attempts_fail_and_the_next_one_runs(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.bill, times=2, error=ConnectionError("the bank is away"))
    kit.publish("orders", Order(number=1))
    kit.drain()
    [handled] = kit.handled(shop.bill)
    assert (handled.outcome, handled.attempts) == ("completed", 3)
    assert len(kit.published("invoices")) == 1, "the handler ran once"
    assert kit.deliver(shop.bill, Order(number=2)).attempts == 1


def test_it_is_raised_in_place_of_the_handler_or_after_it(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.bill)
    assert kit.deliver(shop.bill, Order(number=1)).attempts == 2
    assert len(kit.published("invoices")) == 1
    kit.fail(shop.bill, before=False)
    assert kit.deliver(shop.bill, Order(number=2)).attempts == 2
    assert len(kit.published("invoices")) == 3, "it had done its work, and did it again"


def test_only_that_handler_fails(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.bill)
    assert kit.deliver(shop.profile, None).attempts == 1
    assert kit.deliver(shop.bill, Order(number=1)).attempts == 2


def test_failures_of_several_calls_follow_one_another(shop: Shop, kit: TestKit) -> None:
    error = KeyError("second")
    kit.fail(shop.bill, error=ValueError)
    kit.fail(shop.bill, times=2, error=error)
    handled = kit.deliver(shop.bill, Order(number=1))
    assert (handled.outcome, handled.error) == ("dead_lettered", error)
    [letter] = kit.dead_letters(shop.bill)
    assert letter.error_type == "builtins.KeyError"


def test_the_error_decides_as_one_of_the_handler_would(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.bill, error=TimeoutError("the bank is slow"))
    kit.fail(shop.ship, times=3)
    assert kit.deliver(shop.bill, Order(number=1)).outcome == "completed"
    assert kit.deliver(shop.ship, Order(number=1)).outcome == "dead_lettered"


def test_a_sync_handler_fails_too(shop: Shop, kit: TestKit) -> None:
    kit.fail(shop.mail)
    assert kit.deliver(shop.mail, Order(number=1), key="k").outcome == "skipped"


@pytest.mark.parametrize("wrong", [{"times": 0}, {"times": 1.5}, {"times": True}, {"error": "boom"}, {"error": int}])
def test_what_cannot_be_raised_or_counted_is_refused(shop: Shop, kit: TestKit, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        kit.fail(shop.bill, **wrong)


def test_a_type_that_needs_arguments_is_refused(shop: Shop, kit: TestKit) -> None:
    with pytest.raises(ConfigurationError, match="UnicodeDecodeError needs arguments"):
        kit.fail(shop.bill, error=UnicodeDecodeError)

from __future__ import annotations

from decimal import Decimal

import pytest
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from example_app.messages import ORDERS, STOCK, Order, StockMovement
from example_app.orders import accept
from example_app.shipping import ship
from fastapi_athomic import PayloadUnavailableError, SequenceGapError
from fastapi_athomic.testing import TestKit

from .shopping import commits_that_fail, get, order, steps


def test_an_order_goes_through_the_whole_shop(kit: TestKit) -> None:
    placed = order(kit, quantity=2)
    kit.drain()
    assert steps(kit, placed) == ["placed", "billed", "reserved"]
    assert get(kit, f"/invoices/{placed}")["total"] == "25.00"
    assert get(kit, "/stock") == {"book": -2}
    assert get(kit, "/shipments") == get(kit, "/mails") == [placed]
    assert set(get(kit, "/totals").values()) == {1}


def test_the_route_publishes_one_message_from_which_all_follows(kit: TestKit) -> None:
    placed = order(kit)
    [message] = kit.published(ORDERS)
    assert message.decode(Order).order_id == placed
    assert message.key == placed.encode()


def test_an_order_that_is_sent_twice_is_one_order(kit: TestKit) -> None:
    assert order(kit, key="cart-7") == order(kit, key="cart-7") == "cart-7"
    kit.drain()
    assert len(kit.published(ORDERS)) == 2, "the route cannot know; the handlers can"
    assert set(get(kit, "/totals").values()) == {1}
    assert get(kit, "/stock") == {"book": -1}


def test_an_order_that_makes_no_sense_is_refused(kit: TestKit) -> None:
    answer = kit.client.post("/orders", json={"customer": "", "item": "book", "unit_price": "1"})
    assert answer.status_code == 422
    assert kit.published() == []


def test_goods_are_asked_for_by_item(kit: TestKit) -> None:
    """By their key they meet the other movements of the item, in order."""
    placed = order(kit, item="pen", quantity=3)
    kit.drain()
    [goods] = kit.published(STOCK)
    assert goods.key == b"pen"
    assert goods.decode(StockMovement) == StockMovement(movement_id=placed, item="pen", quantity=-3, order_id=placed)


def test_when_the_commit_fails_all_of_it_is_done_again(app: FastAPI, kit: TestKit) -> None:
    """The first attempt has published already. It publishes again, and whoever handles that can tell."""
    kit.expect_failures(accept, OperationalError)
    kit.expect_failures(ship, SequenceGapError)  # nobody has billed this order
    with commits_that_fail(app, times=1):
        handled = kit.deliver(accept, Order(order_id="7", customer="ann", item="book", unit_price=Decimal(1)))
    assert (handled.outcome, handled.attempts) == ("completed", 2)
    kit.drain()
    assert len(kit.published(STOCK)) == 2
    assert get(kit, "/stock") == {"book": -1}


def test_when_the_process_dies_after_the_commit_nothing_is_done_again(kit: TestKit) -> None:
    kit.fail(accept, before=False)  # what would have been committed next is the offset
    placed = order(kit)
    kit.drain()
    [handled] = kit.handled(accept)
    assert handled.attempts == 2
    assert len(kit.published(STOCK)) == 1
    assert steps(kit, placed) == ["placed", "billed", "reserved"]


@pytest.mark.parametrize("failures", [1, 6])
def test_orders_wait_for_the_schema_registry(kit: TestKit, failures: int) -> None:
    kit.fail(accept, times=failures, error=PayloadUnavailableError("the registry is away"))
    order(kit)
    kit.drain()
    [handled] = kit.handled(accept)
    assert handled.outcome == "completed"

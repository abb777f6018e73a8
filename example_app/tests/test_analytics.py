from __future__ import annotations

from decimal import Decimal

from example_app.analytics import analyse
from example_app.messages import ORDERS, Order
from fastapi_athomic.testing import TestKit

from .shopping import get, order


def test_sales_are_summed_by_item_the_best_seller_first(kit: TestKit) -> None:
    order(kit, item="pen")
    order(kit, quantity=2)
    order(kit, quantity=1)
    kit.drain()
    assert get(kit, "/sales") == [
        {"item": "book", "orders": 2, "quantity": 3, "revenue": "37.50"},
        {"item": "pen", "orders": 1, "quantity": 1, "revenue": "12.50"},
    ]


def test_orders_come_in_batches(kit: TestKit) -> None:
    for number in range(20):
        new = Order(order_id=str(number), customer="ann", item="book", unit_price=Decimal("1.00"))
        kit.publish(ORDERS, new, partition=0)
    kit.drain()
    handled = kit.handled(analyse)
    assert len(handled) == 20
    assert len({each.batch for each in handled}) < 20
    assert get(kit, "/sales")[0]["orders"] == 20


def test_an_order_is_counted_once_in_one_batch_and_over_several(kit: TestKit) -> None:
    new = Order(order_id="1", customer="ann", item="book", unit_price=Decimal("1.00"))
    for _ in range(2):
        kit.publish(ORDERS, new, partition=0)
    kit.drain()
    kit.publish(ORDERS, new, partition=0)
    kit.drain()
    assert get(kit, "/sales")[0]["orders"] == 1


def test_what_is_no_order_is_a_dead_letter_and_the_rest_of_the_batch_is_counted(kit: TestKit) -> None:
    kit.expect_failures()
    kit.publish(ORDERS, b"{}", partition=0)
    order(kit)
    kit.drain()
    assert [letter.error_stage for letter in kit.dead_letters(analyse)] == ["decode"]
    assert get(kit, "/sales")[0]["orders"] == 1

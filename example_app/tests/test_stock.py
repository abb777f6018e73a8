from __future__ import annotations

from example_app.messages import STOCK, StockMovement
from example_app.stock import move
from fastapi_athomic.testing import TestKit

from .shopping import get, order


def test_deliveries_and_orders_make_the_balance(kit: TestKit) -> None:
    kit.client.post("/stock/book/deliveries", json={"quantity": 10}).raise_for_status()
    for _ in range(3):
        order(kit, quantity=2)
    order(kit, item="pen")
    kit.drain()
    assert get(kit, "/stock") == {"book": 4, "pen": -1}


def test_movements_of_an_item_are_added_one_after_the_other(kit: TestKit) -> None:
    """Each reads the balance and writes another: two at once would lose one of them."""
    for number in range(30):
        kit.publish(STOCK, StockMovement(movement_id=str(number), item="book", quantity=number), key="book")
    kit.drain()
    assert [handled.message.quantity for handled in kit.handled(move)] == list(range(30))
    assert get(kit, "/stock") == {"book": sum(range(30))}


def test_a_movement_that_is_tried_again_keeps_those_of_its_item_behind_it(kit: TestKit) -> None:
    kit.fail(move, times=1)
    for number in range(3):
        kit.publish(STOCK, StockMovement(movement_id=str(number), item="book", quantity=number), key="book")
    kit.drain()
    assert [(handled.message.quantity, handled.attempts) for handled in kit.handled(move)] == [(0, 2), (1, 1), (2, 1)]


def test_a_movement_that_comes_twice_counts_once(kit: TestKit) -> None:
    movement = StockMovement(movement_id="delivery-1", item="book", quantity=5)
    for _ in range(2):
        assert kit.deliver(move, movement, key="book").outcome == "completed"
    assert get(kit, "/stock") == {"book": 5}


def test_movements_are_written_in_avro(kit: TestKit) -> None:
    kit.client.post("/stock/book/deliveries", json={"quantity": 10}).raise_for_status()
    [message] = kit.published(STOCK)
    assert message.value is not None
    assert message.value[0] == 0  # Confluent's frame: a zero, then the schema's id
    assert message.decode(StockMovement).quantity == 10

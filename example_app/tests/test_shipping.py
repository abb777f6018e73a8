from __future__ import annotations

from example_app.billing import bill
from example_app.messages import EVENTS, STEPS, OrderEvent, Status
from example_app.shipping import ship
from fastapi_athomic import SequenceGapError
from fastapi_athomic.testing import TestKit

from .shopping import get, order, steps


def tell(kit: TestKit, *statuses: Status) -> None:
    for status in statuses:
        kit.publish(EVENTS, OrderEvent.of(status, "7", "ann" if status == "placed" else None), key="7")


def test_steps_are_handled_in_the_order_of_their_numbers_each_once(kit: TestKit) -> None:
    tell(kit, "reserved", "billed", "billed", "placed", "reserved")
    kit.drain()
    assert steps(kit, "7") == list(STEPS)
    assert get(kit, "/shipments") == ["7"]
    counters = get(kit, "/consumers/shipping")["counters"]
    assert (counters["processed"], counters["duplicates"]) == (3, 2)


def test_an_order_that_is_not_billed_is_not_shipped(kit: TestKit) -> None:
    tell(kit, "placed", "reserved")
    kit.expect_failures(ship, SequenceGapError)
    kit.drain()  # skips the minute that it waits
    [letter] = kit.dead_letters(ship)
    assert letter.error_type == "fastapi_athomic.exceptions.SequenceGapError"
    assert get(kit, "/shipments") == []


def test_a_gap_of_less_than_a_minute_closes_by_itself(kit: TestKit) -> None:
    tell(kit, "placed", "reserved")
    kit.clock.advance(50)
    assert steps(kit, "7") == ["placed"]
    tell(kit, "billed")
    kit.drain()
    assert steps(kit, "7") == list(STEPS)
    assert kit.dead_letters() == []


def test_billing_that_is_late_keeps_the_goods_waiting(kit: TestKit) -> None:
    kit.fail(bill, times=2)
    placed = order(kit)
    kit.drain()
    assert steps(kit, placed) == list(STEPS)

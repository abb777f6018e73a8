from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy.exc import OperationalError

from example_app.bank import CardRefusedError
from example_app.billing import bill
from example_app.messages import EVENTS, Invoice, Order
from example_app.shipping import ship
from fastapi_athomic import SequenceGapError
from fastapi_athomic.testing import TestKit

from .conftest import TOKEN
from .shopping import get, order, steps

REDRIVE = {"limit": 10, "reason": "the card is good now"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


def test_a_busy_bank_is_asked_again(kit: TestKit) -> None:
    kit.expect_failures(bill)
    placed = order(kit, "unlucky")
    kit.drain()
    [handled] = kit.handled(bill)
    assert handled.result == Invoice(order_id=placed, customer="unlucky", total=Decimal("12.50"), attempts=2)
    assert get(kit, f"/invoices/{placed}")["attempts"] == 2


def test_a_refused_card_is_a_dead_letter_at_once(kit: TestKit) -> None:
    kit.expect_failures(bill, CardRefusedError)
    kit.expect_failures(ship, SequenceGapError)  # waits in vain for the step "billed"
    placed = order(kit, "broke")
    kit.drain()
    [handled] = kit.handled(bill)
    assert (handled.outcome, handled.attempts) == ("dead_lettered", 1)
    [letter] = kit.dead_letters(bill)
    assert letter.error_message == "insufficient funds"
    assert kit.client.get(f"/invoices/{placed}").status_code == 404
    assert [sales["orders"] for sales in get(kit, "/sales")] == [1], "analytics does not mind"


def test_with_a_good_card_the_dead_letter_is_sent_back_and_the_order_is_shipped_after_all(kit: TestKit) -> None:
    kit.expect_failures()
    placed = order(kit, "broke")
    kit.drain()  # skips the minute that shipping waits for the missing step
    assert steps(kit, placed) == ["placed"]

    kit.client.put("/customers/broke/card", json={"good": True}).raise_for_status()
    for consumer in ("billing", "shipping"):
        sent = kit.client.post(f"/consumers/{consumer}/dlq/redrive", json=REDRIVE, headers=BEARER)
        assert sent.raise_for_status().json()["settled"] == 1
        kit.drain()
    assert steps(kit, placed) == ["placed", "billed", "reserved"]
    assert kit.dead_letters() == []


def test_a_message_that_comes_twice_is_billed_once(kit: TestKit) -> None:
    again = Order(order_id="7", customer="ann", item="book", unit_price=Decimal("12.50"))
    first, second = (kit.deliver(bill, again) for _ in range(2))
    assert first.result == second.result
    assert [invoice["order_id"] for invoice in get(kit, "/invoices")] == ["7"]
    assert len(kit.published(EVENTS)) == 1
    kit.expect_failures(ship, SequenceGapError)  # nobody has placed this order


@pytest.mark.parametrize("failures", [1, 5])
def test_while_the_database_is_away_no_attempt_is_used_up(kit: TestKit, failures: int) -> None:
    """The breaker opens after three, and tries again later, as long as it takes: no order becomes a dead letter."""
    kit.fail(bill, times=failures, error=OperationalError("SELECT 1", {}, Exception("the database is away")))
    placed = order(kit)
    kit.drain()
    [handled] = kit.handled(bill)
    assert handled.outcome == "completed"
    assert get(kit, f"/invoices/{placed}")["customer"] == "ann"

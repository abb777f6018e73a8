"""The example app from its routes to its topics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from example_app.ledger import Ledger, get_ledger
from example_app.main import app
from fastapi_athomic import Athomic


@pytest.fixture
def shop() -> Iterator[TestClient]:
    ledger = Ledger()
    app.dependency_overrides[get_ledger] = lambda: ledger
    with TestClient(app) as client:
        while client.get("/consumers/health").status_code != 200:
            pass
        yield client
    app.dependency_overrides.clear()


def order(shop: TestClient, customer: str, item: str = "book", quantity: int = 1) -> str:
    answer = shop.post(
        "/orders", json={"customer": customer, "item": item, "quantity": quantity, "unit_price": "12.50"}
    )
    assert answer.status_code == 202
    return str(answer.json()["order_id"])


def settle(shop: TestClient) -> None:
    athomic: Athomic = app.state.athomic
    assert shop.portal is not None
    shop.portal.call(athomic.drain)


def test_an_order_is_billed_and_counted(shop: TestClient) -> None:
    first, second = order(shop, "ann", quantity=2), order(shop, "bob", item="pen")
    settle(shop)
    assert shop.get(f"/invoices/{first}").json() == {
        "order_id": first,
        "customer": "ann",
        "total": "25.00",
        "attempts": 1,
    }
    assert {invoice["order_id"] for invoice in shop.get("/invoices").json()} == {first, second}
    assert [(sales["item"], sales["quantity"]) for sales in shop.get("/sales").json()] == [("book", 2), ("pen", 1)]
    assert shop.get("/consumers/billing").json()["counters"]["processed"] >= 2


def test_a_busy_bank_is_asked_again(shop: TestClient) -> None:
    placed = order(shop, "unlucky")
    settle(shop)
    assert shop.get(f"/invoices/{placed}").json()["attempts"] == 2


def test_a_refused_card_is_a_dead_letter(shop: TestClient) -> None:
    before = shop.get("/consumers/billing").json()["counters"]["dead_lettered"]
    placed = order(shop, "broke")
    settle(shop)
    assert shop.get(f"/invoices/{placed}").status_code == 404
    assert shop.get("/consumers/billing").json()["counters"]["dead_lettered"] == before + 1
    assert [sales["orders"] for sales in shop.get("/sales").json()] == [1], "analytics does not mind"


def test_an_order_that_makes_no_sense_is_refused(shop: TestClient) -> None:
    assert shop.post("/orders", json={"customer": "", "item": "book", "unit_price": "1"}).status_code == 422

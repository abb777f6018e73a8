"""The app. `memory://` by itself; Kafka when ATHOMIC_BROKER_URL says kafka://host:port."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException

import fastapi_athomic
from fastapi_athomic import Athomic, get_athomic

from .ledger import Ledger, get_ledger
from .models import ORDERS, Invoice, ItemSales, NewOrder, Order

app = FastAPI(title="Shop")
fastapi_athomic.include_athomic(app, packages=["example_app"])  # or app.include_athomic(...)

LedgerDependency = Annotated[Ledger, Depends(get_ledger)]


@app.post("/orders", status_code=202)
async def place_order(new: NewOrder, athomic: Annotated[Athomic, Depends(get_athomic)]) -> Order:
    """Accepts the order; billing and analytics hear of it by themselves."""
    order = Order(**new.model_dump())
    await athomic.publish(ORDERS, order, key=order.order_id)
    return order


@app.get("/invoices")
async def invoices(ledger: LedgerDependency) -> list[Invoice]:
    return list(ledger.invoices.values())


@app.get("/invoices/{order_id}")
async def invoice(order_id: str, ledger: LedgerDependency) -> Invoice:
    found = ledger.invoices.get(order_id)
    if found is None:
        raise HTTPException(404, "this order has not been billed")
    return found


@app.get("/sales")
async def sales(ledger: LedgerDependency) -> list[ItemSales]:
    return ledger.sales()

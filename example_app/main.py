"""The app. `memory://` by itself; Kafka and Redis when ATHOMIC_BROKER_URL and ATHOMIC_STATE_STORE_URL name them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException

import fastapi_athomic
from fastapi_athomic import Athomic, get_athomic

from .ledger import Ledger, get_ledger
from .models import EVENTS, ORDERS, Invoice, ItemSales, NewOrder, Order, OrderEvent
from .tracing import set_up_tracing

set_up_tracing()
app = FastAPI(title="Shop")
fastapi_athomic.include_athomic(app, packages=["example_app"])  # or app.include_athomic(...)

LedgerDependency = Annotated[Ledger, Depends(get_ledger)]


@app.post("/orders", status_code=202)
async def place_order(new: NewOrder, athomic: Annotated[Athomic, Depends(get_athomic)]) -> Order:
    """Accepts the order; billing, analytics and tracking hear of it by themselves."""
    order = Order(**new.model_dump())
    await athomic.publish(ORDERS, order, key=order.order_id)
    await athomic.publish(EVENTS, OrderEvent.placed(order), key=order.order_id)
    return order


@app.get("/orders/{order_id}")
async def events(order_id: str, ledger: LedgerDependency) -> list[OrderEvent]:
    """What happened to the order so far, in its order."""
    found = ledger.events.get(order_id)
    if found is None:
        raise HTTPException(404, "nothing is known of this order yet")
    return found


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

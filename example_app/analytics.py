"""Counts sales, in batches."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from fastapi_athomic import subscribe_to

from .ledger import Ledger, get_ledger
from .models import ORDERS, Order


@subscribe_to(ORDERS, group_id="analytics", handler_id="analytics", batch_size=200, batch_linger_ms=50)
async def analyse(orders: list[Order], ledger: Annotated[Ledger, Depends(get_ledger)]) -> None:
    for order in orders:
        ledger.count(order)

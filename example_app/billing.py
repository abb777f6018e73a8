"""Bills each order: one message at a time, tried again when the bank is busy, dead-lettered when it says no."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from fastapi_athomic import Athomic, DeliveryAttempt, RetryPolicy, get_athomic, subscribe_to

from .ledger import Ledger, get_ledger
from .models import EVENTS, ORDERS, Invoice, Order, OrderEvent


class BankBusyError(Exception):
    """Passes: worth another attempt."""


class CardRefusedError(Exception):
    """Does not pass: no attempt will help."""


@subscribe_to(
    ORDERS,
    group_id="billing",
    handler_id="billing",
    retry=RetryPolicy(max_attempts=3, delay=0.2, fatal=(CardRefusedError,)),
)
async def bill(
    order: Order,
    attempt: DeliveryAttempt,
    ledger: Annotated[Ledger, Depends(get_ledger)],
    athomic: Annotated[Athomic, Depends(get_athomic)],
) -> Invoice:
    charge(order, attempt.number)
    invoice = Invoice(order_id=order.order_id, customer=order.customer, total=order.total, attempts=attempt.number)
    ledger.add_invoice(invoice)
    await athomic.publish(EVENTS, OrderEvent.billed(order), key=order.order_id)
    return invoice


def charge(order: Order, attempt: int) -> None:
    """Stands for the bank. Two customers show what happens when things go wrong."""
    if order.customer == "unlucky" and attempt == 1:
        raise BankBusyError("please come again")
    if order.customer == "broke":
        raise CardRefusedError("insufficient funds")

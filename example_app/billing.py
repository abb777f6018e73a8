"""Bills each order: tried again when the bank is busy, dead-lettered when it says no."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, HTTPException
from sqlalchemy import select
from sqlalchemy.orm import Mapped, mapped_column

from fastapi_athomic import DeliveryAttempt, RetryPolicy, subscribe_to

from .bank import CardRefusedError, charge
from .database import DATABASE_BREAKER, Base, Cents, Session
from .messages import ORDERS, Invoice, Money, Order, OrderEvent
from .publishers import Publishing

router = APIRouter(tags=["billing"])


class InvoiceRow(Base):
    __tablename__ = "invoices"

    order_id: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[str]
    total: Mapped[Money] = mapped_column(Cents)
    attempts: Mapped[int]


@subscribe_to(
    ORDERS,
    group_id="billing",
    handler_id="billing",
    concurrency=4,
    retry=RetryPolicy(max_attempts=3, delay=0.2, fatal=(CardRefusedError,)),
    breaker=DATABASE_BREAKER,
)
async def bill(order: Order, attempt: DeliveryAttempt, session: Session, publishers: Publishing) -> Invoice:
    """One message at a time of each partition, in its order.

    Shows: retries in place (`unlucky`), an error that goes to the DLQ at once (`broke`), the number of the attempt. A
    dead letter that is sent back comes here again: by then the card may be good.
    """
    known = await session.get(InvoiceRow, order.order_id)
    if known is not None:
        return Invoice.model_validate(known)
    await charge(order, attempt.number, session)
    invoice = Invoice(order_id=order.order_id, customer=order.customer, total=order.total, attempts=attempt.number)
    session.add(InvoiceRow(**invoice.model_dump()))
    await session.flush()
    await publishers.events.publish(OrderEvent.of("billed", order.order_id))
    return invoice


@router.get("/invoices", response_model=list[Invoice])
async def invoices(session: Session) -> Sequence[InvoiceRow]:
    return (await session.scalars(select(InvoiceRow))).all()


@router.get("/invoices/{order_id}", response_model=Invoice)
async def invoice(order_id: str, session: Session) -> InvoiceRow:
    found = await session.get(InvoiceRow, order_id)
    if found is None:
        raise HTTPException(404, "this order has not been billed")
    return found

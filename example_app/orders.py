"""Takes orders: one message over HTTP, from which all others follow."""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Header
from sqlalchemy.orm import Mapped, mapped_column

from fastapi_athomic import CircuitBreaker, PayloadUnavailableError, subscribe_to

from .database import AWAY, Base, Cents, Session
from .messages import ORDERS, Money, NewOrder, Order, OrderEvent, StockMovement
from .publishers import Publishing

router = APIRouter(tags=["orders"])
BREAKER = CircuitBreaker(exceptions=(*AWAY, PayloadUnavailableError), failures=3, pause=1, max_pause=30)
"""This handler publishes to an Avro topic: it waits for the schema registry as it does for the database."""


class OrderRow(Base):
    __tablename__ = "orders"

    order_id: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[str]
    item: Mapped[str]
    quantity: Mapped[int]
    total: Mapped[Money] = mapped_column(Cents)


@router.post("/orders", status_code=202)
async def place_order(
    new: NewOrder,
    publishers: Publishing,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=64)] = None,
) -> Order:
    """Accepts an order. Send the header `idempotency-key` to be able to send it again: it becomes the order's id.

    It publishes one message and writes nothing, so there is nothing that could be half done: the order is placed when
    the broker has acknowledged it.
    """
    order = Order(order_id=idempotency_key or uuid4().hex, **new.model_dump())
    await publishers.orders.publish(order)
    return order


@subscribe_to(ORDERS, group_id="orders", handler_id="orders", concurrency=4, breaker=BREAKER)
async def accept(order: Order, session: Session, publishers: Publishing) -> None:
    """Notes the order, and says so to shipping and stock. `database` says why in this order.

    Shows: a session and publishers by `Depends`, as in routes; a message that comes twice.
    """
    if await session.get(OrderRow, order.order_id) is not None:
        return
    session.add(OrderRow(**order.model_dump(exclude={"unit_price"}), total=order.total))
    await session.flush()
    await publishers.events.publish(OrderEvent.of("placed", order.order_id, order.customer))
    await publishers.stock.publish(StockMovement.of(order))

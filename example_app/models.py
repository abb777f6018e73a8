"""What travels: over HTTP, and through the topics."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated
from uuid import uuid4

from pydantic import BaseModel, Field

ORDERS = "orders.placed"
EVENTS = "orders.events"

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]


class NewOrder(BaseModel):
    """What a customer sends."""

    customer: Annotated[str, Field(min_length=1, max_length=80)]
    item: Annotated[str, Field(min_length=1, max_length=80)]
    quantity: Annotated[int, Field(ge=1, le=1_000)] = 1
    unit_price: Annotated[Money, Field(gt=0)]


class Order(NewOrder):
    """What the order service publishes."""

    order_id: str = Field(default_factory=lambda: uuid4().hex)

    @property
    def total(self) -> Decimal:
        return self.quantity * self.unit_price


class OrderEvent(BaseModel):
    """A step in the life of an order. Steps are numbered, so their order is known wherever they come from."""

    order_id: str
    sequence: int
    status: str

    @classmethod
    def placed(cls, order: Order) -> OrderEvent:
        return cls(order_id=order.order_id, sequence=1, status="placed")

    @classmethod
    def billed(cls, order: Order) -> OrderEvent:
        return cls(order_id=order.order_id, sequence=2, status="billed")


class Invoice(BaseModel):
    order_id: str
    customer: str
    total: Money
    attempts: int  # how often the payment was tried


class ItemSales(BaseModel):
    item: str
    orders: int = 0
    quantity: int = 0
    revenue: Money = Decimal(0)

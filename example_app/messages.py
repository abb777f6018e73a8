"""What travels: over HTTP, and through the topics."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ORDERS = "orders.placed"
EVENTS = "orders.events"
STOCK = "stock.movements"  # in Avro
MAILS = "mails"  # encrypted

Money = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
Name = Annotated[str, Field(min_length=1, max_length=80)]
Status = Literal["placed", "billed", "reserved"]
STEPS: tuple[Status, ...] = ("placed", "billed", "reserved")
"""What happens to an order, in this order: whoever comes first, shipping follows the numbers."""


class NewOrder(BaseModel):
    """What a customer sends."""

    customer: Name
    item: Name
    quantity: Annotated[int, Field(ge=1, le=1_000)] = 1
    unit_price: Annotated[Money, Field(gt=0)]


class Order(NewOrder):
    """An order that was accepted. Topic `orders.placed`, by order."""

    order_id: str

    @property
    def total(self) -> Decimal:
        return self.quantity * self.unit_price


class OrderEvent(BaseModel):
    """A step in the life of an order. Steps are numbered, so their order is known wherever they come from.

    Topic `orders.events`, by order.
    """

    model_config = ConfigDict(from_attributes=True)

    order_id: str
    sequence: int
    status: Status
    customer: str | None = None  # of the first step

    @classmethod
    def of(cls, status: Status, order_id: str, customer: str | None = None) -> OrderEvent:
        return cls(order_id=order_id, sequence=STEPS.index(status) + 1, status=status, customer=customer)


class StockMovement(BaseModel):
    """Goods come (a delivery) or go (an order). Topic `stock.movements`, by item."""

    movement_id: str  # of an order: the order's id
    item: str
    quantity: int  # below 0: they go
    order_id: str | None = None

    @classmethod
    def of(cls, order: Order) -> StockMovement:
        return cls(movement_id=order.order_id, item=order.item, quantity=-order.quantity, order_id=order.order_id)


class Mail(BaseModel):
    """What the customer is told. Topic `mails`, by order; nobody but the shop can read it there."""

    order_id: str
    address: str
    text: str


class Invoice(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    order_id: str
    customer: str
    total: Money
    attempts: int  # how often the payment was tried


class ItemSales(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    item: str
    orders: int = 0
    quantity: int = 0
    revenue: Money = Decimal(0)

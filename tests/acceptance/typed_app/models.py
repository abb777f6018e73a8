from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel


class NewOrder(BaseModel):
    customer: str
    amount: float


class Order(NewOrder):
    order_id: UUID


class OrderEvent(BaseModel):
    order_id: UUID
    sequence: int
    status: Literal["paid", "shipped"]

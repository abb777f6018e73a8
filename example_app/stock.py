"""Keeps the balance of each item: what was delivered, less what was ordered. Below zero is what the shop must buy."""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Body
from sqlalchemy import select
from sqlalchemy.orm import Mapped, mapped_column

from fastapi_athomic import subscribe_to

from .database import DATABASE_BREAKER, Base, Session
from .messages import STOCK, OrderEvent, StockMovement
from .publishers import Publishing

router = APIRouter(tags=["stock"])


class MovementRow(Base):
    """Which movements are in the balance already."""

    __tablename__ = "movements"

    movement_id: Mapped[str] = mapped_column(primary_key=True)
    item: Mapped[str]
    quantity: Mapped[int]


class StockRow(Base):
    __tablename__ = "stock"

    item: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[int]


@router.post("/stock/{item}/deliveries", status_code=202)
async def deliver(
    item: str,
    quantity: Annotated[int, Body(embed=True, ge=1, le=1_000_000)],
    publishers: Publishing,
) -> StockMovement:
    """Goods have come. They take their turn among the orders for the same item."""
    movement = StockMovement(movement_id=uuid4().hex, item=item, quantity=quantity)
    await publishers.stock.publish(movement)
    return movement


@subscribe_to(STOCK, group_id="stock", handler_id="stock", ordering="key", concurrency=20, breaker=DATABASE_BREAKER)
async def move(movement: StockMovement, session: Session, publishers: Publishing) -> None:
    """Adds a movement to the balance of its item.

    Shows: `ordering="key"`: many items at once, the movements of one item one after the other, so that none reads a
    balance that another is about to change. And Avro, which a handler does not notice.
    """
    if await session.get(MovementRow, movement.movement_id) is not None:
        return
    session.add(MovementRow(**movement.model_dump(exclude={"order_id"})))
    balance = await session.get(StockRow, movement.item, with_for_update=True)
    if balance is None:
        session.add(StockRow(item=movement.item, balance=movement.quantity))
    else:
        balance.balance += movement.quantity
    await session.flush()
    if movement.order_id is not None:
        await publishers.events.publish(OrderEvent.of("reserved", movement.order_id))


@router.get("/stock")
async def stock(session: Session) -> dict[str, int]:
    """The balance of each item."""
    return {row.item: row.balance for row in await session.scalars(select(StockRow).order_by(StockRow.item))}

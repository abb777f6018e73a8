"""Counts sales, in batches."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import func, select
from sqlalchemy.orm import Mapped, mapped_column

from fastapi_athomic import subscribe_to

from .database import DATABASE_BREAKER, Base, Cents, Session
from .messages import ORDERS, ItemSales, Money, Order

router = APIRouter(tags=["analytics"])


class SaleRow(Base):
    """One for each order, not a sum for each item: so an order that comes twice is counted once."""

    __tablename__ = "sales"

    order_id: Mapped[str] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(index=True)
    quantity: Mapped[int]
    revenue: Mapped[Money] = mapped_column(Cents)


@subscribe_to(
    ORDERS,
    group_id="analytics",
    handler_id="analytics",
    batch_size=200,
    batch_linger_ms=50,
    breaker=DATABASE_BREAKER,
)
async def analyse(orders: list[Order], session: Session) -> None:
    """Up to 200 orders of a partition, or what has come within 50 ms: two statements and one commit for all.

    Shows: a batch. If it fails it is halved until the order that is to blame stands alone, and only that is dead.
    """
    sales = {
        order.order_id: SaleRow(order_id=order.order_id, item=order.item, quantity=order.quantity, revenue=order.total)
        for order in orders
    }
    known = await session.scalars(select(SaleRow.order_id).where(SaleRow.order_id.in_(sales)))
    for order_id in known:
        del sales[order_id]
    session.add_all(sales.values())


@router.get("/sales")
async def sales(session: Session) -> list[ItemSales]:
    """Sums for each item, the best seller first."""
    revenue = func.sum(SaleRow.revenue).label("revenue")
    sums = select(SaleRow.item, func.count().label("orders"), func.sum(SaleRow.quantity).label("quantity"), revenue)
    found = await session.execute(sums.group_by(SaleRow.item).order_by(revenue.desc(), SaleRow.item))
    return [ItemSales.model_validate(row) for row in found]

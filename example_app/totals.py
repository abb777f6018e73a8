"""How far the shop has come, in one look."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import func, select

from .analytics import SaleRow
from .billing import InvoiceRow
from .database import Session
from .messages import STEPS
from .notifications import MailRow
from .orders import OrderRow
from .shipping import EventRow

router = APIRouter(tags=["totals"])


class Totals(BaseModel):
    """How many orders have been there. All figures are equal when nothing is under way and nothing went wrong."""

    placed: int
    billed: int
    counted: int
    shipped: int
    mailed: int


@router.get("/totals")
async def totals(session: Session) -> Totals:
    placed, billed, counted, shipped, mailed = (
        await session.execute(
            select(
                select(func.count()).select_from(OrderRow).scalar_subquery(),
                select(func.count()).select_from(InvoiceRow).scalar_subquery(),
                select(func.count()).select_from(SaleRow).scalar_subquery(),
                select(func.count()).select_from(EventRow).where(EventRow.sequence == len(STEPS)).scalar_subquery(),
                select(func.count()).select_from(MailRow).scalar_subquery(),
            )
        )
    ).one()
    return Totals(placed=placed, billed=billed, counted=counted, shipped=shipped, mailed=mailed)

"""Ships an order when it is billed and its goods are reserved, in whatever order the shop gets to know."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import APIRouter, HTTPException
from sqlalchemy import DateTime, select
from sqlalchemy.orm import Mapped, mapped_column

from fastapi_athomic import ordered_consumer

from .database import DATABASE_BREAKER, Base, Session
from .messages import EVENTS, STEPS, Mail, OrderEvent
from .publishers import Publishing

router = APIRouter(tags=["shipping"])


class EventRow(Base):
    __tablename__ = "events"

    order_id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]
    customer: Mapped[str | None]
    handled_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))


@ordered_consumer(
    EVENTS,
    group_id="shipping",
    handler_id="shipping",
    aggregate_key_field="order_id",
    sequence_id_field="sequence",
    first_sequence=1,
    concurrency=10,
    gap_timeout=60,
    on_gap="dead_letter",
    breaker=DATABASE_BREAKER,
)
async def ship(event: OrderEvent, session: Session, publishers: Publishing) -> None:
    """Each order's steps in the order of their numbers: placed, billed, reserved. The last one ships it.

    Shows: an ordered consumer. Goods are often reserved before the bank has answered; then step 3 waits for step 2. If
    billing gives up (`broke`), step 2 never comes, and after 60 s step 3 becomes a dead letter: it waits where people
    look, and nothing is shipped that was not paid for (`on_gap="skip"` would). When billing's dead letter is sent back
    and goes well, step 2 is handled; send back the one of shipping after it.
    """
    known = await session.get(EventRow, (event.order_id, event.sequence))
    if known is not None:
        return
    session.add(EventRow(**event.model_dump()))
    await session.flush()
    if event.sequence == len(STEPS):
        first = await session.get_one(EventRow, (event.order_id, 1))
        mail = Mail(order_id=event.order_id, address=f"{first.customer}@example.com", text="Your order is on its way.")
        await publishers.mails.publish(mail)


@router.get("/orders/{order_id}", response_model=list[OrderEvent], response_model_exclude_none=True)
async def events(order_id: str, session: Session) -> Sequence[EventRow]:
    """What happened to the order so far, as shipping has heard of it: always in the order of the numbers."""
    steps = select(EventRow).where(EventRow.order_id == order_id).order_by(EventRow.handled_at)
    found = (await session.scalars(steps)).all()
    if not found:
        raise HTTPException(404, "nothing is known of this order yet")
    return found


@router.get("/shipments")
async def shipments(session: Session) -> list[str]:
    """The ids of the orders that were shipped."""
    return list(await session.scalars(select(EventRow.order_id).where(EventRow.sequence == len(STEPS))))

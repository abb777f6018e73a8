"""Stands for the bank. Two customers show what happens when things go wrong."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from .database import Base, Session
from .messages import Order

router = APIRouter(tags=["bank"])


class BankBusyError(Exception):
    """Passes: worth another attempt."""


class CardRefusedError(Exception):
    """Does not pass by itself: no attempt will help."""


class CardRow(Base):
    __tablename__ = "cards"

    customer: Mapped[str] = mapped_column(primary_key=True)
    good: Mapped[bool]


@router.put("/customers/{customer}/card")
async def set_card(customer: str, good: Annotated[bool, Body(embed=True)], session: Session) -> None:
    """Gives a customer a card that the bank takes, or refuses. It holds for what is charged from then on."""
    await session.merge(CardRow(customer=customer, good=good))
    await session.commit()  # the dependency's own commit comes after the response: too late to say that it failed


async def charge(order: Order, attempt: int, session: AsyncSession) -> None:
    """Charges the customer's card. A real bank gets the order's id with it, to tell a charge that comes twice.

    Raises:
        BankBusyError: at the first attempt for `unlucky`.
        CardRefusedError: the card is no good. That of `broke` is none, until it is set.
    """
    if order.customer == "unlucky" and attempt == 1:
        raise BankBusyError("please come again")
    card = await session.get(CardRow, order.customer)
    if not (card.good if card is not None else order.customer != "broke"):
        raise CardRefusedError("insufficient funds")

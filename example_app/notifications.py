"""Tells customers that their order is on its way, through a mail server that must be treated with care."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from sqlalchemy import select
from sqlalchemy.orm import Mapped, mapped_column

from fastapi_athomic import CircuitBreaker, RateLimit, RetryPolicy, subscribe_to

from .database import AWAY, Base, Session
from .mail_server import MailServer, MailServerDownError, get_mail_server
from .messages import MAILS, Mail

router = APIRouter(tags=["notifications"])


class MailRow(Base):
    """The address is not kept: who needs it has the order."""

    __tablename__ = "mails"

    order_id: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]


@subscribe_to(
    MAILS,
    group_id="notifications",
    handler_id="notifications",
    ordering="none",
    concurrency=10,
    timeout=10,
    rate_limit=RateLimit(messages_per_second=500, burst=50),
    breaker=CircuitBreaker(exceptions=(MailServerDownError, *AWAY), failures=3, pause=1, max_pause=30),
    retry=RetryPolicy(max_attempts=3, delay=0.1, retry_topics=(10, 60)),
)
async def notify(mail: Mail, session: Session, server: Annotated[MailServer, Depends(get_mail_server)]) -> None:
    """Sends a mail, and notes that it is sent.

    Shows: a rate limit (each process sends 500 mails a second at most), a circuit breaker (while the server is away
    nothing is tried, and no attempt is used up), retry topics (a mail that is to come later does not keep others
    waiting: `ordering="none"`), a timeout, and encryption, which a handler does not notice.

    A mail that is sent cannot be taken back: after a crash between `send` and the commit it is sent once more. That is
    what "at least once" means where the other side cannot tell. Better twice than never.
    """
    if await session.get(MailRow, mail.order_id) is not None:
        return
    await server.send(mail)
    session.add(MailRow(order_id=mail.order_id, text=mail.text))


@router.get("/mails")
async def mails(session: Session) -> list[str]:
    """The ids of the orders whose customers have got their mail."""
    return list(await session.scalars(select(MailRow.order_id)))

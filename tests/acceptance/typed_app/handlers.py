from __future__ import annotations

import re
from uuid import UUID

from fastapi_athomic import (
    Athomic,
    DeliveryAttempt,
    ExecutionContext,
    Key,
    MessageHeaders,
    PayloadPipeline,
    RawMessage,
    RetryPolicy,
    ordered_consumer,
    subscribe_to,
)

from .database import Cursor, SessionDependency
from .models import Order, OrderEvent


@subscribe_to(
    "orders.placed",
    group_id="billing",
    ordering="key",
    concurrency=20,
    retry=RetryPolicy(max_attempts=5, delay=lambda attempt, error: 0.5 * attempt, fatal=(PermissionError,)),
    dlq="billing.errors",
    payload=PayloadPipeline(),
    timeout=10,
)
async def bill(
    order: Order,
    key: Key[UUID],
    session: SessionDependency,
    athomic: Athomic,
    headers: MessageHeaders,
    context: ExecutionContext,
    attempt: DeliveryAttempt,
) -> None:
    assert key == order.order_id
    session.add((order, headers.text("source"), context.tenant_id, attempt.number))
    await athomic.publish("invoices", {"order_id": str(order.order_id)})


@subscribe_to(["orders.placed"], group_id="statistics", batch_size=100, batch_linger_ms=20)
async def count(orders: list[Order], raw: list[RawMessage], keys: list[Key[UUID]]) -> None:
    assert len(orders) == len(raw)
    assert [order.order_id for order in orders] == keys


@ordered_consumer(
    "orders.events",
    group_id="shipping",
    aggregate_key_field="order_id",
    sequence_id_field="sequence",
    gap_timeout=30,
    on_gap="skip",
)
async def ship(event: OrderEvent, session: SessionDependency) -> None:
    session.add(event)


@subscribe_to("invoices", group_id="mail", retry=RetryPolicy(max_attempts=3), handler_id="mail")
def send_mail(invoice: dict[str, str], cursor: Cursor) -> None:
    cursor.append(invoice)


@subscribe_to(re.compile(r"orders\..*"), group_id="archive", auto_offset_reset="latest", dlq=False)
async def keep(raw: RawMessage) -> None:
    assert raw.topic

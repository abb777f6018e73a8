"""Follows each order: its events are handled in the order of their numbers, each once, however they arrive."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from fastapi_athomic import ordered_consumer

from .ledger import Ledger, get_ledger
from .models import EVENTS, OrderEvent


@ordered_consumer(
    EVENTS,
    group_id="tracking",
    handler_id="tracking",
    aggregate_key_field="order_id",
    sequence_id_field="sequence",
    first_sequence=1,
    concurrency=10,
    gap_timeout=60,
)
async def track(event: OrderEvent, ledger: Annotated[Ledger, Depends(get_ledger)]) -> None:
    ledger.add_event(event)

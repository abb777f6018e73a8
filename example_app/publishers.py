"""What the shop publishes, and under which key: said once for each topic, whoever publishes to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from fastapi_athomic import Athomic, Publisher, get_athomic

from .messages import EVENTS, MAILS, ORDERS, STOCK, Mail, Order, OrderEvent, StockMovement


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishers:
    orders: Publisher[Order]
    events: Publisher[OrderEvent]
    stock: Publisher[StockMovement]
    mails: Publisher[Mail]


def declare_publishers(athomic: Athomic) -> Publishers:
    """When the app is made, so that the AsyncAPI document has them."""
    return Publishers(
        orders=athomic.publisher(ORDERS, Order, key=lambda order: order.order_id),
        events=athomic.publisher(EVENTS, OrderEvent, key=lambda event: event.order_id),
        stock=athomic.publisher(STOCK, StockMovement, key=lambda movement: movement.item),
        mails=athomic.publisher(MAILS, Mail, key=lambda mail: mail.order_id),
    )


def get_publishers(athomic: Annotated[Athomic, Depends(get_athomic)]) -> Publishers:
    """A dependency, for routes and handlers alike."""
    publishers: Publishers = athomic.app.state.publishers
    return publishers


Publishing = Annotated[Publishers, Depends(get_publishers)]

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends

from fastapi_athomic import Athomic, PublishedMessage, get_athomic

from .database import SessionDependency
from .models import NewOrder, Order, OrderEvent

router = APIRouter(prefix="/orders")
AthomicDependency = Annotated[Athomic, Depends(get_athomic)]


@router.post("", status_code=202)
async def place_order(new: NewOrder, session: SessionDependency, athomic: AthomicDependency) -> Order:
    order = Order(order_id=uuid4(), **new.model_dump())
    session.add(order)
    published: PublishedMessage = await athomic.publish(
        "orders.placed", order, key=str(order.order_id), headers={"source": b"shop"}
    )
    assert published.offset >= 0
    return order


@router.post("/{order_id}/events")
async def follow(order_id: str, events: list[OrderEvent], athomic: AthomicDependency) -> int:
    return len(await athomic.publish_many("orders.events", events, key=lambda event: str(event.order_id)))

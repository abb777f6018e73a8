from __future__ import annotations

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends

from fastapi_athomic import Athomic, PublishedMessage, Publisher, get_athomic

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


def order_of(event: OrderEvent) -> UUID:
    return event.order_id


@router.post("/{order_id}/paid")
async def pay(order_id: UUID, athomic: AthomicDependency) -> int:
    events = athomic.publisher("orders.events", OrderEvent, key=order_of, title="What happens to an order")
    published = await events.publish(OrderEvent(order_id=order_id, sequence=2, status="paid"))
    return published.offset


def several(athomic: Athomic) -> Publisher[OrderEvent | None]:
    names: Publisher[list[str]] = athomic.publisher("names", list[str], key=lambda names: names[0])
    names.publish_many_sync([["ann"]])
    return athomic.publisher("orders.events", OrderEvent | None)

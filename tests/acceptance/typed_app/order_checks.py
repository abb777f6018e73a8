"""The tests of this app, written with the test kit. `tests/acceptance/test_typing.py` calls them."""

from __future__ import annotations

from uuid import UUID, uuid4

from fastapi_athomic import DeadLetter, PublishedMessage
from fastapi_athomic.testing import AsyncTestKit, Deferred, Handled, Published, TestKit

from .handlers import bill, send_mail, ship
from .main import create_app
from .models import Order, OrderEvent


def check_that_an_order_is_billed() -> None:
    with TestKit(create_app(), settings={"publish_timeout": 5}) as kit:
        order = Order(**kit.client.post("/orders", json={"customer": "ann", "amount": 12.5}).json())
        kit.drain()
        handled: Handled
        [handled] = kit.handled(bill)
        assert handled.message == order
        published: list[Published] = kit.published("orders.placed")
        found: Order = published[0].decode(Order)
        assert found.order_id == order.order_id
        assert kit.handled(send_mail)[0].outcome == "completed"


def check_that_a_failure_is_retried() -> None:
    order = Order(order_id=uuid4(), customer="ann", amount=1)
    with TestKit(create_app()) as kit:
        kit.fail(bill, times=2, error=ConnectionError("the bank is away"))
        handled = kit.deliver(bill, order, key=str(order.order_id), headers={"source": "check"})
        assert (handled.outcome, handled.attempts) == ("completed", 3)
        with kit.expect_failures(bill, (PermissionError, ConnectionError)):
            kit.fail(bill, error=PermissionError)
            assert kit.deliver(bill, order, key=order.order_id).outcome == "dead_lettered"
        letters: list[DeadLetter] = kit.dead_letters(bill)
        assert letters[0].attempts == 1


async def check_events() -> None:
    event = OrderEvent(order_id=uuid4(), sequence=1, status="paid")
    async with AsyncTestKit(create_app()) as kit:
        answer = await kit.client.post(f"/orders/{event.order_id}/events", json=[event.model_dump(mode="json")])
        assert answer.json() == 1
        place: PublishedMessage = await kit.publish("orders.events", event, key=str(event.order_id))
        await kit.drain(5.0)
        ids: set[UUID] = {each.decode(OrderEvent).order_id for each in kit.published(place.topic)}
        assert ids == {event.order_id}
        assert len(kit.handled(ship)) == 1, "the second one is a duplicate"
        waiting: list[Deferred] = kit.deferred()
        assert waiting == []
        await kit.clock.advance(60)

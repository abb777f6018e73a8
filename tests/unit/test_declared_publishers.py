"""`athomic.publisher`: a topic and the type of what is published there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import anyio.to_thread
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    ConfigurationError,
    Key,
    PayloadPipeline,
    Publisher,
    PublishError,
    RawMessage,
    include_athomic,
)
from tests.support.apps import Record, new_app, running


class Order(BaseModel):
    order_id: str
    amount: int = 0


class Rush(Order):
    hours: int = 1


def memory() -> AthomicSettings:
    return AthomicSettings(broker_url=f"memory://{uuid4().hex}")


def recording(athomic: Athomic, topic: str) -> Record:
    record = Record()

    @athomic.subscribe_to(topic, group_id="g")
    def note(message: RawMessage) -> None:
        record.note(message)

    return record


async def test_each_way_of_publishing_sends_the_message_with_the_declared_key() -> None:
    athomic = new_app(memory())
    record = recording(athomic, "orders")
    publisher = athomic.publisher("orders", Order, key=lambda order: order.order_id)
    async with running(athomic):
        published = await publisher.publish(Order(order_id="a"), headers={"source": "test"})
        await publisher.publish(Rush(order_id="b"), key="given")
        await publisher.publish_many(Order(order_id=name) for name in "cd")
        await anyio.to_thread.run_sync(lambda: publisher.publish_sync(Order(order_id="e")))
        await anyio.to_thread.run_sync(lambda: publisher.publish_many_sync([Order(order_id="f")]))
        await athomic.drain()
    assert published.topic == "orders"
    seen: list[RawMessage] = record.seen
    by_key = {message.key: message for message in seen}
    assert by_key.keys() == {b"a", b"given", b"c", b"d", b"e", b"f"}
    assert ("source", b"test") in by_key[b"a"].headers
    assert by_key[b"given"].value == b'{"order_id":"b","amount":0,"hours":1}', "a subclass is written whole"


async def test_a_message_of_another_type_is_refused_before_anything_is_sent() -> None:
    athomic = new_app(memory())
    record = recording(athomic, "orders")
    publisher: Publisher[Any] = athomic.publisher("orders", Order)
    calls: list[Callable[[], Any]] = [
        lambda: publisher.publish({"order_id": "s3cret"}),
        lambda: publisher.publish_many([Order(order_id="a"), None]),
        lambda: anyio.to_thread.run_sync(lambda: publisher.publish_sync("s3cret")),
        lambda: anyio.to_thread.run_sync(lambda: publisher.publish_many_sync([Order(order_id="a"), "s3cret"])),
    ]
    said = []
    async with running(athomic):
        for call in calls:
            with pytest.raises(ConfigurationError) as caught:
                await call()
            said.append(str(caught.value).rpartition(": ")[0])
        await athomic.drain()
    assert record.seen == []
    assert said == [
        "publisher of orders: it takes Order, not dict",
        "publisher of orders: message 2 of 2: it takes Order, not None",
        "publisher of orders: it takes Order, not str",
        "publisher of orders: message 2 of 2: it takes Order, not str",
    ]


def test_the_same_declaration_gives_the_same_object_also_in_a_function() -> None:
    athomic = new_app(memory())

    def declared(prefix: str) -> Publisher[Order]:
        return athomic.publisher("orders", Order, key=lambda order: prefix + order.order_id, title="Orders")

    first = declared("x")
    assert declared("x") is first
    assert athomic.publisher("other", Order) is athomic.publisher("other", Order)
    assert athomic.publisher("other", list[Order]) is athomic.publisher("other", list[Order])
    assert [publisher.topic for publisher in athomic.publishers.all] == ["orders", "other", "other"]
    with pytest.raises(ConfigurationError, match=r"publisher\('orders', Order\) is declared twice.* key: declare it"):
        declared("y")
    with pytest.raises(ConfigurationError, match="with different key and payload and title: "):
        athomic.publisher("orders", Order, payload=PayloadPipeline())
    assert len(athomic.publishers.all) == 3


def test_a_key_that_uses_what_is_defined_only_later_is_compared_all_the_same() -> None:
    athomic = new_app(memory())

    def declared() -> Publisher[Order]:
        prefix: str
        publisher = athomic.publisher("orders", Order, key=lambda order: prefix + order.order_id)
        prefix = "x"
        return publisher

    declared()
    with pytest.raises(ConfigurationError, match="declared twice, with different key"):
        declared()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("a b", Order), r"publisher\('a b', Order\): invalid topic name 'a b'"),
        (("t", 5), "messages cannot be checked to be 5"),
    ],
)
def test_what_cannot_be_declared(given: Any, said: str) -> None:
    athomic = new_app(memory())
    with pytest.raises(ConfigurationError, match=said):
        athomic.publisher(*given)
    assert athomic.publishers.all == ()


def test_a_bare_callable_is_a_type_too() -> None:
    assert repr(new_app(memory()).publisher("t", Callable)) == "<Publisher of Callable to t>"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": "order_id"}, r"publisher\('t', Order\): key must be a function .*, not str"),
        ({"payload": "json"}, r"publisher\('t', Order\): payload must be a PayloadPipeline"),
        ({"title": 3}, r"publisher\('t', Order\): title must be a text, not int"),
    ],
)
def test_options_that_are_wrong(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        new_app(memory()).publisher("t", Order, **options)


def test_declared_beside_the_routes_it_publishes_while_the_app_runs() -> None:
    app = FastAPI()
    athomic = include_athomic(app, memory())
    orders = athomic.publisher("orders", Order, key=lambda order: order.order_id)
    bills: list[str] = []

    @athomic.subscribe_to("orders", group_id="g")
    async def bill(order: Order, key: Key[str]) -> None:
        await athomic.publisher("bills", str).publish(f"{key} {order.amount}")

    @athomic.subscribe_to("bills", group_id="g")
    def note(text: str) -> None:
        bills.append(text)

    @app.post("/orders")
    def place(order: Order) -> int:
        return orders.publish_sync(order).offset

    with pytest.raises(PublishError, match="not running"):
        orders.publish_sync(Order(order_id="early"))
    with TestClient(app) as client:
        assert client.post("/orders", json={"order_id": "a", "amount": 3}).json() == 0
        assert client.portal is not None
        client.portal.call(athomic.drain)
    assert bills == ["a 3"]


@pytest.mark.filterwarnings("ignore:coroutine")
async def test_a_publish_that_nobody_awaits_is_told(caplog: pytest.LogCaptureFixture) -> None:
    publisher = new_app(memory()).publisher("orders", Order)
    with caplog.at_level(logging.ERROR):
        publisher.publish(Order(order_id="a"))  # type: ignore[unused-coroutine]
    (record,) = caplog.records
    assert "publisher.publish(...) at " in record.message
    assert "not sent to 'orders'; in a `def` function call publisher.publish_sync" in record.message

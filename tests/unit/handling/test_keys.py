"""`Key[...]`: handlers and dependencies get the key of their message, decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    HandlerSignatureError,
    Key,
    PayloadPipeline,
    PublishError,
    RawMessage,
    RetryPolicy,
    include_athomic,
)
from fastapi_athomic.payload.json_format import Json
from tests.support.apps import Record, running
from tests.support.payloads import Depot, Words


class Order(BaseModel):
    number: int
    shop: str = "s"


class Shop(BaseModel):
    name: str


ID = UUID(int=7)
ORDERED: dict[str, Any] = {"aggregate_key_field": "shop", "sequence_id_field": "number", "first_sequence": 0}
WORDS = PayloadPipeline([Words()], key=Words())
DEPOT = PayloadPipeline([Depot()])


class Foreign: ...


def text(key: Key[str]) -> str:
    return key


def number(key: Key[int]) -> int:
    return key


def other(key: Key[int]) -> int:
    return -key


def new_app(**options: Any) -> Athomic:
    return include_athomic(FastAPI(), AthomicSettings(broker_url=f"memory://{uuid4().hex}"), **options)


@pytest.mark.parametrize("pipeline", [None, WORDS, DEPOT], ids=["text", "words", "depot"])
async def test_a_handler_and_its_dependencies_get_it(pipeline: Any) -> None:
    athomic, record = new_app(payload=pipeline), Record()

    @athomic.subscribe_to("t", group_id="g")
    async def handle(order: Order, key: Key[UUID], again: Key[UUID], shown: Annotated[str, Depends(text)]) -> None:
        record.note((order, key, again, shown))

    @athomic.ordered_consumer("t", group_id="o", **ORDERED)
    async def handle_in_order(order: Order, key: Key[UUID | None]) -> None:
        record.note((order, key))

    @athomic.subscribe_to("t", group_id="b", batch_size=2)
    def handle_batch(orders: list[Order], keys: list[Key[UUID]], texts: Sequence[Key[str]]) -> None:
        record.note((orders, keys, texts))

    async with running(athomic):
        for number in (0, 1):
            await athomic.publish("t", Order(number=number), key=str(ID))
        seen = await record.count(5)
    both = [Order(number=0), Order(number=1)]
    assert (both, [ID, ID], [str(ID)] * 2) in seen
    assert all((order, ID, ID, str(ID)) in seen and (order, ID) in seen for order in both)


async def test_other_types_and_raw_messages() -> None:
    athomic, record = new_app(payload=PayloadPipeline(key=Json())), Record()

    @athomic.subscribe_to("t", group_id="g")
    async def handle(raw: RawMessage, key: Key[Shop | None], as_bytes: Key[bytes | None]) -> None:
        record.note((raw.value, key, as_bytes))

    async with running(athomic):
        await athomic.publish("t", "v", key=Shop(name="a"))
        await athomic.publish("t", "v", key=None)
        assert await record.count(2) == [(b"v", Shop(name="a"), b'{"name":"a"}'), (b"v", None, None)]


@pytest.mark.parametrize("batch", [False, True])
async def test_a_key_that_cannot_be_decoded_makes_a_dead_letter(batch: bool) -> None:
    athomic, record = new_app(), Record()
    options: dict[str, Any] = {"batch_size": 10} if batch else {}

    async def handle(order: Order, key: Annotated[Key[int], Field(gt=0)]) -> None:
        record.note(key)

    async def handle_batch(orders: list[Order], keys: list[Key[int]]) -> None:
        record.note(keys)

    athomic.subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=3, delay=0), **options)(
        handle_batch if batch else handle
    )
    async with running(athomic):
        await athomic.publish("t", Order(number=1), key="s3cret")
        await athomic.publish("t", Order(number=1), key="5")
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
    assert record.seen == [[5]] if batch else [5]
    assert (letter.error_stage, letter.attempts) == ("decode", 1)
    assert letter.error_message is not None
    assert letter.error_message.startswith("the key: not a valid int: int_parsing")
    assert "s3cret" not in letter.error_message


async def test_a_key_of_no_known_type_is_refused_where_it_is_published() -> None:
    athomic = new_app()
    async with running(athomic):
        with pytest.raises(PublishError, match="not Shop: for others give the payload pipeline a serializer of keys"):
            await athomic.publish("t", "v", key=Shop(name="a"))


def refused(handler: Any, **options: Any) -> str:
    athomic = new_app()
    athomic.subscribe_to("t", group_id="g", handler_id="h", **options)(handler)
    with pytest.raises(HandlerSignatureError) as caught:
        athomic._assemble()
    return str(caught.value)


async def test_wrong_uses_are_refused_at_the_start() -> None:
    async def first(key: Key[int]) -> None: ...

    async def bare(order: Order, key: Key) -> None: ...  # type: ignore[type-arg]

    async def null(order: Order, key: Key[int] | None) -> None: ...

    async def many(order: Order, keys: list[Key[int]]) -> None: ...

    async def one(orders: list[Order], key: Key[int]) -> None: ...

    async def missing(order: Order, key: int) -> None: ...

    assert "its first parameter must be the message, but key is injected" in refused(first)
    assert "parameter key of the handler says no type: write Key[str], Key[UUID]" in refused(bare)
    assert "parameter key of the handler may be null: write Key[... | None]" in refused(null)
    assert "parameter keys of the handler is for the keys of a batch" in refused(many)
    assert "a handler of batches takes list[Key[...]]" in refused(one, batch_size=2)
    assert "Key[...]" in refused(missing)


async def test_a_type_that_pydantic_does_not_know_is_refused_at_the_start() -> None:
    async def handle(order: Order, key: Key[Foreign]) -> None: ...

    athomic = new_app()
    athomic.subscribe_to("t", group_id="g", handler_id="h")(handle)
    with pytest.raises(Exception, match="handler h: messages cannot be decoded into Foreign"):
        athomic._assemble()


async def test_an_override_asks_for_no_other_type_than_the_app_started_with() -> None:
    athomic, record = new_app(), Record()

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def handle(order: Order, value: Annotated[int, Depends(number)]) -> None:
        record.note(value)

    async with running(athomic):
        athomic.app.dependency_overrides[number] = other
        await athomic.publish("t", Order(number=1), key=3)
        assert await record.count(1) == [-3]
        athomic.app.dependency_overrides[number] = text
        await athomic.publish("t", Order(number=1), key=3)
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
    assert "asks for Key[str], which nothing asked for when the app started" in str(letter.error_message)


async def test_what_is_wrong_with_a_key_is_not_said_of_the_payload() -> None:
    athomic = new_app()

    @athomic.subscribe_to("t", group_id="g", handler_id="h")
    async def handle(raw: RawMessage, key: Key[UUID]) -> None: ...

    async with running(athomic):
        await athomic.publish("t", b"\x28\xb5\x2f\xfd", key="no", headers={"content-encoding": "zstd"})
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
    said = letter.error_message or ""
    assert said.startswith("the key: not a valid UUID")
    assert "zstd" not in said

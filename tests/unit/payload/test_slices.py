"""Large payloads are validated in a thread, which gives way to the event loop between the items of lists."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any

import msgpack
import pytest
from pydantic import AfterValidator, BaseModel, TypeAdapter

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadPipeline
from fastapi_athomic.payload import slices
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.slices import sliced_validator
from fastapi_athomic.payload.steps import Later, Outgoing
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import message, settled
from tests.unit.payload.test_types import FORMATS, TYPES

current: ContextVar[str] = ContextVar("current", default="none")
seen: list[tuple[str, str]] = []


def _note(name: str) -> str:
    seen.append((threading.current_thread().name, current.get()))
    return name


class Item(BaseModel):
    name: Annotated[str, AfterValidator(_note)]


class Order(BaseModel):
    items: list[Item]
    by_name: dict[str, Item]
    names: list[str]


ORDER = {"items": [{"name": "a"}] * 3, "by_name": {"b": {"name": "b"}}, "names": ["c"] * 5}
WRITTEN: dict[str, Callable[[Any], bytes]] = {
    "json": lambda value: json.dumps(value).encode(),
    "messagepack": msgpack.packb,
    "json-schema": lambda value: b"\0\0\0\0\1" + json.dumps(value).encode(),
}
KINDS: dict[str, Callable[..., Any]] = {
    "json": Json,
    "messagepack": MessagePack,
    "json-schema": partial(JsonSchema, SchemaRegistry("memory://")),
}


@pytest.fixture(params=list(KINDS))
async def form(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    serializer = new(request.param)
    await serializer.open()
    yield request.param
    await serializer.close()


def new(form: str, thread_above: int | None = 100) -> Any:
    return KINDS[form](thread_above=thread_above)


async def test_large_payloads_are_read_in_a_thread_in_their_context(form: str) -> None:
    decode = PayloadPipeline([new(form)]).decoder(Order)
    seen.clear()
    token = current.set("of the message")
    later = decode(message(WRITTEN[form](ORDER | {"names": ["c"] * 100})))
    current.reset(token)
    assert isinstance(later, Later)
    assert seen == []
    order = await later
    assert len(order.items) == 3
    assert {(name.rpartition("_")[0], context) for name, context in seen} == {("athomic-payload", "of the message")}


def test_small_payloads_and_null_values_are_read_at_once(form: str) -> None:
    decode = PayloadPipeline([new(form)]).decoder(Item | None)
    seen.clear()
    assert decode(message(WRITTEN[form]({"name": "a"}))) == Item(name="a")
    assert decode(message(None)) is None
    assert {name for name, _ in seen} == {threading.current_thread().name}


@pytest.mark.parametrize("wrong", [-1, True, 1.5, "1"])
@pytest.mark.parametrize("kind", [Json, MessagePack, Avro, Protobuf, JsonSchema])
def test_a_limit_that_is_none_is_refused(kind: Any, wrong: Any) -> None:
    needs = [SchemaRegistry("memory://")] if kind in (Avro, Protobuf, JsonSchema) else []
    with pytest.raises(ConfigurationError, match=f"{kind.__name__}: thread_above must be a whole number of 0 or more"):
        kind(*needs, thread_above=wrong)


@pytest.mark.parametrize("form", KINDS)
async def test_payloads_above_a_megabyte_are_read_in_a_thread_unless_that_is_switched_off(form: str) -> None:
    serializer, kind = KINDS[form](), list[dict[str, str]]
    value = [{"text": "x" * 1_000}] * 1_040
    large, small = WRITTEN[form](value), WRITTEN[form](value[:1_000])
    assert len(small) < 2**20 < len(large)
    await serializer.open()
    decode = PayloadPipeline([serializer]).decoder(kind)
    later = decode(message(large))
    assert isinstance(later, Later)
    assert await later == value
    await serializer.close()
    assert decode(message(small)) == value[:1_000]
    assert PayloadPipeline([new(form, None)]).decoder(kind)(message(large)) == value


def test_the_lock_is_handed_over_after_each_item_of_nested_models(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def noted(value: object) -> object:
        given.append(value)
        return value

    monkeypatch.setattr(slices, "give_way", noted)

    class Outer(BaseModel):
        orders: tuple[Order, Order]

    outer = sliced_validator(TypeAdapter(Outer)).validate_json(json.dumps({"orders": [ORDER, ORDER]}))
    assert outer == Outer.model_validate({"orders": [ORDER, ORDER]})
    assert len(given) == 8, "three items and one value of a dict, twice; text is quicker than the call"


@pytest.mark.parametrize("case", TYPES)
async def test_values_are_the_same(form: str, case: str) -> None:
    target_type, value = TYPES[case]
    data = await settled(PayloadPipeline([FORMATS[form]()]).write([value, value], Outgoing("t")))
    assert isinstance(data, bytes)
    lists: Any = list
    at_once = new(form, None).decoder(lists[target_type])(message(data))
    assert await new(form, 0).decoder(lists[target_type])(message(data)) == at_once == [value, value]


@pytest.mark.parametrize("target_type", [Order, list[Order], Order | int, dict[str, Order]])
async def test_errors_are_the_same(form: str, target_type: Any) -> None:
    wrong: list[Any] = [{"items": [{"name": "s3cret"}, {"name": 5}]}, [{}, "s3cret"], {"a": {"items": ["s3cret"]}}]
    for data in (b"", b"\xff\xff", *map(WRITTEN[form], wrong)):
        told = set()
        for serializer in (new(form, None), new(form, 0)):
            with pytest.raises(PayloadDecodeError) as caught:
                await serializer.decoder(target_type)(message(data))
            told.add(str(caught.value))
        assert len(told) == 1
        assert "s3cret" not in told.pop()


@pytest.mark.parametrize("target_type", [str, bytes, str | None])
def test_text_and_bytes_need_no_thread(target_type: Any) -> None:
    assert Json(thread_above=0).decoder(target_type)(message(b"text")) in ("text", b"text")

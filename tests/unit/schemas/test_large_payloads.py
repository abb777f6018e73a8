"""Large payloads of the formats with schemas are read in a thread, which gives way to the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import AfterValidator, BaseModel

from fastapi_athomic import PayloadDecodeError, PayloadPipeline
from fastapi_athomic.payload import off_loop, slices
from fastapi_athomic.payload.cloudevents import CloudEvents
from fastapi_athomic.payload.steps import Later, Outgoing, Serializer
from fastapi_athomic.schemas import avro_wire_schema, json_validation
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived, message, settled
from tests.support.protoc import generated

current: ContextVar[str] = ContextVar("current", default="none")
seen: list[tuple[str, str]] = []
LIMIT = 1_000


def _note(sku: str) -> str:
    seen.append((threading.current_thread().name.rpartition("_")[0], current.get()))
    if sku == "s3cret":
        raise ValueError
    return sku


class Line(BaseModel):
    sku: Annotated[str, AfterValidator(_note)]


class Order(BaseModel):
    name: str = ""
    lines: list[Line] = []


class Nothing(BaseModel):
    """Something else that might have come."""

    name: str
    nothing: int


shop_pb2 = generated(
    "athomic_large.proto",
    """
    syntax = "proto3";
    package athomic.large;
    message Order {
      string name = 1;
      repeated Line lines = 2;
    }
    message Line {
      string sku = 1;
    }
    """,
)
LINE_AVRO = {"type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}]}
ORDER_AVRO = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "name", "type": "string"}, {"name": "lines", "type": {"type": "array", "items": LINE_AVRO}}],
}
ORDER_JSON = {"title": "Order", "properties": {"lines": {"items": {"properties": {"sku": {"maxLength": 20}}}}}}


class Format(NamedTuple):
    new: Callable[..., Serializer]
    message: Callable[[Any], Any]  # what is published for the fields of an order


FORMATS = {
    "avro": Format(lambda *given, **options: Avro(*given, schema=ORDER_AVRO, **options), dict),
    "protobuf": Format(Protobuf, lambda fields: shop_pb2.Order(**fields)),
    "json-schema": Format(lambda *given, **options: JsonSchema(*given, schema=ORDER_JSON, **options), dict),
    "json-schema, validated": Format(
        lambda *given, **options: JsonSchema(*given, schema=ORDER_JSON, validate_reads=True, **options), dict
    ),
}


class Written:
    """Serializers of one format on one registry."""

    def __init__(self, form: str) -> None:
        self.form = FORMATS[form]
        self.registry = SchemaRegistry("memory://")
        self.writes = self.form.new(self.registry, auto_register=True)
        self.serializer = self.new(thread_above=LIMIT)

    def new(self, **options: Any) -> Any:
        return self.form.new(self.registry, **options)

    async def data(self, **fields: Any) -> bytes:
        data = await settled(self.writes.encode(self.form.message(fields), Outgoing("t")))
        assert isinstance(data, bytes)
        return data


@pytest.fixture(params=FORMATS)
async def written(request: pytest.FixtureRequest) -> AsyncIterator[Written]:
    made = Written(request.param)
    await made.serializer.open()
    seen.clear()
    yield made
    await made.serializer.close()


LINES = [{"sku": "a"}] * 3
LARGE = {"name": LIMIT * "n", "lines": LINES}
SMALL = {"name": "n", "lines": LINES}


@pytest.mark.parametrize("target_type", [Order, Order | Nothing])
async def test_large_payloads_are_read_in_a_thread_in_their_context(written: Written, target_type: Any) -> None:
    decode = PayloadPipeline([written.serializer]).decoder(target_type)
    large, small = message(await written.data(**LARGE)), message(await written.data(**SMALL))
    for each in (large, small, large, small):  # the first fetches the schema
        seen.clear()
        token = current.set("of the message")
        value = decode(each)
        current.reset(token)
        if each is large:
            assert isinstance(value, Later)
            assert seen == []
        order = await settled(value)
        assert (len(order.name), order.lines) == (LIMIT if each is large else 1, [Line.model_construct(sku="a")] * 3)
        assert {name for name, _ in seen} == ({"athomic-payload"} if each is large else {""})
    assert {context for _, context in seen} <= {"of the message", "none"}

    token = current.set("of the message")
    later = decode(large)
    seen.clear()
    await later
    current.reset(token)
    assert set(seen) == {("athomic-payload", "of the message")}


async def test_only_payloads_above_a_megabyte_are_unless_something_else_is_said(written: Written) -> None:
    large, small = {"name": 2**20 * "n", "lines": LINES}, {"name": 1_000_000 * "n", "lines": LINES}
    for options, fields, threads in (
        ({}, large, "athomic-payload"),
        ({}, small, ""),
        ({"thread_above": None}, large, ""),
    ):
        decode = PayloadPipeline([written.new(**options)]).decoder(Order)
        seen.clear()
        await settled(decode(message(await written.data(**fields))))
        assert {name for name, _ in seen} == {threads}


async def test_the_lock_is_handed_over_after_each_item(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def noted(value: object) -> object:
        given.append(value)
        return value

    for module in (slices, avro_wire_schema, json_validation):
        monkeypatch.setattr(module, "give_way", noted)
    decode = PayloadPipeline([written.new(thread_above=0)]).decoder(Order)
    await settled(decode(message(await written.data(**SMALL))))
    by_pydantic = [each for each in given if isinstance(each, Line)]
    by_the_format = [each for each in given if each == LINES[0]]
    assert len(by_pydantic) == 3
    assert len(by_the_format) == (0 if written.form in (FORMATS["protobuf"], FORMATS["json-schema"]) else 3)


@pytest.mark.parametrize("target_type", [Order, Order | Nothing, Nothing])
async def test_errors_are_the_same(written: Written, target_type: Any) -> None:
    good = await written.data(**SMALL)
    wrong = [await written.data(name="s3cret", lines=[{"sku": "s3cret"}]), good[:-1], good + b"s3cret"]
    for data in wrong:
        told = set()
        for above in (None, 0):
            with pytest.raises(PayloadDecodeError) as caught:
                await settled(written.new(thread_above=above).decoder(target_type)(message(data)))
            told.add(str(caught.value))
        assert len(told) == 1
        assert "s3cret" not in told.pop()


async def test_what_does_not_follow_its_schema_is_refused_in_the_thread() -> None:
    written = Written("json-schema, validated")
    good = await written.data(**SMALL)
    data = good[:5] + json.dumps({"lines": [{"sku": "s3cret" * 5}]}).encode()
    told = set()
    for above in (None, 0):
        with pytest.raises(PayloadDecodeError, match="maxLength") as caught:
            await settled(written.new(thread_above=above).decoder(Order)(message(data)))
        told.add(str(caught.value))
    assert len(told) == 1


async def test_the_threads_end_with_the_serializer(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_loop.threads, "_users", 1)  # the serializer: other tests may have left theirs open
    await settled(written.serializer.decoder(Order)(message(await written.data(**LARGE))))
    await written.serializer.close()
    workers = [each for each in threading.enumerate() if each.name.startswith("athomic-payload")]
    for worker in workers:
        await asyncio.to_thread(worker.join, 30)
    assert not any(worker.is_alive() for worker in workers)


async def test_events_around_them_are_read_in_a_thread_too(written: Written) -> None:
    events = CloudEvents("/shop", serializer=written.writes, type="order")
    reads = PayloadPipeline([CloudEvents("/shop", serializer=written.serializer)])
    assert reads.waits
    assert reads.opens
    await reads.open()
    outgoing = Outgoing("t")
    data = await settled(PayloadPipeline([events]).write(written.form.message(LARGE), outgoing))
    seen.clear()
    order = await settled(reads.decoder(Order)(arrived(data, outgoing)))
    await reads.close()
    assert len(order.lines) == 3
    assert {name for name, _ in seen} == {"athomic-payload"}

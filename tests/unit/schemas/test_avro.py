from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
from pydantic import AliasPath, BaseModel, ConfigDict, Field

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadUnavailableError
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.pipeline import PayloadPipeline
from fastapi_athomic.payload.steps import Incoming, Later, Outgoing, Part
from fastapi_athomic.schemas import avro as avro_module
from fastapi_athomic.schemas import kept
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.declared import DeclaredSchema, DeclaresSchemas
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registered import ASK_AGAIN, Reference, RegisteredSchema
from fastapi_athomic.schemas.registry import SchemaRegistry
from fastapi_athomic.schemas.wire import HEADERS, Framing
from tests.support.avro import by_fastavro, logical, record
from tests.support.payloads import arrived, message, settled
from tests.support.protoc import generated


class Order(BaseModel):
    number: int
    note: str | None = None


class Cancelled(BaseModel):
    number: int
    note: str | None = None


class WithoutGuids(SchemaRegistry):
    """As Apicurio 3.3.3."""

    async def register(self, *schema: Any) -> RegisteredSchema:
        return replace(await super().register(*schema), guid=None)


NUMBER_PB2 = generated("athomic_number.proto", 'syntax = "proto3"; message Number { int64 number = 1; }')


@dataclass
class Paid:
    number: int


SCHEMA = record("shop.Order", number="long", note=[{"type": ["null", "string"], "default": None}])
PAID = record("shop.Paid", number="long")
TEXT = json.dumps(SCHEMA)


@pytest.fixture
def registry() -> SchemaRegistry:
    return SchemaRegistry("memory://", unknown_after=0)


async def written(avro: Avro, value: Any, topic: str = "orders", part: Part = "value") -> tuple[bytes, Outgoing]:
    outgoing = Outgoing(topic, part=part)
    data = avro.encode(value, outgoing)
    if isinstance(data, Later):
        data = await data
    assert data is not None
    return data, outgoing


async def read(avro: Avro, target: Any, incoming: Any, part: Part = "value") -> Any:
    found = avro.decoder(target, part)(incoming)
    return await found if isinstance(found, Later) else found


@pytest.mark.parametrize("framing", ["prefix", "header"])
@pytest.mark.parametrize("part", ["value", "key"])
async def test_only_the_first_message_waits(registry: SchemaRegistry, framing: Framing, part: Part) -> None:
    await registry.register(f"orders-{part}", "AVRO", TEXT)
    avro = Avro(registry, framing=framing)
    first, outgoing = await written(avro, Order(number=1), part=part)
    assert outgoing.headers == (() if framing == "prefix" else ((HEADERS[part], outgoing.headers[0][1]),))
    assert first.startswith(b"\0\0\0\0\1") is (framing == "prefix")
    assert isinstance(avro.encode(Order(number=2), Outgoing("orders", part=part)), bytes)

    decode = avro.decoder(Order, part)
    incoming = arrived(first, outgoing)
    later = decode(incoming)
    assert isinstance(later, Later)
    assert await later == await later == Order(number=1)
    assert decode(incoming) == Order(number=1)


async def test_both_framings_are_read_whatever_is_written(registry: SchemaRegistry) -> None:
    schema = await registry.register("orders-value", "AVRO", TEXT)
    avro = Avro(registry)
    assert schema.guid is not None
    data = by_fastavro(SCHEMA, {"number": 7})
    bare = message(data, headers=((HEADERS["value"], b"\1" + schema.guid.bytes),))
    framed = message(b"\0" + (schema.id or 0).to_bytes(4, "big") + data)
    for incoming in (bare, framed):
        assert await read(avro, Order, incoming) == Order(number=7)


async def test_a_message_may_be_shorter_than_an_id(registry: SchemaRegistry) -> None:
    """confluent-kafka's deserializer refuses it."""
    avro = Avro(registry, framing="header", auto_register=True)
    data, outgoing = await written(avro, Paid(1))
    assert len(data) == 1
    assert await read(avro, Paid, arrived(data, outgoing)) == Paid(1)


async def test_tombstones(registry: SchemaRegistry) -> None:
    avro = Avro(registry)
    assert avro.encode(None, Outgoing("orders")) is None
    assert avro.decoder(Order | None)(message(None)) is None
    with pytest.raises(
        PayloadDecodeError, match="step avro: the payload is null, and the handler's type Order does not"
    ):
        avro.decoder(Order)(message(None))
    with pytest.raises(PayloadDecodeError, match="step avro: the key is null"):
        avro.decoder(int, "key")(message(None))


@pytest.mark.parametrize("subject", ["topic", "record", "topic_record"])
async def test_models_are_told_apart_by_the_names_of_their_records(registry: SchemaRegistry, subject: Any) -> None:
    avro = Avro(registry, subject=subject, namespace="shop", auto_register=True)
    if subject == "topic":
        both = [SCHEMA, record("shop.Cancelled", number="long", note=SCHEMA["fields"][1:])]
        avro = Avro(registry, schema=both, auto_register=True)
    decode = avro.decoder(Order | Cancelled)
    for value in (Order(number=1), Cancelled(number=1)):
        data, outgoing = await written(avro, value)
        found = decode(arrived(data, outgoing))
        assert (await found if isinstance(found, Later) else found) == value


async def test_subjects_are_named_by_record_without_a_schema_at_hand(registry: SchemaRegistry) -> None:
    await registry.register("shop.Order", "AVRO", TEXT)
    await registry.register("orders-else.Order", "AVRO", TEXT)
    for avro in (
        Avro(registry, subject="record", namespace="shop"),
        Avro(registry, subject="record", records={"shop.Order": Order}),
        Avro(registry, subject="topic_record", namespace="else"),
    ):
        data, outgoing = await written(avro, Order(number=1))
        assert await read(avro, Order, arrived(data, outgoing)) == Order(number=1)


async def test_a_given_schema_is_registered_only_if_that_is_wanted(registry: SchemaRegistry) -> None:
    with pytest.raises(PayloadUnavailableError, match="orders-value"):
        await written(Avro(registry, schema=SCHEMA), Order(number=1))
    await written(Avro(registry, schema=SCHEMA, auto_register=True), Order(number=1))
    data, _ = await written(Avro(registry, schema=TEXT), Order(number=1))
    assert data == b"\0\0\0\0\1\2\0"


async def test_schemas_by_class(registry: SchemaRegistry) -> None:
    avro = Avro(registry, schema={Order: SCHEMA, Paid: PAID}, subject="record", auto_register=True)

    class More(Order):
        pass

    for value in (Order(number=1), Paid(1)):
        data, outgoing = await written(avro, value)
        assert await read(avro, type(value), arrived(data, outgoing)) == value
    await written(avro, More(number=1))
    with pytest.raises(PayloadEncodeError, match="no schema is given for Cancelled"):
        await written(avro, Cancelled(number=1))
    assert (await registry.latest("shop.Order")).text == TEXT


async def test_the_newest_version_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_000.0]
    monkeypatch.setattr(avro_module, "monotonic", lambda: clock[0])
    registry = SchemaRegistry("memory://", latest_for=0)
    await registry.register("orders-value", "AVRO", json.dumps(record("shop.Order", number="int")))
    avro = Avro(registry)
    assert (await written(avro, Order(number=1)))[0] == b"\0\0\0\0\1\2"
    await registry.register("orders-value", "AVRO", TEXT)
    assert isinstance(avro.encode(Order(number=1), Outgoing("orders")), bytes)
    clock[0] += ASK_AGAIN + 1
    assert (await written(avro, Order(number=1)))[0] == b"\0\0\0\0\2\2\0"
    assert isinstance(avro.encode(Order(number=1), Outgoing("orders")), bytes)


async def test_references_are_fetched(registry: SchemaRegistry) -> None:
    await registry.register("line", "AVRO", json.dumps(record("shop.Line", sku="string")))
    references = (Reference("shop.Line", "line", 1),)
    schema = record("shop.Cart", lines={"type": "array", "items": "shop.Line"}, last=["null", "shop.Line"])
    avro = Avro(registry, schema=schema, references=references, auto_register=True)

    class Line(BaseModel):
        sku: str

    class Cart(BaseModel):
        lines: list[Line]
        last: Line | None

    cart = Cart(lines=[Line(sku="a")], last=Line(sku="b"))
    data, outgoing = await written(avro, cart)
    assert await read(Avro(registry), Cart, arrived(data, outgoing)) == cart


async def test_a_reader_s_schema_is_given(registry: SchemaRegistry) -> None:
    schema = await registry.register("orders-value", "AVRO", json.dumps(record("old.Order", num="int")))
    avro = Avro(registry, reader_schema=record("shop.Order", number=[{"type": "long", "aliases": ["num"]}]))
    assert schema.id == 1
    assert await read(avro, Order, message(b"\0\0\0\0\1\2")) == Order(number=1)
    await registry.register("else", "AVRO", '"int"')
    with pytest.raises(PayloadDecodeError, match=r"the schema 2 does not fit Order: int cannot become shop\.Order"):
        await read(avro, Order, message(b"\0\0\0\0\2\2"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the payload has no schema id"),
        (b'{"number": 1}', "the payload has no schema id"),
        (b"\0\0\0", "the payload has no schema id"),
        (b"\0\0\0\0\x09\2", "no schema with the id 9"),
        (b"Obj\x01\x04\x14avro.codec\x08null", "this is an object container file (.avro)"),
        (b"\xc3\x01" + bytes(8) + b"\2", "this is Avro's single-object encoding"),
        (b"\0\0\0\0\1\2", "step avro: note: the payload ends in the middle of it"),
        (b"\0\0\0\0\2\2", "step avro: the schema 2 is JSON"),
        (b"\0\0\0\0\3\2", "step avro: the schema 3 of the registry is none: nothing defines the type Nowhere"),
    ],
)
async def test_what_cannot_be_read(registry: SchemaRegistry, data: bytes, reason: str) -> None:
    await registry.register("orders-value", "AVRO", TEXT)
    await registry.register("other", "JSON", "{}")
    await registry.register("broken", "AVRO", json.dumps(record("A", a="Nowhere")))
    with pytest.raises(PayloadDecodeError) as caught:
        await read(Avro(registry), Order, message(data))
    assert reason in str(caught.value)


async def test_what_cannot_be_written_names_the_path(registry: SchemaRegistry) -> None:
    await registry.register("orders-value", "AVRO", json.dumps(record("shop.Order", number="int", note="string")))
    avro = Avro(registry)
    with pytest.raises(PayloadEncodeError) as caught:
        await written(avro, Order(number=2**31, note="secret"))
    assert str(caught.value) == (
        "step avro: a Order cannot be written: number: an int that the 32 bits of the schema's int do not hold"
    )
    with pytest.raises(PayloadEncodeError, match="note: the schema has string, which a NoneType does not become"):
        avro.encode(Order(number=1), Outgoing("orders"))


async def test_plain_values_are_messages_and_keys(registry: SchemaRegistry) -> None:
    values = [
        (1, "long"),
        ("a", "string"),
        (b"a", "bytes"),
        (UUID(int=5), logical("string", "uuid")),
        ([1.5], {"type": "array", "items": "double"}),
    ]
    for number, (value, schema) in enumerate(values):
        await registry.register(f"t{number}-key", "AVRO", json.dumps(schema))
        avro = Avro(registry)
        data, outgoing = await written(avro, value, f"t{number}", "key")
        assert await read(avro, type(value), arrived(data, outgoing), "key") == value


async def test_a_schema_that_cannot_fit_is_told_when_it_is_met(
    registry: SchemaRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    class Other(BaseModel):
        total: int

    await registry.register("orders-value", "AVRO", TEXT)
    with caplog.at_level(logging.WARNING), pytest.raises(PayloadDecodeError, match="total: missing"):
        await read(Avro(registry), Other, message(b"\0\0\0\0\1\2\0"))
    assert caplog.messages == [
        "the Avro schema 1 does not fit Other: total is required by Other, and shop.Order has no such field"
    ]


async def test_incompatibilities(registry: SchemaRegistry) -> None:
    class Other(BaseModel):
        number: list[int]
        total: int

    avro = Avro(registry)
    with pytest.raises(PayloadUnavailableError):
        await avro.incompatibilities(Order, "none", writes=False)
    await registry.register("orders-value", "AVRO", TEXT)
    assert await avro.incompatibilities(Order, "orders", writes=False) == []
    assert await avro.incompatibilities(Order, "orders", writes=True) == []
    assert await avro.incompatibilities(Other, "orders", writes=False) == [
        "total is required by Other, and shop.Order has no such field",
        "number is long in the schema, and list in the type",
    ]
    await registry.register("shop.Paid", "AVRO", json.dumps(record("shop.Paid", number="string", other="int")))
    await registry.register("shop.Other", "AVRO", TEXT)
    by_record = Avro(registry, subject="record", namespace="shop")
    assert await by_record.incompatibilities(Paid | Other | None, "orders", writes=False) == [
        "total is required by Other, and shop.Order has no such field",
        "number is long in the schema, and list in the type",
    ]
    given = Avro(registry, schema={Other: SCHEMA})
    assert await given.incompatibilities(Other, "orders", writes=True) == [
        "total is a field of Other, and shop.Order has no such field",
        "number is long in the schema, and list in the type",
    ]


def test_what_would_be_registered_is_declared(registry: SchemaRegistry) -> None:
    avro = Avro(registry)
    assert isinstance(avro, DeclaresSchemas)
    assert avro.declared(Order, "orders") is None
    assert Avro(registry, schema=SCHEMA).declared(Any, "orders") == DeclaredSchema("orders-value", "AVRO", TEXT)
    by_record = Avro(registry, subject="record", namespace="shop", auto_register=True)
    assert by_record.declared(Order | Paid, "orders") is None
    found = by_record.declared(Order, "orders", "key")
    assert found is not None
    assert (found.subject, json.loads(found.text)["name"]) == ("shop.Order", "shop.Order")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"framing": "suffix"}, "framing must be one of prefix, header"),
        ({"subject": "name"}, "subject must be one of topic, record, topic_record"),
        ({"nanoseconds": "keep"}, "nanoseconds must be 'refuse' or 'cut'"),
        ({"schema": {"type": "record"}}, "this is no Avro schema: a type has no `name`"),
        ({"schema": "order.avsc"}, r"order\.avsc cannot be read"),
        ({"reader_schema": "{"}, "it is no JSON"),
    ],
)
def test_options_are_checked(registry: SchemaRegistry, options: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Avro(registry, **options)


def test_the_extra_is_named_if_it_is_missing(registry: SchemaRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastavro", None)
    with pytest.raises(ConfigurationError, match=r"Avro needs fastapi-athomic\[avro\]"):
        Avro(registry)


def test_a_type_that_pydantic_does_not_know_is_told(registry: SchemaRegistry) -> None:
    class Unknown:
        pass

    with pytest.raises(ConfigurationError, match="messages cannot be decoded into Unknown"):
        Avro(registry).decoder(Unknown)


async def test_a_topic_moves_from_json_to_avro(registry: SchemaRegistry) -> None:
    await registry.register("orders-value", "AVRO", TEXT)
    avro = Avro(registry)
    pipeline = PayloadPipeline([avro], reads=[Json()])
    outgoing = Outgoing("orders")
    later = pipeline.write(Order(number=1), outgoing)
    assert isinstance(later, Later)
    data = await later
    assert dict(outgoing.headers)["content-type"] == b"application/avro"
    decode = pipeline.decoder(Order)
    for incoming in (arrived(data, outgoing), message(data)):
        found = decode(incoming)
        assert (await found if isinstance(found, Later) else found) == Order(number=1)
    assert decode(message(b'{"number": 2}')) == Order(number=2)


def test_messages_are_recognized(registry: SchemaRegistry) -> None:
    avro = Avro(registry)
    assert avro.recognizes(message(b"\0\0\0\0\1\2"))
    assert avro.recognizes(message(b"\2", headers=(("content-type", b"application/avro"),)))
    assert avro.recognizes(message(b"\2", headers=((HEADERS["value"], b"\1" + bytes(16)),)))
    assert not avro.recognizes(message(b"{}"))
    assert not avro.recognizes(message(b"\0\0\0\0\1\2", headers=(("content-type", b"application/json"),)))


async def test_the_registry_is_opened_and_closed(registry: SchemaRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    async def note(name: str) -> None:
        calls.append(name)

    monkeypatch.setattr(registry, "open", lambda: note("open"))
    monkeypatch.setattr(registry, "close", lambda: note("close"))
    avro = Avro(registry)
    await avro.open()
    await avro.close()
    assert calls == ["open", "close"]


async def test_values_that_are_incoming_keep_their_headers(registry: SchemaRegistry) -> None:
    """As the steps of a pipeline give them to the serializer."""
    await registry.register("orders-value", "AVRO", TEXT)
    incoming = Incoming("orders", None, b"\0\0\0\0\1\2\0", (("a", b"b"),))
    assert await read(Avro(registry), Order, incoming) == Order(number=1)


async def test_a_schema_that_does_not_fit_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = SchemaRegistry("memory://")
    await registry.register("a", "AVRO", json.dumps(record("shop.Other", number="long")))
    await registry.register("b", "PROTOBUF", "message A {}")
    decode = Avro(registry, reader_schema=record("shop.Order", number="long")).decoder(Order)
    for data, reason in ((b"\0\0\0\0\1\2", "Other is neither"), (b"\0\0\0\0\2\2", "is PROTOBUF")):
        with pytest.raises(PayloadDecodeError, match=reason):
            await settled(decode(message(data)))
        with pytest.raises(PayloadDecodeError, match=reason):
            decode(message(data))


async def test_readers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_SCHEMAS", 2)
    registry = SchemaRegistry("memory://")
    decode = Avro(registry).decoder(Order)
    for number in (1, 2, 3):
        await registry.register(f"s{number}", "AVRO", json.dumps(record(f"shop.Order{number}", number="long")))
        assert await settled(decode(message(bytes([0, 0, 0, 0, number, 2])))) == Order(number=1)
    assert decode(message(b"\0\0\0\0\3\2")) == Order(number=1)
    assert isinstance(decode(message(b"\0\0\0\0\1\2")), Later)


@pytest.mark.parametrize("subject", ["record", "topic_record"])
async def test_what_has_no_name_has_no_subject_by_record(registry: SchemaRegistry, subject: Any) -> None:
    avro = Avro(registry, subject=subject)
    for value in ({"number": 1}, 1):
        with pytest.raises(PayloadEncodeError, match="publish a model"):
            await written(avro, value)
    assert await avro.incompatibilities(dict, "orders", writes=False) == []


async def test_what_is_said_of_fields_that_a_type_does_not_have(registry: SchemaRegistry) -> None:
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        number: int

    class Inside(BaseModel):
        sku: str = Field(validation_alias=AliasPath("line", "sku"))

    line = record("shop.Line", sku="string")
    await registry.register("orders-value", "AVRO", json.dumps(record("shop.Order", number="long", line=line)))
    avro = Avro(registry)
    assert await avro.incompatibilities(Closed, "orders", writes=False) == [
        "line is a field of shop.Order, and Closed forbids others"
    ]
    assert await avro.incompatibilities(Inside, "orders", writes=False) == []


@pytest.mark.parametrize("value", [{"number": 1}, [1]])
async def test_what_has_no_schema_to_register_is_refused_with_what_to_do(registry: SchemaRegistry, value: Any) -> None:
    name = type(value).__name__
    with pytest.raises(PayloadEncodeError, match=rf"a {name} declares no schema .*publish a model, or give .* schema="):
        await written(Avro(registry, auto_register=True), value)


async def test_a_model_without_a_schema_is_refused_by_the_name_of_its_field(registry: SchemaRegistry) -> None:
    class Loose(BaseModel):
        anything: Any

    with pytest.raises(ConfigurationError, match="anything may be anything, for which Avro has no type"):
        await written(Avro(registry, auto_register=True), Loose(anything=1))


@pytest.mark.parametrize("kind", [Avro, JsonSchema, Protobuf])
async def test_a_registry_without_guids_is_named_with_the_first_message(kind: Any) -> None:
    pipeline = PayloadPipeline([kind(WithoutGuids("memory://"), framing="header", auto_register=True)])
    value: Any = NUMBER_PB2.Number(number=1) if kind is Protobuf else Order(number=1)
    with pytest.raises(ConfigurationError, match=r"the schema registry gives no GUIDs, .*: use framing='prefix'"):
        await settled(pipeline.write(value, Outgoing("t")))

"""JSON with its schema in a registry."""

from __future__ import annotations

import asyncio
import json
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import BaseModel, Field

from fastapi_athomic import (
    ConfigurationError,
    PayloadDecodeError,
    PayloadEncodeError,
    PayloadPipeline,
    PayloadUnavailableError,
)
from fastapi_athomic.payload.steps import Later, Outgoing
from fastapi_athomic.schemas.declared import DeclaredSchema
from fastapi_athomic.schemas.json_schema import DIALECT, JsonSchema
from fastapi_athomic.schemas.json_validation import JsonValidator, UnusableSchemaError
from fastapi_athomic.schemas.registered import Reference
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived, message

SECRET = "s3cret"


class Item(BaseModel):
    sku: str
    amount: int = Field(1, gt=0)


class Order(BaseModel):
    number: int
    items: list[Item] = Field(default_factory=list)
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass
class Point:
    x: float


ORDER = Order(number=1, items=[Item(sku="a", amount=2)])
SCHEMA = {
    "title": "Order",
    "type": "object",
    "properties": {
        "number": {"type": "integer", "maximum": 9},
        "items": {"type": "array", "items": {"type": "object", "properties": {"sku": {"type": "string"}}}},
    },
    "required": ["number"],
}
TEXT = json.dumps(SCHEMA)


async def done(value: Any) -> Any:
    return await value if isinstance(value, Later) else value


async def written(serializer: JsonSchema, value: Any, topic: str = "orders", **options: Any) -> Any:
    """The message that a consumer gets."""
    outgoing = Outgoing(topic, **options)
    data = await done(PayloadPipeline([serializer]).write(value, outgoing))
    return arrived(data, outgoing)


async def read(serializer: JsonSchema, received: Any, target_type: Any) -> Any:
    return await done(PayloadPipeline([serializer]).decoder(target_type)(received))


@pytest.fixture
def registry() -> SchemaRegistry:
    return SchemaRegistry("memory://", unknown_after=0)


# --- which schema


async def test_a_model_is_registered_if_that_is_wanted(registry: SchemaRegistry) -> None:
    serializer = JsonSchema(registry, auto_register=True)
    received = await written(serializer, ORDER)
    assert received.value[:5] == b"\0\0\0\0\1"
    assert json.loads(received.value[5:]) == json.loads(ORDER.model_dump_json())
    registered = json.loads((await registry.latest("orders-value")).text)
    assert registered == {"$schema": DIALECT, **Order.model_json_schema(mode="serialization")}
    assert await read(serializer, received, Order) == ORDER


async def test_without_a_schema_the_newest_of_the_subject_is_used(registry: SchemaRegistry) -> None:
    serializer = JsonSchema(registry)
    with pytest.raises(PayloadUnavailableError, match="has no subject other-value"):
        await written(serializer, ORDER, "other")
    await registry.register("orders-value", "JSON", TEXT)
    assert (await written(serializer, {"number": 9})).value == b'\0\0\0\0\1{"number":9}'
    with pytest.raises(
        PayloadEncodeError, match=r"the schema of orders-value, version 1: number: maximum \(at most 9\)"
    ):
        await written(serializer, {"number": 10})


async def test_a_given_schema_is_looked_up_and_registered_only_if_wanted(registry: SchemaRegistry) -> None:
    with pytest.raises(PayloadUnavailableError, match="no version of orders-value with this very schema"):
        await written(JsonSchema(registry, schema=SCHEMA), {"number": 1})
    await written(JsonSchema(registry, schema=TEXT, auto_register=True), {"number": 1})
    assert (await written(JsonSchema(registry, schema=SCHEMA), {"number": 1})).value[:5] == b"\0\0\0\0\1"


async def test_a_known_schema_is_not_asked_for_again(registry: SchemaRegistry) -> None:
    serializer = JsonSchema(registry, auto_register=True)
    await written(serializer, ORDER)
    assert isinstance(serializer.encode(ORDER, Outgoing("orders")), bytes)
    assert isinstance(serializer.encode(ORDER, Outgoing("other")), Later)
    assert isinstance(serializer.encode(ORDER, Outgoing("orders", part="key")), Later)


async def test_a_dict_declares_no_schema(registry: SchemaRegistry) -> None:
    with pytest.raises(PayloadEncodeError, match="a dict declares no schema that could be registered"):
        await written(JsonSchema(registry, auto_register=True), {"number": 1})


async def test_a_model_without_a_schema_says_so(registry: SchemaRegistry) -> None:
    class Odd(BaseModel):
        call: Callable[[int], int]

    with pytest.raises(PayloadEncodeError):
        await written(JsonSchema(registry, auto_register=True), Odd(call=abs))
    with pytest.raises(PayloadEncodeError, match="Odd has no JSON Schema"):
        JsonSchema(registry, auto_register=True)._written_schema(Odd)


@pytest.mark.parametrize(
    ("subject", "expected"),
    [("topic", "orders-value"), ("record", "Order"), ("topic_record", "orders-Order")],
)
async def test_subjects_are_named_by_topic_and_title(registry: SchemaRegistry, subject: Any, expected: str) -> None:
    await written(JsonSchema(registry, subject=subject, auto_register=True), ORDER)
    assert json.loads((await registry.latest(expected)).text)["title"] == "Order"
    other = SchemaRegistry("memory://")
    await written(JsonSchema(other, subject=subject, schema=SCHEMA, auto_register=True), {"number": 1})
    assert json.loads((await other.latest(expected)).text) == SCHEMA


def test_what_a_type_declares_is_told_for_the_check(registry: SchemaRegistry) -> None:
    declared = JsonSchema(registry, subject="record").declared(Order, "orders")
    assert declared is not None
    assert (declared.subject, declared.type) == ("Order", "JSON")
    assert json.loads(declared.text) == {"$schema": DIALECT, **Order.model_json_schema(mode="validation")}
    references = [Reference("sku.json", "sku", 1)]
    given = JsonSchema(registry, schema=SCHEMA, references=references).declared(Order, "orders", "key")
    assert given == DeclaredSchema("orders-key", "JSON", TEXT, tuple(references))
    assert JsonSchema(registry).declared(Any, "orders") is None
    with pytest.raises(ConfigurationError, match="no JSON Schema"):
        JsonSchema(registry).declared(Callable[[int], int], "orders")


# --- both framings


@pytest.mark.parametrize("framing", ["prefix", "header"])
@pytest.mark.parametrize("part", ["value", "key"])
async def test_both_framings_are_read_whatever_is_written(registry: SchemaRegistry, framing: Any, part: Any) -> None:
    outgoing = Outgoing("orders", part=part)
    data = await done(JsonSchema(registry, framing=framing, auto_register=True).encode(ORDER, outgoing))
    assert (data == ORDER.model_dump_json().encode()) is (framing == "header")
    assert (f"__{part}_schema_id" in dict(outgoing.headers)) is (framing == "header")
    other = JsonSchema(registry, validate_reads=True)
    assert await done(other.decoder(Order, part)(arrived(data, outgoing))) == ORDER


async def test_messages_are_recognized_by_their_id_and_content_type(registry: SchemaRegistry) -> None:
    prefix = JsonSchema(registry, auto_register=True)
    in_header = JsonSchema(registry, framing="header", auto_register=True)
    moving = PayloadPipeline(reads=[prefix])
    away = PayloadPipeline([in_header], reads=PayloadPipeline().parts)  # type: ignore[arg-type]
    plain = message(b'{"number": 1}', headers=(("content-type", b"application/json"),))
    for received in (await written(prefix, ORDER), await written(in_header, ORDER), plain, message(b'{"number": 1}')):
        for pipeline in (moving, away):
            assert (await done(pipeline.decoder(Order)(received))).number == 1
    assert not prefix.recognizes(message(b"\0\0\0\0\1x", headers=(("content-type", b"avro/binary"),)))
    assert prefix.recognizes(message(b"\0\0\0\0\1x"))


# --- values


@pytest.mark.parametrize("value", ["text", 7, [1, None], {"a": {"b": 1.5}}, True, Point(1.5), b"bytes", ""])
async def test_values_of_all_types_come_back(registry: SchemaRegistry, value: Any) -> None:
    serializer = JsonSchema(registry, schema="true", auto_register=True)
    assert await read(serializer, await written(serializer, value), type(value)) == value


async def test_a_null_value_needs_no_schema(registry: SchemaRegistry) -> None:
    serializer = JsonSchema(registry, validate_reads=True)
    received = await written(serializer, None)
    assert received.value is None
    assert received.headers == ()
    assert await read(serializer, received, Order | None) is None
    with pytest.raises(PayloadDecodeError, match="the payload is null"):
        await read(serializer, received, Order)


# --- errors


async def test_what_does_not_follow_the_schema_is_refused_both_ways_by_place_and_keyword(
    registry: SchemaRegistry,
) -> None:
    wrong: list[tuple[Any, str]] = [
        ({"number": SECRET}, "number: type (should be integer)"),
        ({SECRET: SECRET}, "required (number is missing)"),
        ({"number": 1, "items": [{}, {"sku": 5}]}, "items.1.sku: type (should be string)"),
        ([SECRET], "type (should be object)"),
    ]
    checked = JsonSchema(registry, schema=SCHEMA, auto_register=True)
    unchecked = JsonSchema(registry, schema=SCHEMA, validate=False)
    reading = JsonSchema(registry, validate_reads=True)
    await written(checked, {"number": 1})
    for value, said in wrong:
        with pytest.raises(PayloadEncodeError) as refused:
            await written(checked, value)
        received = await written(unchecked, value)
        with pytest.raises(PayloadDecodeError) as unread:
            await read(reading, received, Any)
        for caught in (refused, unread):
            assert caught.value.step == "json-schema"
            assert said in str(caught.value)
            assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_keys_that_the_schema_does_not_name_are_not_shown() -> None:
    validator = JsonValidator(json.dumps({"additionalProperties": {"type": "integer"}}), {})
    assert validator.problem(json.dumps({SECRET: SECRET}).encode()) == "?: type (should be integer)"
    forbidding = JsonValidator(json.dumps({"additionalProperties": False}), {})
    assert forbidding.problem(json.dumps({SECRET: SECRET}).encode()) == "falseSchema (nothing may be there)"


def test_many_problems_are_not_all_told() -> None:
    validator = JsonValidator(json.dumps({"items": {"type": "integer"}}), {})
    problem = validator.problem(json.dumps(["x"] * 100_000).encode())
    assert problem is not None
    assert problem.endswith("4: type (should be integer); ...")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the payload has no schema id"),
        (b"\0\0\0", "only 3 bytes"),
        (b'{"number": 1}', "the payload has no schema id"),
        (b"\0\0\0\0\1", "the payload is no JSON: it is empty"),
        (b"\0\0\0\0\1{", "not a valid Order: json_invalid"),
        (b"\0\0\0\0\1[]", "not a valid Order: model_type"),
        (b"\0\0\0\0\1" + b"[" * 100_000, "not a valid Order: json_invalid"),
    ],
)
async def test_bytes_that_are_none_of_it_say_why(registry: SchemaRegistry, data: bytes, said: str) -> None:
    await registry.register("orders-value", "JSON", "true")
    for serializer in (JsonSchema(registry), JsonSchema(registry, validate_reads=True)):
        with pytest.raises(PayloadDecodeError) as caught:
            await read(serializer, message(data), Order)
        assert said in str(caught.value)
        assert caught.value.step == "json-schema"


async def test_reading_asks_the_registry_only_to_validate(registry: SchemaRegistry) -> None:
    unknown = message(b"\0\0\0\0\7" + ORDER.model_dump_json().encode())
    assert await read(JsonSchema(registry), unknown, Order) == ORDER
    with pytest.raises(PayloadDecodeError, match="no schema with the id 7"):
        await read(JsonSchema(registry, validate_reads=True), unknown, Order)


async def test_schemas_of_other_types_are_refused(registry: SchemaRegistry) -> None:
    await registry.register("orders-value", "AVRO", '"string"')
    with pytest.raises(PayloadEncodeError, match="the schema of orders-value is of type AVRO"):
        await written(JsonSchema(registry), ORDER)
    with pytest.raises(PayloadDecodeError, match="the message's schema is of type AVRO"):
        await read(JsonSchema(registry, validate_reads=True), message(b"\0\0\0\0\1{}"), Order)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"framing": "both"}, "framing must be"),
        ({"subject": "both"}, "subject must be"),
        ({"schema": "{"}, "it is no JSON"),
        ({"schema": "3"}, "neither an object nor a boolean"),
    ],
)
def test_what_makes_no_sense_stops_the_start_up(registry: SchemaRegistry, options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        JsonSchema(registry, **options)


# --- references, and the network


async def test_references_of_the_registry_are_followed_by_name_and_by_id(registry: SchemaRegistry) -> None:
    sku = {"$id": "https://shop.example/sku.json", "type": "string", "maxLength": 2}
    item = {"$id": "https://shop.example/item.json", "properties": {"sku": {"$ref": "sku.json"}}}
    await registry.register("sku", "JSON", json.dumps(sku))
    await registry.register("item", "JSON", json.dumps(item), [Reference("sku.json", "sku", 1)])
    for name in ("item.json", "https://shop.example/item.json"):
        order = {"items": {"$ref": name}}
        for schema in (order, {"$id": "https://shop.example/order.json", **order}):
            serializer = JsonSchema(
                registry, schema=schema, references=[Reference(name, "item", 1)], auto_register=True
            )
            assert await written(serializer, [{"sku": "ab"}])
            with pytest.raises(PayloadEncodeError, match=r"0\.sku: maxLength \(at most 2\)"):
                await written(serializer, [{"sku": "abc"}])


class _Counted(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def website() -> Iterator[tuple[str, list[str]]]:
    """A server that would give any schema."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Counted", (_Counted,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "URL/a.json"},
        {"$schema": "URL/meta.json"},
        {"$id": "URL/a.json", "$ref": "b.json"},
        {"properties": {"a": {"items": {"$ref": "URL/a.json#/$defs/x"}}}},
        {"$ref": "file:///etc/hostname"},
    ],
)
async def test_nothing_is_fetched_that_a_foreign_schema_refers_to(
    registry: SchemaRegistry, website: tuple[str, list[str]], schema: Any
) -> None:
    url, asked = website
    await registry.register("orders-value", "JSON", json.dumps(schema).replace("URL", url))
    with pytest.raises(PayloadEncodeError, match=r"the schema of orders-value cannot be used: it refers to "):
        await written(JsonSchema(registry), {})
    with pytest.raises(PayloadDecodeError, match="the schema 1 cannot be used: it refers to "):
        await read(JsonSchema(registry, validate_reads=True), message(b"\0\0\0\0\1{}"), Any)
    assert asked == []


@pytest.mark.parametrize("draft", ["http://json-schema.org/draft-07/schema#", DIALECT])
def test_meta_schemas_are_there_without_a_network(draft: str) -> None:
    validator = JsonValidator(json.dumps({"$schema": draft, "properties": {"of": {"$ref": draft}}}), {})
    assert validator.problem(b'{"of": {"type": "string"}}') is None
    assert validator.problem(b'{"of": {"type": 5}}') is not None


@pytest.mark.parametrize(
    "schema", [{"type": "nope"}, {"$ref": "#/nowhere"}, {"pattern": "("}, {"items": {"properties": 3}}]
)
def test_an_invalid_schema_says_so(schema: Any) -> None:
    with pytest.raises(UnusableSchemaError):
        JsonValidator(json.dumps(schema), {})


def test_schemas_that_refer_to_themselves_end() -> None:
    for schema in ({"$ref": "#"}, {"allOf": [{"$ref": "#"}]}, {"items": {"$ref": "#"}}):
        assert JsonValidator(json.dumps(schema), {}).problem(b"[[[1]]]") is None


async def test_a_lifetime_opens_the_registry() -> None:
    told: list[str] = []

    class Told(SchemaRegistry):
        async def open(self) -> None:
            told.append("open")

        async def close(self) -> None:
            told.append("close")

    pipeline = PayloadPipeline([JsonSchema(Told("memory://"))])
    await pipeline.open()
    await asyncio.sleep(0)
    await pipeline.close()
    assert told == ["open", "close"]

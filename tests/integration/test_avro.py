"""Avro with confluent-kafka's serializers on the other side, and registries over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from pydantic import BaseModel

from fastapi_athomic import PayloadDecodeError
from fastapi_athomic.payload.steps import Later, Outgoing, Part
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.registered import Reference
from fastapi_athomic.schemas.registry import SchemaRegistry
from fastapi_athomic.schemas.wire import Framing
from tests.support.avro import logical, record
from tests.support.http_registry import HttpRegistry
from tests.support.payloads import arrived, message
from tests.support.schema_registry import BY_TOPIC, for_confluent


class Colour(Enum):
    red = "RED"


class Line(BaseModel):
    sku: str
    price: Decimal


class Placed(BaseModel):
    number: int


class Paid(BaseModel):
    number: int


class Order(BaseModel):
    id: UUID
    number: int
    note: str | None
    at: datetime
    exact: int
    day: date
    hour: time
    colour: Colour
    raw: bytes
    total: float
    lines: list[Line]
    tags: dict[str, str]
    event: Placed | Paid


SCHEMA = record(
    "shop.Order", id=logical("string", "uuid"), number="long", note=["null", "string"],
    at=logical("long", "timestamp-millis"), exact=logical("long", "timestamp-nanos"), day=logical("int", "date"),
    hour=logical("long", "time-micros"), colour={"type": "enum", "name": "Colour", "symbols": ["GREEN", "RED"]},
    raw="bytes", total="double",
    lines={"type": "array", "items": record("shop.Line", sku="string",
                                            price=logical("bytes", "decimal", precision=9, scale=2))},
    tags={"type": "map", "values": "string"},
    event=[record("shop.Placed", number="int"), record("shop.Paid", number="int")],
)  # fmt: skip
TEXT = json.dumps(SCHEMA)
ORDER = Order(
    id=UUID(int=7), number=2**62, note=None, at=datetime(2026, 1, 2, 3, 4, 5, 6000, UTC), exact=2**60 + 1,
    day=date(2026, 1, 2), hour=time(3, 4, 5, 6), colour=Colour.red, raw=b"\0\xff", total=0.1,
    lines=[Line(sku="a", price=Decimal("-1.25"))], tags={"k": "v"}, event=Paid(number=3),
)  # fmt: skip
AS_DICT = ORDER.model_dump() | {"colour": "RED", "event": ("shop.Paid", {"number": 3})}


@pytest.fixture(params=["Apicurio", "with GUIDs"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Apicurio, which knows no GUIDs; and the small registry of the tests, which does."""
    if request.param == "Apicurio":
        yield request.getfixturevalue("schema_registry").url
        return
    with HttpRegistry() as registry:
        yield registry.url


@pytest.fixture
def url_with_guids() -> Iterator[str]:
    with HttpRegistry() as registry:
        yield registry.url


@pytest.fixture
def client(url: str) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient(for_confluent(url)) as client:
        yield client


@pytest.fixture
def client_with_guids(url_with_guids: str) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient(for_confluent(url_with_guids)) as client:
        yield client


@pytest.fixture
def topic() -> str:
    return f"avro-{uuid4().hex}"


def theirs(client: SchemaRegistryClient, schema: Any = TEXT, **conf: Any) -> Any:
    """Their serializer."""
    return AvroSerializer(
        client, schema, conf=BY_TOPIC | {name.replace("_", "."): value for name, value in conf.items()}
    )


async def published(avro: Avro, value: Any, topic: str, part: Part = "value") -> tuple[bytes, Outgoing]:
    outgoing = Outgoing(topic, part=part)
    data = avro.encode(value, outgoing)
    if isinstance(data, Later):
        data = await data
    assert data is not None
    return data, outgoing


async def consumed(avro: Avro, target: Any, incoming: Any, part: Part = "value") -> Any:
    found = avro.decoder(target, part)(incoming)
    return await found if isinstance(found, Later) else found


async def test_what_their_serializer_writes_is_read(url: str, client: SchemaRegistryClient, topic: str) -> None:
    data = theirs(client)(AS_DICT, SerializationContext(topic, MessageField.VALUE))
    assert await consumed(Avro(SchemaRegistry(url)), Order, message(data)) == ORDER


async def test_what_their_serializer_writes_with_a_header_is_read(
    url_with_guids: str, client_with_guids: SchemaRegistryClient, topic: str
) -> None:
    headers: list[Any] = []
    serialize = theirs(client_with_guids, schema_id_serializer=header_schema_id_serializer)
    data = serialize(AS_DICT, SerializationContext(topic, MessageField.VALUE, headers))
    incoming = message(data, headers=tuple(headers))
    assert [name for name, _ in headers] == ["__value_schema_id"]
    assert await consumed(Avro(SchemaRegistry(url_with_guids)), Order, incoming) == ORDER


@pytest.mark.parametrize("framing", ["prefix", "header"])
@pytest.mark.parametrize("part", ["value", "key"])
async def test_their_deserializer_reads_what_is_published(
    url_with_guids: str, client_with_guids: SchemaRegistryClient, topic: str, framing: Framing, part: Part
) -> None:
    registry = SchemaRegistry(url_with_guids)
    await registry.register(f"{topic}-{part}", "AVRO", TEXT)
    data, outgoing = await published(Avro(registry, framing=framing), ORDER, topic, part)
    deserialize = AvroDeserializer(client_with_guids, conf=BY_TOPIC)
    field = MessageField.VALUE if part == "value" else MessageField.KEY
    found: Any = deserialize(data, SerializationContext(topic, field, list(outgoing.headers)))
    assert found == AS_DICT | {"event": {"number": 3}}
    assert await consumed(Avro(registry), Order, arrived(data, outgoing), part) == ORDER


async def test_a_schema_is_registered_and_read_by_theirs(url: str, client: SchemaRegistryClient, topic: str) -> None:
    avro = Avro(SchemaRegistry(url), auto_register=True, namespace=topic.replace("-", "_"))
    data, outgoing = await published(avro, Placed(number=1), topic)
    deserialize = AvroDeserializer(client, conf=BY_TOPIC)
    assert deserialize(data, SerializationContext(topic, MessageField.VALUE)) == {"number": 1}
    assert await consumed(avro, Placed, arrived(data, outgoing)) == Placed(number=1)


async def test_references_are_followed(url: str, client: SchemaRegistryClient, topic: str) -> None:
    """A schema that uses another, which uses a third; the third is used by both."""
    money, line = f"{topic}-money", f"{topic}-line"
    client.register_schema(money, Schema(json.dumps(record("shop.Money", amount="long")), "AVRO"))
    to_money = SchemaReference("shop.Money", money, 1)
    client.register_schema(line, Schema(json.dumps(record("shop.Line", price="shop.Money")), "AVRO", [to_money]))
    cart = record("shop.Cart", lines={"type": "array", "items": "shop.Line"}, total="shop.Money")
    schema = Schema(json.dumps(cart), "AVRO", [SchemaReference("shop.Line", line, 1), to_money])
    value = {"lines": [{"price": {"amount": 3}}], "total": {"amount": 3}}
    data = theirs(client, schema)(value, SerializationContext(topic, MessageField.VALUE))
    assert await consumed(Avro(SchemaRegistry(url)), dict[str, Any], message(data)) == value
    references = (Reference("shop.Line", line, 1), Reference("shop.Money", money, 1))
    ours = Avro(SchemaRegistry(url), schema=cart, references=references)
    assert (await published(ours, value, topic))[0] == data


async def test_bytes_by_themselves_are_bare_for_both(url: str, client: SchemaRegistryClient, topic: str) -> None:
    context = SerializationContext(topic, MessageField.VALUE)
    data = theirs(client, '"bytes"')(b"abc", context)
    avro = Avro(SchemaRegistry(url))
    assert await consumed(avro, bytes, message(data)) == b"abc"
    assert (await published(avro, b"abc", topic))[0] == data
    assert AvroDeserializer(client, conf=BY_TOPIC)(data, context) == b"abc"


async def test_a_message_of_one_byte_in_a_header_s_framing_is_read(url_with_guids: str, topic: str) -> None:
    """Their own deserializer refuses it."""
    avro = Avro(SchemaRegistry(url_with_guids), framing="header", auto_register=True)
    data, outgoing = await published(avro, Placed(number=1), topic)
    assert len(data) == 1
    assert await consumed(avro, Placed, arrived(data, outgoing)) == Placed(number=1)


async def test_an_unknown_id_is_the_message_s_fault(url: str) -> None:
    registry = SchemaRegistry(url, unknown_after=0)
    with pytest.raises(PayloadDecodeError, match="987654321"):
        await consumed(Avro(registry), Placed, message(b"\0" + (987654321).to_bytes(4, "big") + b"\2"))


async def test_the_registry_tells_what_would_be_incompatible(url: str, topic: str) -> None:
    registry = SchemaRegistry(url)
    await registry.register(f"{topic}-value", "AVRO", json.dumps(record("shop.Placed", number="string")))
    avro = Avro(registry, schema=record("shop.Placed", number="long"))
    assert len(await avro.incompatibilities(Placed, topic, writes=True)) == 1

"""What one Avro message costs, validation included, beside confluent-kafka's serializers, and fastavro by hand.

Part of F10: `python -m benchmarks.payloads Avro`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from uuid import UUID

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from pydantic import BaseModel, TypeAdapter

from benchmarks.payload_cases import AS_MODEL, BARE, CONFLUENT, OURS, Case
from fastapi_athomic import PayloadPipeline
from fastapi_athomic.payload.steps import Outgoing
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived


class Moved(BaseModel):
    id: UUID
    number: int
    state: str
    at: datetime
    note: str | None


class Line(BaseModel):
    sku: str
    quantity: int
    price: float


class Order(BaseModel):
    number: int
    customer: str
    paid: bool
    lines: list[Line]


MOVED = {
    "type": "record",
    "name": "Moved",
    "fields": [
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "number", "type": "long"},
        {"name": "state", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
LINE = {
    "type": "record",
    "name": "Line",
    "fields": [
        {"name": "sku", "type": "string"},
        {"name": "quantity", "type": "int"},
        {"name": "price", "type": "double"},
    ],
}
ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "number", "type": "long"},
        {"name": "customer", "type": "string"},
        {"name": "paid", "type": "boolean"},
        {"name": "lines", "type": {"type": "array", "items": LINE}},
    ],
}
MESSAGES: Mapping[str, tuple[Any, Any]] = {
    "Avro, 5 fields": (
        MOVED,
        Moved(id=UUID(int=2**120), number=7, state="sent", at=datetime(2026, 1, 2, tzinfo=UTC), note=None),
    ),
    "Avro, 10 lines": (
        ORDER,
        Order(
            number=7,
            customer="Ann Other",
            paid=True,
            lines=[Line(sku=f"sku-{number}", quantity=number, price=9.5) for number in range(10)],
        ),
    ),
}


def cases() -> Iterator[Case]:
    """Nobody asks a registry any more."""
    for name, (schema, value) in MESSAGES.items():
        yield from _both_ways(name, json.dumps(schema), value)


def _both_ways(name: str, text: str, value: Any) -> Iterator[Case]:
    kind = type(value)
    data, encode, decode = asyncio.run(_ours(text, value))
    context = SerializationContext("t", MessageField.VALUE)
    client = SchemaRegistryClient.new_client({"url": "mock://"})
    serialize: Any = AvroSerializer(client, text, conf={"subject.name.strategy.type": "TOPIC"})
    deserialize = AvroDeserializer(client)
    theirs = serialize(value.model_dump(), context)
    assert theirs[5:] == data.value[5:]
    parsed = parse_schema(json.loads(text))
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    validate, dump = adapter.validator.validate_python, adapter.serializer.to_python

    def by_hand() -> bytes:
        stream = BytesIO()
        schemaless_writer(stream, parsed, dump(value))
        return stream.getvalue()

    bare = by_hand()
    assert decode(data) == value == validate(schemaless_reader(BytesIO(bare), parsed))
    yield Case(
        f"{name}, read",
        {
            OURS: lambda: decode(data),
            BARE: lambda: validate(schemaless_reader(BytesIO(bare), parsed)),
            CONFLUENT: lambda: deserialize(theirs, context),
            AS_MODEL: lambda: validate(deserialize(theirs, context)),
        },
    )
    yield Case(
        f"{name}, written",
        {OURS: lambda: encode(value), BARE: by_hand, CONFLUENT: lambda: serialize(dump(value), context)},
    )


async def _ours(text: str, value: Any) -> tuple[Any, Callable[[Any], object], Callable[[Any], object]]:
    """A message, and both directions after the schema was fetched."""
    registry = SchemaRegistry("memory://")
    await registry.register("t-value", "AVRO", text)
    pipeline, outgoing = PayloadPipeline([Avro(registry, schema=text)]), Outgoing("t")
    later: Any = pipeline.write(value, outgoing)
    message = arrived(await later, outgoing)
    decode = pipeline.decoder(type(value))
    later = decode(message)
    await later
    return message, lambda value: pipeline.write(value, Outgoing("t")), decode

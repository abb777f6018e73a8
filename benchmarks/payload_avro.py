"""What one Avro message costs, validation included, beside confluent-kafka's serializers, and fastavro by hand.

`cases` gives what the figure of the payload pipeline measures. Run as a program it prints microseconds of CPU per
message:
`python -m benchmarks.payload_avro`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from io import BytesIO
from time import process_time
from typing import Any
from uuid import UUID

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from pydantic import BaseModel, TypeAdapter

from fastapi_athomic.payload.steps import Outgoing
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived

Contenders = Mapping[str, Callable[[], object]]
OURS, BARE, CONFLUENT = "fastapi-athomic", "the library by hand", "confluent-kafka"
CALLS, TURNS = 3_000, 9
"""Of one turn, and turns of each contender. The fastest turn counts: what disturbs a turn only makes it slower."""


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


def cases() -> Iterator[tuple[str, Contenders]]:
    """The cases by name: what each contender does for one message. Nobody asks a registry any more."""
    for name, (schema, value) in MESSAGES.items():
        yield from _both_ways(name, json.dumps(schema), value)


def _both_ways(name: str, text: str, value: Any) -> Iterator[tuple[str, Contenders]]:
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
    yield (
        f"{name}, read",
        {
            OURS: lambda: decode(data),
            BARE: lambda: validate(schemaless_reader(BytesIO(bare), parsed)),
            CONFLUENT: lambda: deserialize(theirs, context),
        },
    )
    yield (
        f"{name}, written",
        {OURS: lambda: encode(value), BARE: by_hand, CONFLUENT: lambda: serialize(dump(value), context)},
    )


async def _ours(text: str, value: Any) -> tuple[Any, Callable[[Any], object], Callable[[Any], object]]:
    """A message, and both directions after the schema was fetched."""
    registry = SchemaRegistry("memory://")
    await registry.register("t-value", "AVRO", text)
    avro, outgoing = Avro(registry, schema=text), Outgoing("t")
    later: Any = avro.encode(value, outgoing)
    message = arrived(await later, outgoing)
    decode = avro.decoder(type(value))
    later = decode(message)
    await later
    return message, lambda value: avro.encode(value, Outgoing("t")), decode


def measured(contenders: Contenders) -> dict[str, float]:
    """Microseconds of CPU per message, by contender. They take turns."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(TURNS):
        for name, call in contenders.items():
            began = process_time()
            for _ in range(CALLS):
                call()
            best[name] = min(best[name], (process_time() - began) / CALLS * 1e6)
    return best


if __name__ == "__main__":
    for case, contenders in cases():
        found = measured(contenders)
        ratio = found[CONFLUENT] / found[OURS]
        shown = ", ".join(f"{name} {cost:.1f} µs" for name, cost in found.items())
        print(f"{case}: {shown}; {ratio:.2f} times as fast as confluent-kafka")

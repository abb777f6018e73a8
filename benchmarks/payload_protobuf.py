"""What one Protobuf message costs, validation included, beside confluent-kafka's serializers, and protobuf by hand.

Part of F10: `python -m benchmarks.payloads Protobuf`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf.json_format import MessageToDict
from pydantic import BaseModel, TypeAdapter

from benchmarks.payload_cases import AS_MODEL, BARE, CONFLUENT, OURS, Case
from fastapi_athomic import PayloadPipeline
from fastapi_athomic.payload.steps import Outgoing
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived
from tests.support.protoc import generated

PROTO = """
syntax = "proto3";
package athomic.bench;

import "google/protobuf/timestamp.proto";

message Moved {
  string id = 1;
  int64 number = 2;
  string state = 3;
  google.protobuf.Timestamp at = 4;
  optional string note = 5;
}

message Order {
  int64 number = 1;
  string customer = 2;
  bool paid = 3;
  repeated Line lines = 4;
}

message Line {
  string sku = 1;
  int32 quantity = 2;
  double price = 3;
}
"""
bench_pb2 = generated("athomic_bench.proto", PROTO)


class Moved(BaseModel):
    id: UUID
    number: int
    state: str
    at: datetime
    note: str | None = None


class Line(BaseModel):
    sku: str
    quantity: int
    price: float


class Order(BaseModel):
    number: int
    customer: str
    paid: bool
    lines: list[Line]


def _moved_by_hand(message: Any) -> dict[str, Any]:
    return {
        "id": message.id,
        "number": message.number,
        "state": message.state,
        "at": message.at.ToDatetime(UTC),
        "note": message.note if message.HasField("note") else None,
    }


def _order_by_hand(message: Any) -> dict[str, Any]:
    lines = [{"sku": line.sku, "quantity": line.quantity, "price": line.price} for line in message.lines]
    return {"number": message.number, "customer": message.customer, "paid": message.paid, "lines": lines}


MESSAGES: Mapping[str, tuple[Any, Callable[[Any], dict[str, Any]], Any]] = {
    "Protobuf, 5 fields": (
        bench_pb2.Moved,
        _moved_by_hand,
        Moved(id=UUID(int=2**120), number=7, state="sent", at=datetime(2026, 1, 2, tzinfo=UTC), note=None),
    ),
    "Protobuf, 10 lines": (
        bench_pb2.Order,
        _order_by_hand,
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
    for name, (generated_class, by_hand, value) in MESSAGES.items():
        yield from _both_ways(name, generated_class, by_hand, value)


def _both_ways(name: str, generated_class: Any, to_dict: Callable[[Any], dict[str, Any]], value: Any) -> Iterator[Case]:
    data, encode, into_model, into_class = asyncio.run(_ours(generated_class, value))
    context = SerializationContext("t", MessageField.VALUE)
    client = SchemaRegistryClient.new_client({"url": "mock://"})
    conf = {"subject.name.strategy.type": "TOPIC"}
    serialize, deserialize = (
        ProtobufSerializer(generated_class, client, conf),
        ProtobufDeserializer(generated_class, conf, client),
    )
    read = into_class(data)
    theirs = serialize(read, context)
    assert theirs is not None
    parse, bare = generated_class.FromString, read.SerializeToString()
    assert theirs.endswith(bare)
    adapter: TypeAdapter[Any] = TypeAdapter(type(value))
    validate, dump = adapter.validator.validate_python, adapter.serializer.to_python

    def as_model() -> Any:
        message: Any = deserialize(theirs, context)
        found = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        return validate(found)

    assert into_model(data) == value == validate(to_dict(parse(bare)))
    yield Case(
        f"{name}, read",
        {
            OURS: lambda: into_model(data),
            BARE: lambda: validate(to_dict(parse(bare))),
            CONFLUENT: lambda: deserialize(theirs, context),
            AS_MODEL: as_model,
        },
    )
    yield Case(
        f"{name}, read into the generated class",
        {
            OURS: lambda: into_class(data),
            BARE: lambda: parse(bare),
            CONFLUENT: lambda: deserialize(theirs, context),
        },
    )
    yield Case(
        f"{name}, written",
        {
            OURS: lambda: encode(value),
            BARE: lambda: generated_class(**_parts(dump(value))).SerializeToString(),
            CONFLUENT: lambda: serialize(generated_class(**_parts(dump(value))), context),
        },
    )


def _parts(dumped: dict[str, Any]) -> dict[str, Any]:
    """What the constructor of the generated class takes."""
    if "id" in dumped:
        dumped["id"] = str(dumped["id"])
    return dumped


async def _ours(
    generated_class: Any, value: Any
) -> tuple[Any, Callable[[Any], object], Callable[[Any], Any], Callable[[Any], Any]]:
    """A message, and both directions after the schema was fetched: into the model, and into the class."""
    registry = SchemaRegistry("memory://")
    protobuf = Protobuf(registry, messages={type(value): generated_class}, auto_register=True)
    pipeline = PayloadPipeline([protobuf])
    outgoing = Outgoing("t")
    later: Any = pipeline.write(value, outgoing)
    message = arrived(await later, outgoing)
    into_model, into_class = pipeline.decoder(type(value)), pipeline.decoder(generated_class)
    for decode in (into_model, into_class):
        later = decode(message)
        await later
    return message, lambda value: pipeline.write(value, Outgoing("t")), into_model, into_class

"""JSON Schema with confluent-kafka's serializers on the other side, and registries over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from pydantic import BaseModel

from fastapi_athomic import PayloadEncodeError
from fastapi_athomic.payload.steps import Later, Outgoing
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.registered import Reference
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.http_registry import HttpRegistry
from tests.support.payloads import arrived, message
from tests.support.schema_registry import BY_TOPIC, for_confluent


class Order(BaseModel):
    number: int
    shop: str = "s"


SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "Order",
    "type": "object",
    "properties": {"number": {"type": "integer", "maximum": 9}, "shop": {"type": "string"}},
    "required": ["number"],
}


NUMBER = json.dumps({"$schema": SCHEMA["$schema"], "type": "integer", "maximum": 9})


@pytest.fixture(params=["Apicurio", "with GUIDs"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "Apicurio":
        yield request.getfixturevalue("schema_registry").url
        return
    with HttpRegistry() as registry:
        yield registry.url


@pytest.fixture
def client(url: str) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient(for_confluent(url)) as client:
        yield client


@pytest.fixture
async def registry(url: str) -> AsyncIterator[SchemaRegistry]:
    registry = SchemaRegistry(url)
    await registry.open()
    yield registry
    await registry.close()


@pytest.fixture
def topic() -> str:
    return f"json-{uuid4().hex}"


async def done(value: Any) -> Any:
    return await value if isinstance(value, Later) else value


@pytest.mark.parametrize("validate_reads", [False, True])
async def test_confluents_serializer_is_read(
    client: SchemaRegistryClient, registry: SchemaRegistry, topic: str, validate_reads: bool
) -> None:
    context = SerializationContext(topic, MessageField.VALUE, [])
    data = JSONSerializer(json.dumps(SCHEMA), client, conf=BY_TOPIC)({"number": 1, "shop": "x"}, context)
    serializer = JsonSchema(registry, validate_reads=validate_reads)
    assert await done(serializer.decoder(Order)(message(data, topic=topic))) == Order(number=1, shop="x")


async def test_confluents_deserializer_reads_ours(
    client: SchemaRegistryClient, registry: SchemaRegistry, topic: str
) -> None:
    outgoing = Outgoing(topic)
    data = await done(JsonSchema(registry, auto_register=True).encode(Order(number=1), outgoing))
    context = SerializationContext(topic, MessageField.VALUE, list(outgoing.headers))
    deserialize = JSONDeserializer(None, conf=BY_TOPIC, schema_registry_client=client)
    assert deserialize(data, context) == {"number": 1, "shop": "s"}


async def test_a_schema_that_confluent_registered_is_followed(
    client: SchemaRegistryClient, registry: SchemaRegistry, topic: str
) -> None:
    client.register_schema(f"{topic}-value", Schema(json.dumps(SCHEMA), "JSON"))
    serializer = JsonSchema(registry)
    data = await done(serializer.encode(Order(number=9), Outgoing(topic)))
    context = SerializationContext(topic, MessageField.VALUE, [])
    assert JSONDeserializer(None, conf=BY_TOPIC, schema_registry_client=client)(data, context)["number"] == 9
    with pytest.raises(PayloadEncodeError, match="maximum"):
        await done(serializer.encode(Order(number=10), Outgoing(topic)))


async def test_references_are_the_same_for_both(
    client: SchemaRegistryClient, registry: SchemaRegistry, topic: str
) -> None:
    client.register_schema(f"{topic}-number", Schema(NUMBER, "JSON"))
    schema = {"type": "object", "properties": {"number": {"$ref": "number.json"}}}
    named = [Reference("number.json", f"{topic}-number", 1)]
    serializer = JsonSchema(registry, schema=schema, references=named, auto_register=True)
    data = await done(serializer.encode({"number": 9}, Outgoing(topic)))
    with pytest.raises(PayloadEncodeError, match="number: maximum"):
        await done(serializer.encode({"number": 10}, Outgoing(topic)))
    context = SerializationContext(topic, MessageField.VALUE, [])
    assert JSONDeserializer(None, conf=BY_TOPIC, schema_registry_client=client)(data, context) == {"number": 9}
    theirs = Schema(json.dumps(schema), "JSON", [SchemaReference("number.json", f"{topic}-number", 1)])
    written = JSONSerializer(theirs, client, conf=BY_TOPIC)({"number": 3}, context)
    reading = JsonSchema(registry, validate_reads=True)
    assert await done(reading.decoder(dict[str, int])(message(written, topic=topic))) == {"number": 3}


async def test_ids_in_headers_both_ways(topic: str) -> None:
    """Apicurio has no GUIDs, so only the small registry takes part."""
    with HttpRegistry() as running, SchemaRegistryClient(for_confluent(running.url)) as client:
        registry = SchemaRegistry(running.url)
        await registry.open()
        headers: list[Any] = []
        context = SerializationContext(topic, MessageField.VALUE, headers)
        options = BY_TOPIC | {"schema.id.serializer": header_schema_id_serializer}
        data = JSONSerializer(json.dumps(SCHEMA), client, conf=options)({"number": 1}, context)
        serializer = JsonSchema(registry, framing="header", validate_reads=True)
        received = message(data, topic=topic, headers=tuple(headers))
        assert await done(serializer.decoder(Order)(received)) == Order(number=1)

        outgoing = Outgoing(topic)
        ours = arrived(await done(serializer.encode({"number": 2}, outgoing)), outgoing)
        context = SerializationContext(topic, MessageField.VALUE, list(ours.headers))
        deserialize = JSONDeserializer(None, conf=BY_TOPIC, schema_registry_client=client)
        assert deserialize(ours.value, context) == {"number": 2}
        await registry.close()

"""Schema registries over HTTP: Apicurio's server, and confluent-kafka's serializers on the other side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.schema_registry import AsyncSchemaRegistryClient, Schema, SchemaReference
from confluent_kafka.schema_registry.avro import AsyncAvroDeserializer, AsyncAvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from fastapi_athomic import PayloadDecodeError, PayloadEncodeError, PayloadUnavailableError
from fastapi_athomic.payload.steps import Outgoing
from fastapi_athomic.schemas.registered import Reference, SchemaType
from fastapi_athomic.schemas.registry import SchemaRegistry
from fastapi_athomic.schemas.wire import Frame, read_frame
from tests.support.http_registry import HttpRegistry
from tests.support.payloads import message
from tests.support.schema_registry import ApicurioRegistry, ExternalRegistry, for_confluent


def asking(url: str, **options: Any) -> SchemaRegistry:
    """A server that has just been started may be slow."""
    return SchemaRegistry(url, timeout=60.0, **options)


def record(**fields: str) -> str:
    """An Avro schema."""
    listed = [{"name": name, "type": kind} for name, kind in fields.items()]
    return json.dumps({"type": "record", "name": "Order", "namespace": "shop", "fields": listed})


PROTO = 'syntax = "proto3";\npackage shop;\n\nmessage Order {\n  int32 id = 1;\n}\n'
USING = 'syntax = "proto3";\npackage shop;\nimport "order.proto";\n\nmessage Cart {\n  Order order = 1;\n}\n'
JSON = json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", "title": "Order", "type": "object"})
SCHEMAS: list[tuple[SchemaType, str]] = [("AVRO", record(id="int")), ("PROTOBUF", PROTO), ("JSON", JSON)]


@pytest.fixture(params=["Apicurio", "with GUIDs"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Apicurio, which knows no GUIDs; and the small registry of the tests, which does."""
    if request.param == "Apicurio":
        yield request.getfixturevalue("schema_registry").url
        return
    with HttpRegistry() as registry:
        yield registry.url


@pytest.fixture
def subject() -> str:
    return f"orders-{uuid4().hex}-value"


@pytest.mark.parametrize(("kind", "text"), SCHEMAS)
async def test_a_schema_is_registered_and_found(url: str, subject: str, kind: SchemaType, text: str) -> None:
    registry = asking(url)
    registered = await registry.register(subject, kind, text)
    assert (registered.type, registered.text, registered.subject) == (kind, text, subject)
    assert registered.version == 1
    other = asking(url)
    assert registered.id is not None
    read = await other.by_id(registered.id)
    assert (read.type, read.id) == (kind, registered.id)
    assert "".join(read.text.split()) == "".join(text.split())
    assert (await other.latest(subject)).version == 1
    assert (await other.find(subject, kind, text)).id == registered.id


async def test_references_are_followed(url: str, subject: str) -> None:
    registry = asking(url)
    await registry.register(f"{subject}-order", "PROTOBUF", PROTO)
    uses = (Reference("order.proto", f"{subject}-order", 1),)
    registered = await registry.register(subject, "PROTOBUF", USING, uses)
    other = asking(url)
    assert registered.id is not None
    read = await other.by_id(registered.id)
    assert read.references == uses
    found = await other.referenced(read)
    assert found["order.proto"].text.split() == PROTO.split()


async def test_an_incompatible_version_is_refused_with_the_registrys_reason(
    schema_registry: ApicurioRegistry | ExternalRegistry, subject: str
) -> None:
    registry = asking(schema_registry.url)
    await registry.register(subject, "AVRO", record(id="int"))
    async with AsyncSchemaRegistryClient(for_confluent(schema_registry.url)) as client:
        await client.set_compatibility(subject, "BACKWARD")
    assert await registry.incompatibilities(subject, "AVRO", record(id="long")) == []
    (reason,) = await registry.incompatibilities(subject, "AVRO", record(id="string"))
    assert "incompatible" in reason
    with pytest.raises(PayloadEncodeError, match=f"refuses the schema for {subject}: .*STRING not compatible"):
        await registry.register(subject, "AVRO", record(id="string"))


async def test_a_new_subject_has_no_incompatibilities(url: str, subject: str) -> None:
    assert await asking(url).incompatibilities(subject, "AVRO", record(id="int")) == []


async def test_nonsense_is_refused(url: str, subject: str) -> None:
    with pytest.raises(PayloadEncodeError, match="refuses the schema"):
        await asking(url).register(subject, "AVRO", "{nonsense")


async def test_what_is_not_registered_is_waited_for(url: str, subject: str) -> None:
    registry = asking(url)
    with pytest.raises(PayloadUnavailableError, match=f"has no subject {subject}: register its schema"):
        await registry.latest(subject)
    with pytest.raises(PayloadUnavailableError, match=f"no version of {subject} with this very schema"):
        await registry.find(subject, "AVRO", record(id="int"))


async def by_id_in_the_end(url: str, schema_id: Any) -> Any:
    """Apicurio 3.3 leaves two or three of 1,000 requests for GUIDs that it does not know without an answer."""
    for _ in range(5):
        with suppress(PayloadUnavailableError):
            return await SchemaRegistry(url, timeout=5.0, unknown_after=0.0).by_id(schema_id)
    pytest.fail("the registry does not answer")


@pytest.mark.parametrize(
    "schema_id", [0, 2**31 - 1, 2**31, 2**32 - 1, uuid4()], ids=["0", "2^31-1", "2^31", "2^32-1", "guid"]
)
async def test_unknown_ids_are_the_messages_fault(url: str, schema_id: Any) -> None:
    """Numbers above Java's `int` and, for Apicurio, GUIDs, too."""
    named = f"the id {schema_id}" if isinstance(schema_id, int) else "the GUID that the message names"
    with pytest.raises(PayloadDecodeError, match=f"has no schema with {named}"):
        await by_id_in_the_end(url, schema_id)


@pytest.mark.parametrize("path", ["", "/apis/registry/v2", "/nowhere"])
async def test_a_wrong_path_is_not_the_messages_fault(
    schema_registry: ApicurioRegistry | ExternalRegistry, path: str
) -> None:
    wrong = schema_registry.url.removesuffix("/apis/ccompat/v7") + path
    for schema_id in (1, uuid4()):
        with pytest.raises(PayloadUnavailableError, match="is its URL right"):
            await asking(wrong, unknown_after=0.0).by_id(schema_id)
    with pytest.raises(PayloadUnavailableError, match="is its URL right"):
        await asking(wrong).check()


async def test_a_registry_that_is_there_passes_the_check(url: str) -> None:
    await asking(url).check()


def context(subject: str, headers: list[tuple[str, str | bytes | None]]) -> SerializationContext:
    return SerializationContext(subject.removesuffix("-value"), MessageField.VALUE, headers)


@pytest.mark.parametrize("framing", ["prefix", "header"])
async def test_ids_of_confluent_kafkas_serializer_lead_to_its_schema(framing: str, subject: str) -> None:
    from confluent_kafka.schema_registry import header_schema_id_serializer, prefix_schema_id_serializer

    put = prefix_schema_id_serializer if framing == "prefix" else header_schema_id_serializer
    with HttpRegistry() as server:
        async with AsyncSchemaRegistryClient(for_confluent(server.url)) as client:
            serializer = await AsyncAvroSerializer(client, record(id="int"), conf={"schema.id.serializer": put})
            headers: Any = []
            value = await serializer({"id": 7}, context(subject, headers))
        frame = read_frame(message(value, headers=tuple(headers)), "value", "avro")
        schema = await asking(server.url).by_id(frame.schema_id)
    assert json.loads(schema.text)["name"] == "Order"
    assert frame.data == b"\x0e"


@pytest.mark.parametrize("framing", ["prefix", "header"])
async def test_confluent_kafkas_deserializer_finds_what_we_register(framing: Any, subject: str) -> None:
    with HttpRegistry() as server:
        schema = await asking(server.url).register(subject, "AVRO", record(id="string"))
        outgoing = Outgoing(subject.removesuffix("-value"))
        value = Frame(framing, schema).put(b"\x0ca dozen"[:7], outgoing)
        async with AsyncSchemaRegistryClient(for_confluent(server.url)) as client:
            deserializer = await AsyncAvroDeserializer(client)
            read = await deserializer(value, context(subject, list(outgoing.headers)))
    assert read == {"id": "a doze"}


async def test_schemas_with_references_are_registered_as_confluent_kafka_does(url: str, subject: str) -> None:
    async with AsyncSchemaRegistryClient(for_confluent(url)) as client:
        await client.register_schema(f"{subject}-order", Schema(PROTO, "PROTOBUF"))
        uses = [SchemaReference("order.proto", f"{subject}-order", 1)]
        number = await client.register_schema(subject, Schema(USING, "PROTOBUF", uses))
    registry = asking(url)
    ours = await registry.register(subject, "PROTOBUF", USING, [Reference("order.proto", f"{subject}-order", 1)])
    assert ours.id == number


async def test_many_tasks_ask_a_server_once(schema_registry: ApicurioRegistry | ExternalRegistry, subject: str) -> None:
    registry = asking(schema_registry.url)
    registered = await registry.register(subject, "AVRO", record(id="int"))
    other = asking(schema_registry.url)
    assert registered.id is not None
    number = registered.id
    read = await asyncio.gather(*(other.by_id(number) for _ in range(200)))
    assert all(each is read[0] for each in read)

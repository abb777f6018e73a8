"""Protobuf with real peers: Apicurio's registry, confluent-kafka's serializers, and the classes of protoc."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

import pytest
from confluent_kafka.schema_registry import (
    SchemaRegistryClient,
    header_schema_id_serializer,
    prefix_schema_id_serializer,
)
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from fastapi import FastAPI

from fastapi_athomic import AthomicSettings, PayloadPipeline, PayloadUnavailableError, include_athomic, subscribe_to
from fastapi_athomic.payload.steps import Outgoing
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.apps import Gate, running
from tests.support.http_registry import HttpRegistry
from tests.support.payloads import arrived, message, settled
from tests.support.schema_registry import for_confluent
from tests.support.shop_proto import Address, Cash, Line, Order, Status, register_shop, shop_pb2

Framing = Literal["prefix", "header"]
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ORDER = Order(
    id="o-1",
    number=1 << 62,
    status=Status.PAID,
    placed_at=NOON,
    lines=[Line(sku="a", quantity=2, price=0.5)],
    note="",
    counts={"a": 1, "b": 2},
    payment=Cash(reference="r"),
    address=Address(street="s", city="c"),
)
MESSAGE = shop_pb2.Order(
    id="o-1",
    number=1 << 62,
    status=2,
    placed_at=NOON,
    lines=[{"sku": "a", "quantity": 2, "price": 0.5}],
    note="",
    counts={"a": 1, "b": 2},
    cash={"reference": "r"},
    address={"street": "s", "city": "c"},
)
NESTED = shop_pb2.Line.Discount(percent=5)


def asking(url: str) -> SchemaRegistry:
    """A server that has just been started may be slow."""
    return SchemaRegistry(url, timeout=60.0)


@pytest.fixture(params=["Apicurio", "with GUIDs"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "Apicurio":
        yield request.getfixturevalue("schema_registry").url
        return
    with HttpRegistry() as registry:
        yield registry.url


@pytest.fixture
def topic() -> str:
    return f"orders-{uuid4().hex}"


def written_by_confluent(url: str, topic: str, value: Any, framing: Framing = "prefix") -> tuple[bytes, Any]:
    """Its bytes, and the headers that it added."""
    put = prefix_schema_id_serializer if framing == "prefix" else header_schema_id_serializer
    headers: list[Any] = []
    context = SerializationContext(topic, MessageField.VALUE, headers)
    conf = {
        "schema.id.serializer": put,
        "subject.name.strategy": lambda context, record: f"{context.topic}-{context.field}",
    }
    with SchemaRegistryClient(for_confluent(url)) as client:
        data = ProtobufSerializer(type(value), client, conf)(value, context)
    assert data is not None
    return data, tuple(headers)


@pytest.mark.parametrize("value", [MESSAGE, NESTED], ids=["first message", "nested message"])
async def test_what_confluents_serializer_writes_is_read(url: str, topic: str, value: Any) -> None:
    data, _ = written_by_confluent(url, topic, value)
    protobuf = Protobuf(asking(url))

    assert await settled(protobuf.decoder(type(value))(message(data))) == value
    if value is MESSAGE:
        assert await settled(protobuf.decoder(Order)(message(data))) == ORDER


@pytest.mark.parametrize("value", [MESSAGE, NESTED], ids=["first message", "nested message"])
async def test_what_confluents_serializer_writes_with_a_header_is_read(topic: str, value: Any) -> None:
    with HttpRegistry() as server:
        data, headers = written_by_confluent(server.url, topic, value, "header")
        protobuf = Protobuf(asking(server.url))

        assert data == value.SerializeToString()
        assert await settled(protobuf.decoder(type(value))(message(data, headers=headers))) == value
        found = await settled(protobuf.decoder(dict)(message(data, headers=headers)))
    assert found.get("id", "o-1") == "o-1"


@pytest.mark.parametrize("value", [MESSAGE, ORDER, NESTED], ids=["class", "model", "nested message"])
@pytest.mark.parametrize("framing", ["prefix", "header"])
async def test_confluents_deserializer_reads_what_is_written(topic: str, framing: Framing, value: Any) -> None:
    with HttpRegistry() as server:
        protobuf = Protobuf(asking(server.url), framing=framing, messages={Order: shop_pb2.Order}, auto_register=True)
        outgoing = Outgoing(topic)
        data = await settled(protobuf.encode(value, outgoing))
        expected = MESSAGE if value is ORDER else value
        context = SerializationContext(topic, MessageField.VALUE, list(outgoing.headers))
        with SchemaRegistryClient(for_confluent(server.url)) as client:
            conf = {"subject.name.strategy": lambda context, record: f"{context.topic}-{context.field}"}
            read = ProtobufDeserializer(type(expected), conf, client)(data, context)

    assert read == expected


async def test_the_same_bytes_and_headers_as_confluents(topic: str) -> None:
    with HttpRegistry() as server:
        for framing in ("prefix", "header"):
            for value in (MESSAGE, NESTED):
                theirs = written_by_confluent(server.url, topic, value, framing)
                outgoing = Outgoing(topic)
                protobuf = Protobuf(asking(server.url), framing=framing)
                ours = await settled(protobuf.encode(value, outgoing))

                assert (type(value).FromString(ours[-value.ByteSize() :]), outgoing.headers) == (value, theirs[1])
                assert ours[: -value.ByteSize()] == theirs[0][: -value.ByteSize()]


async def test_confluents_deserializer_without_a_registry_reads_what_is_written_with_apicurio(
    schema_registry: Any, topic: str
) -> None:
    """With one it asks Apicurio for compiled schemas, which Apicurio does not have."""
    data = await settled(Protobuf(asking(schema_registry.url), auto_register=True).encode(MESSAGE, Outgoing(topic)))

    read = ProtobufDeserializer(shop_pb2.Order, {})(data, SerializationContext(topic, MessageField.VALUE))

    assert read == MESSAGE


async def test_the_schema_may_be_text_that_others_registered(url: str, topic: str) -> None:
    """As Java and the registries' own tools do it."""
    await register_shop(asking(url), f"{topic}-value")
    protobuf = Protobuf(asking(url))

    for value in (ORDER, MESSAGE):
        outgoing = Outgoing(topic)
        data = await settled(protobuf.encode(value, outgoing))

        assert await settled(Protobuf(asking(url)).decoder(Order)(arrived(data, outgoing))) == ORDER
        assert await settled(Protobuf(asking(url)).decoder(shop_pb2.Order)(arrived(data, outgoing))) == MESSAGE


async def test_what_is_registered_by_us_is_found_again(url: str, topic: str) -> None:
    first, second = Outgoing(topic), Outgoing(topic)
    data = await settled(Protobuf(asking(url), auto_register=True).encode(MESSAGE, first))

    again = await settled(Protobuf(asking(url)).encode(MESSAGE, second))
    once_more = await settled(Protobuf(asking(url), auto_register=True).encode(MESSAGE, Outgoing(topic)))

    assert again[:6] == data[:6] == once_more[:6]
    assert await settled(Protobuf(asking(url)).decoder(Order)(message(data))) == ORDER


async def test_a_schema_that_is_not_registered_is_waited_for(url: str, topic: str) -> None:
    with pytest.raises(PayloadUnavailableError, match=f"{topic}-value"):
        await settled(Protobuf(asking(url)).encode(MESSAGE, Outgoing(topic)))


async def test_an_app_with_classes_and_models_beside_each_other(schema_registry: Any, topic: str) -> None:
    protobuf = Protobuf(asking(schema_registry.url), auto_register=True, messages={Order: shop_pb2.Order})
    received: list[Any] = []
    gate = Gate()

    def note(value: Any) -> None:
        received.append(value)
        if len(received) == 4:
            gate.set()

    @subscribe_to(topic, group_id="classes")
    async def with_class(order: shop_pb2.Order) -> None:
        note(order)

    @subscribe_to(topic, group_id="models")
    async def with_model(order: Order) -> None:
        note(order)

    settings = AthomicSettings(broker_url="memory://")
    athomic = include_athomic(
        FastAPI(), settings, handlers=[with_class, with_model], payload=PayloadPipeline([protobuf])
    )
    async with running(athomic):
        await athomic.publish(topic, ORDER)
        await athomic.publish(topic, MESSAGE)
        await gate.wait()

    assert [each for each in received if isinstance(each, Order)] == [ORDER, ORDER]
    assert [each for each in received if not isinstance(each, Order)] == [MESSAGE, MESSAGE]

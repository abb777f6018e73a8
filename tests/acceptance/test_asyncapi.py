"""The AsyncAPI document is valid, by AsyncAPI's own parser, whatever models and pipelines an app has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from fastapi_athomic import Athomic, AthomicSettings, Key, PayloadPipeline, RawMessage, RetryPolicy, include_athomic
from fastapi_athomic.operation_settings import AsyncApiSettings
from fastapi_athomic.payload.claim_check import ClaimCheck, Folder
from fastapi_athomic.payload.cloudevents import CloudEvents
from fastapi_athomic.payload.cloudevents_event import CloudEvent
from fastapi_athomic.payload.compression import Gzip
from fastapi_athomic.payload.encryption import Fernet
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from fastapi_athomic.settings import KafkaSettings
from tests.support.asyncapi_models import KINDS, Line, Order
from tests.support.asyncapi_parser import Answer, ParserUnavailableError, parse
from tests.support.shop_proto import common_pb2

VERSIONS = ("3.1.0", "3.0.0")


def everything(version: Any) -> Athomic:
    """An app whose handlers and publishers have all those types."""
    settings = AthomicSettings(
        broker_url="kafka://one:9092,two:9092",
        kafka=KafkaSettings(security_protocol="SASL_SSL", sasl_username="ann", sasl_password=SecretStr("s3cret")),
        asyncapi=AsyncApiSettings(version=version),
    )
    app = FastAPI(
        title="Everything",
        version="7",
        description="All *kinds*.",
        contact={"name": "Ann", "url": "https://example.com", "email": "ann@example.com"},
        license_info={"name": "MIT", "identifier": "MIT"},
        terms_of_service="https://example.com/terms",
    )
    athomic = include_athomic(app, settings)
    for name, kind in KINDS.items():
        athomic.publisher(name, kind)
        athomic.subscribe_to(name, group_id="g", target_type=kind, handler_id=f"on-{name}")(_handle)
    return athomic


async def _handle(message: Any) -> None: ...


def pipelines(folder: Path) -> dict[str, tuple[PayloadPipeline, Any]]:
    registry = SchemaRegistry("http://registry:8081")
    return {
        "avro": (PayloadPipeline([Avro(registry, auto_register=True)]), Line),
        "avro-of-registry": (PayloadPipeline([Avro(registry)]), Line),
        "protobuf": (PayloadPipeline([Protobuf(registry, framing="header")]), common_pb2.Address),
        "json-schema": (PayloadPipeline([JsonSchema(registry)], key=Avro(registry)), Order),
        "messagepack": (PayloadPipeline([MessagePack(), Gzip()]), Order),
        "encrypted": (PayloadPipeline([Json(), Gzip(), Fernet(["A" * 43 + "="])]), Order),
        "claimed": (PayloadPipeline([Json(), ClaimCheck(Folder(folder))]), Order),
        "events": (PayloadPipeline([CloudEvents(source="shop")]), CloudEvent[Order]),
        "structured": (PayloadPipeline([CloudEvents(source="shop", mode="structured")]), Order),
    }


def shop(folder: Path) -> Athomic:
    """An app with each kind of pipeline, of topic, of handler."""
    app = FastAPI(title="Shop", version="1")
    athomic = include_athomic(app, AthomicSettings())
    for name, (pipeline, kind) in pipelines(folder).items():
        athomic.publisher(name, kind, payload=pipeline)
        athomic.subscribe_to(name, group_id="g", payload=pipeline, target_type=kind, handler_id=f"on-{name}")(_handle)
    retry = RetryPolicy(retry_topics=(10, 60))

    @athomic.subscribe_to(
        ["orders", "refunds"], group_id="billing", handler_id="bill", ordering="none", retry=retry, dlq="errors"
    )
    async def bill(order: Order, key: Key[UUID]) -> None:
        """Writes a bill."""

    @athomic.subscribe_to(re.compile(r"(orders|logs)\..+"), group_id="archive", handler_id="keep")
    async def keep(raw: RawMessage) -> None: ...

    @athomic.subscribe_to("orders", group_id="count", handler_id="count", batch_size=50, dlq=False)
    async def count(orders: list[Order | None]) -> None: ...

    @athomic.ordered_consumer(
        "orders", group_id="ship", handler_id="ship", aggregate_key_field="order_id", sequence_id_field="priority"
    )
    async def ship(order: Order) -> None: ...

    athomic.publisher("orders", Order, title="An order", description="Of a customer.", key=_key)
    return athomic


def _key(order: Order) -> UUID:
    return order.order_id


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    from example_app.main import app

    folder = tmp_path_factory.mktemp("claims")
    return {
        **{f"everything-{version}": everything(version).asyncapi() for version in VERSIONS},
        "shop": shop(folder).asyncapi(),
        "example": app.state.athomic.asyncapi(),
        "empty": include_athomic(FastAPI(), AthomicSettings()).asyncapi(),
    }


@pytest.fixture(scope="module")
def answers(
    documents: dict[str, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    do_without: Callable[[str], None],
) -> dict[str, Answer]:
    folder = tmp_path_factory.mktemp("documents")
    paths = [folder / f"{name}.json" for name in documents]
    for path in paths:
        path.write_text(json.dumps(documents[path.stem]))
    broken = folder / "broken.json"
    broken.write_text(json.dumps({**documents["example"], "info": {}}))
    try:
        found = parse(*paths, broken)
    except ParserUnavailableError as error:
        do_without(str(error))
    return dict(zip([*documents, "broken"], found, strict=True))


@pytest.mark.timeout(400)
def test_the_parser_takes_the_documents_without_a_word(
    documents: dict[str, dict[str, Any]], answers: dict[str, Answer]
) -> None:
    said = {name: answers[name].said for name in documents}
    assert {name: lines for name, lines in said.items() if lines} == {}
    assert all(answers[name].valid for name in documents)
    assert {name: set(answers[name].channels) for name in documents} == {
        name: {*document["channels"]} for name, document in documents.items()
    }


def test_the_parser_looks(answers: dict[str, Answer]) -> None:
    assert not answers["broken"].valid
    assert any("info" in line for line in answers["broken"].said)


# --- what is in them


def references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def resolved(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


def test_every_reference_leads_somewhere(documents: dict[str, dict[str, Any]]) -> None:
    for document in documents.values():
        found = {*references(document)}
        assert found == {each for each in found if resolved(document, each) is not None}
        assert all(each.startswith("#/") for each in found)


def payload(document: dict[str, Any], message: str) -> Any:
    found = document["components"]["messages"][message]["payload"]
    return resolved(document, found["$ref"]) if "$ref" in found else found


def test_all_types_are_described(documents: dict[str, dict[str, Any]]) -> None:
    document = documents["everything-3.1.0"]
    assert document["asyncapi"] == "3.1.0"
    assert documents["everything-3.0.0"] == {**document, "asyncapi": "3.0.0"}
    assert {*KINDS} <= {*document["channels"]}
    assert document["info"] == {
        "title": "Everything",
        "version": "7",
        "description": "All *kinds*.",
        "termsOfService": "https://example.com/terms",
        "contact": {"name": "Ann", "url": "https://example.com", "email": "ann@example.com"},
        "license": {"name": "MIT"},
    }
    schemas = document["components"]["schemas"]
    assert schemas["Category-Input"]["properties"]["parent"]["anyOf"] == [
        {"$ref": "#/components/schemas/Category-Input"},
        {"type": "null"},
    ]
    assert schemas["Paid"]["properties"]["payment"]["discriminator"] == "kind"
    assert len(schemas["Paid"]["properties"]["payment"]["oneOf"]) == 3
    assert schemas["Extra"]["properties"]["discriminator"]["type"] == "string", "a field, not a keyword"
    assert schemas["Extra"]["x-team"] == "shop"
    assert sorted(schemas["Extra"]["properties"]["named"]["examples"]) == [1, 1000]
    assert schemas["Extra"]["patternProperties"].keys() == {r"^\$ref$"}
    assert "examples" not in schemas["Extra"], "one of them looks like a reference"
    assert payload(document, "tuple.tuple_int_Line") == {
        "type": "array",
        "items": [{"type": "integer"}, {"$ref": "#/components/schemas/Line-Input"}],
        "minItems": 2,
        "maxItems": 2,
    }
    assert "prefixItems" not in json.dumps(document)
    assert "$defs" not in json.dumps(document)


def test_a_handler_reads_and_a_publisher_writes_by_aliases_of_its_own(documents: dict[str, dict[str, Any]]) -> None:
    document = documents["everything-3.1.0"]
    by_action = {
        operation["action"]: payload(document, operation["messages"][0]["$ref"].rpartition("/")[2])
        for name, operation in document["operations"].items()
        if operation["channel"]["$ref"] == "#/channels/aliases"
    }
    assert "firstOne" in by_action["send"]["properties"]
    assert "First" in by_action["receive"]["properties"]
    sent = document["operations"]["send.Order.order"]["messages"][0]["$ref"].rpartition("/")[2]
    assert "total" in payload(document, sent)["properties"], "what is computed is written"


def test_brokers_are_named_without_secrets(documents: dict[str, dict[str, Any]]) -> None:
    document = documents["everything-3.1.0"]
    assert [server["host"] for server in document["servers"].values()] == ["one:9092", "two:9092"]
    assert {server["protocol"] for server in document["servers"].values()} == {"kafka-secure"}
    assert document["servers"]["kafka"]["security"] == [{"type": "plain"}]
    assert "s3cret" not in json.dumps(document)
    assert '"ann"' not in json.dumps(document)
    assert "servers" not in documents["shop"], "memory:// is for nobody else"


def test_own_topics_have_operations(documents: dict[str, dict[str, Any]]) -> None:
    document = documents["shop"]
    of_bill = {
        (each["action"], each["tags"][0]["name"], each["channel"]["$ref"].rpartition("/")[2]): each
        for each in document["operations"].values()
        if each.get("x-athomic", {}).get("handler") == "bill"
    }
    assert {*of_bill} == {
        *(("receive", "source", topic) for topic in ("orders", "refunds")),
        *(
            (action, "retry", f"{topic}.billing.retry.{delay}s")
            for action in ("send", "receive")
            for topic in ("orders", "refunds")
            for delay in (10, 60)
        ),
        ("send", "dlq", "errors"),
        *(("receive", "redrive", f"{topic}.billing.redrive") for topic in ("orders", "refunds")),
    }
    source = of_bill["receive", "source", "orders"]
    assert source["description"] == "Writes a bill.\n\nGroup billing; in any order."
    assert source["bindings"]["kafka"]["groupId"] == {"type": "string", "enum": ["billing"]}
    assert [each["$ref"] for each in of_bill["send", "dlq", "errors"]["messages"]] == [
        f"#/channels/errors/messages/{topic}.Order.dlq" for topic in ("orders", "refunds")
    ]
    letter = document["components"]["messages"]["orders.Order.dlq"]
    assert letter["payload"] == document["components"]["messages"]["orders.Order"]["payload"]
    assert {"$ref": "#/components/schemas/athomic.DeadLetterHeaders"} in letter["headers"]["allOf"]
    assert not any("count.dlq" in name for name in document["channels"]), "dlq=False"


def test_messages_say_their_key_and_their_title(documents: dict[str, dict[str, Any]]) -> None:
    order = documents["shop"]["components"]["messages"]["orders.Order"]
    assert order["title"] == "An order"
    assert order["description"] == "Of a customer."
    assert order["bindings"]["kafka"]["key"] == {"type": "string", "format": "uuid"}
    nullable = documents["shop"]["components"]["messages"]["orders.Order_None"]
    assert nullable["description"] == "null stands for a null value: a tombstone."
    assert nullable["bindings"]["kafka"]["key"] == {"type": "string", "format": "uuid"}, "of the same topic"


def test_a_pattern_is_a_channel_with_a_parameter(documents: dict[str, dict[str, Any]]) -> None:
    channels = documents["shop"]["channels"]
    (channel,) = [each for each in channels.values() if each["address"] == "{topic}"]
    assert r"(orders|logs)\..+" in channel["parameters"]["topic"]["description"]
    assert [each for each in channels.values() if each["address"] == "{topic}.archive.dlq"]


def test_pipelines_are_told(documents: dict[str, dict[str, Any]]) -> None:
    messages = documents["shop"]["components"]["messages"]
    avro = messages["avro.Line"]
    assert avro["contentType"] == "application/avro"
    assert avro["payload"]["schemaFormat"] == "application/vnd.apache.avro+json;version=1.9.0"
    assert avro["payload"]["schema"]["name"] == "Line"
    assert avro["bindings"]["kafka"] == {
        "schemaIdLocation": "payload",
        "schemaIdPayloadEncoding": "confluent",
        "schemaLookupStrategy": "TopicNameStrategy",
        "bindingVersion": "0.5.0",
    }
    assert avro["x-athomic"] == {"steps": ["avro"], "subject": "avro-value"}
    unknown = messages["avro-of-registry.Line"]
    assert unknown["payload"] == {"$ref": "#/components/schemas/Line-Input"}
    assert "is in the schema registry" in unknown["description"]
    protobuf = messages["protobuf.Address"]
    assert protobuf["payload"]["schemaFormat"] == "application/vnd.google.protobuf;version=3"
    assert "message Address" in protobuf["payload"]["schema"]
    assert protobuf["bindings"]["kafka"]["schemaIdLocation"] == "header"
    assert "__value_schema_id" in json.dumps(protobuf["headers"])
    assert messages["json-schema.Order"]["x-athomic"]["subject"] == "json-schema-value"
    assert messages["messagepack.Order"]["contentType"] == "application/vnd.msgpack"
    assert "compressed (gzip), then encrypted (fernet)" in messages["encrypted.Order"]["description"]
    assert messages["encrypted.Order"]["x-athomic"]["steps"] == ["json", "gzip", "fernet"]
    assert "object store" in messages["claimed.Order"]["description"]
    event = messages["events.CloudEvent_Order"]
    assert event["contentType"] == "application/json"
    assert "ce_source" in json.dumps(event["headers"])
    assert payload(documents["shop"], "events.CloudEvent_Order")["title"] == "Order"
    structured = messages["structured.Order"]
    assert structured["contentType"] == "application/cloudevents+json"
    assert structured["payload"]["properties"]["data"]["$ref"].startswith("#/components/schemas/Order")

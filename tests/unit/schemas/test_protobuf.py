"""Protobuf with a schema registry: wire formats, which schema, which message, and what goes wrong."""

from __future__ import annotations

import sys
import threading
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadUnavailableError
from fastapi_athomic.payload.steps import Later, Outgoing
from fastapi_athomic.schemas import kept, protobuf_encoding
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registered import ASK_AGAIN, RegisteredSchema
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived, message, settled
from tests.support.protoc import generated
from tests.support.shop_proto import Card, Cash, Line, Order, Status, register_shop, shop_pb2


class Sku(BaseModel):
    sku: str


ORDER = shop_pb2.Order(id="o-1", number=7)
NESTED = shop_pb2.Line.Discount(percent=5)


@pytest.fixture
def registry() -> SchemaRegistry:
    return SchemaRegistry("memory://", unknown_after=0.0)


@pytest.fixture
async def shop(registry: SchemaRegistry) -> RegisteredSchema:
    """The schema of the values of the topic `t`."""
    return await register_shop(registry, "t-value")


async def written(protobuf: Protobuf, value: Any, outgoing: Outgoing | None = None) -> bytes:
    data = await settled(protobuf.encode(value, outgoing or Outgoing("t")))
    assert isinstance(data, bytes)
    return data


async def read(protobuf: Protobuf, target: Any, data: bytes | None, **options: Any) -> Any:
    return await settled(protobuf.decoder(target)(message(data, **options)))


# --- wire formats


@pytest.mark.parametrize(
    ("value", "index"),
    [
        (ORDER, b"\0"),
        (shop_pb2.Line(sku="a"), b"\x02\x02"),
        (NESTED, b"\x04\x02\0"),
        (shop_pb2.Everything(a_bool=True), b"\x02\x08"),
    ],
    ids=["first", "second", "nested in the second", "fifth"],
)
async def test_the_index_of_the_message_stands_behind_the_schema_id(
    registry: SchemaRegistry, shop: RegisteredSchema, value: Any, index: bytes
) -> None:
    protobuf = Protobuf(registry)

    data = await written(protobuf, value)

    assert shop.id is not None
    assert data == b"\0" + shop.id.to_bytes(4, "big") + index + value.SerializeToString()
    assert await read(protobuf, type(value), data) == value
    assert await read(protobuf, type(value), data) == value  # now by the short way


@pytest.mark.parametrize(("value", "index"), [(ORDER, b"\0"), (NESTED, b"\x04\x02\0")])
async def test_with_the_header_framing_the_index_stands_behind_the_guid_and_the_value_is_bare(
    registry: SchemaRegistry, shop: RegisteredSchema, value: Any, index: bytes
) -> None:
    protobuf, outgoing = Protobuf(registry, framing="header"), Outgoing("t")

    data = await written(protobuf, value, outgoing)

    assert shop.guid is not None
    assert data == value.SerializeToString()
    assert outgoing.headers == (("__value_schema_id", b"\x01" + shop.guid.bytes + index),)
    assert await read(protobuf, type(value), data, headers=outgoing.headers) == value


async def test_either_framing_is_read_whatever_is_written(registry: SchemaRegistry, shop: RegisteredSchema) -> None:
    for framing in ("prefix", "header"):
        outgoing = Outgoing("t")
        data = await written(Protobuf(registry, framing=framing), ORDER, outgoing)

        assert await settled(Protobuf(registry).decoder(shop_pb2.Order)(arrived(data, outgoing))) == ORDER


async def test_the_header_counts_more_than_what_the_value_begins_with(
    registry: SchemaRegistry, shop: RegisteredSchema
) -> None:
    """A bare message may look as if it began with a schema id."""
    protobuf = Protobuf(registry)
    decode = protobuf.decoder(shop_pb2.Order)
    for _ in range(3):  # until the short way is known
        await settled(decode(message(await written(protobuf, ORDER))))
    assert shop.guid is not None
    header = ("__value_schema_id", b"\x01" + shop.guid.bytes + b"\0")

    with pytest.raises(PayloadDecodeError, match=r"no valid athomic\.shop\.Order"):
        await settled(decode(message(await written(protobuf, ORDER), headers=(header,))))


async def test_keys_have_a_header_and_a_subject_of_their_own(registry: SchemaRegistry) -> None:
    schema = await register_shop(registry, "t-key")
    protobuf, outgoing = Protobuf(registry, framing="header"), Outgoing("t", part="key")

    data = await written(protobuf, ORDER, outgoing)

    assert schema.guid is not None
    assert outgoing.headers == (("__key_schema_id", b"\x01" + schema.guid.bytes + b"\0"),)
    assert await settled(protobuf.decoder(Order, "key")(arrived(data, outgoing))) == Order(id="o-1", number=7)


# --- targets


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (shop_pb2.Order, ORDER),
        (shop_pb2.Order | None, ORDER),
        (shop_pb2.Card | shop_pb2.Order, ORDER),
        (Order, Order(id="o-1", number=7)),
        (Order | None, Order(id="o-1", number=7)),
        (bytes, ORDER.SerializeToString()),
    ],
    ids=["class", "class or null", "several classes", "model", "model or null", "bytes"],
)
async def test_what_a_handler_may_take(
    registry: SchemaRegistry, shop: RegisteredSchema, target: Any, expected: Any
) -> None:
    protobuf = Protobuf(registry)

    assert await read(protobuf, target, await written(protobuf, ORDER)) == expected


async def test_a_dict_has_all_fields_and_none_for_those_that_are_unset(
    registry: SchemaRegistry, shop: RegisteredSchema
) -> None:
    protobuf = Protobuf(registry)

    found = await read(protobuf, dict, await written(protobuf, shop_pb2.Order(id="o-1", cash={"reference": "r"})))

    assert found == {
        "id": "o-1",
        "number": 0,
        "status": "STATUS_UNSPECIFIED",
        "placed_at": None,
        "lines": [],
        "note": None,
        "counts": {},
        "card": None,
        "cash": {"reference": "r"},
        "address": None,
    }


async def test_unknown_fields_stay_in_generated_classes(registry: SchemaRegistry, shop: RegisteredSchema) -> None:
    protobuf = Protobuf(registry)
    data = await written(protobuf, ORDER) + b"\xfa\x3f\x01x"  # field 1023

    again = await written(protobuf, await read(protobuf, shop_pb2.Order, data))

    assert again == data
    assert await read(protobuf, Order, data) == Order(id="o-1", number=7)


@pytest.mark.parametrize("value", [Card(reference="r"), Cash(reference="r")], ids=["card", "cash"])
@pytest.mark.parametrize("target", [Card | Cash, Cash | Card], ids=["card first", "cash first"])
async def test_a_union_becomes_what_was_written_though_the_fields_are_alike(
    registry: SchemaRegistry, shop: RegisteredSchema, value: Any, target: Any
) -> None:
    protobuf = Protobuf(registry)

    found = await read(protobuf, target, await written(protobuf, value))

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("target", [shop_pb2.Card, shop_pb2.Card | shop_pb2.Line, Card | Line])
async def test_another_message_of_the_file_is_a_failure_and_not_garbage(
    registry: SchemaRegistry, shop: RegisteredSchema, target: Any
) -> None:
    protobuf = Protobuf(registry)

    with pytest.raises(
        PayloadDecodeError, match=r"the message is a athomic.shop.Order, and not a (athomic.shop.)?Card"
    ):
        await read(protobuf, target, await written(protobuf, ORDER))


async def test_another_message_than_the_one_that_a_model_stands_for_is_a_failure(
    registry: SchemaRegistry, shop: RegisteredSchema
) -> None:
    protobuf = Protobuf(registry, messages={Card: shop_pb2.Card})

    with pytest.raises(PayloadDecodeError, match=r"a athomic.shop.Cash, and not a athomic.shop.Card"):
        await read(protobuf, Card, await written(protobuf, shop_pb2.Cash(reference="r")))


class Note(BaseModel):
    text: str = ""


async def test_a_message_without_any_field_of_the_model_is_a_failure(
    registry: SchemaRegistry, shop: RegisteredSchema
) -> None:
    with pytest.raises(PayloadDecodeError, match=r"athomic.shop.Order has none of the fields of Note"):
        await read(Protobuf(registry), Note, await written(Protobuf(registry), ORDER))


async def test_what_pydantic_refuses_names_the_field_and_no_value(
    registry: SchemaRegistry, shop: RegisteredSchema
) -> None:
    class Strict(BaseModel):
        id: int

    with pytest.raises(PayloadDecodeError) as caught:
        await read(Protobuf(registry), Strict, await written(Protobuf(registry), shop_pb2.Order(id="secret")))

    assert caught.value.step == "protobuf"
    assert "id: int_parsing" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_null_is_for_those_who_take_it(registry: SchemaRegistry) -> None:
    protobuf = Protobuf(registry)

    assert protobuf.encode(None, Outgoing("t")) is None
    assert await read(protobuf, Order | None, None) is None
    assert await read(protobuf, shop_pb2.Order | None, None) is None
    for target in (Order, shop_pb2.Order, bytes):
        with pytest.raises(PayloadDecodeError, match="does not allow None"):
            await read(protobuf, target, None)


def test_a_generated_class_beside_a_model_is_refused_at_start(registry: SchemaRegistry) -> None:
    with pytest.raises(ConfigurationError, match="generated classes stand beside other types"):
        Protobuf(registry).decoder(shop_pb2.Order | Card)


# --- schemas


OLD = generated(
    "athomic_old.proto",
    'syntax = "proto3"; package athomic.versions; message Order { string id = 1; int32 number = 2; }',
)
NEW = """
syntax = "proto3";
package athomic.versions;
message Added {}
message Order { string id = 1; int32 number = 2; string note = 3; }
"""
ELSEWHERE = 'syntax = "proto3"; package athomic.versions; message Order { string id = 1; string number = 2; }'


async def test_the_newest_schema_is_named_if_it_has_all_that_is_written(registry: SchemaRegistry) -> None:
    """With the index that the message has there."""
    await registry.register("t-value", "PROTOBUF", NEW)

    data = await written(Protobuf(registry), OLD.Order(id="a"))

    assert data[:7] == b"\0\0\0\0\x01\x02\x02"
    assert await read(Protobuf(registry), OLD.Order, data) == OLD.Order(id="a")


async def test_until_a_schema_has_all_that_is_written_publishing_waits(registry: SchemaRegistry) -> None:
    await registry.register("t-value", "PROTOBUF", ELSEWHERE.replace("string number = 2;", ""))
    protobuf, outgoing = Protobuf(registry), Outgoing("t")

    with pytest.raises(PayloadUnavailableError, match="register"):
        await settled(protobuf.encode(OLD.Order(id="a"), outgoing))

    await registry.register("t-value", "PROTOBUF", NEW)
    assert await settled(protobuf.encode(OLD.Order(id="a"), outgoing))


async def test_a_field_of_another_type_in_the_writers_schema_is_a_failure(registry: SchemaRegistry) -> None:
    """Protobuf's library would take the field for unknown, and give its default."""
    await registry.register("t-value", "PROTOBUF", ELSEWHERE)
    data = b"\0\0\0\0\x01\0\x0a\x01a\x12\x01b"

    with pytest.raises(PayloadDecodeError, match="number is read as int, and was written as text or bytes"):
        await read(Protobuf(registry), OLD.Order, data)


async def test_a_schema_is_registered_with_what_it_imports_if_that_is_wanted(registry: SchemaRegistry) -> None:
    protobuf = Protobuf(registry, auto_register=True)

    data = await written(protobuf, ORDER)

    schema = await registry.latest("t-value")
    assert schema.references == (("athomic_common.proto", "athomic_common.proto", 1),)
    assert data[1:5] == (schema.id or 0).to_bytes(4, "big")
    assert await read(Protobuf(registry), Order, data) == Order(id="o-1", number=7)


async def test_nothing_is_registered_unless_that_is_wanted(registry: SchemaRegistry) -> None:
    with pytest.raises(PayloadUnavailableError, match="t-value"):
        await written(Protobuf(registry), ORDER)
    with pytest.raises(PayloadUnavailableError):
        await registry.latest("t-value")


async def test_a_type_without_a_generated_class_is_not_registered_and_that_is_said(registry: SchemaRegistry) -> None:
    for value, name in ((Order(id="o-1", number=7), "Order"), ({"id": "o-1"}, "dict")):
        with pytest.raises(PayloadUnavailableError) as caught:
            await written(Protobuf(registry, auto_register=True), value)
        told = (
            f"no generated class stands for it: publish one, or say which with messages={{{name}: ...}}, or schema=..."
        )
        assert told in str(caught.value)
        assert "auto_register" not in str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "subject"),
    [("topic", "t-value"), ("record", "athomic.shop.Order"), ("topic_record", "t-athomic.shop.Order")],
)
async def test_subjects(registry: SchemaRegistry, strategy: Any, subject: str) -> None:
    await written(Protobuf(registry, subject=strategy, auto_register=True), ORDER)

    assert (await registry.latest(subject)).type == "PROTOBUF"


async def test_a_model_follows_the_schema_of_the_registry(registry: SchemaRegistry, shop: RegisteredSchema) -> None:
    """By the name of its class; or as the only message that there is."""
    protobuf, order = Protobuf(registry), Order(id="a", number=1, status=Status.PAID, payment=Cash(reference="r"))

    data = await written(protobuf, order)

    assert await read(protobuf, Order, data) == order
    assert await read(protobuf, shop_pb2.Order, data) == shop_pb2.Order(
        id="a", number=1, status=2, cash={"reference": "r"}
    )


class Purchase(BaseModel):
    id: str
    number: int


async def test_a_model_with_another_name_stands_for_the_message_that_is_said(
    registry: SchemaRegistry, shop: RegisteredSchema
) -> None:
    with pytest.raises(PayloadEncodeError, match=r"has the name Purchase: say which one with messages="):
        await written(Protobuf(registry), Purchase(id="a", number=1))

    for protobuf in (
        Protobuf(registry, messages={Purchase: shop_pb2.Order}),
        Protobuf(registry, schema=shop_pb2.Order),
    ):
        data = await written(protobuf, Purchase(id="a", number=1))

        assert await read(protobuf, Purchase, data) == Purchase(id="a", number=1)
        assert await read(protobuf, shop_pb2.Order, data) == shop_pb2.Order(id="a", number=1)


async def test_a_dict_is_published_with_the_fields_that_it_has(
    registry: SchemaRegistry, shop: RegisteredSchema
) -> None:
    protobuf = Protobuf(registry, messages={dict: shop_pb2.Order})

    data = await written(protobuf, {"id": "a", "placedAt": None, "lines": [{"sku": "b"}], "status": "STATUS_OPEN"})

    assert await read(protobuf, shop_pb2.Order, data) == shop_pb2.Order(id="a", lines=[{"sku": "b"}], status=1)
    with pytest.raises(PayloadEncodeError, match=r"lines.0.skew: athomic.shop.Line has no such field"):
        await written(protobuf, {"lines": [{"skew": "b"}]})


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("AVRO", '"string"', "a schema of the type AVRO"),
        ("PROTOBUF", "message Order {", "no valid .proto file: line 1"),
        ("PROTOBUF", "AAAA", "neither a .proto file nor a file descriptor"),
        ("PROTOBUF", 'syntax = "proto3"; import "x.proto"; message A { B b = 1; }', r"imports x\.proto"),
        ("PROTOBUF", 'syntax = "proto3"; message A { B b = 1; }', "B"),
        ("PROTOBUF", 'syntax = "proto3";', "no message with the index"),
    ],
)
async def test_a_schema_that_cannot_be_used_is_a_failure(
    registry: SchemaRegistry, kind: Any, text: str, reason: str
) -> None:
    await registry.register("t-value", kind, text)

    with pytest.raises(PayloadDecodeError, match=f"the schema 1 cannot be used: .*{reason}"):
        await read(Protobuf(registry), Order, b"\0\0\0\0\x01\0")


async def test_an_import_that_only_options_need_may_be_missing(registry: SchemaRegistry) -> None:
    text = 'syntax = "proto3"; import "rules.proto"; message Note { string text = 1 [(rules.max) = 5]; }'
    await registry.register("t-value", "PROTOBUF", text)

    assert await read(Protobuf(registry), Note, b"\0\0\0\0\x01\0\x0a\x01a") == Note(text="a")


async def test_an_unknown_id_is_the_messages_fault(registry: SchemaRegistry) -> None:
    with pytest.raises(PayloadDecodeError, match=r"step protobuf: .* no schema with the id 9"):
        await read(Protobuf(registry), Order, b"\0\0\0\0\x09\0")
    header = ("__value_schema_id", b"\x01" + UUID(int=9).bytes + b"\0")
    with pytest.raises(PayloadDecodeError, match=r"step protobuf: .* no schema with the GUID that the message names"):
        await read(Protobuf(registry), Order, b"", headers=(header,))


async def test_only_the_first_message_of_a_kind_waits(registry: SchemaRegistry, shop: RegisteredSchema) -> None:
    protobuf, outgoing = Protobuf(registry), Outgoing("t")
    encoded, decode = protobuf.encode(ORDER, outgoing), protobuf.decoder(Order)
    assert isinstance(encoded, Later)
    data = await encoded
    assert protobuf.encode(ORDER, outgoing) == data
    assert isinstance(decode(message(data)), Later)

    await settled(decode(message(data)))

    assert decode(message(data)) == Order(id="o-1", number=7)


async def test_large_payloads_become_models_in_a_thread(registry: SchemaRegistry, shop: RegisteredSchema) -> None:
    seen: list[str] = []

    class Model(BaseModel):
        id: str

        def model_post_init(self, context: Any) -> None:
            seen.append(threading.current_thread().name)

    protobuf = Protobuf(registry, thread_above=100)
    await protobuf.open()
    small = message(await written(protobuf, ORDER))
    large = message(await written(protobuf, shop_pb2.Order(id=100 * "a")))
    decode = protobuf.decoder(Model)

    for each, name in ((large, 100 * "a"), (small, "o-1"), (large, 100 * "a")):
        assert await settled(decode(each)) == Model.model_construct(id=name)
    await protobuf.close()

    assert [name.startswith("athomic-payload") for name in seen[::2]] == [True, False, True]


# --- recognition and configuration


@pytest.mark.parametrize(
    ("headers", "value", "is_protobuf"),
    [
        ((("content-type", b"application/protobuf"),), b"", True),
        ((("content-type", b"application/json"),), b"\0\0\0\0\1\0", False),
        ((), b"\0\0\0\0\1\0", True),
        ((), b"{}", False),
    ],
)
def test_messages_of_others_are_told_apart(
    registry: SchemaRegistry, headers: Any, value: bytes, is_protobuf: bool
) -> None:
    assert Protobuf(registry).recognizes(message(value, headers=headers)) is is_protobuf


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"framing": "front"}, "framing"),
        ({"subject": "topics"}, "subject"),
        ({"schema": Order}, "classes that protoc has generated"),
        ({"messages": {Order: Order}}, "classes that protoc has generated"),
        ({"nanoseconds": "round"}, "nanoseconds"),
    ],
)
def test_wrong_options(registry: SchemaRegistry, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Protobuf(registry, **options)


def test_without_the_library_the_extra_is_named(registry: SchemaRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)

    with pytest.raises(ConfigurationError, match=r"fastapi-athomic\[protobuf\]"):
        Protobuf(registry)


async def test_what_stands_for_no_message_is_refused(registry: SchemaRegistry, shop: RegisteredSchema) -> None:
    protobuf = Protobuf(registry, schema=shop_pb2.Order)
    values: list[tuple[Any, str]] = [
        ("text", "a str is no message athomic.shop.Order"),
        (b"", "a bytes is no"),
        (5, "a int is no"),
        (object(), "object"),
    ]
    for value, reason in values:
        with pytest.raises(PayloadEncodeError, match=reason):
            await written(protobuf, value)


async def test_the_newest_version_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written by the first one is not said to be of the second, whose message is another one of its file."""
    clock = [1_000.0]
    monkeypatch.setattr(protobuf_encoding, "monotonic", lambda: clock[0])
    registry = SchemaRegistry("memory://", latest_for=0)
    await registry.register("t-value", "PROTOBUF", 'syntax = "proto3"; message Sku { string sku = 1; }')
    protobuf = Protobuf(registry)
    first = b"\0\0\0\0\1\0\x0a\1a"
    assert await written(protobuf, Sku(sku="a")) == first
    newer = 'syntax = "proto3"; message Cart {} message Sku { string name = 2; string sku = 1; }'
    await registry.register("t-value", "PROTOBUF", newer)
    assert protobuf.encode(Sku(sku="a"), Outgoing("t")) == first
    clock[0] += ASK_AGAIN + 1
    assert await written(protobuf, Sku(sku="a")) == b"\0\0\0\0\2\2\2\x0a\1a"
    assert isinstance(protobuf.encode(Sku(sku="a"), Outgoing("t")), bytes)


async def test_a_schema_that_does_not_fit_is_looked_at_once(registry: SchemaRegistry, shop: RegisteredSchema) -> None:
    decode = Protobuf(registry).decoder(shop_pb2.Line)
    data = b"\0" + (shop.id or 0).to_bytes(4, "big") + b"\0"
    with pytest.raises(PayloadDecodeError, match="and not a"):
        await settled(decode(message(data)))
    with pytest.raises(PayloadDecodeError, match="and not a"):
        decode(message(data))


async def test_readers_are_bounded(monkeypatch: pytest.MonkeyPatch, registry: SchemaRegistry) -> None:
    monkeypatch.setattr(kept, "MAX_SCHEMAS", 2)
    decode = Protobuf(registry).decoder(dict)
    for number in (1, 2, 3):
        await registry.register(f"s{number}", "PROTOBUF", f'syntax = "proto3"; message M{number} {{ int32 a = 1; }}')
        for _ in range(2):
            assert await settled(decode(message(bytes([0, 0, 0, 0, number, 0, 8, 1])))) == {"a": 1}
    assert decode(message(b"\0\0\0\0\3\0\x08\1")) == {"a": 1}
    assert isinstance(decode(message(b"\0\0\0\0\1\0\x08\1")), Later)


async def test_a_subject_by_record_needs_a_generated_class(registry: SchemaRegistry) -> None:
    with pytest.raises(PayloadEncodeError, match="no generated class stands for a Sku, and its subject"):
        await written(Protobuf(registry, subject="record"), Sku(sku="a"))


async def test_strict_models_are_read_and_published(registry: SchemaRegistry) -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        id: UUID
        tags: set[int]

    await registry.register(
        "t-value", "PROTOBUF", 'syntax = "proto3"; message S { string id = 1; repeated int32 tags = 2; }'
    )
    strict = Strict(id=UUID(int=1), tags={1})
    assert await read(Protobuf(registry), Strict, await written(Protobuf(registry), strict)) == strict

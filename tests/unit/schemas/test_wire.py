"""Schema ids in front of payloads and in headers, beside those that confluent-kafka reads and writes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from confluent_kafka.schema_registry import (
    dual_schema_id_deserializer,
    header_schema_id_serializer,
    prefix_schema_id_serializer,
)
from confluent_kafka.schema_registry.serde import SchemaId
from confluent_kafka.serialization import MessageField, SerializationContext

from fastapi_athomic import ConfigurationError, PayloadDecodeError
from fastapi_athomic.messages import Headers
from fastapi_athomic.payload.steps import Outgoing, Part
from fastapi_athomic.schemas.registered import RegisteredSchema
from fastapi_athomic.schemas.wire import Frame, Framing, has_frame, read_frame
from tests.support.payloads import arrived, message

GUID = UUID("550e8400-e29b-41d4-a716-446655440000")
SCHEMA = RegisteredSchema(id=300, guid=GUID, type="AVRO", text='"int"')
FIELDS: dict[Part, MessageField] = {"value": MessageField.VALUE, "key": MessageField.KEY}
FRAMINGS: list[Framing] = ["prefix", "header"]
PARTS: list[Part] = ["value", "key"]
DATA = [b"", b"\x02", b"\0\0\0\0\x07data", b"\x01" * 40]


def confluent_writes(framing: Framing, part: Part, data: bytes, indexes: list[int] | None = None) -> Any:
    headers: Any = []
    schema_id = SchemaId("AVRO", 300, str(GUID), indexes)
    write = prefix_schema_id_serializer if framing == "prefix" else header_schema_id_serializer
    value = write(data, SerializationContext("t", FIELDS[part], headers), schema_id)
    return message(value, headers=tuple(headers))


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_what_confluent_kafka_writes_is_read(framing: Framing, part: Part, data: bytes) -> None:
    theirs = confluent_writes(framing, part, data)
    read = read_frame(theirs, part, "avro")
    assert read.schema_id == (300 if framing == "prefix" else GUID)
    assert read.data == data
    assert has_frame(theirs, part)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_confluent_kafka_reads_what_is_written(framing: Framing, part: Part, data: bytes) -> None:
    outgoing = Outgoing("t", part=part)
    value = Frame(framing, SCHEMA, part).put(data, outgoing)
    read = SchemaId("AVRO")
    rest = dual_schema_id_deserializer(value, SerializationContext("t", FIELDS[part], list(outgoing.headers)), read)
    assert rest.read() == data
    assert (read.id, read.guid) == ((300, None) if framing == "prefix" else (None, GUID))


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_message_index_of_protobuf_stands_behind_the_id(framing: Framing) -> None:
    theirs = confluent_writes(framing, "value", b"data", [1, 0])
    ours = Outgoing("t")
    value = Frame(framing, SCHEMA, index=b"\x04\x02\x00").put(b"data", ours)
    assert (value, ours.headers) == (theirs.value, theirs.headers)
    read = read_frame(theirs, "value", "protobuf")
    expected = (b"\x04\x02\x00data", None) if framing == "prefix" else (b"data", b"\x04\x02\x00")
    assert (read.data, read.message_index) == expected


@pytest.mark.parametrize(
    ("value", "headers", "schema_id", "data"),
    [
        (b"x", (("__value_schema_id", b"\0\0\0\1\x2c"),), 300, b"x"),
        (b"\1" + GUID.bytes + b"x", (), GUID, b"x"),
        (b"\0\0\0\0\7x", (("__value_schema_id", b"\1" + GUID.bytes),), GUID, b"\0\0\0\0\7x"),
        (b"\0\0\0\0\7x", (("__key_schema_id", b"\1" + GUID.bytes),), 7, b"x"),
        (b"\0\0\0\0\7x", (("__value_schema_id", None),), 7, b"x"),
        (b"\0\xff\xff\xff\xffx", (), 2**32 - 1, b"x"),
    ],
)
def test_either_form_is_read_in_either_place(value: bytes, headers: Headers, schema_id: object, data: bytes) -> None:
    read = read_frame(message(value, headers=headers), "value", "avro")
    assert (read.schema_id, read.data) == (schema_id, data)


@pytest.mark.parametrize(
    ("value", "headers", "problem"),
    [
        (b"", (), "no header __value_schema_id, and it does not begin with the byte 0x00"),
        (b"{}", (), "it does not begin with the byte 0x00"),
        (b"\0\0\0\0", (), "only 4 bytes"),
        (b"\1" + bytes(15), (), "only 16 bytes"),
        (b"\0\0\0\0\7x", (("__value_schema_id", b""),), "the header __value_schema_id holds no schema id"),
        (b"\0\0\0\0\7x", (("__value_schema_id", b"\1" + bytes(15)),), "holds no schema id"),
        (b"\0\0\0\0\7x", (("__value_schema_id", b"7"),), "holds no schema id"),
    ],
)
def test_what_has_no_whole_id_is_refused(value: bytes, headers: Headers, problem: str) -> None:
    with pytest.raises(PayloadDecodeError, match=problem) as raised:
        read_frame(message(value, headers=headers), "value", "avro")
    assert raised.value.step == "avro"


def test_a_key_without_an_id_is_called_a_key() -> None:
    with pytest.raises(PayloadDecodeError, match="the key has no schema id: no header __key_schema_id"):
        read_frame(message(b"x"), "key", "avro")


def test_messages_without_an_id_are_told_from_those_with_one() -> None:
    assert not any(has_frame(message(value)) for value in (None, b"", b'{"a": 1}', b"\0\0"))
    assert has_frame(message(b"\x02", headers=(("__value_schema_id", b"\1" + GUID.bytes),)))


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_message_that_is_published_again_has_the_new_id(framing: Framing) -> None:
    """Readers take the id from the header if there is one, so that of the old message must go."""
    old = ("__value_schema_id", b"\1" + bytes(16))
    outgoing = Outgoing("t", headers=(("a", b"1"), old, ("__key_schema_id", b"k")))
    read = read_frame(arrived(Frame(framing, SCHEMA).put(b"x", outgoing), outgoing), "value", "avro")
    assert read.schema_id in (300, GUID)
    assert outgoing.headers[:2] == (("a", b"1"), ("__key_schema_id", b"k"))


def test_a_framing_needs_an_id_of_its_kind() -> None:
    with pytest.raises(ConfigurationError, match=r"gives no GUIDs.*framing='prefix'"):
        Frame("header", RegisteredSchema(id=1, guid=None, type="AVRO", text=""))
    with pytest.raises(ConfigurationError, match="numbers no schemas: use framing='header'"):
        Frame("prefix", RegisteredSchema(id=None, guid=GUID, type="AVRO", text=""))

"""Message indexes, and whether two messages go together."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from fastapi_athomic.schemas.protobuf_files import (
    file_of,
    index_of,
    message_at,
    misfit,
    missing,
    read_index,
    written_index,
)
from fastapi_athomic.schemas.registered import RegisteredSchema
from tests.support.shop_proto import shop_pb2


@pytest.mark.parametrize(
    ("index", "data"),
    [
        ((0,), b"\0"),
        ((1,), b"\x02\x02"),
        ((1, 0), b"\x04\x02\0"),
        ((0, 0), b"\x04\0\0"),
        ((63,), b"\x02\x7e"),
        ((64,), b"\x02\x80\x01"),
        ((300, 5), b"\x04\xd8\x04\x0a"),
    ],
)
def test_indexes_as_they_are_written(index: tuple[int, ...], data: bytes) -> None:
    assert written_index(index) == data
    assert read_index(data) == (index, len(data))
    assert read_index(data + b"more") == (index, len(data))


def test_the_first_message_may_be_written_at_length() -> None:
    assert read_index(b"\x02\0") == ((0,), 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        b"\x04\x02",
        b"\x01",  # the count is -1
        b"\x80",
        b"\xff\xff\xff\xff\xff\xff",
        b"\x02\xff\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\x0f",  # a count of 2 ** 31
        b"\xca\x01" + 101 * b"\0",  # a count of 101
    ],
)
def test_what_is_no_index(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        read_index(data)


def test_an_absurdly_long_index_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"^$"):
        read_index(b"\xfe\xff\xff\xff\x0f" + 5_000_000 * b"\0")


def test_each_message_is_found_by_its_index() -> None:
    file = shop_pb2.DESCRIPTOR
    for name, message in file.message_types_by_name.items():
        assert message_at(file, index_of(message)).name == name
        for nested in message.nested_types:
            assert message_at(file, index_of(nested)) is nested


def test_a_descriptor_with_the_name_of_a_file_that_it_imports() -> None:
    """Names are the registering client's affair."""
    imported = RegisteredSchema(id=1, guid=None, type="PROTOBUF", text='syntax = "proto3"; message A {}')
    importing = descriptor_pb2.FileDescriptorProto(name="a.proto", dependency=["a.proto"], syntax="proto3")
    importing.message_type.add(name="B").field.add(name="a", number=1, label=1, type_name="A")
    text = b64encode(importing.SerializeToString()).decode()

    file = file_of(RegisteredSchema(id=2, guid=None, type="PROTOBUF", text=text), {"a.proto": imported})

    assert file.message_types_by_name["B"].fields_by_name["a"].message_type.full_name == "A"


def messages(fields: str, *, more: str = "") -> Any:
    """The descriptor of a message with these fields."""
    text = f'syntax = "proto3"; message M {{ {fields} }} enum E {{ A = 0; }} {more}'
    file = file_of(RegisteredSchema(id=1, guid=None, type="PROTOBUF", text=text), {})
    return file.message_types_by_name["M"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("int32 a = 1;", "int64 a = 1;"),
        ("uint64 a = 1;", "bool b = 1;"),
        ("E a = 1;", "int32 a = 1;"),
        ("string a = 1;", "bytes a = 1;"),
        ("fixed32 a = 1;", "sfixed32 a = 1;"),
        ("string a = 1;", "repeated string a = 1;"),
        ("int32 a = 1;", "string b = 2;"),
        ("M m = 1; int32 a = 2;", "M m = 1; int64 a = 2;"),
        ("map<string, int32> a = 1;", "map<string, int64> a = 1;"),
    ],
)
def test_what_fits(written: str, read: str) -> None:
    assert misfit(messages(written), messages(read)) is None


@pytest.mark.parametrize(
    ("written", "read", "place"),
    [
        ("int32 a = 1;", "sint32 a = 1;", "a is read as sint, and was written as int"),
        ("string a = 1;", "int32 b = 1;", "b is read as int"),
        ("double a = 1;", "float a = 1;", "a is read as float"),
        ("fixed32 a = 1;", "float a = 1;", "a is read as float"),
        ("M m = 1;", "string m = 1;", "m is read as text or bytes, and was written as message"),
        ("map<string, int32> a = 1;", "map<string, string> a = 1;", "a.value is read as text or bytes"),
        ("N n = 1;", "N n = 1;", "n.x is read as int"),
    ],
)
def test_what_does_not_fit(written: str, read: str, place: str) -> None:
    theirs = messages(written, more="message N { string x = 1; }")

    assert (misfit(theirs, messages(read, more="message N { int32 x = 1; }")) or "").startswith(place)


def test_what_is_missing() -> None:
    whole = messages("M m = 1; int32 a = 2; N n = 3;", more="message N { int32 x = 1; }")

    assert missing(whole, messages("int32 a = 2; M m = 1;")) is None
    assert missing(messages("M m = 1; N n = 3;", more="message N { int32 x = 1; }"), whole) == "a"
    assert missing(messages("M m = 1; int32 a = 2; N n = 3;", more="message N {}"), whole) == "n.x"

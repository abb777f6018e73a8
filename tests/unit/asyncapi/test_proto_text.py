"""A descriptor as text: protoc makes the same descriptor of it."""

from __future__ import annotations

from base64 import b64encode

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from fastapi_athomic.asyncapi.proto_text import proto_text
from tests.support.protoc import descriptor_set
from tests.support.shop_proto import COMMON, SHOP

OLD = """
syntax = "proto2";

message Old {
  required string name = 1;
  optional int32 number = 2;
  enum Kind { A = 0; B = 1; }
  repeated Kind kinds = 3;
}
"""


def files(**texts: str) -> dict[str, FileDescriptorProto]:
    made = descriptor_set({f"{name}.proto": text for name, text in texts.items()})
    return {each.name: each for each in made.file}


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("athomic_common.proto", {"athomic_common": COMMON}),
        ("athomic_shop.proto", {"athomic_common": COMMON, "athomic_shop": SHOP}),
        ("old.proto", {"old": OLD}),
    ],
)
def test_protoc_reads_it_as_it_was(name: str, texts: dict[str, str]) -> None:
    original = files(**texts)[name]
    text = proto_text(b64encode(original.SerializeToString()).decode())
    again = files(**{**texts, name.removesuffix(".proto"): text})[name]
    assert messages(again) == messages(original)


def messages(file: FileDescriptorProto) -> tuple[object, ...]:
    kept = list(file.message_type)
    for each in kept:
        _forget(each)
    return file.package, list(file.dependency), [str(each) for each in kept], [str(each) for each in file.enum_type]


def _forget(message: object) -> None:
    """What is left out of the text, and the order of fields, which a `oneof` changes."""
    message.ClearField("reserved_range")  # type: ignore[attr-defined]
    message.ClearField("reserved_name")  # type: ignore[attr-defined]
    ordered = sorted(message.field, key=lambda field: field.number)  # type: ignore[attr-defined]
    del message.field[:]  # type: ignore[attr-defined]
    message.field.extend(ordered)  # type: ignore[attr-defined]
    for each in message.nested_type:  # type: ignore[attr-defined]
        _forget(each)

"""A `.proto` file from the descriptor that a generated class has: people and tools read the text only."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Iterator
from typing import Any

INDENT = "  "
_SCALARS = {
    number: name
    for name, number in (
        *(("double", 1), ("float", 2), ("int64", 3), ("uint64", 4), ("int32", 5), ("fixed64", 6), ("fixed32", 7)),
        *(("bool", 8), ("string", 9), ("bytes", 12), ("uint32", 13), ("sfixed32", 15), ("sfixed64", 16)),
        *(("sint32", 17), ("sint64", 18)),
    )
}
"""By the number of a field's type in descriptor.proto. Groups (10) are written as what they hold."""
_REPEATED, _REQUIRED = 3, 2


def proto_text(descriptor: str) -> str:
    """The text of a `FileDescriptorProto` in Base64. Options, reserved numbers and services are left out."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    file = FileDescriptorProto.FromString(b64decode(descriptor))
    lines = [f'syntax = "{file.syntax or "proto2"}";']
    lines += [f"package {file.package};"] if file.package else []
    lines += [f'import "{name}";' for name in file.dependency]
    is_old = file.syntax in ("", "proto2")
    for enum in file.enum_type:
        lines += ["", *_enum(enum)]
    for message in file.message_type:
        lines += ["", *_message(message, is_old)]
    return "\n".join(lines) + "\n"


def _message(message: Any, is_old: bool) -> Iterator[str]:
    yield f"message {message.name} {{"
    maps = {each.name: each for each in message.nested_type if each.options.map_entry}
    yield from _indented(line for each in message.enum_type for line in _enum(each))
    yield from _indented(
        line for each in message.nested_type if each.name not in maps for line in _message(each, is_old)
    )
    real = {number for number, _ in enumerate(message.oneof_decl)} - {
        each.oneof_index for each in message.field if each.proto3_optional
    }
    for field in message.field:
        if not (field.HasField("oneof_index") and field.oneof_index in real):
            yield f"{INDENT}{_label(field, maps, is_old)}{_field(field, maps)}"
    for number in sorted(real):
        yield f"{INDENT}oneof {message.oneof_decl[number].name} {{"
        chosen = (each for each in message.field if each.HasField("oneof_index") and each.oneof_index == number)
        yield from (f"{INDENT}{INDENT}{_field(each, maps)}" for each in chosen)
        yield f"{INDENT}}}"
    yield "}"


def _label(field: Any, maps: dict[str, Any], is_old: bool) -> str:
    if field.type_name.rpartition(".")[2] in maps:
        return ""
    if field.label == _REPEATED:
        return "repeated "
    if field.label == _REQUIRED:
        return "required "
    return "optional " if is_old or field.proto3_optional else ""


def _field(field: Any, maps: dict[str, Any]) -> str:
    entry = maps.get(field.type_name.rpartition(".")[2])
    kind = _type(field) if entry is None else f"map<{_type(entry.field[0])}, {_type(entry.field[1])}>"
    return f"{kind} {field.name} = {field.number};"


def _type(field: Any) -> str:
    return _SCALARS.get(field.type) or str(field.type_name)


def _enum(enum: Any) -> Iterator[str]:
    yield f"enum {enum.name} {{"
    yield from (f"{INDENT}{value.name} = {value.number};" for value in enum.value)
    yield "}"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"{INDENT}{line}" for line in lines)

"""Descriptors from schemas: what a registry has for a message becomes a descriptor in a pool of its own."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as NoBase64Error
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from .protobuf_text import parse_proto
from .protobuf_tokens import ProtoSyntaxError
from .registered import RegisteredSchema

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}\s*")
_SHIPPED = {
    "google/": "",  # of protobuf itself, and of googleapis-common-protos if that is installed
    "confluent/": "confluent_kafka.schema_registry.",
}
_IMPORTABLE = re.compile(r"[a-z][a-z0-9_]*(/[a-z][a-z0-9_]*)*\.proto")
MAX_INDEX = 100
"""So many messages may be nested in each other: protoc allows no more."""


class UnusableSchemaError(ValueError):
    """A schema from the registry cannot be understood, or does not hold the message."""


# --- files


def file_of(schema: RegisteredSchema, referenced: Mapping[str, RegisteredSchema]) -> Any:
    """The file descriptor of a schema, in a new pool with all that it imports.

    Raises:
        UnusableSchemaError: it is no Protobuf, or imports something that is not there.
    """
    if schema.type != "PROTOBUF":
        raise UnusableSchemaError(f"it is a schema of the type {schema.type}")
    file = _proto(schema)
    if not file.name or file.name in referenced:
        file.name = "default" if "default" not in referenced else "default.proto"
    files = _Files(referenced)
    try:
        files.add(file)
    except TypeError as error:  # how the pool says what is wrong with a file
        text = "".join(f"; it imports {name}, which is not among its references" for name in files.lacking)
        raise UnusableSchemaError(f"{error}{text}") from None
    return files.pool.FindFileByName(file.name)


def _proto(schema: RegisteredSchema, name: str = "") -> Any:
    """The schema as a FileDescriptorProto, with another name if one is given."""
    try:
        if _BASE64.fullmatch(schema.text):
            file = descriptor_pb2.FileDescriptorProto.FromString(b64decode(schema.text))
        else:
            file = parse_proto(schema.text)
    except (NoBase64Error, DecodeError):
        raise UnusableSchemaError("it is neither a .proto file nor a file descriptor in Base64") from None
    except ProtoSyntaxError as error:
        raise UnusableSchemaError(f"it is no valid .proto file: {error}") from None
    if name:
        file.name = name
    return file


class _Files:
    """Files in a pool of their own. What cannot be imported is left out: often only options need it."""

    def __init__(self, referenced: Mapping[str, RegisteredSchema]) -> None:
        self.pool = DescriptorPool()
        self.lacking: list[str] = []
        self._referenced = referenced
        self._added: set[str] = set()

    def add(self, file: Any) -> None:
        """Adds a file after those that it imports. Raises TypeError if something is wrong with it."""
        self._added.add(file.name)
        imported = [name for name in file.dependency if self._is_there(name)]
        if len(imported) < len(file.dependency):
            public = {file.dependency[number] for number in file.public_dependency}
            del file.weak_dependency[:]
            file.dependency[:] = imported
            file.public_dependency[:] = [number for number, name in enumerate(imported) if name in public]
        self.pool.AddSerializedFile(file.SerializeToString())

    def _is_there(self, name: str) -> bool:
        if name in self._added:
            return True
        file = _proto(self._referenced[name], name) if name in self._referenced else _shipped(name)
        if file is None:
            self.lacking.append(name)
            return False
        self.add(file)
        return True


@lru_cache(100)
def _shipped(name: str) -> Any:
    """A file that comes with a library, as registries keep no copies of Google's and Confluent's; None: none does."""
    for beginning, package in _SHIPPED.items():
        if name.startswith(beginning) and _IMPORTABLE.fullmatch(name):
            try:
                module = import_module(package + name.removesuffix(".proto").replace("/", ".") + "_pb2")
            except ImportError:
                return None
            return descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    return None


def is_shipped(name: str) -> bool:
    """Whether registries know this file by themselves."""
    return name.startswith(tuple(_SHIPPED))


def as_text(file: Any) -> str:
    """A file as Confluent's Python and Go clients register it: its descriptor in Base64."""
    return b64encode(file.serialized_pb).decode()


# --- messages


def message_at(file: Any, index: tuple[int, ...]) -> Any:
    """The descriptor of the message at an index: the numbers of the messages, from the outermost to the innermost.

    Raises:
        UnusableSchemaError: there is none.
    """
    messages = list(file.message_types_by_name.values())
    found = None
    for number in index:
        if not 0 <= number < len(messages):
            raise UnusableSchemaError("it has no message with the index that this one has")
        found = messages[number]
        messages = list(found.nested_types)
    return found


def index_of(descriptor: Any) -> tuple[int, ...]:
    """The index of a message in its file."""
    path: list[int] = []
    while descriptor.containing_type is not None:
        path.insert(0, _number_in(descriptor.containing_type.nested_types, descriptor))
        descriptor = descriptor.containing_type
    return (_number_in(descriptor.file.message_types_by_name.values(), descriptor), *path)


def _number_in(messages: Any, descriptor: Any) -> int:
    return [each.full_name for each in messages].index(descriptor.full_name)


def written_index(index: tuple[int, ...]) -> bytes:
    """An index as it stands behind the schema's id: a count and the numbers, as zigzag varints."""
    if index == (0,):
        return b"\0"
    return b"".join(map(_varint, (len(index), *index)))


def _varint(number: int) -> bytes:
    number *= 2  # zigzag, of what is not negative
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def read_index(data: bytes) -> tuple[tuple[int, ...], int]:
    """The index at the beginning of the bytes, and where it ends.

    Raises:
        ValueError: there is none.
    """
    count, at = _read_varint(data, 0)
    if count == 0:
        return (0,), at
    if not 0 < count <= MAX_INDEX:
        raise ValueError
    index = []
    for _ in range(count):
        number, at = _read_varint(data, at)
        index.append(number)
    return tuple(index), at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            raise ValueError
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (found >> 1) ^ -(found & 1), at
    raise ValueError


# --- do two messages go together?

_TYPES = FieldDescriptor
_ALIKE = {
    **dict.fromkeys(
        (_TYPES.TYPE_INT32, _TYPES.TYPE_INT64, _TYPES.TYPE_UINT32, _TYPES.TYPE_UINT64, _TYPES.TYPE_BOOL), "int"
    ),
    _TYPES.TYPE_ENUM: "int",
    **dict.fromkeys((_TYPES.TYPE_SINT32, _TYPES.TYPE_SINT64), "sint"),
    **dict.fromkeys((_TYPES.TYPE_FIXED32, _TYPES.TYPE_SFIXED32), "fixed32"),
    **dict.fromkeys((_TYPES.TYPE_FIXED64, _TYPES.TYPE_SFIXED64), "fixed64"),
    **dict.fromkeys((_TYPES.TYPE_STRING, _TYPES.TYPE_BYTES), "text or bytes"),
    _TYPES.TYPE_FLOAT: "float",
    _TYPES.TYPE_DOUBLE: "double",
    _TYPES.TYPE_MESSAGE: "message",
    _TYPES.TYPE_GROUP: "group",
}
"""Types that are read from each other's bytes: https://protobuf.dev/programming-guides/proto3/#updating."""


def misfit(written: Any, read: Any) -> str | None:
    """Why bytes of one message would be misread as another one; None: they would not.

    Fields are the same by their numbers; those that only one of the two has do no harm.
    """
    return next(_misfits(written, read, "", set()), None)


def _misfits(written: Any, read: Any, place: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    if (written.full_name, read.full_name) in seen:
        return
    seen.add((written.full_name, read.full_name))
    for number, field in written.fields_by_number.items():
        other = read.fields_by_number.get(number)
        if other is None:
            continue
        if _ALIKE[field.type] != _ALIKE[other.type]:
            yield f"{place}{other.name} is read as {_ALIKE[other.type]}, and was written as {_ALIKE[field.type]}"
        elif field.message_type is not None:
            yield from _misfits(field.message_type, other.message_type, f"{place}{other.name}.", seen)


def missing(known: Any, wanted: Any) -> str | None:
    """The first field of `wanted`, or of a message in it, that `known` does not have; None: it has all."""
    return next(_missing(known, wanted, "", set()), None)


def _missing(known: Any, wanted: Any, place: str, seen: set[str]) -> Iterator[str]:
    if wanted.full_name in seen:
        return
    seen.add(wanted.full_name)
    for number, field in wanted.fields_by_number.items():
        other = known.fields_by_number.get(number)
        if other is None:
            yield place + field.name
        elif field.message_type is not None and other.message_type is not None:
            yield from _missing(other.message_type, field.message_type, f"{place}{field.name}.", seen)


def has_singles(descriptor: Any) -> bool:
    """Whether a message has floats of 32 bits, itself or in what it holds."""
    known, waiting = {descriptor.full_name}, [descriptor]
    while waiting:
        for field in waiting.pop().fields:
            if field.type == FieldDescriptor.TYPE_FLOAT:
                return True
            held = field.message_type
            if held is not None and held.full_name not in known:
                known.add(held.full_name)
                waiting.append(held)
    return False

"""Reads .proto files: the syntaxes proto2 and proto3, and editions.

Registries keep Protobuf schemas as such text, and Protobuf's own library cannot read it. Names of types stay as they
were written: the descriptor pool resolves them. Services are skipped, and so are options that say nothing about how
messages are laid out. https://protobuf.dev/reference/protobuf/edition-2023-spec/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2 as pb

from .protobuf_tokens import LARGEST, ProtoSyntaxError, Tokens, whole

MAX_DEPTH = 100
"""Messages nested in each other; protoc takes no more."""
MAX_FIELD = (1 << 29) - 1
"""The number that `max` stands for in messages."""

_LABELS = {"optional": 1, "required": 2, "repeated": 3}
_F = pb.FieldDescriptorProto
SCALARS = {
    **{name: getattr(_F, f"TYPE_{name.upper()}") for name in ("double", "float", "bool", "string", "bytes")},
    **{name: getattr(_F, f"TYPE_{name.upper()}") for name in ("int32", "int64", "uint32", "uint64")},
    **{name: getattr(_F, f"TYPE_{name.upper()}") for name in ("sint32", "sint64")},
    **{name: getattr(_F, f"TYPE_{name.upper()}") for name in ("fixed32", "fixed64", "sfixed32", "sfixed64")},
}
_EDITIONS = {value.name.removeprefix("EDITION_"): value.number for value in pb.Edition.DESCRIPTOR.values}


def parse_proto(text: str) -> Any:
    """A `FileDescriptorProto`, without a name.

    Raises:
        ProtoSyntaxError: the text is no .proto file.
    """
    return _Parser(text).file()


class _Parser(Tokens):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._file = pb.FileDescriptorProto()

    # --- the file

    def file(self) -> Any:
        self._syntax()
        while self._next.kind != "end":
            self._statement()
        return self._file

    def _syntax(self) -> None:
        if self._skip("syntax"):
            self._expect("=")
            self._file.syntax = self._text()
            if self._file.syntax not in ("proto2", "proto3"):
                raise self._wrong()
            self._expect(";")
        elif self._skip("edition"):
            self._expect("=")
            edition = _EDITIONS.get(self._text())
            if edition is None:
                raise self._wrong()
            self._file.syntax, self._file.edition = "editions", edition
            self._expect(";")

    def _statement(self) -> None:
        if self._skip(";"):
            return
        self._skip("export", "local")  # of edition 2024: who may use it
        if self._skip("package"):
            self._file.package = self._full_name()
            self._expect(";")
        elif self._skip("import"):
            self._import()
        elif self._skip("option"):
            self._option(self._file.options)
            self._expect(";")
        elif self._skip("message"):
            self._message(self._file.message_type.add())
        elif self._skip("enum"):
            self._enum(self._file.enum_type.add())
        elif self._skip("extend"):
            self._extend(self._file.extension, self._file.message_type)
        elif self._skip("service"):
            self._name()
            self._block()
        else:
            raise self._wrong()

    def _import(self) -> None:
        is_public, is_weak, for_options = self._skip("public"), self._skip("weak"), self._skip("option")
        name = self._text()
        self._expect(";")
        if for_options:
            return
        if is_public:
            self._file.public_dependency.append(len(self._file.dependency))
        if is_weak:
            self._file.weak_dependency.append(len(self._file.dependency))
        self._file.dependency.append(name)

    def _block(self) -> None:
        """Skips what stands in braces."""
        self._expect("{")
        depth = 1
        while depth:
            if self._next.kind == "end":
                raise self._wrong()
            depth += self._is("{") - self._is("}")
            self._take()

    # --- messages

    def _message(self, message: Any) -> None:
        message.name = self._name()
        self._message_body(message)

    def _message_body(self, message: Any) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong()
        self._expect("{")
        while not self._skip("}"):
            self._member(message)
        self._depth -= 1
        _add_synthetic_oneofs(message)

    def _member(self, message: Any) -> None:
        at = self._at
        keyword = self._next.text
        parse = self._members.get(keyword)
        # each of these words may be the name of a type, too
        if parse is not None and self._next.kind == "name" and self._peek(1).text != ".":
            self._at += 1
            if parse(self, message):
                return
            self._at = at
        if self._skip(";"):
            return
        self._field(message.field, message.nested_type, message)

    def _nested_message(self, message: Any) -> bool:
        if self._next.kind != "name" or self._peek(1).text != "{":
            return False
        self._message(message.nested_type.add())
        return True

    def _nested_enum(self, message: Any) -> bool:
        if self._next.kind != "name" or self._peek(1).text != "{":
            return False
        self._enum(message.enum_type.add())
        return True

    def _visible(self, message: Any) -> bool:
        if not self._is("message", "enum"):
            return False
        self._member(message)
        return True

    def _oneof(self, message: Any) -> bool:
        if self._next.kind != "name" or self._peek(1).text != "{":
            return False
        number = len(message.oneof_decl)
        oneof = message.oneof_decl.add(name=self._name())
        self._expect("{")
        while not self._skip("}"):
            if self._skip("option"):
                self._option(oneof.options)
                self._expect(";")
            elif not self._skip(";"):
                self._field(message.field, message.nested_type, message, oneof=number)
        return True

    def _map(self, message: Any) -> bool:
        if not self._skip("<"):
            return False
        entry = message.nested_type.add()
        entry.options.map_entry = True
        key = entry.field.add(name="key", number=1, label=1)
        value = entry.field.add(name="value", number=2, label=1)
        self._type(key)
        self._expect(",")
        self._type(value)
        self._expect(">")
        field = message.field.add(name=self._name(), label=3)
        entry.name = f"{_camel(field.name)}Entry"
        field.type, field.type_name = _F.TYPE_MESSAGE, entry.name
        self._number_and_options(field)
        self._expect(";")
        return True

    def _nested_extend(self, message: Any) -> bool:
        if self._peek(1).text not in (".", "{") and not self._is("."):
            return False
        self._extend(message.extension, message.nested_type)
        return True

    def _extend(self, fields: Any, messages: Any) -> None:
        extendee = self._full_name()
        self._expect("{")
        while not self._skip("}"):
            if not self._skip(";"):
                self._field(fields, messages, None).extendee = extendee

    def _extensions(self, message: Any) -> bool:
        if self._next.kind != "number":
            return False
        for start, end in self._ranges(MAX_FIELD):
            message.extension_range.add(start=start, end=end + 1)
        if self._is("["):
            self._options(pb.ExtensionRangeOptions())
        self._expect(";")
        return True

    def _reserved(self, message: Any) -> bool:
        if self._next.kind == "string":
            message.reserved_name.append(self._text())
            while self._skip(","):
                message.reserved_name.append(self._text())
        elif self._next.kind == "number" or self._is("-"):
            is_enum = isinstance(message, pb.EnumDescriptorProto)
            for start, end in self._ranges(LARGEST if is_enum else MAX_FIELD):
                message.reserved_range.add(start=start, end=end + (not is_enum))
        elif self._next.kind == "name" and self._peek(1).text in (",", ";"):  # editions
            message.reserved_name.append(self._name())
            while self._skip(","):
                message.reserved_name.append(self._name())
        else:
            return False
        self._expect(";")
        return True

    def _ranges(self, largest: int) -> Iterator[tuple[int, int]]:
        while True:
            start = self._int(largest)
            yield start, self._int(largest) if self._skip("to") else start
            if not self._skip(","):
                return

    def _message_option(self, message: Any) -> bool:
        if self._next.kind != "name" and not self._is("("):
            return False
        if self._peek(1).text == "=" and self._peek(2).kind == "number":
            return False  # a field of a type that is called `option`
        self._option(message.options)
        self._expect(";")
        return True

    _members: dict[str, Callable[[_Parser, Any], bool]] = {  # noqa: RUF012 - never changed
        "message": _nested_message,
        "enum": _nested_enum,
        "export": _visible,
        "local": _visible,
        "oneof": _oneof,
        "map": _map,
        "extend": _nested_extend,
        "extensions": _extensions,
        "reserved": _reserved,
        "option": _message_option,
    }

    # --- fields

    def _field(self, fields: Any, messages: Any, message: Any, oneof: int | None = None) -> Any:
        field = fields.add(label=1)
        label = _LABELS.get(self._next.text)
        if label is not None and self._peek(1).text != "=":
            self._take()
            field.label = label
            field.proto3_optional = label == 1 and self._file.syntax == "proto3" and oneof is None
            if not field.proto3_optional:
                field.ClearField("proto3_optional")
        if oneof is not None:
            field.oneof_index = oneof
        if self._is("group") and self._peek(2).text == "=":
            self._group(field, messages)
            return field
        self._type(field)
        field.name = self._name()
        self._number_and_options(field)
        self._expect(";")
        return field

    def _group(self, field: Any, messages: Any) -> None:
        self._take()
        group = messages.add(name=self._name())
        field.name, field.type, field.type_name = group.name.lower(), _F.TYPE_GROUP, group.name
        self._number_and_options(field)
        self._message_body(group)

    def _type(self, field: Any) -> None:
        name = self._full_name()
        if name in SCALARS:
            field.type = SCALARS[name]
        else:
            field.type_name = name  # of a message or an enum: the pool finds out

    def _number_and_options(self, field: Any) -> None:
        self._expect("=")
        field.number = self._int()
        if self._is("["):
            self._options(field.options, field)

    # --- enums

    def _enum(self, enum: Any) -> None:
        enum.name = self._name()
        self._expect("{")
        while not self._skip("}"):
            if self._skip(";"):
                continue
            at = self._at
            if self._is("option", "reserved") and self._peek(1).text != "=":
                parse = self._members[self._take().text]
                if parse(self, enum):
                    continue
                self._at = at
            value = enum.value.add(name=self._name())
            self._expect("=")
            value.number = self._int()
            if self._is("["):
                self._options(value.options)
            self._expect(";")

    # --- options

    def _options(self, options: Any, field: Any = None) -> None:
        """Options in brackets."""
        self._expect("[")
        while not self._skip("]"):
            self._option(options, field)
            if not self._is("]"):
                self._expect(",")

    def _option(self, options: Any, field: Any = None) -> None:
        """Takes over what says how messages are laid out, and skips the rest."""
        path = self._option_name()
        self._expect("=")
        if self._is("{"):
            if path == ["features"]:
                self._features(options.features)
            else:
                self._block()
            return
        if field is not None and path == ["json_name"]:
            field.json_name = self._text()
            return
        value = self._constant()
        if field is not None and path == ["default"]:
            field.default_value = _default(field, value)
        elif path in (["packed"], ["allow_alias"], ["message_set_wire_format"], ["deprecated"]):
            setattr(options, path[0], value.text == "true")
        elif len(path) == 2 and path[0] == "features":
            self._feature(options.features, path[1], value.text)

    def _option_name(self) -> list[str]:
        path = []
        while True:
            if self._skip("("):
                path.append(f"({self._full_name()})")
                self._expect(")")
            else:
                path.append(self._name())
            if not self._skip("."):
                return path

    def _constant(self) -> _Constant:
        sign = "-" if self._skip("-") else ""
        self._skip("+")
        token = self._next
        if token.kind == "string":
            return _Constant("string", "", self._string())
        if token.kind == "name":
            return _Constant("name", sign + self._full_name(), b"")
        return _Constant("number", sign + self._of_kind("number"), b"")

    def _features(self, features: Any) -> None:
        """Features in braces. Those of languages, in brackets or in further braces, are skipped."""
        self._expect("{")
        while not self._skip("}"):
            if self._skip("["):
                self._full_name()
                self._expect("]")
                self._skip(":")
                self._block()
            else:
                name = self._name()
                self._skip(":")
                if self._is("{"):
                    self._block()
                else:
                    self._feature(features, name, self._constant().text)
            self._skip(",", ";")

    def _feature(self, features: Any, name: str, value: str) -> None:
        field = features.DESCRIPTOR.fields_by_name.get(name)
        known = None if field is None or field.enum_type is None else field.enum_type.values_by_name.get(value)
        if known is None:
            raise self._wrong()
        setattr(features, name, known.number)


class _Constant(NamedTuple):
    kind: str  # string, number, name
    text: str
    bytes: bytes


def _default(field: Any, value: _Constant) -> str:
    """As it stands in a descriptor: numbers in decimal, bytes with escapes."""
    if value.kind == "string":
        if field.type != _F.TYPE_BYTES:
            return value.bytes.decode()
        return "".join(
            chr(byte) if 0x20 <= byte < 0x7F and byte not in b"\\'\"" else f"\\{byte:03o}" for byte in value.bytes
        )
    if value.kind == "number" and field.type not in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        negative, digits = value.text.startswith("-"), value.text.removeprefix("-")
        try:
            return f"{'-' if negative else ''}{whole(digits)}"
        except ValueError:
            raise ProtoSyntaxError("a default that is no int") from None
    return value.text.removesuffix("f") if value.kind == "number" else value.text


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _add_synthetic_oneofs(message: Any) -> None:
    """An `optional` field of proto3 is the only one of a oneof that is made for it."""
    taken = {each.name for each in (*message.field, *message.oneof_decl)}
    for field in message.field:
        if not field.proto3_optional:
            continue
        name = field.name if field.name.startswith("_") else f"_{field.name}"
        while name in taken:
            name = f"X{name}"
        taken.add(name)
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=name)

"""From parsed messages to the Python objects that pydantic validates.

For each kind of message and target a function is written in Python, compiled and kept: access to a field costs 0.1 µs,
and anything between the fields (a loop over descriptors, a call for each) costs more than that. Names in the source
come from descriptors, which allow only letters, digits and underscores, and are checked again here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from keyword import iskeyword
from traceback import walk_tb
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from pydantic import ValidationError

from ..compatibility import is_repeated
from ..payload.objects import object_validator
from ..payload.target import Target
from .protobuf_known import WRAPPERS, UnreadableError, enum_table, reader_of
from .protobuf_targets import ANYTHING, Choice, Record, RecordField, choice_of, record_of

Function = Callable[[Any], Any]
Write = Callable[[str], str]
"""Takes the source of an expression, and gives the source of what becomes of its value."""
ANY = "google.protobuf.Any"
MESSAGES = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP)
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def is_map(field: Any) -> bool:
    return field.type == FieldDescriptor.TYPE_MESSAGE and bool(field.message_type.GetOptions().map_entry)


def real_oneofs(descriptor: Any) -> list[Any]:
    """Without those that stand for the `optional` of proto3: their names are the field's, after `_`, `X_`, `XX_`."""
    return [
        oneof
        for oneof in descriptor.oneofs
        if oneof.name.lstrip("X").removeprefix("_") != oneof.fields[0].name.removeprefix("_")
    ]


class Kinds:
    """Which message each model stands for, as far as the user says."""

    def __init__(self, names: Mapping[Any, str]) -> None:
        self._names = names  # full names of messages by type

    def pick(self, kinds: Iterable[Any], descriptor: Any) -> Any | None:
        """The type that stands for this message: it was said so, or has its name. None: none of them does."""
        for kind in kinds:
            if self._names.get(kind) == descriptor.full_name:
                return kind
        for kind in kinds:
            if kind not in self._names and getattr(kind, "__name__", None) == descriptor.name:
                return kind
        return None

    def name_of(self, kind: Any) -> str | None:
        """The full name of the message that a type was said to stand for."""
        return self._names.get(kind)

    def fits(self, kind: Any, descriptor: Any) -> bool:
        """Whether nothing was said against it."""
        return self._names.get(kind) in (None, descriptor.full_name)


class MessageReader:
    """Makes functions from messages of one descriptor pool to Python objects.

    Args:
        kinds: which message each model stands for.
        cuts_nanoseconds: what a datetime or timedelta cannot hold is cut off, else it is refused.
    """

    def __init__(self, kinds: Kinds, *, cuts_nanoseconds: bool = False) -> None:
        self._kinds = kinds
        self._cuts_nanoseconds = cuts_nanoseconds
        self._scope: dict[str, Any] = {}
        self._made: dict[tuple[str, Any], str] = {}
        self._lines: dict[str, dict[int, str]] = {}  # field names, by source and line

    def function(self, descriptor: Any, kind: Any) -> Function:
        """From messages to a dict that pydantic can validate as `kind`, a record; None: a dict with all fields.

        The function raises `UnreadableError`, and whatever conversions raise: `place` tells where.
        """
        function: Function = self._scope[self._record(descriptor, kind)]
        return function

    def shares_fields(self, descriptor: Any, kind: Any) -> bool:
        """Whether a record has a field for any of the message's fields."""
        record = record_of(kind)
        return record is None or any(
            record.field(each.name, getattr(each, "json_name", camel(each.name))) is not None
            for each in (*descriptor.fields, *descriptor.oneofs)
        )

    def place(self, error: BaseException) -> str:
        """The path to the field in which a function failed. Frames of comprehensions repeat the line around them."""
        codes = ((frame.f_code, line) for frame, line in walk_tb(error.__traceback__))
        return ".".join(
            self._lines[code.co_filename].get(line, "?")
            for code, line in codes
            if code.co_filename in self._lines and not code.co_name.startswith("<")
        )

    def _record(self, descriptor: Any, kind: Any) -> str:
        name = self._made.get((descriptor.full_name, kind))
        if name is None:
            name = self._made[descriptor.full_name, kind] = self._bind(None)
            source = _Source(name)
            record = record_of(kind)
            if record is None:
                self._all_fields(source, descriptor)
            else:
                self._fields(source, descriptor, record)
            self._compile(source, descriptor)
        return name

    def _compile(self, source: _Source, descriptor: Any) -> None:
        place = f"<protobuf {descriptor.full_name} {source.name}>"
        text, lines = source.done()
        exec(compile(text, place, "exec"), self._scope)
        self._lines[place] = lines

    def _bind(self, value: Any) -> str:
        name = f"x{len(self._scope)}"
        self._scope[name] = value
        return name

    # --- fields

    def _all_fields(self, source: _Source, descriptor: Any) -> None:
        for field in descriptor.fields:
            source.entry(field.name, field.name, self._or_none(field, self._expression(field, ANYTHING)))

    def _fields(self, source: _Source, descriptor: Any, record: Record) -> None:
        for field in descriptor.fields:
            target = record.field(field.name, field.json_name)
            if target is None:
                if record.takes_others:
                    value = self._expression(field, ANYTHING)
                    source.entry_if(self._is_set(field), field.name, field.name, value)
                continue
            self._field(source, field, target)
        for oneof in real_oneofs(descriptor):
            target = None if oneof.name in descriptor.fields_by_name else record.field(oneof.name, camel(oneof.name))
            if target is not None:
                self._oneof(source, oneof, target)

    def _field(self, source: _Source, field: Any, target: RecordField) -> None:
        choice = choice_of(target.annotation)
        value = self._expression(field, choice)
        if field.has_presence and not target.required:
            source.entry_if(self._has(field), field.name, target.key, value)
        elif field.has_presence and field.has_default_value and not choice.allows_none:
            source.entry(field.name, target.key, value)
        elif field.has_presence and not choice.allows_none:  # pydantic says that it is missing
            source.entry_if(self._has(field), field.name, target.key, value)
        else:
            source.entry(field.name, target.key, self._or_none(field, value))

    def _oneof(self, source: _Source, oneof: Any, target: RecordField) -> None:
        """A field of the model with the name of the oneof holds whichever of its fields was written."""
        choice, readers = choice_of(target.annotation), dict[str, Function]()
        messages = [field for field in oneof.fields if field.type in MESSAGES]
        for field in oneof.fields:
            lonely = len(messages) == 1 and len(choice.records) == 1
            readers[field.name] = self._alternative(field, choice, choice.records[0] if lonely else None)

        def read(message: Any) -> Any:
            which = message.WhichOneof(oneof.name)
            return None if which is None else readers[which](getattr(message, which))

        value = f"{self._bind(read)}(m)"
        if target.required:
            source.entry(oneof.name, target.key, value)
        else:
            source.entry_if(f"m.WhichOneof({oneof.name!r})", oneof.name, target.key, value)

    def _alternative(self, field: Any, choice: Choice, otherwise: Any) -> Function:
        if field.type in MESSAGES and choice.records and self._known(field.message_type, choice) is None:
            if field.message_type.full_name in WRAPPERS or field.message_type.full_name == ANY:
                return self._as_function(self._message(field.message_type, choice))
            kind = self._kinds.pick(choice.records, field.message_type) or otherwise
            if kind is not None:
                return self._validated(field.message_type, kind)
            if not choice.anything:
                return _no_member(field.message_type.full_name)
        return self._as_function(self._singular(field, choice))

    def _as_function(self, write: Write) -> Function:
        function: Function = eval(f"lambda v: {write('v')}", self._scope)
        return function

    # --- values

    def _expression(self, field: Any, choice: Choice) -> str:
        value = _access(field.name)
        if is_repeated(field) and not is_map(field):
            inlined = self._inlined(field, choice_of(choice.items))
            if inlined is not None:
                return f"[{inlined} for v in {value}[:]]"
        if is_map(field):
            each = self._singular(field.message_type.fields_by_number[2], choice_of(choice.values))
            return f"dict({value})" if each("v") == "v" else f"{{k: {each('v')} for k, v in {value}.items()}}"
        if is_repeated(field):
            each = self._singular(field, choice_of(choice.items))
            return f"{value}[:]" if each("v") == "v" else f"[{each('v')} for v in {value}[:]]"
        return self._singular(field, choice)(value)

    def _inlined(self, field: Any, choice: Choice) -> str | None:
        """The source of a dict for the item `v`, if it is a simple one: a call for each item would cost more."""
        if field.type not in MESSAGES or len(choice.records) != 1 or choice.members[1:]:
            return None
        record = record_of(choice.records[0])
        if record is None or record.takes_others or field.message_type.full_name.startswith("google.protobuf."):
            return None
        entries = []
        for each in field.message_type.fields:
            target = record.field(each.name, each.json_name)
            if each.has_presence or is_repeated(each):
                return None
            if target is not None:
                value = self._singular(each, choice_of(target.annotation))(_access(each.name, "v"))
                entries.append(f"{target.key!r}: {value}")
        return f"{{{', '.join(entries)}}}"

    def _singular(self, field: Any, choice: Choice) -> Write:
        if field.type in MESSAGES:
            return self._message(field.message_type, choice)
        if field.type == FieldDescriptor.TYPE_ENUM:
            table = enum_table(field.enum_type, choice)
            if table is not None:
                name = self._bind(table)
                return lambda value: f"{name}[{value}]"
        return _as_it_is

    def _message(self, descriptor: Any, choice: Choice) -> Write:
        if descriptor.full_name in WRAPPERS:
            return lambda value: f"{value}.value"
        known = self._known(descriptor, choice)
        if known is not None:
            return self._call(known)
        records = choice.records
        if descriptor.full_name == ANY and not self._kinds.pick(records, descriptor):
            return self._call(self._any(descriptor.file.pool, choice))
        if len(records) > 1:
            kind = self._kinds.pick(records, descriptor)
            if kind is not None:
                return self._call(self._validated(descriptor, kind))
        name = self._record(descriptor, records[0] if len(records) == 1 else None)
        return lambda value: f"{name}({value})"

    def _known(self, descriptor: Any, choice: Choice) -> Function | None:
        return reader_of(descriptor.full_name, choice, cuts_nanoseconds=self._cuts_nanoseconds)

    def _call(self, function: Function) -> Write:
        name = self._bind(function)
        return lambda value: f"{name}({value})"

    def _validated(self, descriptor: Any, kind: Any) -> Function:
        """Makes an instance at once: of a union, pydantic takes the member that the instance is of."""
        convert, target = self._record(descriptor, kind), Target(kind)
        validate, scope = object_validator(target.adapter), self._scope

        def read(message: Any) -> Any:
            value = scope[convert](message)
            try:
                return validate(value)
            except ValidationError as error:
                problem = target.describe(error)
            raise UnreadableError(problem)

        return read

    def _any(self, pool: Any, choice: Choice) -> Function:
        """Unpacks what an Any holds, if the pool knows its type."""
        readers: dict[str, tuple[Function, Function]] = {}

        def read(message: Any) -> Any:
            name = message.type_url.rpartition("/")[2]
            known = readers.get(name)
            if known is None:
                try:
                    descriptor = pool.FindMessageTypeByName(name)
                except KeyError:
                    raise UnreadableError("an Any of a type that is not known here") from None
                known = readers[name] = GetMessageClass(descriptor).FromString, self._packed(descriptor, choice)
            try:
                return known[1](known[0](message.value))
            except DecodeError:
                raise UnreadableError("an Any with bytes that are no such message") from None

        return read

    def _packed(self, descriptor: Any, choice: Choice) -> Function:
        kind = self._kinds.pick(choice.records, descriptor)
        if kind is not None:
            return self._validated(descriptor, kind)
        if choice.records and not choice.anything:
            return _no_member(descriptor.full_name)
        known = self._known(descriptor, ANYTHING)
        name = descriptor.full_name
        if known is not None:
            return lambda value: {"@type": name, "value": known(value)}
        convert = self._scope[self._record(descriptor, None)]
        return lambda value: {"@type": name, **convert(value)}

    # --- presence

    def _has(self, field: Any) -> str:
        """As a field may be called HasField, the method is taken from the class."""
        has = self._bind(GetMessageClass(field.containing_type).HasField)
        return f"{has}(m, {field.name!r})"

    def _is_set(self, field: Any) -> str:
        return self._has(field) if field.has_presence else _access(field.name)

    def _or_none(self, field: Any, value: str) -> str:
        return f"({value} if {self._has(field)} else None)" if field.has_presence else value


class _Source:
    """The source of one function, and which field each of its lines is for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._entries: list[tuple[str, str]] = []
        self._statements: list[tuple[str, str]] = []

    def entry(self, field: str, key: str, value: str) -> None:
        self._entries.append((field, f"  {key!r}: {value},"))

    def entry_if(self, condition: str, field: str, key: str, value: str) -> None:
        self._statements.append((field, f" if {condition}: d[{key!r}] = {value}"))

    def done(self) -> tuple[str, dict[int, str]]:
        written = [("", f"def {self.name}(m):"), ("", " d = {"), *self._entries, ("", " }"), *self._statements]
        written.append(("", " return d"))
        return "\n".join(line for _, line in written), {
            number: field for number, (field, _) in enumerate(written, 1) if field
        }


def _as_it_is(value: str) -> str:
    return value


def _access(name: str, message: str = "m") -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("no name of a Protobuf field")
    return f"getattr({message}, {name!r})" if iskeyword(name) else f"{message}.{name}"


def camel(name: str) -> str:
    """The name that Protobuf's JSON has for it."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)


def _no_member(full_name: str) -> Function:
    def read(message: Any) -> Any:
        raise UnreadableError(f"no member of the union stands for the message {full_name}")

    return read

"""From Python values to messages. Protobuf's library takes some wrong values, and cuts others: here they are refused.

What a field gets depends on the field and on the value itself, not on annotations. A list of what was found by trying:
the library takes `bytes` as text, a `str` as a list of its letters, any int as a bool, any number as an enum, an int
that a float cannot hold; it makes a float of 32 bits infinite, and cuts what is less than a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from operator import attrgetter
from struct import Struct
from typing import Any, NamedTuple
from uuid import UUID

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from pydantic import BaseModel, RootModel

from ..compatibility import is_repeated, item_of_map, to_jsonable_python
from ..payload.losses import fields_of, is_record
from .protobuf_known import FILLERS, PARTS, WRAPPERS, UnwritableError, encodable, numbers_of, unwritable
from .protobuf_reading import ANY, MESSAGES, Kinds, camel, is_map, real_oneofs
from .protobuf_targets import record_of

Convert = Callable[[Any], Any]
Parts = dict[str, Any]
"""What the constructor of a message class takes."""

_F = FieldDescriptor
_SINGLE = Struct("<f")
_INTS: Mapping[int, tuple[int, int]] = {
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), (-(1 << 31), (1 << 31) - 1)),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), (-(1 << 63), (1 << 63) - 1)),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), (0, (1 << 32) - 1)),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), (0, (1 << 64) - 1)),
}
"""The lowest and the highest value."""


class Plan(NamedTuple):
    """How the fields of a message are filled from a record: the attribute, the field, and what converts the value."""

    held: Callable[[Any], Mapping[str, Any]]  # the values by the names of attributes
    fields: list[tuple[str, str, Convert]]
    oneofs: list[tuple[str, Callable[[Any], tuple[str, Any]]]]  # gives the field, too


class MessageWriter:
    """Makes messages of one descriptor pool from Python values."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._fillers: dict[str, Convert] = {}

    def message(self, descriptor: Any, value: Any) -> Any:
        """A message with what is in a record or a mapping.

        Raises:
            UnwritableError: a value cannot stand in its field.
        """
        return GetMessageClass(descriptor)(**self._filler(descriptor)(value))

    def _filler(self, descriptor: Any) -> Convert:
        """A function from records and mappings to the parts of a message. None is left out: if a field cannot be unset,
        reading back shows that."""
        if descriptor.full_name in self._fillers:
            return self._fillers[descriptor.full_name]
        plans: dict[type, Plan] = {}
        by_key: dict[str, tuple[str, Convert]] = {}

        def fill(value: Any) -> Any:
            plan = plans.get(type(value))
            if plan is None:
                if isinstance(value, Mapping):
                    return self._of_mapping(descriptor, by_key, value)
                if isinstance(value, RootModel):
                    return fill(value.root)
                if isinstance(value, Message):
                    return _same_message(value, descriptor.full_name)
                plan = plans[type(value)] = self._plan(descriptor, type(value))
            held, parts, name = plan.held(value), {}, ""
            try:
                for name, field, convert in plan.fields:
                    part = held.get(name)
                    if part is not None:
                        parts[field] = convert(part)
                for name, choose in plan.oneofs:
                    part = held.get(name)
                    if part is not None:
                        field, parts[field] = choose(part)
            except UnwritableError as error:
                raise error.within(name) from None
            return parts

        self._fillers[descriptor.full_name] = fill
        return fill

    def _plan(self, descriptor: Any, kind: Any) -> Plan:
        record = record_of(kind)
        if record is None:
            raise UnwritableError(f"a {kind.__name__} is no message {descriptor.full_name}")
        if not self._kinds.fits(kind, descriptor):
            raise UnwritableError(f"a {kind.__name__} stands for another message than {descriptor.full_name}")
        plan = Plan(_attributes_of(kind), [], [])
        for field in descriptor.fields:
            target = record.field(field.name, field.json_name)
            if target is not None and not target.excluded:
                plan.fields.append((target.name, field.name, self._converter(field)))
            elif target is None and record.takes_others:
                plan.fields.append((field.name, field.name, self._converter(field)))
        for oneof in real_oneofs(descriptor):
            target = None if oneof.name in descriptor.fields_by_name else record.field(oneof.name, camel(oneof.name))
            if target is not None and not target.excluded:
                plan.oneofs.append((target.name, self._chooser(oneof)))
        return plan

    def _of_mapping(self, descriptor: Any, by_key: dict[str, tuple[str, Convert]], value: Mapping[Any, Any]) -> Parts:
        for field in () if by_key else descriptor.fields:
            by_key[field.name] = by_key[field.json_name] = (field.name, self._converter(field))
        parts: Parts = {}
        for key, held in value.items():
            known = by_key.get(key)
            if known is None:
                raise UnwritableError(f"{descriptor.full_name} has no such field", key if _is_name(key) else "?")
            if held is not None:
                try:
                    parts[known[0]] = known[1](held)
                except UnwritableError as error:
                    raise error.within(key) from None
        return parts

    # --- fields

    def _converter(self, field: Any) -> Convert:
        if is_map(field):
            key, value = (field.message_type.fields_by_number[number] for number in (1, 2))
            return _of_map(self._singular(key), self._item_of_map(value))
        each = self._singular(field)
        return _of_items(each) if is_repeated(field) else each

    def _item_of_map(self, field: Any) -> Convert:
        convert = self._singular(field)
        if field.type not in MESSAGES:
            return convert
        make = GetMessageClass(field.message_type)
        return lambda value: item_of_map(make, convert(value))

    def _singular(self, field: Any) -> Convert:
        if field.type in MESSAGES:
            return self._of_message(field.message_type)
        if field.type == _F.TYPE_ENUM:
            return _enum(field.enum_type)
        if field.type in _INTS:
            return _int(*_INTS[field.type])
        return _SCALARS[field.type]

    def _of_message(self, descriptor: Any) -> Convert:
        name = descriptor.full_name
        if name in WRAPPERS:
            inner = self._singular(descriptor.fields_by_name["value"])
            return lambda value: {"value": inner(value)}
        if name == ANY:
            return lambda value: self._packed(descriptor.file.pool, value)
        fill, known = FILLERS.get(name), PARTS.get(name)
        if known is None and fill is None:
            return self._filler(descriptor)

        def convert(value: Any) -> Any:
            value = _bare(value)
            if isinstance(value, Message):
                return _same_message(value, name)
            if fill is not None:
                return _filled(descriptor, fill, value)
            if known is None or is_record(value) or isinstance(value, Mapping):
                return self._filler(descriptor)(value)
            return known(value)

        return convert

    def _packed(self, pool: Any, value: Any) -> Any:
        """What an Any holds: a dict says its type in `@type`, a record by the mapping of messages."""
        name = value.get("@type") if isinstance(value, Mapping) else self._kinds.name_of(type(value))
        name = name.rpartition("/")[2] if isinstance(name, str) else ""
        try:
            descriptor = pool.FindMessageTypeByName(name)
        except KeyError:
            raise UnwritableError("an Any needs a message of a known type: '@type' in a dict") from None
        if isinstance(value, Mapping):
            value = {key: held for key, held in value.items() if key != "@type"}
        if isinstance(value, Mapping) and (name in FILLERS or name in PARTS):
            parts = self._of_message(descriptor)(value.get("value"))
            message = parts if isinstance(parts, Message) else GetMessageClass(descriptor)(**parts)
        else:
            message = self.message(descriptor, value)
        return {"type_url": f"type.googleapis.com/{name}", "value": message.SerializeToString()}

    def _chooser(self, oneof: Any) -> Callable[[Any], tuple[str, Any]]:
        """Finds the field of a oneof by the value's type."""
        converters = {field.name: self._singular(field) for field in oneof.fields}

        def choose(value: Any) -> tuple[str, Any]:
            value = value.root if isinstance(value, RootModel) else value
            fields = [field for field in oneof.fields if self._may_hold(field, value, oneof)]
            if len(fields) != 1:
                which = "no" if not fields else "more than one"
                raise UnwritableError(f"{which} field of the oneof is for a {type(value).__name__}")
            return fields[0].name, converters[fields[0].name](value)

        return choose

    def _may_hold(self, field: Any, value: Any, oneof: Any) -> bool:
        if field.type == _F.TYPE_ENUM:
            return isinstance(value, Enum)
        if field.type == _F.TYPE_STRING:
            return isinstance(value, str)
        if field.type not in MESSAGES:
            return type(value) in _PYTHON[field.cpp_type]
        kind: Any = type(value)
        if record_of(kind) is None:
            return field.message_type.full_name in (*PARTS, *FILLERS, *WRAPPERS)
        messages = [each for each in oneof.fields if each.type in MESSAGES]
        chosen = [each for each in messages if self._kinds.pick([kind], each.message_type)]
        return field in (chosen or (messages if len(messages) == 1 else []))


_PYTHON: Mapping[int, tuple[type, ...]] = {
    **dict.fromkeys((_F.CPPTYPE_INT32, _F.CPPTYPE_INT64, _F.CPPTYPE_UINT32, _F.CPPTYPE_UINT64), (int,)),
    **dict.fromkeys((_F.CPPTYPE_FLOAT, _F.CPPTYPE_DOUBLE), (float,)),
    _F.CPPTYPE_BOOL: (bool,),
    _F.CPPTYPE_STRING: (bytes,),
}


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key.isidentifier() and len(key) <= 40


def _filled(descriptor: Any, fill: Callable[[Any, Any], None], value: Any) -> Any:
    message = GetMessageClass(descriptor)()
    fill(message, value)
    return message


def _same_message(value: Any, full_name: str) -> Any:
    if value.DESCRIPTOR.full_name != full_name:
        raise unwritable(value, full_name)
    return value


def _attributes_of(kind: Any) -> Callable[[Any], Mapping[str, Any]]:
    """A function that gives the values of a record by the names of its attributes."""
    if not issubclass(kind, BaseModel):
        return fields_of if is_dataclass(kind) else kind._asdict
    return fields_of if kind.model_config.get("extra") == "allow" else attrgetter("__dict__")


def _bare(value: Any) -> Any:
    """What a RootModel or the member of an Enum holds."""
    while isinstance(value, RootModel | Enum):
        value = value.root if isinstance(value, RootModel) else value.value
    return value


def _of_items(each: Convert) -> Convert:
    def convert(value: Any) -> list[Any]:
        if type(value) is not list:
            value = _bare(value)
            if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
                raise unwritable(value, "list")
        found: list[Any] = []
        try:
            for item in value:
                if item is None:
                    raise UnwritableError("None is no item of a list")
                found.append(each(item))
        except UnwritableError as error:
            raise error.within(str(len(found))) from None
        return found

    return convert


def _of_map(of_key: Convert, of_value: Convert) -> Convert:
    def convert(value: Any) -> dict[Any, Any]:
        value = _bare(value)
        if not isinstance(value, Mapping):
            raise unwritable(value, "map")
        found = {}
        try:
            for key, held in value.items():
                if held is None:
                    raise UnwritableError("None is no value of a map")
                found[of_key(key)] = of_value(held)
        except UnwritableError as error:
            raise error.within("?") from None
        return found

    return convert


def _int(low: int, high: int) -> Convert:
    def convert(value: Any) -> int:
        if type(value) is not int:
            value = _bare(value)
            if not isinstance(value, int):
                raise unwritable(value, "int")
            value = int(value)
        if low <= value <= high:
            return value  # type: ignore[no-any-return]
        raise UnwritableError("the int is out of range")

    return convert


def _bool(value: Any) -> bool:
    value = _bare(value)
    if not isinstance(value, bool):
        raise unwritable(value, "bool")
    return value


def _float(value: Any) -> float:
    if type(value) is float:
        return value
    value = _bare(value)
    if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        raise unwritable(value, "number")
    try:
        return float(value)
    except (OverflowError, ValueError):
        raise UnwritableError("the number is too large for a float") from None


def _single(value: Any) -> float:
    """A float of 32 bits, to which Python's are rounded."""
    number = _float(value)
    try:
        _SINGLE.pack(number)
    except OverflowError:
        raise UnwritableError("a float of 32 bits does not hold it: let the field be a double") from None
    return number


def _text(value: Any) -> str:
    if type(value) is not str:
        value = _bare(value)
        value = str(value) if isinstance(value, str) else _as_text(value)
    return value if value.isascii() else encodable(value)


def _as_text(value: Any) -> str:
    """What pydantic writes as text, such as a UUID or a Decimal."""
    try:
        found = None if isinstance(value, bytes | bytearray) else to_jsonable_python(value)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, str):
        raise unwritable(value, "text")
    return found


def _bytes(value: Any) -> bytes:
    value = _bare(value)
    if isinstance(value, UUID):
        return value.bytes
    if not isinstance(value, bytes | bytearray | memoryview):
        raise unwritable(value, "bytes")
    return bytes(value)


_SCALARS: Mapping[int, Convert] = {
    _F.TYPE_BOOL: _bool,
    _F.TYPE_DOUBLE: _float,
    _F.TYPE_FLOAT: _single,
    _F.TYPE_STRING: _text,
    _F.TYPE_BYTES: _bytes,
}


def _enum(enum: Any) -> Convert:
    known: dict[type, dict[Any, int]] = {}
    names = {value.name: value.number for value in enum.values}

    def convert(value: Any) -> int:
        value = value.root if isinstance(value, RootModel) else value
        if isinstance(value, Enum):
            kind = type(value)
            numbers = known.get(kind)
            if numbers is None:
                numbers = known[kind] = numbers_of(enum, kind)
            found = numbers.get(value)
        elif isinstance(value, str):
            found = names.get(value)
        else:
            found = value if isinstance(value, int) and not isinstance(value, bool) else None
        if found is None:
            raise UnwritableError(f"the {type(value).__name__} is no value of the enum {enum.full_name}")
        if not -(1 << 31) <= found < 1 << 31:
            raise UnwritableError("the int is out of range")
        return found

    return convert

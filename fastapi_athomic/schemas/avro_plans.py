"""How the values of one class become the fields of one record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from operator import attrgetter
from typing import Any
from uuid import UUID

from pydantic import BaseModel, RootModel

from ..compatibility import type_adapter
from .avro_binary import Output
from .avro_defaults import default_bytes
from .avro_logical import Unfit
from .avro_schema import ABSENT, Node
from .avro_shapes import RECORDS, Expected, Shape, ShapeField, fields_of

Put = Callable[[Output, Any], None]
"""Writes a value. Raises `Unfit`."""
_LONGEST_KEY = 40
_attributes = attrgetter("__dict__")
_TYPES: Mapping[str, type] = {
    **{kind.__name__: kind for kind in (str, int, float, bool, bytes, datetime, date, time, timedelta)},
    **{kind.__name__: kind for kind in (list, dict, set, frozenset, tuple)},
    "decimal": Decimal,
    "uuid": UUID,
}
"""Of the values of a shape, if they are valid."""


def is_record(value: object) -> bool:
    """Whether it is a dataclass or one of its instances."""
    return is_dataclass(value)


def plan_of(kind: type, node: Node, of: Callable[[Node], Put], put: Put) -> Put:
    """What writes values of a class as a record. What cannot be written is refused by that.

    Args:
        kind: the class.
        node: the record.
        of: gives what writes the fields' types.
        put: writes other values as the same record.
    """
    if issubclass(kind, RootModel):
        return _odd(lambda out, value: put(out, value.root))
    if issubclass(kind, BaseModel) or is_dataclass(kind):
        shape = shape_of(kind)
        if shape is None or has_own_serializers(shape):
            dump = type_adapter(kind).serializer.to_python
            return _odd(lambda out, value: put(out, dump(value, by_alias=True, warnings=False)))
        return _of_class(kind, shape, node, of)
    if issubclass(kind, Mapping):
        return _of_mapping(node, of)
    return partial(_refuse, f"the schema has the record {node.name}, which a {kind.__name__} does not become", "")


def _odd(put: Put) -> Put:
    def put_odd(out: Output, value: Any) -> None:
        out.odd = True
        put(out, value)

    return put_odd


def _refuse(reason: str, path: str, out: Output, value: Any) -> None:
    raise Unfit(reason).inside(path) if path else Unfit(reason)


def shape_of(kind: type) -> Shape | None:
    """The core schema of a model or dataclass itself."""
    shapes = Expected(type_adapter(kind)).whole
    return next((shape for shape in shapes if shape["type"] in RECORDS and shape["cls"] is kind), None)


def has_own_serializers(shape: Shape) -> bool:
    """Whether functions of the user's decide how the model, or something in a field of it, is written."""
    return any(
        function.get("type", "").startswith("function") and not _is_pydantics(function)
        for function in _serializations(shape)
    )


def _is_pydantics(function: Shape) -> bool:
    return str(getattr(function.get("function"), "__module__", "")).startswith("pydantic")


def _serializations(schema: Any, inside: bool = False) -> Iterator[Shape]:
    if isinstance(schema, Mapping):
        if inside and schema.get("type") in RECORDS:
            return
        if isinstance(schema.get("serialization"), Mapping):
            yield schema["serialization"]
        for key, part in schema.items():
            if key not in ("metadata", "default", "config", "serialization"):
                yield from _serializations(part, inside=True)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from _serializations(part, inside=True)


# --- models and dataclasses


def matched(shape: Shape, node: Node) -> tuple[dict[str, ShapeField], list[ShapeField]]:
    """Fields of a class by the names of the record's fields that they are, and those that the record lacks."""
    names = {each.name for each in node.fields}
    found: dict[str, ShapeField] = {}
    lost: list[ShapeField] = []
    for field in fields_of(shape):
        wanted = [name for name in (field.written_as, field.name, *sorted(field.read_as)) if name in field.read_as]
        name = next((name for name in wanted if name in names), None)
        if field.excluded:
            continue
        if name is None:
            lost.append(field)
        else:
            found[name] = field
    return found, lost


def _of_class(kind: type, shape: Shape, node: Node, of: Callable[[Node], Put]) -> Put:
    found, lost = matched(shape, node)
    extra = (shape.get("config") or {}).get("extra_fields_behavior")
    expected = Expected(type_adapter(kind))
    parts: list[tuple[str, tuple[type, ...], Put]] = []  # of a field: the attribute, its types, what writes it
    names: dict[str, str] = {}
    for each in node.fields:
        if each.name in found:
            field = found[each.name]
            names[field.name] = each.name
            parts.append((field.name, _types(field, expected), of(each.node)))
        elif each.default is ABSENT:
            return partial(_refuse, f"{kind.__name__} has no such field, and the schema no default for it", each.name)
        elif extra in ("forbid", "allow"):
            reason = f"{kind.__name__} has no such field, and would not be read back with the schema's default"
            return partial(_refuse, reason, each.name)
        else:
            parts.append(("", (), partial(_put_default, default_bytes(each))))
    is_model = issubclass(kind, BaseModel)
    held_by: Callable[[Any], Mapping[str, Any]] = _slots if hasattr(kind, "__slots__") and not is_model else _attributes
    checks = bool(lost) or extra == "allow"

    def put(out: Output, value: Any) -> None:
        held = held_by(value)
        attribute = ""
        try:
            for attribute, types, put_field in parts:
                if attribute:
                    item = held[attribute]
                    if type(item) not in types:
                        out.odd = True
                    put_field(out, item)
                else:
                    put_field(out, None)
        except Unfit as error:
            raise error.inside(names[attribute]) from None
        except KeyError:
            if attribute in held:
                raise
            raise Unfit("it has no value").inside(names[attribute]) from None
        if checks:
            _check_lost(value, held, lost)

    return put


def _put_default(data: bytes, out: Output, value: Any) -> None:
    out += data


def _types(field: ShapeField, expected: Expected) -> tuple[type, ...]:
    """The types of a field's valid values. Values of others are odd; so are all if this is not known."""
    types = [shape.get("cls") or _TYPES.get(shape["type"]) for shape in expected.shapes(field.schema)]
    if not types or None in types:
        return ()
    return (*types, type(None)) if expected.allows_none(field.schema) else tuple(types)  # type: ignore[arg-type]


def _slots(value: Any) -> Mapping[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__ if hasattr(value, name)}


def _check_lost(value: Any, held: Mapping[str, Any], lost: list[ShapeField]) -> None:
    """Raises `Unfit` if a field that the schema lacks holds anything but its default, which is read back anyway."""
    for field in lost:
        if field.name in held and not _is_default(held[field.name], field.schema):
            raise Unfit("the schema has no such field, and it is not the default").inside(field.name)
    for name in getattr(value, "__pydantic_extra__", None) or ():
        raise Unfit("the schema has no such field").inside(_shown(name))


def _is_default(value: Any, schema: Shape) -> bool:
    while schema["type"] != "default":
        if not isinstance(schema.get("schema"), Mapping):
            return False
        schema = schema["schema"]
    if "default_factory" not in schema:
        default = schema["default"]
    elif schema.get("default_factory_takes_data"):
        return False
    else:
        default = schema["default_factory"]()
    return type(default) is type(value) and bool(default == value)


# --- mappings


def _of_mapping(node: Node, of: Callable[[Node], Put]) -> Put:
    fields = [(each.name, each.default is not ABSENT and default_bytes(each), of(each.node)) for each in node.fields]
    names = {each.name for each in node.fields}

    def put(out: Output, value: Mapping[Any, Any]) -> None:
        found = 0
        for name, default, put_field in fields:
            if name in value:
                found += 1
                try:
                    put_field(out, value[name])
                except Unfit as error:
                    raise error.inside(name) from None
            elif default is not False:
                out += default
            else:
                raise Unfit("it is missing, and the schema has no default for it").inside(name)
        if found < len(value):
            extra = next(key for key in value if key not in names)
            raise Unfit(f"{node.name} has no such field").inside(_shown(extra))

    return put


def _shown(key: Any) -> str:
    """Keys are data, but for those that look like names."""
    return key if isinstance(key, str) and key.isidentifier() and len(key) <= _LONGEST_KEY else "?"

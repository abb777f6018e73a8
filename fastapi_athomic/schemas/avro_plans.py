"""How the values of one class become the fields of one record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from pydantic import BaseModel, RootModel

from ..compatibility import type_adapter
from .avro_defaults import raw_default
from .avro_logical import Convert, Unfit
from .avro_schema import ABSENT, Field, Node
from .avro_shapes import RECORDS, Expected, Shape, ShapeField, fields_of

Plan = Callable[[Any], Any]
_UNCHANGED = {"string": str, "boolean": bool, "double": float, "bytes": bytes}
"""Types whose values need no look. Values of subclasses do."""
_LONGEST_KEY = 40
_attributes = attrgetter("__dict__")
_Part = tuple[str, str, type | None, Convert]
"""Of a field: its name in the schema, that of the attribute, the type whose values need no look, the conversion."""


def is_record(value: object) -> bool:
    """Whether it is a dataclass or one of its instances."""
    return is_dataclass(value)


def plan_of(kind: type, node: Node, of: Callable[[Node], Convert], convert: Convert) -> Plan:
    """How values of a class are converted. What cannot be is refused by the plan.

    Args:
        kind: the class.
        node: the record.
        of: gives the conversions of the fields' types.
        convert: converts other values into the same record.
    """
    if issubclass(kind, RootModel):
        return lambda value: convert(value.root)
    if issubclass(kind, BaseModel) or is_dataclass(kind):
        shape = shape_of(kind)
        if shape is None or has_own_serializers(shape):
            dump = type_adapter(kind).serializer.to_python
            return lambda value: convert(dump(value, by_alias=True, warnings=False))
        return _of_class(kind, shape, node, of)
    if issubclass(kind, Mapping):
        return partial(_of_mapping, [(each, _unchanged(each.node), of(each.node)) for each in node.fields], node)
    return partial(_refuse, f"the schema has the record {node.name}, which a {kind.__name__} does not become")


def _refuse(reason: str, _: object, path: str = "") -> Any:
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


def _of_class(kind: type, shape: Shape, node: Node, of: Callable[[Node], Convert]) -> Plan:
    found, lost = matched(shape, node)
    parts: list[_Part] = []
    filled: dict[str, Any] = {}
    for each in node.fields:
        if each.name in found:
            parts.append((each.name, found[each.name].name, _unchanged(each.node), of(each.node)))
        elif each.default is not ABSENT:
            filled[each.name] = raw_default(each.node, each.default)
        else:
            reason = f"{kind.__name__} has no such field, and the schema no default for it"
            return partial(_refuse, reason, path=each.name)
    is_model = issubclass(kind, BaseModel)
    held_by: Callable[[Any], Mapping[str, Any]] = _attributes if hasattr(kind, "__dict__") else _slots
    if hasattr(kind, "__slots__") and not is_model:
        held_by = _slots
    checks = bool(lost) or shape.get("config", {}).get("extra_fields_behavior") == "allow"

    def convert(value: Any) -> dict[str, Any]:
        held = held_by(value)
        fields = filled.copy()
        name = ""
        try:
            for name, attribute, unchanged, convert_field in parts:
                item = held[attribute]
                fields[name] = item if type(item) is unchanged else convert_field(item)
        except Unfit as error:
            raise error.inside(name) from None
        except KeyError:
            raise Unfit("it has no value").inside(name) from None
        if checks:
            _check_lost(value, held, lost)
        return fields

    return convert


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


def _of_mapping(
    fields: list[tuple[Field, type | None, Convert]], node: Node, value: Mapping[Any, Any]
) -> dict[str, Any]:
    record: dict[str, Any] = {}
    absent = 0
    for field, unchanged, convert in fields:
        name = field.name
        if name in value:
            item = value[name]
            try:
                record[name] = item if type(item) is unchanged else convert(item)
            except Unfit as error:
                raise error.inside(name) from None
        elif field.default is not ABSENT:
            record[name] = raw_default(field.node, field.default)
            absent += 1
        else:
            raise Unfit("it is missing, and the schema has no default for it").inside(name)
    if len(record) - absent < len(value):
        extra = next(key for key in value if key not in record)
        raise Unfit(f"{node.name} has no such field").inside(_shown(extra))
    return record


def _shown(key: Any) -> str:
    """Keys are data, but for those that look like names."""
    return key if isinstance(key, str) and key.isidentifier() and len(key) <= _LONGEST_KEY else "?"


def _unchanged(node: Node) -> type | None:
    return _UNCHANGED.get(node.kind) if node.logical is None else None

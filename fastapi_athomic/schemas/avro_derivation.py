"""The Avro schema that a model would have, for those who register what they publish.

Derived from pydantic's core schema, so that what is written by it is what the same type reads. A library for this
(py-avro-schema) brings five others along, and has ideas of its own about names and about what is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from ..compatibility import class_of, type_adapter
from ..exceptions import ConfigurationError
from .avro_logical import Duration
from .avro_shapes import OPEN, RECORDS, Expected, Shape, ShapeField, fields_of, names_of

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCALARS: Mapping[str, Any] = {
    "str": "string",
    "bool": "boolean",
    "int": "long",
    "float": "double",
    "bytes": "bytes",
    "uuid": {"type": "string", "logicalType": "uuid"},
    "date": {"type": "int", "logicalType": "date"},
    "time": {"type": "long", "logicalType": "time-micros"},
    "datetime": {"type": "long", "logicalType": "timestamp-micros"},
}
_LISTS = frozenset(("list", "set", "frozenset", "deque", "tuple"))


def derived_schema(kind: Any, namespace: str | None, names: Mapping[type, str]) -> str:
    """The JSON text of the schema of a type.

    Args:
        kind: the type.
        namespace: of its records, unless a model's title is a full name.
        names: full names of records by their models.

    Raises:
        ConfigurationError: something in it has no Avro type. The text names the field.
    """
    adapter = type_adapter(kind)
    return json.dumps(_Derivation(Expected(adapter), namespace, names).of(adapter.core_schema, ""))


class _Derivation:
    def __init__(self, expected: Expected, namespace: str | None, names: Mapping[type, str]) -> None:
        self._expected = expected
        self._namespace = namespace
        self._names = names
        self._defined: dict[str, object] = {}  # what stands under a full name

    def of(self, schema: Shape, path: str) -> Any:
        """The Avro schema for a core schema."""
        shapes = self._expected.shapes(schema)
        if not shapes:
            raise _no_type(path, "anything")
        branches: list[Any] = ["null"] if self._expected.allows_none(schema) else []
        for shape in shapes:
            branch = self._of_shape(shape, path)
            if branch not in branches:
                branches.append(branch)
        return branches[0] if len(branches) == 1 else branches

    def _of_shape(self, shape: Shape, path: str) -> Any:
        kind = shape["type"]
        if kind in _SCALARS:
            return _SCALARS[kind]
        if kind == "decimal":
            return _decimal(shape, path)
        if kind == "enum":
            return self._enum(shape["cls"], path)
        if kind == "literal" and all(isinstance(value, str) for value in shape["expected"]):
            return "string"
        if kind in _LISTS:
            items = shape.get("items_schema")
            if isinstance(items, list):
                if len(items) != 1 or "variadic_item_index" not in shape:
                    raise _no_type(path, "a tuple of unlike items")
                items = items[0]
            if items is None:
                raise _no_type(path, "a list of anything")
            return {"type": "array", "items": self.of(items, f"{path}[]")}
        if kind == "dict" and "values_schema" in shape:
            return {"type": "map", "values": self.of(shape["values_schema"], f"{path}[]")}
        if kind == "timedelta" or class_of(shape) is Duration:
            return self._named(Duration.__name__, {"type": "fixed", "size": 12, "logicalType": "duration"}, "duration")
        if kind in RECORDS or (kind == "typed-dict" and "cls" in shape):
            return self._record(shape, path)
        raise _no_type(path, "anything" if kind in OPEN else kind)

    def _record(self, shape: Shape, path: str) -> Any:
        kind = shape["cls"]
        name = self._full_name(kind)
        if self._defined.get(name) is kind:
            return name
        self._define(name, kind, path)
        fields = [self._field(field, path) for field in fields_of(shape) if not field.excluded]
        return {"type": "record", "name": name, "fields": fields}

    def _field(self, field: ShapeField, path: str) -> dict[str, Any]:
        name = field.written_as if field.written_as in field.read_as else min(field.read_as, default=field.name)
        there = f"{path}.{name}".lstrip(".")
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"the field {there} has a name that Avro does not allow")
        made = {"name": name, "type": self.of(field.schema, there)}
        default = _default(field.schema)
        if isinstance(made["type"], list) and made["type"][0] == "null" and default is None:
            made["default"] = None
        elif type(default) in (str, int, float, bool) and made["type"] == _SCALARS.get(type(default).__name__):
            made["default"] = default
        return made

    def _enum(self, kind: type[Enum], path: str) -> Any:
        values = [member.value for member in kind]
        symbols = values if all(isinstance(value, str) and _NAME.fullmatch(value) for value in values) else None
        symbols = symbols or [member.name for member in kind]
        name = self._full_name(kind)
        if self._defined.get(name) is kind:
            return name
        self._define(name, kind, path)
        return {"type": "enum", "name": name, "symbols": symbols}

    def _named(self, simple_name: str, schema: dict[str, Any], meaning: object) -> Any:
        name = f"{self._namespace}.{simple_name}" if self._namespace else simple_name
        if self._defined.get(name) is meaning:
            return name
        self._define(name, meaning, "")
        return {**schema, "name": name}

    def _define(self, name: str, meaning: object, path: str) -> None:
        if name in self._defined:
            raise ConfigurationError(f"two types would be called {name}, one of them at {path}: give one a title")
        self._defined[name] = meaning

    def _full_name(self, kind: type) -> str:
        if kind in self._names:
            return self._names[kind]
        own = kind.__name__.partition("[")[0]
        full = [name for name in names_of(kind) if "." in name]
        titles = [name for name in names_of(kind) if name != own and _NAME.fullmatch(name)]
        if full:
            return full[0]
        name = titles[0] if titles else own
        return f"{self._namespace}.{name}" if self._namespace else name


def _decimal(shape: Shape, path: str) -> dict[str, Any]:
    precision, scale = shape.get("max_digits"), shape.get("decimal_places")
    if precision is None or scale is None:
        raise ConfigurationError(
            f"the field {path or 'itself'} is a Decimal without limits, and Avro's have some: "
            "Field(max_digits=..., decimal_places=...)"
        )
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def _default(schema: Shape) -> Any:
    """The default of a field if it is plain; else something that is no default of a schema."""
    while schema["type"] != "default":
        if not isinstance(schema.get("schema"), Mapping):
            return ...
        schema = schema["schema"]
    return schema.get("default", ...)


def _no_type(path: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"{path or 'the message'} may be {what}, for which Avro has no type: give a schema")

"""What does a handler's type expect at one place of a message? Read from pydantic's core schema.

Only to choose between forms of one value that pydantic would take or refuse: a number or a datetime, one model or
another. pydantic validates everything afterwards, so that a shape that is not understood costs no correctness: it is
left out, and the value comes as if nothing were declared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from ..payload.fidelity import shows_raw_records

Shape = Mapping[str, Any]
"""A core schema that is no wrapper around another one."""
Shapes = tuple[Shape, ...]
"""The shapes between which a value may choose. Empty: nothing is declared."""

RECORDS = frozenset(("model", "dataclass"))
LISTS = frozenset(("list", "tuple", "set", "frozenset", "deque", "generator"))
_WRAPPERS: Mapping[str, str] = {
    **dict.fromkeys(("nullable", "default", "function-before", "function-after", "function-wrap"), "schema"),
    "lax-or-strict": "lax_schema",
    "json-or-python": "python_schema",
}
UNUSED: Shape = {"type": "unused"}
"""What is expected of a field that the type does not have, and ignores."""
OPEN = frozenset(("any", "function-plain", "is-instance", "custom-error"))
"""Shapes that say nothing of what they take."""


class Expected:
    """What a type expects.

    Args:
        adapter: of the type.
    """

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self._adapter = adapter  # shapes are told apart by `id`, so they must stay
        self._definitions: dict[str, Shape] = {}
        self.tagged: set[int] = set()  # the `id`s of shapes between which a discriminator tells
        self.whole = self.shapes(adapter.core_schema)
        self._ignores = not shows_raw_records(adapter.core_schema)

    def shapes(self, schema: Shape | None) -> Shapes:
        """The shapes of a core schema; () if it may be anything."""
        found: list[Shape] = []
        if schema is not None:
            self._collect(schema, found, set())
        return () if any(shape["type"] in OPEN for shape in found) else tuple(found)

    def _collect(self, schema: Shape, found: list[Shape], seen: set[int]) -> None:
        if id(schema) in seen:
            return
        seen.add(id(schema))
        kind = schema["type"]
        if kind == "definitions":
            self._definitions.update((each["ref"], each) for each in schema["definitions"])
            self._collect(schema["schema"], found, seen)
        elif kind == "definition-ref":
            self._collect(self._definitions[schema["schema_ref"]], found, seen)
        elif kind in _WRAPPERS:
            self._collect(schema[_WRAPPERS[kind]], found, seen)
        elif kind == "chain":
            self._collect(schema["steps"][-1], found, seen)
        elif kind == "union":
            for choice in schema["choices"]:
                self._collect(choice[0] if isinstance(choice, tuple) else choice, found, seen)
        elif kind == "tagged-union":
            before = len(found)
            for choice in schema["choices"].values():
                if isinstance(choice, Mapping):
                    self._collect(choice, found, seen)
            self.tagged.update(map(id, found[before:]))
        elif kind == "model" and schema.get("root_model"):
            self._collect(schema["schema"], found, seen)
        elif kind != "none":
            found.append(schema)

    def allows_none(self, schema: Shape) -> bool:
        """Whether None is one of the values of a core schema."""
        kind = schema["type"]
        if kind in ("none", "nullable"):
            return True
        if kind == "definition-ref":
            return self.allows_none(self._definitions[schema["schema_ref"]])
        if kind == "union":
            choices = [choice[0] if isinstance(choice, tuple) else choice for choice in schema["choices"]]
            return any(self.allows_none(choice) for choice in choices)
        inside = schema.get(_WRAPPERS.get(kind, "schema"))
        wraps = kind in _WRAPPERS or kind == "definitions" or (kind == "model" and schema.get("root_model"))
        return bool(wraps and isinstance(inside, Mapping) and self.allows_none(inside))

    def field(self, shapes: Shapes, name: str) -> Shapes:
        """What is expected of a record's field."""
        found: list[Shape] = []
        for shape in shapes:
            if shape["type"] == "dict":
                found.extend(self.shapes(shape.get("values_schema")) or ({"type": "any"},))
            for field in fields_of(shape):
                if name in field.read_as:
                    found.extend(self.shapes(field.schema) or ({"type": "any"},))
        if not found and shapes and self._ignores and all(_ignores(shape, name) for shape in shapes):
            return (UNUSED,)
        return () if any(shape["type"] in OPEN for shape in found) else tuple(found)

    def items(self, shapes: Shapes) -> Shapes:
        """What is expected of the items of an array."""
        found: list[Shape] = []
        for shape in shapes:
            if shape is UNUSED:
                return (UNUSED,)
            if shape["type"] in LISTS:
                items = shape.get("items_schema")
                for each in items if isinstance(items, list) else (items,):
                    found.extend(self.shapes(each) or ({"type": "any"},))
        return () if any(shape["type"] in OPEN for shape in found) else tuple(found)

    def values(self, shapes: Shapes) -> Shapes:
        """What is expected of the values of a map."""
        found: list[Shape] = []
        for shape in shapes:
            if shape is UNUSED:
                return (UNUSED,)
            if shape["type"] == "dict":
                found.extend(self.shapes(shape.get("values_schema")) or ({"type": "any"},))
        return () if any(shape["type"] in OPEN for shape in found) else tuple(found)


class ShapeField:
    """A field of a model, dataclass or TypedDict.

    `name` is that of the attribute, `written_as` that under which pydantic dumps it, `read_as` are those under which
    it is validated, and `looks_into` those of fields inside which it is found.
    """

    __slots__ = ("excluded", "looks_into", "name", "read_as", "required", "schema", "written_as")

    def __init__(self, name: str, field: Shape, by_alias: bool, by_name: bool) -> None:
        self.name = name
        self.schema: Shape = field["schema"]
        self.written_as: str = field.get("serialization_alias", name)
        alias = field.get("validation_alias")
        self.read_as = frozenset(_aliases(alias)) if alias is not None and by_alias else frozenset()
        self.looks_into = frozenset(_paths(alias)) if by_alias else frozenset[str]()
        if alias is None or by_name:
            self.read_as |= {name}
        self.required = field.get("required", not _has_default(self.schema))
        self.excluded = bool(field.get("serialization_exclude"))


def fields_of(shape: Shape) -> Iterator[ShapeField]:
    """The fields of a model, dataclass or TypedDict; none of other shapes."""
    config = shape.get("config") or {}
    by_alias = config.get("validate_by_alias", True) is not False
    by_name = bool(config.get("validate_by_name") or config.get("populate_by_name"))
    inner = shape
    while inner["type"] in _WRAPPERS or inner["type"] in RECORDS:
        inner = inner[_WRAPPERS.get(inner["type"], "schema")]
    if inner["type"] in ("model-fields", "typed-dict"):
        for name, field in inner["fields"].items():
            yield ShapeField(name, field, by_alias, by_name)
    elif inner["type"] == "dataclass-args":
        for field in inner["fields"]:
            yield ShapeField(field["name"], field, by_alias, by_name)


def _aliases(alias: Any) -> Iterator[str]:
    """The names in a validation alias: a name, a path, or several of both. A path is left out unless it is one name."""
    if isinstance(alias, str):
        yield alias
    elif isinstance(alias, list) and alias and isinstance(alias[0], list):
        for each in alias:
            yield from _aliases(each)
    elif isinstance(alias, list) and len(alias) == 1 and isinstance(alias[0], str):
        yield alias[0]


def _paths(alias: Any) -> Iterator[str]:
    """The first names of the paths in a validation alias."""
    if isinstance(alias, list) and alias and isinstance(alias[0], list):
        for each in alias:
            yield from _paths(each)
    elif isinstance(alias, list) and len(alias) > 1 and isinstance(alias[0], str):
        yield alias[0]


def _ignores(shape: Shape, name: str) -> bool:
    """Whether a model, dataclass or TypedDict has no use for a field of this name."""
    if shape is UNUSED:
        return True
    if shape["type"] not in RECORDS and shape["type"] != "typed-dict":
        return False
    return extra_of(shape) != "allow" and not any(name in field.looks_into for field in fields_of(shape))


def extra_of(shape: Shape) -> str:
    """What a record does with fields that it does not have: "ignore", "allow" or "forbid"."""
    found = (shape.get("config") or {}).get("extra_fields_behavior")
    while found is None and shape["type"] in (*_WRAPPERS, *RECORDS):
        shape = shape[_WRAPPERS.get(shape["type"], "schema")]
        found = shape.get("extra_behavior")
    return str(found or "ignore")


def _has_default(schema: Shape) -> bool:
    while schema["type"] in _WRAPPERS and schema["type"] != "default":
        schema = schema[_WRAPPERS[schema["type"]]]
    return bool(schema["type"] == "default")


def names_of(kind: type) -> frozenset[str]:
    """The names of records that a class stands for: its own name, and its title in pydantic's settings."""
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    title = config.get("title")
    own = kind.__name__.partition("[")[0]
    return frozenset((own, title)) if isinstance(title, str) else frozenset((own,))

"""Types become schemas that AsyncAPI takes: all in `components`, in the dialect of its Schema Object.

That is JSON Schema draft-07 with additions. pydantic writes draft 2020-12, with definitions inside each schema and
OpenAPI's `discriminator`, which the parser of AsyncAPI refuses.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import CoreSchema, PydanticSerializationError, to_jsonable_python

from ..compatibility import type_adapter
from ..payload.annotations import type_name

logger = logging.getLogger(__name__)

REFERENCE = "#/components/schemas/{model}"
Mode = Literal["validation", "serialization"]
"""What a handler reads, or what a publisher writes: they differ in aliases, defaults and computed fields."""

_ONE = ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
_MANY = ("allOf", "anyOf", "items", "oneOf")
_NAMED = ("$defs", "definitions", "dependencies", "patternProperties", "properties")
_TEXTS = ("description", "title")
_LISTS = ("enum", "examples", "required")
_DROPPED = ("$id", "$schema")
"""They would change what references mean."""


class TypeUse(NamedTuple):
    """A type, and in which direction its values go."""

    kind: Any
    mode: Mode


class Schemas:
    """The schemas of some types. `components` has those that are referred to, by name, sorted.

    A type of which pydantic makes no schema gets one that takes anything, and says so.
    """

    def __init__(self, uses: Iterable[TypeUse]) -> None:
        self._uses: list[TypeUse] = []
        self._found: list[dict[str, Any]] = []
        self.components: dict[str, Any] = {}
        for use in uses:
            if use not in self._uses:
                self._uses.append(use)
        self._make()

    def of(self, kind: Any, mode: Mode) -> dict[str, Any]:
        """The schema of a type that was given: mostly a reference."""
        return self._found[self._uses.index(TypeUse(kind, mode))]

    def _make(self) -> None:
        adapters = [_adapter(use) for use in self._uses]
        inputs: list[tuple[int, JsonSchemaMode, TypeAdapter[Any]]] = [
            (number, use.mode, adapter)
            for number, (use, adapter) in enumerate(zip(self._uses, adapters, strict=True))
            if adapter is not None
        ]
        made, rest = TypeAdapter.json_schemas(inputs, ref_template=REFERENCE, schema_generator=_Generator)
        by_number = {number: schema for (number, _), schema in made.items()}
        self._found = [
            dialect(_plain(by_number[number])) if number in by_number else _unknown(type_name(use.kind))
            for number, use in enumerate(self._uses)
        ]
        self.components = {name: dialect(_plain(schema)) for name, schema in sorted(rest.get("$defs", {}).items())}


class _Generator(GenerateJsonSchema):
    """What cannot be described takes anything. Warnings about defaults help nobody who reads the document."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as pydantic declares it

    def encode_default(self, dft: Any) -> Any:
        """Without those that look like references, which pydantic would follow."""
        value = super().encode_default(dft)
        if _refers(value):
            raise PydanticSerializationError("it looks like a reference")
        return value

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:
        return {}


def _adapter(use: TypeUse) -> TypeAdapter[Any] | None:
    """None: pydantic cannot describe it alone, so it would spoil the document of all."""
    try:
        adapter = type_adapter(use.kind)
        schema = adapter.json_schema(mode=use.mode, schema_generator=_Generator)
        _plain(schema)
    except Exception as error:  # whatever code of the type's own raises
        logger.debug("%s has no JSON schema: %s", type_name(use.kind), type(error).__name__)
        return None
    return adapter


def _plain(schema: Any) -> Any:
    """The schema as JSON has it: what a model adds of its own (`json_schema_extra`) may hold anything."""
    return to_jsonable_python(schema, fallback=str)


def _unknown(name: str) -> dict[str, Any]:
    return {"title": name, "description": "There is no JSON schema of this type."}


def dialect(schema: Any) -> Any:
    """A schema of draft 2020-12, as pydantic writes it and people add to it, in the dialect of AsyncAPI."""
    if not isinstance(schema, Mapping):
        return schema
    changed = {name: value for name, value in schema.items() if name not in _DROPPED}
    _tuples(changed)
    _field_called_ref(changed)
    for name, value in [*changed.items()]:
        if name in _NAMED and isinstance(value, Mapping):
            changed[name] = {key: dialect(each) for key, each in value.items()}
        elif name in _MANY and isinstance(value, Sequence) and not isinstance(value, str):
            changed[name] = [dialect(each) for each in value]
        elif name in _ONE:
            changed[name] = dialect(value)
        elif name in _LISTS and not isinstance(value, list):
            _as_list(changed, name, value)
        elif name in _TEXTS and not isinstance(value, str):
            changed[name] = str(value)
        elif name == "discriminator" and isinstance(value, Mapping):
            _discriminator(changed, value)
    for name in ("default", "examples", "example", "const", "enum"):
        if _refers(changed.get(name)):
            del changed[name]  # a parser would follow what looks like a reference
    return {name: value for name, value in changed.items() if not _is_endless(value)}


def _tuples(schema: dict[str, Any]) -> None:
    """What draft 2020-12 calls `prefixItems` are the `items` of draft-07, and its `items` are `additionalItems`."""
    if isinstance(schema.get("prefixItems"), list):
        rest = schema.pop("items", None)
        schema["items"] = schema.pop("prefixItems")
        if rest is not None:
            schema["additionalItems"] = rest


def _field_called_ref(schema: dict[str, Any]) -> None:
    """The parser takes the schema of a property that is called `$ref` for a reference, and falls over it."""
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and "$ref" in properties:
        schema["properties"] = {name: each for name, each in properties.items() if name != "$ref"}
        schema["patternProperties"] = {**schema.get("patternProperties", {}), r"^\$ref$": properties["$ref"]}


def _discriminator(schema: dict[str, Any], openapi: Mapping[str, Any]) -> None:
    """The name of the property. Which value means which schema, the schemas say themselves: `const` or `enum`."""
    name = openapi.get("propertyName")
    if isinstance(name, str):
        schema["discriminator"] = name
    else:
        del schema["discriminator"]


def _as_list(schema: dict[str, Any], name: str, value: Any) -> None:
    """Examples by name are OpenAPI's; a property says in vain of itself that it is required."""
    if name == "examples" and isinstance(value, Mapping):
        schema[name] = [*value.values()]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        schema[name] = [*value]
    else:
        del schema[name]


def _is_endless(value: Any) -> bool:
    """Infinite or no number, as a default or a bound: JSON has no such numbers."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, list) and any(map(_is_endless, value))


def _refers(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "$ref" in value or any(map(_refers, value.values()))
    return isinstance(value, list) and any(map(_refers, value))

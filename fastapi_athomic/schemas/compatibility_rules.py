"""Can a newer schema read what was written with an older one? For `memory://`; servers have their own judgement.

For Avro these are the rules of its specification ("Schema Resolution"), but for logical types, which are not looked at.
For JSON Schema: types, required properties, `enum`, closed objects, `items`; other keywords are not looked at. Protobuf
is not judged at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .registered import SchemaType

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
"""What else may read a type that was written."""


def problems(kind: SchemaType, newer: str, older: str, used: Mapping[str, str]) -> list[str]:
    """Why the newer schema could not read what the older one wrote. `used` has the texts of the schemas they refer to.

    Raises:
        ValueError: a schema is no JSON.
    """
    if kind == "AVRO":
        texts = list(used.values())
        return list(dict.fromkeys(_Avro(newer, older, texts).problems()))
    if kind == "JSON":
        return list(dict.fromkeys(_of_json(json.loads(newer), json.loads(older), "")))
    return []


class _Avro:
    def __init__(self, newer: str, older: str, used: Sequence[str]) -> None:
        self._reading: dict[str, Any] = {}
        self._writing: dict[str, Any] = {}
        for text in used:
            for names in (self._reading, self._writing):
                _named(json.loads(text), "", names)
        self._reader = _named(json.loads(newer), "", self._reading)
        self._writer = _named(json.loads(older), "", self._writing)
        self._seen: set[tuple[str, str]] = set()

    def problems(self) -> Iterator[str]:
        yield from self._problems(self._reader, self._writer, "")

    def _problems(self, reader: Any, writer: Any, place: str) -> Iterator[str]:
        reader = self._reading.get(reader, reader) if isinstance(reader, str) else reader
        writer = self._writing.get(writer, writer) if isinstance(writer, str) else writer
        if isinstance(writer, list):
            for branch in writer:
                yield from self._problems(reader, branch, place)
        elif isinstance(reader, list):
            if not any(self._can_read(branch, writer) for branch in reader):
                yield f"{place or 'it'}: no branch of the union reads {_kind(writer)}"
        elif _kind(reader) != _kind(writer):
            if _kind(reader) not in PROMOTIONS.get(_kind(writer), ()):
                yield f"{place or 'it'}: {_kind(writer)} cannot be read as {_kind(reader)}"
        else:
            yield from self._of_one_kind(reader, writer, place)

    def _can_read(self, reader: Any, writer: Any) -> bool:
        seen = set(self._seen)
        found = next(self._problems(reader, writer, ""), None)
        if found is not None:
            self._seen = seen
        return found is None

    def _of_one_kind(self, reader: Any, writer: Any, place: str) -> Iterator[str]:
        kind = _kind(reader)
        if kind == "array":
            yield from self._problems(reader["items"], writer["items"], f"{place}[]")
        elif kind == "map":
            yield from self._problems(reader["values"], writer["values"], f"{place}{{}}")
        elif kind in ("record", "enum", "fixed"):
            if reader["name"] != writer["name"] and writer["name"] not in reader["aliases"]:
                yield f"{place or 'it'}: the name is {reader['name']}, and was {writer['name']}"
            elif kind == "fixed" and reader["size"] != writer["size"]:
                yield f"{place or 'it'}: the size is {reader['size']}, and was {writer['size']}"
            elif kind == "enum" and "default" not in reader:
                missing = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
                if missing:
                    yield f"{place or 'it'}: the enum lacks {', '.join(missing)}, and has no default"
            elif kind == "record" and (names := (reader["name"], writer["name"])) not in self._seen:
                self._seen.add(names)
                yield from self._of_records(reader, writer, place)

    def _of_records(self, reader: Any, writer: Any, place: str) -> Iterator[str]:
        written = {field["name"]: field["type"] for field in writer["fields"]}
        for field in reader["fields"]:
            here = f"{place}.{field['name']}" if place else field["name"]
            name = next((name for name in (field["name"], *field.get("aliases", ())) if name in written), None)
            if name is not None:
                yield from self._problems(field["type"], written[name], here)
            elif "default" not in field:
                yield f"{here}: it is new, and has no default"


def _kind(schema: Any) -> str:
    if isinstance(schema, list):
        return "a union"
    return schema if isinstance(schema, str) else str(schema.get("type"))


def _named(schema: Any, space: str, names: dict[str, Any]) -> Any:
    """The schema with full names; those of its named types are added to `names`. A reference to one stays a name."""
    if isinstance(schema, str):
        return schema if schema in PRIMITIVES else _full(schema, space)
    if isinstance(schema, list):
        return [_named(branch, space, names) for branch in schema]
    kind = schema["type"]
    if not isinstance(kind, str) or kind not in ("record", "error", "enum", "fixed", "array", "map"):
        return _named(kind, space, names)
    if kind in ("array", "map"):
        inner = "items" if kind == "array" else "values"
        return {"type": kind, inner: _named(schema[inner], space, names)}
    name = _full(schema["name"], schema.get("namespace", space))
    space = name.rpartition(".")[0]
    known = {"name": name, "aliases": [_full(alias, space) for alias in schema.get("aliases", ())]}
    found = names[name] = {**schema, **known, "type": "record" if kind == "error" else kind}
    if "fields" in schema:
        found["fields"] = [{**field, "type": _named(field["type"], space, names)} for field in schema["fields"]]
    return name


def _full(name: str, space: str) -> str:
    return name if "." in name or not space else f"{space}.{name}"


def _of_json(newer: Any, older: Any, place: str) -> Iterator[str]:
    if not isinstance(newer, dict) or not isinstance(older, dict):
        if newer is False and older is not False:
            yield f"{place or 'it'}: nothing is allowed any more"
        return
    here = place or "it"
    kinds, before = _kinds(newer), _kinds(older)
    if kinds is not None and (before is None or not all(_covers(kinds, kind) for kind in before)):
        yield f"{here}: only {', '.join(sorted(kinds))} is allowed now"
    if "enum" in newer and ("enum" not in older or any(value not in newer["enum"] for value in older["enum"])):
        yield f"{here}: fewer values are allowed"
    properties, known = newer.get("properties", {}), older.get("properties", {})
    for name in sorted({*newer.get("required", ())} - {*older.get("required", ())}):
        yield f"{_below(place, name)}: it is required now"
    if newer.get("additionalProperties") is False:
        if older.get("additionalProperties") is not False:
            yield f"{here}: other properties are not allowed any more"
        for name in sorted(known.keys() - properties.keys()):
            yield f"{_below(place, name)}: it is not allowed any more"
    for name in sorted(known.keys() & properties.keys()):
        yield from _of_json(properties[name], known[name], _below(place, name))
    if "items" in newer:
        yield from _of_json(newer["items"], older.get("items", {}), f"{place}[]")


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _kinds(schema: Mapping[str, Any]) -> set[str] | None:
    kind = schema.get("type")
    return None if kind is None else {kind} if isinstance(kind, str) else {*kind}


def _covers(kinds: set[str], kind: str) -> bool:
    return kind in kinds or (kind == "integer" and "number" in kinds)

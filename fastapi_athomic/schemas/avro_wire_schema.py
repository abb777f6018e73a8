"""The schema that fastavro reads by: the writer's, changed so that what comes out is what the handler's type takes.

fastavro only decodes then, in compiled code. What it lacks is put into the schema that it gets:

- logical types: by readers of ours (`avro_logical`), or none where the type takes the bare value;
- which record of a union was written: a record whose model can be told by name becomes an instance of that model
  while it is read, so that pydantic has nothing left to guess;
- members of enums whose values are not the symbols: they stand in place of the symbols;
- numbers of branches and symbols below zero, which Python's lists take: they lead to something that cannot be read;
- places where another thread may go on, if it is done in one: after each record, array and map;
- records inside themselves: `MAX_DEPTH` copies, as nothing else bounds how deep fastavro goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader
from fastavro.read import LOGICAL_READERS

from ..compatibility import type_adapter
from ..payload.objects import object_validator
from ..payload.slices import give_way
from .avro_defaults import default_bytes
from .avro_logical import Convert, Unfit, reader
from .avro_schema import REFUSED, Node, recursive_records
from .avro_shapes import RECORDS, UNUSED, Expected, Shape, Shapes, names_of

WireSchema = Any
"""What fastavro takes for a parsed schema."""
MAX_DEPTH = 100
"""Records within records of the same type."""
_GROUPS = frozenset(("record", "union", "array", "map"))
CONVERT = "convert"
"""The key under which a schema holds the function that values go through after they are read."""
_OURS = "athomic"
PARSED = {"__fastavro_parsed": True, "__named_schemas": {}}
"""Tells fastavro that a schema is parsed: names are not looked up then."""
REASON = "reason"
"""The key under which a schema that nothing can be read by says why."""
TAKEN_BY: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "decimal": (frozenset(("decimal", "float", "int")), frozenset(("bytes",))),
    "uuid": (frozenset(("uuid",)), frozenset(("str", "bytes"))),
    "date": (frozenset(("date", "datetime")), frozenset(("int",))),
    "time": (frozenset(("time",)), frozenset(("int",))),
    "timestamp": (frozenset(("datetime", "date")), frozenset(("int", "float"))),
    "local-timestamp": (frozenset(("datetime", "date")), frozenset(("int", "float"))),
    "duration": (frozenset(("timedelta", "named-tuple", "call", "tuple")), frozenset(("bytes",))),
}
"""Shapes that take the value of a logical type, and those that take the bare Avro value, by the type's family."""


def _refused(reason: str) -> WireSchema:
    return {**PARSED, "type": "enum", "name": "refused", "symbols": {}, REASON: reason}


_NO_BRANCH = _refused("the number of no branch of its union")
_UNRESOLVED = _refused("the reader's schema has nothing that it could become")
_TOO_DEEP = _refused(f"records nested more than {MAX_DEPTH} levels deep")


def _convert(value: Any, schema: Any = None, _: object = None) -> Any:
    return schema[CONVERT](value)


for _kind in ("null", "int", "long", "float", "double", "bytes", "fixed", "string", "record", "array", "map"):
    LOGICAL_READERS[f"{_kind}-{_OURS}"] = _convert  # fastavro's way to add logical types


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingRules:
    """What is decided for all messages that a serializer reads."""

    records: Mapping[str, type] = field(default_factory=dict)  # models by full names of records
    cuts_nanoseconds: bool = False


class WireSchemas:
    """Makes the schema by which one type is read.

    Args:
        expected: what the handler's type expects; None: nothing, so that values come as Python's own types.
        rules: of the serializer.
        in_slices: reading gives way to other threads.
    """

    def __init__(self, expected: Expected | None, rules: ReadingRules, *, in_slices: bool = False) -> None:
        self._in_slices = in_slices
        self._pause: Convert | None = give_way if in_slices else None
        self._expected = expected
        self._rules = rules
        self._made: dict[tuple[object, ...], WireSchema] = {}
        self._kept: list[object] = []  # what is told apart by `id` must stay
        self._recursive: frozenset[int] = frozenset()

    def of(self, node: Node) -> WireSchema:
        """The schema for messages of this type."""
        self._recursive = recursive_records(node)
        return self._make(node, self._expected.whole if self._expected else (), 0)

    def _make(self, node: Node, shapes: Shapes, depth: int, decided: bool = False) -> WireSchema:
        """`decided`: of several models, those that the record stands for are in `shapes`."""
        if node.kind not in _GROUPS:
            depth = 0  # it is the same in all depths
        key = (id(node), *map(id, shapes), depth, decided)
        made = self._made.get(key)
        if made is None:
            self._kept.extend((node, shapes))
            if node.kind == "record":
                made = self._record(node, shapes, depth, decided)
            else:
                made = self._other(node, shapes, depth)
            self._made[key] = made
        return made

    def _other(self, node: Node, shapes: Shapes, depth: int) -> WireSchema:
        expected = self._expected
        if node.kind == REFUSED:
            return _UNRESOLVED
        if node.kind == "union":
            branches = [self._make(branch, shapes, depth) for branch in node.branches]
            return [*branches, *[_NO_BRANCH] * len(branches)]  # -1 and so on count from the end
        if node.kind == "array":
            items = expected.items(shapes) if expected else ()
            return _converted({**PARSED, "type": "array", "items": self._make(node.items, items, depth)}, self._pause)
        if node.kind == "map":
            values = expected.values(shapes) if expected else ()
            return _converted({**PARSED, "type": "map", "values": self._make(node.items, values, depth)}, self._pause)
        if node.kind == "enum":
            return {**PARSED, "type": "enum", "name": node.name, "symbols": _symbols(node, shapes)}
        convert = _both(self._logical(node, shapes), node.convert)
        if node.kind == "fixed":
            return _converted({**PARSED, "type": "fixed", "name": node.name, "size": node.size}, convert)
        return node.kind if convert is None else _converted({**PARSED, "type": node.kind}, convert)

    def _logical(self, node: Node, shapes: Shapes) -> Convert | None:
        if node.logical is None:
            return None
        kinds = {shape["type"] for shape in shapes}
        if takes_bare(node, kinds):
            return None
        if node.logical == "uuid" and node.kind == "string" and kinds == {"uuid"}:
            return None  # pydantic makes one of a str, faster than Python
        return reader(node, cuts_nanoseconds=self._rules.cuts_nanoseconds, as_timedelta="timedelta" in kinds)

    def _record(self, node: Node, shapes: Shapes, depth: int, decided: bool) -> WireSchema:
        if not decided and sum(shape["type"] in RECORDS for shape in shapes) > 1:
            return self._one_of_several(node, shapes, depth)
        depth = depth + 1 if id(node) in self._recursive else 0
        if depth > MAX_DEPTH:
            return _TOO_DEEP
        build = None
        if decided and len(shapes) == 1 and shapes[0]["type"] in RECORDS:
            build = object_validator(type_adapter(shapes[0]["cls"]), in_slices=self._in_slices)
        expected = self._expected
        fields = [
            {
                "name": each.name,
                "type": self._make(each.node, expected.field(shapes, each.name) if expected else (), depth),
            }
            for each in node.fields
        ]
        made = {**PARSED, "type": "record", "name": node.name, "fields": fields}
        return _converted(made, _both(self._completion(node, shapes, depth), build) or self._pause)

    def _completion(self, node: Node, shapes: Shapes, depth: int) -> Convert | None:
        """Takes away and adds fields, where a reader's schema has others. Each default is read afresh."""
        if not node.drops and not node.fills:
            return None
        fills = []
        for each in node.fills:
            shapes_there = self._expected.field(shapes, each.name) if self._expected else ()
            fills.append((each.name, default_bytes(each), self._make(each.node, shapes_there, depth)))

        def complete(record: dict[str, Any]) -> dict[str, Any]:
            for name in node.drops:
                del record[name]
            for name, data, schema in fills:
                record[name] = schemaless_reader(BytesIO(data), schema)
            return record

        return complete

    def _one_of_several(self, node: Node, shapes: Shapes, depth: int) -> WireSchema:
        assert self._expected is not None
        models = [shape for shape in shapes if shape["type"] in RECORDS]
        found = models_of(node, models, self._rules.records)
        if not found:
            tagged = [shape for shape in models if id(shape) in self._expected.tagged]
            found = tagged or [shape for shape in shapes if shape["type"] in ("dict", "typed-dict")]
        if found:
            return self._make(node, tuple(found), depth, decided=True)
        names = ", ".join(shape["cls"].__name__ for shape in models)
        refuse = partial(_refuse, f"the record {node.name} is none of {names} by their names, titles or `records`")
        return _converted({**PARSED, "type": "null"}, refuse)


def takes_bare(node: Node, kinds: set[str]) -> bool:
    """Whether shapes of these kinds take the bare value of a logical type, such as a number, but not its own.

    So does what nobody looks at: a field that is new to the handler must not fail because Python lacks its value.
    """
    if kinds == {UNUSED["type"]}:
        return True
    family = str(node.logical).removesuffix("-millis").removesuffix("-micros").removesuffix("-nanos")
    rich, bare = TAKEN_BY[family]
    return bool(kinds & bare) and not kinds & rich


def models_of(node: Node, models: list[Shape], records: Mapping[str, type]) -> list[Shape]:
    """The models that a record stands for: by `records`, else by its full name, else by its simple name."""
    if node.name in records:
        return [shape for shape in models if shape["cls"] is records[node.name]]
    by_name = [shape for shape in models if node.name in names_of(shape["cls"])]
    return by_name or [shape for shape in models if node.simple_name in names_of(shape["cls"])]


def _symbols(node: Node, shapes: Shapes) -> dict[int, Any]:
    """Symbols by number. In place of each stands the member of the expected enum, by its value or else its name."""
    classes = [shape["cls"] for shape in shapes if shape["type"] == "enum"]
    known = {number: symbol for number, symbol in enumerate(node.symbols) if symbol is not None}
    if len(classes) != 1 or len(shapes) > 1:
        return dict(known)
    return {number: member_of(classes[0], symbol) or symbol for number, symbol in known.items()}


def member_of(kind: type[Enum], symbol: str) -> Enum | None:
    """The member of an enum for a symbol: the one with this value, else the one with this name."""
    values: Iterator[Enum] = (member for member in kind if member.value == symbol)
    return next(values, kind.__members__.get(symbol))


def _converted(schema: dict[str, Any], convert: Convert | None) -> WireSchema:
    return schema if convert is None else {**schema, "logicalType": _OURS, CONVERT: convert}


def _both(first: Convert | None, second: Convert | None) -> Convert | None:
    if first is None or second is None:
        return first or second
    return lambda value: second(first(value))


def _refuse(reason: str, _: object) -> Any:
    raise Unfit(reason)

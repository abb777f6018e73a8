"""Where does a type not fit a schema? Asked by `fastapi-athomic check`, and when a schema is met first.

Tells only of what can never work, or fails as soon as one field is missing. What depends on values, such as text that
may be a number, is left to the message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..payload.target import Target
from .avro_plans import matched
from .avro_schema import ABSENT, Node
from .avro_shapes import LISTS, RECORDS, Expected, Shape, Shapes, extra_of, fields_of
from .avro_wire_schema import models_of, takes_bare

_GROUPS = RECORDS | LISTS | {"dict", "typed-dict", "named-tuple", "call", "arguments"}
_NEVER: Mapping[str, frozenset[str]] = {
    "string": _GROUPS,
    "bytes": _GROUPS,
    "fixed": _GROUPS - {"named-tuple", "call", "tuple"},
    "enum": _GROUPS | {"bytes", "int", "float", "decimal", "bool", "uuid", "date", "datetime", "time", "timedelta"},
    "boolean": _GROUPS | {"bytes", "uuid", "date", "datetime", "time", "timedelta", "str"},
    "int": _GROUPS | {"bytes", "uuid", "str"},
    "long": _GROUPS | {"bytes", "uuid", "str"},
    "float": _GROUPS | {"bytes", "uuid", "str"},
    "double": _GROUPS | {"bytes", "uuid", "str"},
    "record": LISTS | {"str", "int", "float", "bool", "bytes", "decimal", "uuid", "date", "datetime", "time"},
    "map": LISTS | {"str", "int", "float", "bool", "bytes", "decimal", "uuid", "date", "datetime", "time"},
    "array": RECORDS | {"dict", "typed-dict", "str", "int", "float", "bool", "bytes", "decimal", "uuid", "date"},
}
"""By the kinds of schemas, the shapes that never take their values."""


def misfits_of_reading(node: Node, target: Target, records: Mapping[str, type]) -> list[str]:
    """What of a schema the type can never be read from, a sentence each."""
    return list(_Comparison(Expected(target.adapter), records, writes=False).of(node, None, ()))


def misfits_of_writing(node: Node, target: Target, records: Mapping[str, type]) -> list[str]:
    """What of a type can never be written by the schema, a sentence each."""
    return list(_Comparison(Expected(target.adapter), records, writes=True).of(node, None, ()))


class _Comparison:
    def __init__(self, expected: Expected, records: Mapping[str, type], *, writes: bool) -> None:
        self._expected = expected
        self._records = records
        self._writes = writes
        self._seen: set[tuple[int, ...]] = set()

    def of(self, node: Node, shapes: Shapes | None, path: tuple[str, ...]) -> Iterator[str]:
        shapes = self._expected.whole if shapes is None else shapes
        key = (id(node), *map(id, shapes))
        if not shapes or key in self._seen:  # nothing is declared
            return
        self._seen.add(key)
        if node.kind == "union":
            yield from self._of_union(node, shapes, path)
        elif all(_never(node, shape) for shape in shapes):
            kinds = " | ".join(sorted({shape["type"] for shape in shapes}))
            yield f"{_place(path)} is {node.logical or node.name or node.kind} in the schema, and {kinds} in the type"
        elif node.kind == "record":
            yield from self._of_record(node, shapes, path)
        elif node.kind == "array":
            yield from self.of(node.items, self._expected.items(shapes), (*path, "[]"))
        elif node.kind == "map":
            yield from self.of(node.items, self._expected.values(shapes), (*path, "[]"))

    def _of_union(self, node: Node, shapes: Shapes, path: tuple[str, ...]) -> Iterator[str]:
        found = [list(self.of(branch, shapes, path)) for branch in node.branches if branch.kind != "null"]
        if self._writes and any(not problems for problems in found):
            return  # a value has a branch to go to
        for problems in found:
            yield from problems

    def _of_record(self, node: Node, shapes: Shapes, path: tuple[str, ...]) -> Iterator[str]:
        models = [shape for shape in shapes if shape["type"] in RECORDS]
        if len(models) > 1:
            found = models_of(node, models, self._records)
            if not found and not any(id(shape) in self._expected.tagged for shape in models):
                names = ", ".join(shape["cls"].__name__ for shape in models)
                yield f"{_place(path)} may be the record {node.name}, which is none of {names}"
            models = found
        records = models if len(models) == 1 else [shape for shape in shapes if shape["type"] == "typed-dict"]
        if len(records) == 1:
            yield from self._missing(node, records[0], path)
        else:
            records = [shape for shape in shapes if shape["type"] == "dict" and len(shapes) == 1]
        for each in node.fields if records else ():
            yield from self.of(each.node, self._expected.field((records[0],), each.name), (*path, each.name))

    def _missing(self, node: Node, shape: Shape, path: tuple[str, ...]) -> Iterator[str]:
        name = shape["cls"].__name__ if "cls" in shape else "the type"
        found, lost = matched(shape, node)
        names = {each.name for each in node.fields}
        if not self._writes:
            for field in fields_of(shape):
                if field.required and not (field.read_as | field.looks_into) & names:
                    told = min(field.read_as, default=field.name)
                    yield f"{_place((*path, told))} is required by {name}, and {node.name} has no such field"
            if extra_of(shape) == "forbid":
                known = {field for each in fields_of(shape) for field in (*each.read_as, *each.looks_into)}
                for field_name in sorted(names - known):
                    yield f"{_place((*path, field_name))} is a field of {node.name}, and {name} forbids others"
            return
        for field in lost:
            yield f"{_place((*path, field.name))} is a field of {name}, and {node.name} has no such field"
        for each in node.fields:
            if each.name not in found and each.default is ABSENT:
                yield f"{_place((*path, each.name))} is a field of {node.name} without a default, and {name} lacks it"


def _never(node: Node, shape: Shape) -> bool:
    kind = shape["type"]
    if node.logical is not None and not takes_bare(node, {kind}):
        family = str(node.logical).removesuffix("-millis").removesuffix("-micros").removesuffix("-nanos")
        return kind in _GROUPS - {"named-tuple", "call", "tuple"} or (kind == "str" and family != "uuid")
    return kind in _NEVER.get(node.kind, ())


def _place(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[]", "[]") or "the message"

"""Values become bytes of one schema, or are refused: nothing is cut, filled in or guessed on the way.

fastavro is not asked. It takes a bool for an int, a datetime for a date, writes ints of any size into an `int`, fills
missing fields with null, and takes the first branch of a union that looks right; what had been checked and converted
for it would be looked at twice. Encoding what was checked, at once, is faster, though in Python.

One exception: a Python float in a field of type `float` is rounded to 32 bits, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel, RootModel

from .avro_binary import Output, number, put_bytes, put_number
from .avro_logical import Unfit, writer
from .avro_plans import Put, is_record, plan_of
from .avro_scalars import LISTS, scalar_writer, text_of, utf8
from .avro_schema import Node, recursive_records
from .avro_shapes import names_of

MAX_DEPTH = 100
"""Records within records of the same type: deeper ones would not be read."""


class SchemaWriter:
    """Writes values by one schema.

    Args:
        node: the schema.
        records: models by full names of records, where their own names and titles do not tell.
    """

    def __init__(self, node: Node, records: Mapping[str, type]) -> None:
        self._put = _Writers(node, records).of(node, 0)
        self._is_bare = node.kind == "bytes" and node.logical is None

    def __call__(self, value: Any) -> Output:
        """The bytes. Raises `Unfit`."""
        out = Output()
        if self._is_bare and isinstance(value, bytes | bytearray | memoryview):
            out += value  # by itself, a value of type bytes is written without its length
        else:
            self._put(out, value)
        return out


class _Writers:
    """Makes the functions that write the values of one schema's nodes."""

    def __init__(self, node: Node, records: Mapping[str, type]) -> None:
        self._recursive = recursive_records(node)
        self._records = records

    def of(self, node: Node, depth: int) -> Put:
        if node.kind == "record":
            depth = depth + 1 if id(node) in self._recursive else 0
            return _too_deep if depth > MAX_DEPTH else _Record(node, lambda part: self.of(part, depth)).put
        if node.kind == "union":
            return _Union(node, [self.of(branch, depth) for branch in node.branches], self._records).put
        if node.kind == "array":
            return _array_writer(self.of(node.items, depth))
        if node.kind == "map":
            return _map_writer(self.of(node.items, depth))
        return scalar_writer(node)


def _too_deep(out: Output, value: Any) -> None:
    raise Unfit(f"records nested more than {MAX_DEPTH} levels deep")


def _array_writer(put_item: Put) -> Put:
    def put(out: Output, value: Any) -> None:
        if type(value) is not list:
            out.odd = True
            if isinstance(value, RootModel):
                return put(out, value.root)
            if not isinstance(value, LISTS):
                raise Unfit(f"the schema has an array, which a {type(value).__name__} does not become")
        if value:
            put_number(out, len(value))
            place = 0
            try:
                for item in value:
                    put_item(out, item)
                    place += 1
            except Unfit as error:
                raise error.inside(str(place)) from None
        out.append(0)
        return None

    return put


def _map_writer(put_item: Put) -> Put:
    def put(out: Output, value: Any) -> None:
        if type(value) is not dict:
            out.odd = True
            if isinstance(value, RootModel):
                return put(out, value.root)
            if not isinstance(value, Mapping):
                raise Unfit(f"the schema has a map, which a {type(value).__name__} does not become")
        if value:
            put_number(out, len(value))
            try:
                for key, item in value.items():
                    put_bytes(out, utf8(key if type(key) is str else _key(key)))
                    put_item(out, item)
            except Unfit as error:
                raise error.inside("?") from None  # keys are data
            if not all(type(key) is str for key in value):
                _check_keys(value)
        out.append(0)
        return None

    return put


def _check_keys(value: Mapping[Any, Any]) -> None:
    if len({key if type(key) is str else _key(key) for key in value}) < len(value):
        raise Unfit("two keys that are written as the same text")


def _key(key: Any) -> str:
    text = str(key) if isinstance(key, int) and not isinstance(key, bool | Enum) else text_of(key)
    if text is None:
        raise Unfit(f"a key that is a {type(key).__name__}, and Avro's are text")
    return text


class _Record:
    """Models, dataclasses and mappings."""

    def __init__(self, node: Node, of: Callable[[Node], Put]) -> None:
        self._node = node
        self._of = of
        self._plans: dict[type, Put] = {}

    def put(self, out: Output, value: Any) -> None:
        plan = self._plans.get(type(value))
        if plan is None:
            plan = self._plans[type(value)] = plan_of(type(value), self._node, self._of, self.put)
        plan(out, value)


class _Union:
    """Finds the branch for a value: by the value's type, for models by the record's name."""

    def __init__(self, node: Node, puts: list[Put], records: Mapping[str, type]) -> None:
        self._branches = [
            (each, number(place), put) for place, (each, put) in enumerate(zip(node.branches, puts, strict=True))
        ]
        self._records = records
        self._candidates: dict[type, list[list[_Branch]]] = {}
        self._only: dict[type, tuple[bytes, Put]] = {}  # where a type has but one branch

    def put(self, out: Output, value: Any) -> None:
        only = self._only.get(type(value))
        if only is None:
            self._put_one_of(out, value)
        else:
            out += only[0]
            only[1](out, value)

    def _put_one_of(self, out: Output, value: Any) -> None:
        kind, before = type(value), len(out)
        groups = self._candidates.get(kind)
        if groups is None:
            groups = self._candidates[kind] = self._groups(kind)
            if len(groups) == len(groups[0]) == 1:
                self._only[kind] = groups[0][0][1:]
        refusal: Unfit | None = None
        for group in groups:
            found: dict[str, bytes] = {}
            for node, place, put in group:
                try:
                    out += place
                    put(out, value)
                    found[node.name or node.kind] = bytes(out[before:])
                except Unfit as error:
                    refusal = refusal or error
                del out[before:]
            if len(found) > 1:
                names = " and ".join(found)
                raise Unfit(f"a {kind.__name__} that fits {names} alike: publish a model with the record's name")
            if found:
                out += found.popitem()[1]
                return
        if refusal is not None and len(groups) == len(groups[0]) == 1:
            raise refusal
        names = ", ".join(node.name or node.logical or node.kind for node, _, _ in self._branches)
        raise Unfit(f"a {kind.__name__}, and the schema has one of {names}, none of which takes it")

    def _groups(self, kind: type) -> list[list[_Branch]]:
        """The branches for values of a type, the likely ones first. Those that stand together must not both take it."""
        if (issubclass(kind, BaseModel) and not issubclass(kind, RootModel)) or is_record(kind):
            records = [each for each in self._branches if each[0].kind == "record"]
            named = self._named(kind, [each[0] for each in records])
            return [[each for each in records if each[0] in named] or records]
        ranked: dict[int, list[_Branch]] = {}
        for branch in self._branches:
            if (rank := _rank(branch[0], kind)) is not None:
                ranked.setdefault(rank, []).append(branch)
        together = [ranked[rank] for rank in sorted(ranked)] or [[]]
        if issubclass(kind, Mapping):
            return together
        return [[each] for group in together for each in group] or [[]]

    def _named(self, kind: type, nodes: list[Node]) -> list[Node]:
        by_table = [node for node in nodes if self._records.get(node.name) is kind]
        names = names_of(kind)
        free = [node for node in nodes if node.name not in self._records]
        by_name = [node for node in free if node.name in names]
        return by_table or by_name or [node for node in free if node.simple_name in names]


_Branch = tuple[Node, bytes, Put]
"""A type of a union, its number as it is written, and what writes it."""


def _rank(node: Node, kind: type) -> int | None:
    """How likely a branch is for values of a type: 0 is the type's own, None: never."""
    own: tuple[type, ...] = tuple(writer(node)) if node.logical is not None else ()
    if own and issubclass(kind, own):
        return 0
    likely: dict[str, tuple[int, tuple[type, ...]]] = {
        "null": (0, (type(None),)),
        "boolean": (0, (bool,)),
        "int": (1, (int, Enum)),
        "long": (1, (int, Enum)),
        "double": (2, (float, int)),
        "float": (3, (float, int)),
        "bytes": (1, (bytes, bytearray, memoryview)),
        "fixed": (1, (bytes, bytearray, memoryview)),
        "enum": (0 if issubclass(kind, Enum) else 2, (Enum, str)),
        "array": (1, LISTS),
        "map": (1, (Mapping,)),
        "record": (1, (Mapping,)),
        "string": (1 if issubclass(kind, str) else 4, (object,)),
    }
    rank, types = likely[node.kind]
    if kind is type(None) and node.kind != "null":
        return None
    if not issubclass(kind, types) or (kind is bool and node.kind != "boolean"):
        return 5 if issubclass(kind, RootModel) or (node.logical == "decimal" and kind is int) else None
    return rank

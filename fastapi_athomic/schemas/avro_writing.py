"""Values become bare Avro values of one schema, or are refused: nothing is cut, filled in or guessed on the way.

fastavro only encodes, in compiled code. Left alone it takes a bool for an int, a datetime for a date, writes ints of
any size into an `int`, fills missing fields with null, and takes the first branch of a union that looks right. So it
gets nothing but bare values that were checked here, with the branch of each union named, and no logical types.

One exception: a Python float in a field of type `float` is rounded to 32 bits, as everywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from io import BytesIO
from struct import Struct
from typing import Any
from uuid import UUID

from fastavro import schemaless_writer
from pydantic import BaseModel, RootModel
from pydantic_core import to_jsonable_python

from .avro_defaults import bare_schema
from .avro_logical import Convert, Unfit, writer
from .avro_plans import Plan, is_record, plan_of
from .avro_schema import Node, recursive_records
from .avro_shapes import names_of

MAX_DEPTH = 100
"""Records within records of the same type: deeper ones would not be read."""
LISTS = (list, tuple, set, frozenset, deque)
_FLOAT = Struct("<f")
_RANGES = {"int": 2**31, "long": 2**63}


class SchemaWriter:
    """Writes values by one schema.

    Args:
        node: the schema.
        records: models by full names of records, where their own names and titles do not tell.
    """

    def __init__(self, node: Node, records: Mapping[str, type]) -> None:
        self._convert = _Converters(node, records).of(node, 0)
        self._schema = bare_schema(node)
        self._is_bare = node.kind == "bytes" and node.logical is None

    def __call__(self, value: Any) -> bytes:
        """The bytes. Raises `Unfit`."""
        bare = self._convert(value)
        if self._is_bare:  # by itself, a value of type bytes is written without its length
            return bytes(bare)
        stream = BytesIO()
        try:
            schemaless_writer(stream, self._schema, bare)
        except UnicodeEncodeError:
            raise _no_text(bare) from None
        return stream.getvalue()


def _no_text(bare: Any) -> Unfit:
    """Where in a bare value there is text that UTF-8 cannot hold."""
    parts: list[tuple[str, Any]] = []
    if isinstance(bare, str):
        return Unfit("text with half a surrogate pair in it, which UTF-8 cannot hold")
    if isinstance(bare, tuple):  # the branch of a union
        return _no_text(bare[1])
    if isinstance(bare, dict):
        parts = list(bare.items())
    elif isinstance(bare, list):
        parts = [(str(number), item) for number, item in enumerate(bare)]
    for name, part in parts:
        try:
            if isinstance(part, str):
                part.encode()
            elif isinstance(part, dict | list | tuple):
                str(part).encode()
        except UnicodeEncodeError:
            return _no_text(part).inside(name)
    return Unfit("a key with half a surrogate pair in it, which UTF-8 cannot hold")


class _Converters:
    """Makes the functions from values to bare Avro values, for one schema."""

    def __init__(self, node: Node, records: Mapping[str, type]) -> None:
        self._recursive = recursive_records(node)
        self._records = records

    def of(self, node: Node, depth: int) -> Convert:
        if node.kind == "record":
            depth = depth + 1 if id(node) in self._recursive else 0
            return _too_deep if depth > MAX_DEPTH else _Record(node, lambda part: self.of(part, depth)).convert
        if node.kind == "union":
            return _Union(node, [self.of(branch, depth) for branch in node.branches], self._records).convert
        if node.kind == "array":
            return _of_array(self.of(node.items, depth))
        if node.kind == "map":
            return _of_map(self.of(node.items, depth))
        return _Scalar(node).convert


def _too_deep(value: Any) -> Any:
    raise Unfit(f"records nested more than {MAX_DEPTH} levels deep")


class _Scalar:
    """Values that hold no others."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._by_type: dict[type, Convert] = {}
        self._logical = writer(node) if node.logical is not None else {}

    def convert(self, value: Any) -> Any:
        convert = self._by_type.get(type(value))
        if convert is None:
            convert = self._by_type[type(value)] = self._for(type(value))
        return convert(value)

    def _for(self, kind: type) -> Convert:
        """How values of a type are converted. Unknown types are refused by what is returned."""
        for known, convert in self._logical.items():
            if issubclass(kind, known) and not (issubclass(kind, datetime) and known is not datetime):
                return convert
        node = self._node
        if issubclass(kind, RootModel):
            return lambda value: self.convert(value.root)
        if issubclass(kind, Enum):
            return self._of_enum
        if node.kind in _RANGES and issubclass(kind, int) and kind is not bool:
            return self._of_int
        if (node.kind == "boolean" and kind is bool) or (node.kind == "null" and kind is type(None)):
            return _as_it_is
        if node.kind in ("float", "double") and issubclass(kind, int | float) and kind is not bool:
            return self._of_float
        if node.kind in ("bytes", "fixed") and issubclass(kind, bytes | bytearray | memoryview):
            return self._of_bytes
        if node.logical == "decimal" and kind is int:
            return lambda value: self._logical[Decimal](Decimal(value))
        if node.kind == "enum" and issubclass(kind, str):
            return self._of_symbol
        if node.kind == "string":
            if node.logical == "uuid":
                return _uuid_text if issubclass(kind, str) else self._refuse
            return str if issubclass(kind, str) else self._of_text
        return self._refuse

    def _refuse(self, value: Any) -> Any:
        wanted = self._node.logical or self._node.name or self._node.kind
        raise Unfit(f"the schema has {wanted}, which a {type(value).__name__} does not become")

    def _of_int(self, value: int) -> int:
        limit = _RANGES[self._node.kind]
        if -limit <= value < limit:
            return int(value)
        raise Unfit(f"an int that the {limit.bit_length()} bits of the schema's {self._node.kind} do not hold")

    def _of_float(self, value: float) -> float:
        try:
            number = float(value)
            if number != value and value == value:
                raise Unfit("an int that no float is equal to")
            if self._node.kind == "float":
                _FLOAT.pack(number)
        except OverflowError:
            raise Unfit(f"a number that the schema's {self._node.kind} does not reach") from None
        return number

    def _of_bytes(self, value: bytes) -> bytes:
        if self._node.kind == "fixed" and len(value) != self._node.size:
            raise Unfit(f"{len(value)} bytes, and the schema has {self._node.size}")
        return bytes(value)

    def _of_enum(self, value: Enum) -> Any:
        if self._node.kind != "enum":
            return self.convert(value.value)
        return value.value if value.value in self._node.symbols else self._of_symbol(value.name)

    def _of_symbol(self, value: str) -> str:
        if value not in self._node.symbols:
            raise Unfit(f"{self._node.name} has no such symbol")
        return str(value)

    def _of_text(self, value: Any) -> str:
        """As in JSON: from which everyone who declares the type reads the same value."""
        if value is None or isinstance(value, bool | int | float | Mapping | BaseModel | LISTS) or is_record(value):
            return str(self._refuse(value))
        text = _text_of(value)
        return text if text is not None else str(self._refuse(value))


def _text_of(value: Any) -> str | None:
    try:
        text = to_jsonable_python(value)
    except Exception:
        return None
    return text if isinstance(text, str) else None


def _as_it_is(value: Any) -> Any:
    return value


def _uuid_text(value: str) -> str:
    try:
        known = str(UUID(value)) == value.lower()
    except ValueError:
        known = False
    if not known:
        raise Unfit("text that is no UUID, as the schema wants")
    return str(value)


def _of_array(convert: Convert) -> Convert:
    def convert_all(value: Any) -> list[Any]:
        if isinstance(value, RootModel):
            return convert_all(value.root)
        if not isinstance(value, LISTS):
            raise Unfit(f"the schema has an array, which a {type(value).__name__} does not become")
        items: list[Any] = []
        try:
            for item in value:
                items.append(convert(item))  # noqa: PERF401 - its length is the number of the item that failed
        except Unfit as error:
            raise error.inside(str(len(items))) from None
        return items

    return convert_all


def _of_map(convert: Convert) -> Convert:
    def convert_all(value: Any) -> dict[str, Any]:
        if isinstance(value, RootModel):
            return convert_all(value.root)
        if not isinstance(value, Mapping):
            raise Unfit(f"the schema has a map, which a {type(value).__name__} does not become")
        found = {}
        try:
            for key, item in value.items():
                found[_key(key)] = convert(item)
        except Unfit as error:
            raise error.inside("?") from None  # keys are data
        if len(found) < len(value):
            raise Unfit("two keys that are written as the same text")
        return found

    return convert_all


def _key(key: Any) -> str:
    if type(key) is str:
        return key
    text = str(key) if isinstance(key, int) and not isinstance(key, bool | Enum) else _text_of(key)
    if text is None:
        raise Unfit(f"a key that is a {type(key).__name__}, and Avro's are text")
    return text


class _Record:
    """Models, dataclasses and mappings."""

    def __init__(self, node: Node, of: Callable[[Node], Convert]) -> None:
        self._node = node
        self._of = of
        self._plans: dict[type, Plan] = {}

    def convert(self, value: Any) -> Any:
        plan = self._plans.get(type(value))
        if plan is None:
            plan = self._plans[type(value)] = plan_of(type(value), self._node, self._of, self.convert)
        return plan(value)


class _Union:
    """Finds the branch for a value: by the value's type, for models by the record's name."""

    def __init__(self, node: Node, converts: list[Convert], records: Mapping[str, type]) -> None:
        self._branches = [(each, convert) for each, convert in zip(node.branches, converts, strict=True)]
        self._records = records
        self._candidates: dict[type, list[list[tuple[Node, Convert]]]] = {}

    def convert(self, value: Any) -> tuple[str, Any]:
        kind = type(value)
        groups = self._candidates.get(kind)
        if groups is None:
            groups = self._candidates[kind] = self._groups(kind)
        refusal: Unfit | None = None
        for group in groups:
            found: list[tuple[str, Any]] = []
            for node, convert in group:
                try:
                    found.append((node.name or node.kind, convert(value)))
                except Unfit as error:
                    refusal = refusal or error
            if len(found) > 1:
                names = " and ".join(name for name, _ in found)
                raise Unfit(f"a {kind.__name__} that fits {names} alike: publish a model with the record's name")
            if found:
                return found[0]
        if refusal is not None and len(groups) == len(groups[0]) == 1:
            raise refusal
        names = ", ".join(node.name or node.logical or node.kind for node, _ in self._branches)
        raise Unfit(f"a {kind.__name__}, and the schema has one of {names}, none of which takes it")

    def _groups(self, kind: type) -> list[list[tuple[Node, Convert]]]:
        """The branches for values of a type, the likely ones first. Those that stand together must not both take it."""
        if (issubclass(kind, BaseModel) and not issubclass(kind, RootModel)) or is_record(kind):
            records = [each for each in self._branches if each[0].kind == "record"]
            named = self._named(kind, [node for node, _ in records])
            return [[each for each in records if each[0] in named] or records]
        ranked: dict[int, list[tuple[Node, Convert]]] = {}
        for node, convert in self._branches:
            if (rank := _rank(node, kind)) is not None:
                ranked.setdefault(rank, []).append((node, convert))
        together = [ranked[rank] for rank in sorted(ranked)]
        if issubclass(kind, Mapping):
            return together
        return [[each] for group in together for each in group]

    def _named(self, kind: type, nodes: list[Node]) -> list[Node]:
        by_table = [node for node in nodes if self._records.get(node.name) is kind]
        names = names_of(kind)
        free = [node for node in nodes if node.name not in self._records]
        by_name = [node for node in free if node.name in names]
        return by_table or by_name or [node for node in free if node.simple_name in names]


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
        "array": (0, LISTS),
        "map": (1, (Mapping,)),
        "record": (1, (Mapping,)),
        "string": (1 if issubclass(kind, str) else 4, (object,)),
    }
    rank, types = likely[node.kind]
    if not issubclass(kind, types) or (kind is bool and node.kind != "boolean"):
        return 5 if issubclass(kind, RootModel) or (node.logical == "decimal" and kind is int) else None
    return rank

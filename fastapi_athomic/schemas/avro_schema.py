"""An Avro schema as a graph: names are resolved, so that a node leads to the nodes that it uses.

By the specification of Avro 1.12 (Names; Schema Declaration). Defaults are kept as they stand in the JSON and looked at
only where one is needed: registries hold schemas whose defaults do not fit, and reading does not need those.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

SchemaInput = str | Path | dict[str, Any] | list[Any]
"""A schema as its JSON text, as what that JSON holds, or the path of an `.avsc` file."""

PRIMITIVES = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))
NAMED = frozenset(("record", "enum", "fixed"))
REFUSED = "refused"
"""The kind of a node that cannot be read: resolution found nothing that stands for it."""
ABSENT: Final = object()
"""In place of a default: there is none."""
_LOGICAL: Mapping[str, tuple[str, ...]] = {
    "decimal": ("bytes", "fixed"),
    "uuid": ("string", "fixed"),
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "timestamp-nanos": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
    "local-timestamp-nanos": ("long",),
    "duration": ("fixed",),
}
_SIZES = {"uuid": 16, "duration": 12}


class AvroSchemaError(ValueError):
    """Something is no Avro schema. The text says what is wrong with it."""


class Field:
    """A field of a record."""

    __slots__ = ("aliases", "default", "name", "node")

    def __init__(self, name: str, node: Node, default: Any = ABSENT, aliases: tuple[str, ...] = ()) -> None:
        self.name = name
        self.node = node
        self.default = default
        self.aliases = aliases


class Node:
    """A type. `kind` is `union` or what the JSON calls `type`; what the kind does not have stays empty."""

    __slots__ = (
        *("aliases", "branches", "convert", "default", "drops", "fields", "fills", "items", "kind", "logical", "name"),
        *("precision", "scale", "size", "symbols"),
    )

    def __init__(self, kind: str, name: str = "") -> None:
        self.kind = kind
        self.name = name  # the full name of a record, enum or fixed
        self.aliases: tuple[str, ...] = ()
        self.fields: list[Field] = []
        self.items: Node = self  # of an array, or the values of a map
        self.branches: list[Node] = []
        self.symbols: list[str | None] = []  # None: resolution found nothing that stands for it
        self.default: Any = ABSENT  # of an enum
        self.size = 0
        self.logical: str | None = None  # only if this package knows it, and it fits the kind
        self.precision = self.scale = 0
        # what resolution for a reader's schema adds, see `avro_resolution`
        self.convert: Callable[[Any], Any] | None = None  # done to values that were read
        self.drops: list[str] = []  # fields that the reader's schema lacks
        self.fills: list[Field] = []  # fields that the writer's schema lacks: their defaults stand in

    def __repr__(self) -> str:
        return f"<{self.name or self.kind}>"

    @property
    def simple_name(self) -> str:
        """The name without its namespace."""
        return self.name.rpartition(".")[2]

    def parts(self) -> Iterator[Node]:
        """The nodes that it uses itself."""
        if self.kind == "record":
            yield from (field.node for field in self.fields)
        elif self.kind == "union":
            yield from self.branches
        elif self.kind in ("array", "map"):
            yield self.items

    def walk(self) -> Iterator[Node]:
        """All nodes that can be reached, each once."""
        seen, waiting = {id(self)}, [self]
        while waiting:
            node = waiting.pop()
            yield node
            for part in node.parts():
                if id(part) not in seen:
                    seen.add(id(part))
                    waiting.append(part)


def schema_text(schema: SchemaInput) -> str:
    """The JSON text of a schema.

    Raises:
        AvroSchemaError: the file cannot be read.
    """
    if isinstance(schema, dict | list):
        return json.dumps(schema)
    text = str(schema)
    if isinstance(schema, Path) or text.endswith(".avsc"):
        try:
            return Path(schema).read_text(encoding="utf-8")
        except OSError as error:
            raise AvroSchemaError(f"{text} cannot be read: {error.strerror}") from error
    return json.dumps(text) if text.strip() in PRIMITIVES else text


def parse(text: str, references: Mapping[str, str] | None = None) -> Node:
    """The graph of a schema.

    Args:
        text: its JSON. The bare name of a primitive type is taken, too, as registries do.
        references: the texts of schemas that it uses, by the names of the types that they define.

    Raises:
        AvroSchemaError: it is no schema, or uses a name that nothing defines.
    """
    return _Parser({} if references is None else references).parse_text(text)


class _Parser:
    def __init__(self, references: Mapping[str, str]) -> None:
        self._references = references
        self._named: dict[str, Node] = {}
        self._begun: set[str] = set()  # references that are being read

    def parse_text(self, text: str) -> Node:
        try:
            schema = text.strip() if text.strip() in PRIMITIVES else json.loads(text)
        except ValueError as error:
            raise AvroSchemaError(f"it is no JSON: {error}") from None
        return self._parse(schema, "")

    def _parse(self, schema: Any, namespace: str) -> Node:
        if isinstance(schema, str):
            return Node(schema) if schema in PRIMITIVES else self._known(schema, namespace)
        if isinstance(schema, list):
            return self._union(schema, namespace)
        if not isinstance(schema, dict) or "type" not in schema:
            raise AvroSchemaError("a type is neither a name, a union nor an object with `type`")
        kind = schema["type"]
        if not isinstance(kind, str):
            return self._parse(kind, namespace)  # {"type": {"type": ...}}, which Java's parser takes
        kind = "record" if kind == "error" else kind
        if kind in NAMED:
            return self._define(kind, schema, namespace)
        if kind in ("array", "map"):
            node = Node(kind)
            node.items = self._parse(_needed(schema, "items" if kind == "array" else "values"), namespace)
            return node
        if kind not in PRIMITIVES:
            return self._known(kind, namespace)
        node = Node(kind)
        _take_logical(node, schema)
        return node

    def _union(self, branches: list[Any], namespace: str) -> Node:
        node = Node("union")
        node.branches = [self._parse(branch, namespace) for branch in branches]
        names = [branch.name or branch.kind for branch in node.branches]
        if "union" in names:
            raise AvroSchemaError("a union stands immediately in another one")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise AvroSchemaError(f"{twice} stands twice in one union")
        return node

    def _known(self, name: str, namespace: str) -> Node:
        full = f"{namespace}.{name}" if namespace and "." not in name else name
        for wanted in (full, name):
            if wanted in self._named:
                return self._named[wanted]
            if wanted in self._references and wanted not in self._begun:
                self._begun.add(wanted)
                node = self.parse_text(self._references[wanted])
                return self._named.get(wanted, node)
        raise AvroSchemaError(f"nothing defines the type {full}")

    def _define(self, kind: str, schema: dict[str, Any], namespace: str) -> Node:
        name = str(_needed(schema, "name"))
        own = name.rpartition(".")[0] if "." in name else schema.get("namespace", namespace) or ""
        node = Node(kind, name if "." in name or not own else f"{own}.{name}")
        if node.name in self._named:
            raise AvroSchemaError(f"{node.name} is defined twice")
        self._named[node.name] = node
        node.aliases = tuple(
            f"{own}.{alias}" if own and "." not in alias else alias for alias in schema.get("aliases", ())
        )
        if kind == "record":
            node.fields = [self._field(field, own) for field in _needed(schema, "fields")]
            if len({field.name for field in node.fields}) < len(node.fields):
                raise AvroSchemaError(f"two fields of {node.name} have one name")
        elif kind == "enum":
            node.symbols = list(_needed(schema, "symbols"))
            node.default = schema.get("default", ABSENT)
        else:
            node.size = _number(schema, "size")
            _take_logical(node, schema)
        return node

    def _field(self, field: Any, namespace: str) -> Field:
        if not isinstance(field, dict):
            raise AvroSchemaError("a field of a record is no object")
        node = self._parse(_needed(field, "type"), namespace)
        return Field(str(_needed(field, "name")), node, field.get("default", ABSENT), tuple(field.get("aliases", ())))


def _take_logical(node: Node, schema: dict[str, Any]) -> None:
    """Logical types that are unknown or do not fit are ignored, as the specification says."""
    logical = schema.get("logicalType")
    if node.kind not in _LOGICAL.get(str(logical), ()):
        return
    if node.kind == "fixed" and _SIZES.get(str(logical), node.size) != node.size:
        return
    if logical == "decimal":
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if not isinstance(precision, int) or not isinstance(scale, int) or not 0 <= scale <= precision:
            return
        node.precision, node.scale = precision, scale
    node.logical = str(logical)


def _needed(schema: dict[str, Any], key: str) -> Any:
    if key not in schema:
        raise AvroSchemaError(f"{schema.get('name', 'a type')} has no `{key}`")
    return schema[key]


def _number(schema: dict[str, Any], key: str) -> int:
    number = _needed(schema, key)
    if not isinstance(number, int) or number < 0:
        raise AvroSchemaError(f"`{key}` of {schema.get('name')} is no number")
    return number


def recursive_records(root: Node) -> frozenset[int]:
    """The `id` of each record that can hold itself, in whatever depth."""
    held = {id(node): _records_in(node) for node in root.walk() if node.kind == "record"}
    return frozenset(record for record in held if record in _reachable(record, held))


def _records_in(record: Node) -> set[int]:
    """The `id`s of records that it holds without others between."""
    found: set[int] = set()
    waiting = list(record.parts())
    while waiting:
        node = waiting.pop()
        if node.kind == "record":
            found.add(id(node))
        else:
            waiting.extend(node.parts())
    return found


def _reachable(record: int, held: Mapping[int, set[int]]) -> set[int]:
    found: set[int] = set()
    waiting = list(held[record])
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting.extend(held[each])
    return found


def takes_no_bytes(node: Node) -> bool:
    """Whether all values of the type are written as nothing at all. An array of those may claim any length."""
    return _takes_no_bytes(node, set())


def _takes_no_bytes(node: Node, open_records: set[int]) -> bool:
    if node.kind == "record":
        if id(node) in open_records:
            return False
        return all(_takes_no_bytes(field.node, open_records | {id(node)}) for field in node.fields)
    return node.kind == "null" or (node.kind == "fixed" and node.size == 0)

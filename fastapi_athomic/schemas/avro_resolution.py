"""A writer's schema as a reader's schema sees it, by the specification's rules (Avro 1.12, Schema Resolution).

What comes out is read like a writer's schema: bytes are taken as they were written, under the names of the reader's
schema. fastavro resolves, too, but per message, and fills in defaults as they stand in the JSON: text for bytes, one
list for all messages.
"""

from __future__ import annotations

from .avro_schema import ABSENT, REFUSED, AvroSchemaError, Field, Node

_NUMBERS = {"int": ("long", "float", "double"), "long": ("float", "double"), "float": ("double",)}
_DROPPED = "\0"
"""Begins the names of fields that are dropped: no field of a schema has such a name."""


def resolved(writer: Node, reader: Node) -> Node:
    """The writer's schema, changed for the reader's.

    Raises:
        AvroSchemaError: nothing that was written by the one can be read by the other.
    """
    return _Resolution().of(writer, reader)


class _Resolution:
    def __init__(self) -> None:
        self._made: dict[tuple[int, int], Node] = {}

    def of(self, writer: Node, reader: Node) -> Node:
        known = self._made.get((id(writer), id(reader)))
        if known is not None:
            return known
        if writer.kind == "union":
            return self._of_union(writer, reader)
        if reader.kind == "union":
            return self._of_one_branch(writer, reader)
        if writer.kind == reader.kind == "record":
            return self._of_record(writer, reader)
        if writer.kind == reader.kind and writer.kind in ("array", "map"):
            made = self._made[id(writer), id(reader)] = Node(writer.kind)
            made.items = self.of(writer.items, reader.items)
            return made
        return _of_scalar(writer, reader)

    def _of_union(self, writer: Node, reader: Node) -> Node:
        made = Node("union")
        made.branches = [self._or_refused(branch, reader) for branch in writer.branches]
        if all(branch.kind == REFUSED for branch in made.branches):
            raise AvroSchemaError(f"none of the union's types can become {reader.name or reader.kind}")
        return made

    def _or_refused(self, writer: Node, reader: Node) -> Node:
        try:
            return self.of(writer, reader)
        except AvroSchemaError:
            return Node(REFUSED)

    def _of_one_branch(self, writer: Node, reader: Node) -> Node:
        likely = [branch for branch in reader.branches if branch.kind == writer.kind and branch.name == writer.name]
        for branch in (*likely, *reader.branches):
            try:
                return self.of(writer, branch)
            except AvroSchemaError:
                continue
        raise AvroSchemaError(f"{writer.name or writer.kind} can become none of the reader's union")

    def _of_record(self, writer: Node, reader: Node) -> Node:
        _check_names(writer, reader)
        made = self._made[id(writer), id(reader)] = Node("record", reader.name)
        try:
            self._resolve_fields(writer, reader, made)
        except AvroSchemaError:
            del self._made[id(writer), id(reader)]
            raise
        return made

    def _resolve_fields(self, writer: Node, reader: Node, made: Node) -> None:
        by_name = {alias: each for each in reader.fields for alias in each.aliases}
        by_name |= {each.name: each for each in reader.fields}
        found = set()
        for written in writer.fields:
            wanted = by_name.get(written.name)
            if wanted is None:
                made.drops.append(_DROPPED + written.name)
                made.fields.append(Field(made.drops[-1], written.node))
            else:
                found.add(wanted.name)
                made.fields.append(Field(wanted.name, self.of(written.node, wanted.node)))
        for wanted in reader.fields:
            if wanted.name not in found:
                if wanted.default is ABSENT:
                    raise AvroSchemaError(f"{writer.name} has no {wanted.name}, and the reader's schema no default")
                made.fills.append(wanted)


def _check_names(writer: Node, reader: Node) -> None:
    aliases = {*reader.aliases, *(alias.rpartition(".")[2] for alias in reader.aliases)}
    if writer.simple_name != reader.simple_name and not {writer.name, writer.simple_name} & aliases:
        raise AvroSchemaError(f"{writer.name} is neither {reader.name} nor one of its aliases")


def _of_scalar(writer: Node, reader: Node) -> Node:
    same = writer.kind == reader.kind
    if same and writer.kind in ("enum", "fixed"):
        _check_names(writer, reader)
    if same and writer.size != reader.size:
        raise AvroSchemaError(f"{writer.name} has {writer.size} bytes, and the reader's {reader.size}")
    if (
        not same
        and reader.kind not in _NUMBERS.get(writer.kind, ())
        and {writer.kind, reader.kind}
        != {
            "bytes",
            "string",
        }
    ):
        raise AvroSchemaError(f"{writer.name or writer.kind} cannot become {reader.name or reader.kind}")
    is_text = reader.kind in ("bytes", "string")  # which are written alike
    made = Node(reader.kind if is_text else writer.kind, reader.name)
    made.size = writer.size
    default = None if reader.default is ABSENT else reader.default
    made.symbols = [symbol if symbol in reader.symbols else default for symbol in writer.symbols]
    if reader.kind in ("float", "double") and writer.kind in ("int", "long"):
        made.convert = float
    elif reader.logical is not None:
        told_by = writer if _family(writer) == _family(reader) else reader
        made.logical, made.precision, made.scale = told_by.logical, told_by.precision, told_by.scale
    return made


def _family(node: Node) -> str:
    """Timestamps of all units are one: the writer's unit counts, and the scale of its decimals."""
    return str(node.logical).removesuffix("-millis").removesuffix("-micros").removesuffix("-nanos")

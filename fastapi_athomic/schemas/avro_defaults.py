"""Bare Avro values: what is left of them without logical types, and how defaults in schemas become such values."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from fastavro import schemaless_writer

from .avro_logical import Unfit
from .avro_schema import Field, Node

PARSED = {"__fastavro_parsed": True, "__named_schemas": {}}
"""Tells fastavro that a schema is parsed. Names are not looked up then, so a record may lead to itself."""


def bare_schema(node: Node) -> Any:
    """The schema that fastavro writes bare values by."""
    return _bare(node, {})


def _bare(node: Node, made: dict[int, Any]) -> Any:
    if id(node) in made:
        return made[id(node)]
    if node.kind == "union":
        return [_bare(branch, made) for branch in node.branches]
    schema: dict[str, Any] = {**PARSED, "type": node.kind}
    if node.kind == "record":
        made[id(node)] = schema
        schema["name"] = node.name
        schema["fields"] = [{"name": each.name, "type": _bare(each.node, made)} for each in node.fields]
    elif node.kind == "enum":
        schema |= {"name": node.name, "symbols": node.symbols}
    elif node.kind == "fixed":
        schema |= {"name": node.name, "size": node.size}
    elif node.kind == "array":
        schema["items"] = _bare(node.items, made)
    elif node.kind == "map":
        schema["values"] = _bare(node.items, made)
    else:
        return node.kind
    return schema


def default_bytes(field: Field) -> bytes:
    """A field's default as it would stand in a message. Raises `Unfit` if it is none of the field's type."""
    stream = BytesIO()
    schemaless_writer(stream, bare_schema(field.node), raw_default(field.node, field.default))
    return stream.getvalue()


def raw_default(node: Node, default: Any) -> Any:
    """The bare Avro value of a default in a schema, with the branch of a union named. Raises `Unfit` if it is none."""
    kind = node.kind
    if kind == "union":
        return _of_a_branch(node, default)
    if kind == "record" and isinstance(default, dict):
        return {each.name: raw_default(each.node, default.get(each.name, each.default)) for each in node.fields}
    if kind == "array" and isinstance(default, list):
        return [raw_default(node.items, item) for item in default]
    if kind == "map" and isinstance(default, dict):
        return {key: raw_default(node.items, item) for key, item in default.items()}
    if kind in ("bytes", "fixed") and isinstance(default, str):
        return default.encode("latin-1", "replace")
    if kind in ("float", "double") and isinstance(default, int | float | str) and not isinstance(default, bool):
        return float(default)
    if kind in ("int", "long") and isinstance(default, int | float) and default == int(default):
        return int(default)
    if kind == "enum" and default in node.symbols:
        return default
    if (kind == "string" and isinstance(default, str)) or (kind == "boolean" and isinstance(default, bool)):
        return default
    if kind == "null" and default is None:
        return None
    raise Unfit(f"the schema's default is no {node.name or kind}")


def _of_a_branch(node: Node, default: Any) -> tuple[str, Any]:
    for branch in node.branches:  # of the first one, by versions of the specification before 1.12
        try:
            return branch.name or branch.kind, raw_default(branch, default)
        except (Unfit, ValueError):
            continue
    raise Unfit("the schema's default is of none of the union's types")

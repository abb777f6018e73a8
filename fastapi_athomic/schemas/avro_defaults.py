"""How defaults that stand in schemas become bytes, as they would stand in messages."""

from __future__ import annotations

from typing import Any

from .avro_binary import DOUBLE, FLOAT, put_bytes, put_number
from .avro_logical import Unfit
from .avro_schema import Field, Node

_RANGES = {"int": 2**31, "long": 2**63}


def default_bytes(field: Field) -> bytes:
    """A field's default as it would stand in a message. Raises `Unfit` if it is none of the field's type."""
    out = bytearray()
    try:
        _put(out, field.node, field.default)
    except Unfit as error:
        raise error.inside(field.name) from None
    return bytes(out)


def _put(out: bytearray, node: Node, default: Any) -> None:
    kind = node.kind
    if kind == "union":
        _put_branch(out, node, default)
    elif kind == "record" and isinstance(default, dict):
        for each in node.fields:
            _put(out, each.node, default.get(each.name, each.default))
    elif kind == "array" and isinstance(default, list):
        for item in default:
            put_number(out, 1)
            _put(out, node.items, item)
        out.append(0)
    elif kind == "map" and isinstance(default, dict):
        for key, item in default.items():
            put_number(out, 1)
            put_bytes(out, key.encode())
            _put(out, node.items, item)
        out.append(0)
    elif not _put_scalar(out, node, default):
        raise Unfit(f"the schema's default is no {node.name or kind}")


def _put_scalar(out: bytearray, node: Node, default: Any) -> bool:
    """False: it is none of the type."""
    kind, is_number = node.kind, isinstance(default, int | float) and not isinstance(default, bool)
    if kind == "null" and default is None:
        return True
    if kind == "boolean" and isinstance(default, bool):
        out.append(default)
    elif kind in _RANGES and is_number and default == default // 1 and -_RANGES[kind] <= default < _RANGES[kind]:
        put_number(out, int(default))
    elif kind in ("float", "double") and (is_number or default in ("NaN", "Infinity", "-Infinity")):
        out += (FLOAT if kind == "float" else DOUBLE)(float(default))
    elif kind == "string" and isinstance(default, str):
        put_bytes(out, default.encode())
    elif kind == "bytes" and isinstance(default, str):  # each character stands for a byte
        put_bytes(out, default.encode("latin-1"))
    elif kind == "fixed" and isinstance(default, str) and len(default) == node.size:
        out += default.encode("latin-1")
    elif kind == "enum" and default in node.symbols:
        put_number(out, node.symbols.index(default))
    else:
        return False
    return True


def _put_branch(out: bytearray, node: Node, default: Any) -> None:
    before = len(out)
    for place, branch in enumerate(node.branches):  # of the first one, by versions of the specification before 1.12
        try:
            put_number(out, place)
            return _put(out, branch, default)
        except Unfit:
            del out[before:]
    raise Unfit("the schema's default is of none of the union's types")

"""Which schemas `memory://` calls incompatible; for Avro beside what Apache's own library says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

from fastapi_athomic.schemas.compatibility_rules import problems


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    listed = [each if isinstance(each, dict) else {"name": each[0], "type": each[1]} for each in fields]
    return {"type": "record", "name": name, "fields": listed, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


def fixed(size: int, name: str = "F") -> dict[str, Any]:
    return {"type": "fixed", "name": name, "size": size}


X = ("x", "int")
NODE = record({"name": "next", "type": ["null", "Node"]}, X, name="Node")

IN = record(X, name="In")
UNFIT, FIT = record(("new", "int"), name="Q", aliases=["In"]), record(X, name="S", aliases=["In"])

# older, newer, why the newer cannot read the older
AVRO: list[tuple[Any, Any, list[str]]] = [
    ("int", "int", []),
    ("int", "long", []),
    ("long", "int", ["it: long cannot be read as int"]),
    ("int", "double", []),
    ("float", "long", ["it: float cannot be read as long"]),
    ("string", "bytes", []),
    ("bytes", "string", []),
    ("int", "string", ["it: int cannot be read as string"]),
    (record(X), record(X), []),
    (record(X), record(("x", "string")), ["x: int cannot be read as string"]),
    (record(X), record(), []),
    (record(), record(X), ["x: it is new, and has no default"]),
    (record(), record({"name": "x", "type": "int", "default": 1}), []),
    (record({"name": "x", "type": "int", "default": 1}), record(X), []),
    (record(X), record({"name": "y", "type": "int", "aliases": ["x"]}), []),
    (record(X), record(("y", "int")), ["y: it is new, and has no default"]),
    (record(X), record(X, name="Q"), ["it: the name is Q, and was R"]),
    (record(X), record(X, name="Q", aliases=["R"]), []),
    (record(X, namespace="a"), record(X, name="a.R"), []),
    (record(("in", record(X, name="In"))), record(("in", record(("x", "string"), name="In"))), ["in.x: int cannot"]),
    ("int", ["null", "int"], []),
    (["null", "int"], "int", ["it: null cannot be read as int"]),
    (["null", "int"], ["int", "null"], []),
    (["null", "int"], ["null", "string"], ["it: no branch of the union reads int"]),
    (["int", "string"], ["double", "bytes"], []),
    (enum("A", "B"), enum("A", "B", "C"), []),
    (enum("A", "B"), enum("A"), ["it: the enum lacks B, and has no default"]),
    (enum("A", "B"), enum("A", default="A"), []),
    (fixed(4), fixed(4), []),
    (fixed(4), fixed(8), ["it: the size is 8, and was 4"]),
    ({"type": "array", "items": "int"}, {"type": "array", "items": "string"}, ["[]: int cannot be read as string"]),
    ({"type": "array", "items": "int"}, {"type": "map", "values": "int"}, ["it: array cannot be read as map"]),
    ({"type": "map", "values": "int"}, {"type": "map", "values": "string"}, ["{}: int cannot be read as string"]),
    ({"type": "long", "logicalType": "timestamp-millis"}, "long", []),
    (NODE, NODE, []),
    (NODE, record({"name": "next", "type": ["null", "Node"]}, ("x", "string"), name="Node"), ["x: int cannot"]),
    (record(("a", IN), ("b", "In")), record(("a", [UNFIT, FIT]), ("b", "S")), []),
    (record(("a", IN), ("b", "In")), record(("a", [UNFIT, FIT]), ("b", "Q")), ["b.new: it is new, and has no default"]),
    (record(("a", fixed(4)), ("b", "F")), record(("b", fixed(8)), {"name": "a", "type": "F"}), ["b: the size is 8"]),
]


@pytest.mark.parametrize(("older", "newer", "reasons"), AVRO)
def test_avro(older: Any, newer: Any, reasons: list[str]) -> None:
    found = problems("AVRO", json.dumps(newer), json.dumps(older), {})
    assert bool(found) == bool(reasons), found
    if reasons:
        assert found[0].startswith(reasons[0])


@pytest.mark.parametrize(("older", "newer", "reasons"), AVRO)
def test_apaches_library_says_the_same(older: Any, newer: Any, reasons: list[str]) -> None:
    checker: Any = ReaderWriterCompatibilityChecker  # has no types
    said = checker().get_compatibility(parse(json.dumps(newer)), parse(json.dumps(older)))
    assert (said.compatibility is SchemaCompatibilityType.compatible) == (not reasons)


def test_avro_schemas_may_use_others() -> None:
    used = {"shop.Money": json.dumps(record(("cents", "long"), name="shop.Money"))}
    older, newer = record(("price", "shop.Money")), record(("price", ["null", "shop.Money"]))
    assert problems("AVRO", json.dumps(newer), json.dumps(older), used) == []
    assert problems("AVRO", json.dumps(older), json.dumps(newer), used) == ["price: null cannot be read as record"]


OBJECT = {"type": "object"}
A = {"a": {"type": "integer"}}


@pytest.mark.parametrize(
    ("older", "newer", "reasons"),
    [
        (OBJECT, OBJECT, []),
        ({"type": "integer"}, {"type": "number"}, []),
        ({"type": "number"}, {"type": "integer"}, ["it: only integer is allowed now"]),
        ({"type": ["null", "string"]}, {"type": "string"}, ["it: only string is allowed now"]),
        ({"type": "string"}, {"type": ["null", "string"]}, []),
        ({}, {"type": "string"}, ["it: only string is allowed now"]),
        (OBJECT, {**OBJECT, "required": ["a"]}, ["a: it is required now"]),
        ({**OBJECT, "required": ["a"]}, OBJECT, []),
        ({**OBJECT, "properties": A}, {**OBJECT, "properties": {"a": {"type": "string"}}}, ["a: only string is allo"]),
        (OBJECT, {**OBJECT, "additionalProperties": False}, ["it: other properties are not allowed any more"]),
        (
            {**OBJECT, "properties": A, "additionalProperties": False},
            {**OBJECT, "additionalProperties": False},
            ["a: it is not allowed any more"],
        ),
        ({"enum": [1, 2]}, {"enum": [1]}, ["it: fewer values are allowed"]),
        ({"enum": [1]}, {"enum": [1, 2]}, []),
        ({"items": {"type": "number"}}, {"items": {"type": "integer"}}, ["[]: only integer is allowed now"]),
        (True, False, ["it: nothing is allowed any more"]),
        (False, True, []),
    ],
)
def test_json_schema(older: Any, newer: Any, reasons: list[str]) -> None:
    found = problems("JSON", json.dumps(newer), json.dumps(older), {})
    assert [each[: len(reason)] for each, reason in zip(found, reasons, strict=True)] == reasons


def test_protobuf_is_not_judged() -> None:
    assert problems("PROTOBUF", "message A {}", "message B {}", {}) == []

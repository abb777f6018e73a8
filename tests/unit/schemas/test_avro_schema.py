from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import pytest
from fastavro import parse_schema
from pydantic import BaseModel, ConfigDict, Field

from fastapi_athomic import ConfigurationError
from fastapi_athomic.payload.target import Target
from fastapi_athomic.schemas.avro_derivation import derived_schema
from fastapi_athomic.schemas.avro_fit import misfits_of_reading, misfits_of_writing
from fastapi_athomic.schemas.avro_logical import Duration
from fastapi_athomic.schemas.avro_schema import (
    AvroSchemaError,
    Node,
    parse,
    recursive_records,
    schema_text,
    takes_no_bytes,
)
from tests.support.avro import logical, read, record, written

T = TypeVar("T")


def parsed(schema: Any, **references: Any) -> Node:
    return parse(json.dumps(schema), {name: json.dumps(each) for name, each in references.items()})


def test_names_are_resolved_within_namespaces() -> None:
    node = parsed(
        {
            "type": "record",
            "name": "Order",
            "namespace": "shop",
            "aliases": ["Old", "else.Older"],
            "fields": [
                {"name": "line", "type": {"type": "record", "name": "Line", "fields": []}},
                {"name": "again", "type": "Line"},
                {"name": "full", "type": "shop.Line"},
                {"name": "other", "type": {"type": "fixed", "name": "other.Hash", "size": 4}},
                {"name": "hash", "type": ["null", "other.Hash"]},
                {"name": "wrapped", "type": {"type": {"type": "int"}}},
            ],
        }
    )
    assert (node.name, node.simple_name, node.aliases) == ("shop.Order", "Order", ("shop.Old", "else.Older"))
    nodes = [each.node for each in node.fields]
    assert nodes[0] is nodes[1] is nodes[2]
    assert nodes[0].name == "shop.Line"
    assert nodes[4].branches[1] is nodes[3]
    assert nodes[5].kind == "int"


def test_references_are_read_where_they_are_used_once_each() -> None:
    money = record("shop.Money", amount="long")
    line = record("shop.Line", price="shop.Money")
    node = parsed(record("shop.Order", line="Line", total="Money"), **{"shop.Line": line, "shop.Money": money})
    assert node.fields[0].node.fields[0].node is node.fields[1].node
    with pytest.raises(AvroSchemaError, match=r"nothing defines the type shop\.Line"):
        parsed(record("shop.Order", line="Line"))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (1, "a type is neither a name, a union nor an object with `type`"),
        ({"type": "record", "name": "A"}, "A has no `fields`"),
        ({"type": "record", "fields": []}, "a type has no `name`"),
        (record("A", a="Nowhere"), "nothing defines the type Nowhere"),
        (["int", "int"], "int stands twice in one union"),
        (["int", ["string"]], "a union stands immediately in another one"),
        ({"type": "fixed", "name": "F", "size": -1}, "`size` of F is no number"),
        ([record("A"), record("A")], "A is defined twice"),
        (record("A", a="int") | {"fields": [{"name": "a", "type": "int"}] * 2}, "two fields of A have one name"),
    ],
)
def test_what_is_no_schema_is_told(schema: Any, reason: str) -> None:
    with pytest.raises(AvroSchemaError, match=reason):
        parsed(schema)


def test_texts_of_schemas(tmp_path: Path) -> None:
    path = tmp_path / "order.avsc"
    path.write_text('{"type": "int"}')
    for given in (path, str(path), '{"type": "int"}', {"type": "int"}, "int"):
        assert parse(schema_text(given)).kind == "int"
    with pytest.raises(AvroSchemaError, match="cannot be read: No such file"):
        schema_text(tmp_path / "none.avsc")
    with pytest.raises(AvroSchemaError, match="it is no JSON"):
        parse("{")


@pytest.mark.parametrize(
    "schema",
    [
        logical("string", "decimal"), logical("bytes", "decimal", precision=2, scale=3), logical("bytes", "decimal"),
        {"type": "fixed", "name": "F", "size": 3, "logicalType": "duration"}, logical("int", "timestamp-millis"),
    ],
)  # fmt: skip
def test_logical_types_that_do_not_fit_are_ignored(schema: Any) -> None:
    """As the specification says."""
    assert parsed(schema).logical is None


def test_recursion_and_types_that_take_no_bytes() -> None:
    tree = parsed(record("Tree", children={"type": "array", "items": "Tree"}, leaf=record("Leaf", n="null")))
    assert recursive_records(tree) == {id(tree)}
    assert takes_no_bytes(tree.fields[1].node)
    assert not takes_no_bytes(tree)
    assert takes_no_bytes(parsed({"type": "fixed", "name": "F", "size": 0}))
    assert not takes_no_bytes(parsed(["null"]))


# --- derived schemas


class Kind(Enum):
    new = "NEW"
    old = "OLD"


class Level(Enum):
    low = 1


class Line(BaseModel):
    sku: str
    price: Annotated[Decimal, Field(max_digits=9, decimal_places=2)]


@dataclass
class Point:
    x: float


class Order(BaseModel):
    model_config = ConfigDict(title="shop.Order")
    order_id: int = Field(alias="orderId")
    kind: Kind
    level: Level
    lines: list[Line]
    first: Line | None = None
    at: datetime
    day: date
    hour: time
    id: UUID
    span: timedelta
    exact: Duration
    raw: bytes
    flags: dict[str, bool]
    event: Point | Line
    word: Literal["a", "b"] = "a"
    retries: int = 3
    parent: Order | None = None
    hidden: int = Field(default=0, exclude=True)


def test_a_schema_is_derived_from_a_model() -> None:
    line = {
        "type": "record",
        "name": "base.Line",
        "fields": [
            {"name": "sku", "type": "string"},
            {"name": "price", "type": logical("bytes", "decimal", precision=9, scale=2)},
        ],
    }
    schema = json.loads(derived_schema(Order, "base", {}))
    assert schema == record(
        "shop.Order",
        orderId="long",
        kind={"type": "enum", "name": "base.Kind", "symbols": ["NEW", "OLD"]},
        level={"type": "enum", "name": "base.Level", "symbols": ["low"]},
        lines={"type": "array", "items": line},
        first=[{"type": ["null", "base.Line"], "default": None}],
        at=logical("long", "timestamp-micros"),
        day=logical("int", "date"),
        hour=logical("long", "time-micros"),
        id=logical("string", "uuid"),
        span={"type": "fixed", "name": "base.Duration", "size": 12, "logicalType": "duration"},
        exact="base.Duration",
        raw="bytes",
        flags={"type": "map", "values": "boolean"},
        event=[record("base.Point", x="double"), "base.Line"],
        word=[{"type": "string", "default": "a"}],
        retries=[{"type": "long", "default": 3}],
        parent=[{"type": ["null", "shop.Order"], "default": None}],
    )
    parse_schema(schema)  # fastavro finds nothing wrong with it


def test_what_is_written_by_a_derived_schema_is_read_back() -> None:
    order = Order.model_validate({
        "orderId": 1, "kind": "OLD", "level": 1, "lines": [{"sku": "a", "price": "1.20"}], "at": "2026-01-01T00:00:00Z",
        "day": "2026-01-01", "hour": "01:02", "id": "12345678-1234-5678-1234-567812345678", "span": timedelta(days=1),
        "exact": Duration(1), "raw": b"\xff", "flags": {"a": True}, "event": Point(1.5),
    })  # fmt: skip
    schema = json.loads(derived_schema(Order, None, {}))
    assert read(schema, written(schema, order), Order) == order


class Box(BaseModel, Generic[T]):
    content: T


class Anything(BaseModel):
    value: Any


class Money(BaseModel):
    amount: Decimal


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Anything, "value may be anything, for which Avro has no type: give a schema"),
        (Box[Money], "the field content.amount is a Decimal without limits, and Avro's have some"),
        (Box[tuple[int, str]], "content may be a tuple of unlike items"),
        (Box[Callable[[], int]], "content may be callable"),
    ],
)
def test_what_has_no_avro_type_is_told_with_its_path(kind: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        derived_schema(kind, None, {})


def test_a_type_of_the_users_that_is_called_duration_is_a_record() -> None:
    @dataclass
    class Duration:
        weeks: int

    schema = json.loads(derived_schema(Duration, None, {}))

    assert schema == {"type": "record", "name": "Duration", "fields": [{"name": "weeks", "type": "long"}]}


def test_two_types_with_one_name_are_told() -> None:
    def other() -> type:
        class Line(BaseModel):
            x: int

        return Line

    with pytest.raises(ConfigurationError, match="two types would be called Line, one of them at content: give one a"):
        derived_schema(Box[Line | other()], None, {})  # type: ignore[misc]
    assert "mine.Line" in derived_schema(Box[Line], None, {Line: "mine.Line"})


# --- what does not fit


class Small(BaseModel):
    number: int
    note: str | None = None


@pytest.mark.parametrize(
    ("schema", "kind", "problems"),
    [
        (record(number="int"), Small, []),
        (record(number="string"), Small, []),  # it may be a number
        (record(other="int"), Small, ["number is required by Small, and shop.Order has no such field"]),
        (record(number={"type": "array", "items": "int"}), Small,
         ["number is array in the schema, and int in the type"]),
        (record(number="int", note=["null", "int"]), Small, ["note is int in the schema, and str in the type"]),
        (record(a={"type": "array", "items": record("shop.Line", sku="int", price="double")}), dict[str, list[Line]],
         ["a[].sku is int in the schema, and str in the type"]),
        (record("shop.Other", x="double"), Line | Point,
         ["the message may be the record shop.Other, which is none of Line, Point"]),
        (record("shop.Point", x="string"), Line | Point, []),
        (record("shop.Point"), Line | Point, ["x is required by Point, and shop.Point has no such field"]),
        (record("shop.Order", at=logical("long", "timestamp-millis")), dict[str, str],
         ["at is timestamp-millis in the schema, and str in the type"]),
        (record("shop.Order", id=logical("string", "uuid")), dict[str, str], []),
        ("int", Small, ["the message is int in the schema, and model in the type"]),
        (record(anything="int"), Any, []),
    ],
)  # fmt: skip
def test_what_a_handler_can_never_read(schema: Any, kind: Any, problems: list[str]) -> None:
    assert misfits_of_reading(parsed(schema), Target(kind), {}) == problems


@pytest.mark.parametrize(
    ("schema", "problems"),
    [
        (record(number="int", note=["null", "string"]), []),
        (record(number="int"), ["note is a field of Small, and shop.Order has no such field"]),
        (record(number="int", note="string", more="int"),
         ["more is a field of shop.Order without a default, and Small lacks it"]),
        (record(number="int", note="string", more=[{"type": "int", "default": 1}]), []),
        (["null", record(number="int", note="string")], []),
        (["null", "string"], ["the message is string in the schema, and model in the type"]),
    ],
)  # fmt: skip
def test_what_can_never_be_published(schema: Any, problems: list[str]) -> None:
    assert misfits_of_writing(parsed(schema), Target(Small), {}) == problems


def test_recursive_types_are_compared_once() -> None:
    schema = record("Node", value="int", next=["null", "Node"])

    class Node(BaseModel):
        value: int
        next: dict[str, Any] | None

    assert misfits_of_reading(parsed(schema), Target(Node), {}) == []

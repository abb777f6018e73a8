from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastavro import parse_schema, schemaless_reader
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    field_serializer,
    model_serializer,
)

from fastapi_athomic import PayloadEncodeError
from fastapi_athomic.payload.steps import Outgoing
from fastapi_athomic.schemas.avro_logical import Duration, Unfit
from fastapi_athomic.schemas.avro_messages import MessageWriter
from fastapi_athomic.schemas.avro_schema import parse
from fastapi_athomic.schemas.avro_wire_schema import MAX_DEPTH, ReadingRules
from fastapi_athomic.schemas.registered import RegisteredSchema
from fastapi_athomic.schemas.wire import Frame
from tests.support.avro import logical, read, record, written

ID = UUID("12345678-1234-5678-1234-567812345678")
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
FIXED_UUID = {"type": "fixed", "name": "Id", "size": 16, "logicalType": "uuid"}
DURATION = {"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"}
COLOUR = {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN"]}
DECIMAL = logical("bytes", "decimal", precision=5, scale=2)
FRAME = Frame("prefix", RegisteredSchema(id=1, guid=None, type="AVRO", text=""))


class ByValue(Enum):
    red = "RED"
    blue = "BLUE"


class ByName(IntEnum):
    RED = 1
    BLUE = 2


def refusal(schema: Any, value: Any) -> str:
    with pytest.raises(Unfit) as caught:
        written(schema, value)
    return str(caught.value)


def publish(schema: Any, message: Any) -> bytes:
    """A message as the serializer writes it, without the id."""
    return MessageWriter(type(message), parse(json.dumps(schema)), FRAME, ReadingRules())(message, Outgoing("t"))[5:]


def unpublishable(schema: Any, message: Any) -> str:
    with pytest.raises(PayloadEncodeError) as caught:
        publish(schema, message)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None  # a traceback through it would show the message
    assert caught.value.step == "avro"
    return str(caught.value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ("null", None), ("boolean", True), ("int", -(2**31)), ("long", 2**63 - 1), ("double", 0.1), ("float", 0.5),
        ("double", float("inf")), ("double", 3), ("string", "ä"), (record(b="bytes"), {"b": b"\0\xff"}),
        ({"type": "fixed", "name": "F", "size": 2}, b"ab"), (COLOUR, "GREEN"),
        ({"type": "array", "items": "int"}, [1, 2]), ({"type": "map", "values": "int"}, {"a": 1}),
        (DECIMAL, Decimal("-123.45")), (DECIMAL, Decimal("1E+2")), (DECIMAL, Decimal("1.10000")), (DECIMAL, Decimal(0)),
        ({"type": "fixed", "name": "D", "size": 3, **logical("fixed", "decimal", precision=5, scale=2)}, Decimal("-1")),
        (logical("string", "uuid"), ID), (FIXED_UUID, ID), (logical("int", "date"), date(1, 1, 1)),
        (logical("int", "time-millis"), time(23, 59, 59, 999_000)), (logical("long", "time-micros"), time.max),
        (logical("long", "timestamp-millis"), AT.replace(microsecond=678_000)),
        (logical("long", "timestamp-micros"), datetime.min.replace(tzinfo=UTC)),
        (logical("long", "timestamp-micros"), AT.astimezone(timezone(timedelta(hours=5)))),
        (logical("long", "timestamp-nanos"), AT), (logical("long", "local-timestamp-nanos"), AT.replace(tzinfo=None)),
        (logical("long", "local-timestamp-millis"), datetime(1969, 1, 1)),
        (logical("long", "local-timestamp-micros"), datetime.max),
        (DURATION, Duration(1, 2, 2**32 - 1)),
    ],
)  # fmt: skip
def test_values_are_read_back_as_they_are(schema: Any, value: Any) -> None:
    assert read(schema, written(schema, value)) == value


@pytest.mark.parametrize("kind", ["timestamp-millis", "timestamp-micros", "local-timestamp-micros", "date", "decimal"])
def test_what_fastavro_reads_is_what_was_written(kind: str) -> None:
    values: dict[str, tuple[Any, Any]] = {
        "timestamp-millis": (logical("long", kind), AT.replace(microsecond=1000)),
        "timestamp-micros": (logical("long", kind), AT),
        "local-timestamp-micros": (logical("long", kind), AT.replace(tzinfo=None)),
        "date": (logical("int", kind), date(2026, 1, 2)),
        "decimal": (DECIMAL, Decimal("-123.45")),
    }
    schema, value = values[kind]
    assert schemaless_reader(BytesIO(written(schema, value)), parse_schema(schema)) == value


@pytest.mark.parametrize(
    ("schema", "value", "reason"),
    [
        # fastavro takes the first seven of these
        ("int", True, "the schema has int, which a bool does not become"),
        ("boolean", 1, "the schema has boolean, which a int does not become"),
        ("int", 2**31, "an int that the 32 bits of the schema's int do not hold"),
        ("double", 2**53 + 1, "an int that no float is equal to"),
        (logical("int", "date"), AT, "the schema has date, which a datetime does not become"),
        (logical("long", "timestamp-millis"), AT, "the schema keeps milliseconds, and it has microseconds"),
        (logical("long", "timestamp-micros"), AT.replace(tzinfo=None), "a datetime without a time zone"),
        ("long", 2**63, "an int that the 64 bits of the schema's long do not hold"),
        ("long", 1.0, "the schema has long, which a float does not become"),
        ("long", AT, "the schema has long, which a datetime does not become"),
        ("double", Decimal(1), "the schema has double, which a Decimal does not become"),
        ("double", 10**400, "a number that the schema's double does not reach"),
        ("float", 1e39, "a number that the schema's float does not reach"),
        ("string", 1, "the schema has string, which a int does not become"),
        ("string", "\ud800", "text with half a surrogate pair in it, which UTF-8 cannot hold"),
        ("null", 0, "the schema has null, which a int does not become"),
        ({"type": "fixed", "name": "F", "size": 2}, b"abc", "3 bytes, and the schema has 2"),
        (COLOUR, "BLUE", "Colour has no such symbol"),
        (COLOUR, ByName.BLUE, "Colour has no such symbol"),
        (DECIMAL, Decimal("1.234"), "more digits behind the point than the schema's 2"),
        (DECIMAL, Decimal("1234.5"), "more digits than the schema's 5"),
        (DECIMAL, Decimal("1E+999999"), "more digits than the schema's 5"),
        (DECIMAL, Decimal("1E-999999"), "more digits behind the point than the schema's 2"),
        (DECIMAL, Decimal("NaN"), "a Decimal that is no number"),
        (DECIMAL, 1.5, "the schema has decimal, which a float does not become"),
        (logical("string", "uuid"), "no uuid", "text that is no UUID, as the schema wants"),
        (logical("long", "local-timestamp-micros"), AT, "a datetime with a time zone, and the schema's is local"),
        (logical("long", "timestamp-nanos"), datetime.max.replace(tzinfo=UTC), "a time that the schema's 64 bits"),
        (logical("int", "time-millis"), time(1, 2, 3, 4), "the schema keeps milliseconds, and it has microseconds"),
        (logical("long", "time-micros"), time(1, tzinfo=UTC), "a time of day with a time zone"),
        (DURATION, timedelta(-1), "a negative timedelta, and Avro's durations have no sign"),
        (DURATION, timedelta(microseconds=1), "the schema keeps milliseconds, and it has microseconds"),
        (DURATION, Duration(2**32), "a duration whose parts are not within 32 bits without sign"),
        ({"type": "array", "items": "int"}, [1, "a"], "1: the schema has int, which a str does not become"),
        ({"type": "array", "items": "int"}, "ab", "the schema has an array, which a str does not become"),
        ({"type": "map", "values": "int"}, {"secret": "a"}, "?: the schema has int, which a str does not become"),
        ({"type": "map", "values": "int"}, {1: 1, "1": 2}, "two keys that are written as the same text"),
        ({"type": "map", "values": "int"}, [1], "the schema has a map, which a list does not become"),
        (record(a="int"), {}, "a: it is missing, and the schema has no default for it"),
        (record(a=["null", "int"]), {}, "a: it is missing, and the schema has no default for it"),
        (record(a="int"), {"a": 1, "b": 2}, "b: shop.Order has no such field"),
        (record(a="int"), {"a": 1, "a secret": 2}, "?: shop.Order has no such field"),
        (record(a="int"), 1, "the schema has the record shop.Order, which a int does not become"),
        (["null", "int"], "a", "a str, and the schema has one of null, int, none of which takes it"),
        (["null", "int"], 2**40, "an int that the 32 bits of the schema's int do not hold"),
        (record(a=record("B", b=["null", {"type": "array", "items": "int"}])), {"a": {"b": [1, None]}},
         "a.b.1: the schema has int, which a NoneType does not become"),
    ],
)  # fmt: skip
def test_what_would_be_changed_on_the_way_is_refused(schema: Any, value: Any, reason: str) -> None:
    assert reason in refusal(schema, value)


def test_floats_are_rounded_to_32_bits_where_the_schema_has_only_those() -> None:
    assert read("float", written("float", 0.1)) == pytest.approx(0.1, rel=1e-7)


@pytest.mark.parametrize(
    ("value", "text"),
    [(ID, str(ID)), (Path("a/b"), "a/b"), (AT, "2026-01-02T03:04:05.678901Z"), (Decimal("1.5"), "1.5"),
     (ByValue.red, "RED")],
)  # fmt: skip
def test_text_stands_for_what_is_text_in_json(value: Any, text: str) -> None:
    assert read("string", written("string", value)) == text


@pytest.mark.parametrize("value", [ByValue.red, ByName.RED, "RED"])
def test_members_are_written_by_value_or_else_by_name(value: Any) -> None:
    assert written(COLOUR, value) == b"\0"


UNION = [
    *("null", "boolean", "int", "long", "float", "double", "string", COLOUR, "bytes"),
    *({"type": "array", "items": "int"}, {"type": "map", "values": "int"}, DURATION),
]
TIMES = ["string", logical("long", "timestamp-micros"), logical("int", "date"), DECIMAL]


@pytest.mark.parametrize(
    ("union", "value", "branch"),
    [(UNION, None, 0), (UNION, True, 1), (UNION, 5, 2), (UNION, 2**40, 3), (UNION, 1.5, 5), (UNION, "RED", 6),
     (UNION, ByValue.red, 7), (UNION, b"a", 8), (UNION, [1], 9), (UNION, (1,), 9), (UNION, {"a": 1}, 10),
     (UNION, Duration(), 11), (TIMES, AT, 1), (TIMES, date(2026, 1, 1), 2), (TIMES, Decimal(1), 3), (TIMES, "a", 0)],
)  # fmt: skip
def test_the_branch_of_a_union_is_that_of_the_value_s_type(union: Any, value: Any, branch: int) -> None:
    data = written(union, value)
    assert data[0] == 2 * branch
    expected = value.value if isinstance(value, Enum) else [1] if value == (1,) else value
    assert read(union, data) == expected


def test_ints_go_where_they_fit_and_floats_where_nothing_is_lost() -> None:
    assert written(["int", "long"], 2**40)[0] == 2
    assert written(["float", "double"], 0.1)[0] == 2
    assert written(["null", DECIMAL], Decimal(1))[0] == 2
    assert written(["null", "string"], ID)[0] == 2


# --- records in unions


class Placed(BaseModel):
    number: int


class Paid(BaseModel):
    number: int


@dataclass
class Sent:
    number: int


class Titled(BaseModel):
    model_config = ConfigDict(title="shop.Sent")
    number: int


PLACED, PAID, SENT = (record(f"shop.{name}", number="int") for name in ("Placed", "Paid", "Sent"))
ONE_OF = [PLACED, PAID, SENT]


@pytest.mark.parametrize(
    ("value", "branch"), [(Placed(number=1), 0), (Paid(number=1), 1), (Sent(1), 2), (Titled(number=1), 2)]
)
def test_models_are_written_as_the_record_with_their_name_or_title(value: Any, branch: int) -> None:
    assert written(ONE_OF, value) == bytes([2 * branch, 2])
    assert written(record(events={"type": "array", "items": ONE_OF}), {"events": [value]})[1:] == bytes(
        [2 * branch, 2, 0]
    )


def test_records_tell_which_record_a_model_is() -> None:
    assert written(ONE_OF, Placed(number=1), {"shop.Paid": Placed})[0] == 2


def test_a_mapping_that_fits_two_records_is_refused() -> None:
    assert refusal(ONE_OF, {"number": 1}) == (
        "a dict that fits shop.Placed and shop.Paid and shop.Sent alike: publish a model with the record's name"
    )
    assert written([PLACED, record("shop.Other", text="string")], {"text": "a"})[0] == 2


def test_a_model_of_another_name_goes_to_the_only_record_that_takes_it() -> None:
    class Unheard(BaseModel):
        number: int

    assert written(["null", PLACED], Unheard(number=1)) == b"\x02\x02"
    assert "fits shop.Placed and shop.Paid and shop.Sent alike" in refusal(ONE_OF, Unheard(number=1))


# --- models


def test_defaults_of_the_schema_stand_for_fields_that_a_model_lacks() -> None:
    class Order(BaseModel):
        number: int

    schema = record(
        number="int",
        raw=[{"type": "bytes", "default": "\u00ff"}],
        note=[{"type": ["null", "string"], "default": None}],
        size=[{"type": ["int", "null"], "default": 3}],
        part=[{"type": record("Part", a=[{"type": "double", "default": 1}]), "default": {}}],
    )
    data = publish(schema, Order(number=1))
    assert read(schema, data) == {"number": 1, "raw": b"\xff", "note": None, "size": 3, "part": {"a": 1.0}}


def test_defaults_do_not_stand_for_what_reads_them_as_more_than_was_published() -> None:
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        number: int

    schema = record(number="int", note=[{"type": "int", "default": 1}])
    assert "note: Closed has no such field, and would not be read back" in unpublishable(schema, Closed(number=1))


def test_a_field_without_a_counterpart_is_refused() -> None:
    class Order(BaseModel):
        number: int
        note: str | None = None

    assert unpublishable(record(number="int", other="int"), Order(number=1)).endswith(
        "a Order cannot be written: other: Order has no such field, and the schema no default for it"
    )
    assert publish(record(number="int"), Order(number=1)) == b"\x02"  # the default is read back
    assert unpublishable(record(number="int"), Order(number=1, note="secret")).endswith(
        "note: the schema has no such field, and it is not the default"
    )


def test_extra_fields_of_a_model_are_refused() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        number: int

    assert "other: the schema has no such field" in unpublishable(record(number="int"), Open(number=1, other=2))  # type: ignore[call-arg]


def test_aliases_are_the_names_of_the_schema() -> None:
    class Order(BaseModel):
        order_id: int = Field(alias="orderId")
        total: int = Field(validation_alias="sum", serialization_alias="sum")

    order = Order.model_validate({"orderId": 1, "sum": 2})
    schema = record(orderId="int", sum="int")
    assert read(schema, publish(schema, order), Order) == order
    assert "order_id: Order has no such field" in unpublishable(record(order_id="int", sum="int"), order)


def test_serializers_of_the_user_s_decide_how_a_model_is_written() -> None:
    class Shop(BaseModel):
        at: datetime
        tags: Annotated[list[str], PlainSerializer(lambda tags: ",".join(tags))]

        @field_serializer("at")
        def as_number(self, at: datetime) -> float:
            return at.timestamp()

    shop = Shop(at=AT, tags=[])
    assert "tags: list_type" in unpublishable(record(at="double", tags="string"), shop)

    class Held(BaseModel):
        at: Annotated[datetime, PlainSerializer(lambda at: at.timestamp())]

    assert read(record(at="double"), publish(record(at="double"), Held(at=AT)), Held) == Held(at=AT)

    class Whole(BaseModel):
        number: int

        @model_serializer
        def twice(self) -> dict[str, int]:
            return {"number": 2 * self.number}

    assert "it would not be read back as it is: number (int)" in unpublishable(record(number="int"), Whole(number=1))


def test_a_validator_that_changes_the_value_is_noticed() -> None:
    class Doubled(BaseModel):
        number: Annotated[int, AfterValidator(lambda number: 2 * number)]

    assert "it would not be read back as it is: number (int)" in unpublishable(PLACED, Doubled(number=1))
    assert publish(PLACED, Doubled(number=0)) == b"\0"


def test_floats_of_32_bits_are_no_doubt() -> None:
    class Measured(BaseModel):
        value: Annotated[float, Field(ge=0)]  # a constraint, so it is read back
        text: Annotated[str, AfterValidator(str.strip)] = ""

    schema = record(value="float", text="string")
    assert read(schema, publish(schema, Measured(value=0.1)))["value"] == pytest.approx(0.1)
    assert "text (str)" in unpublishable(schema, Measured.model_construct(value=0.1, text=" a"))


def test_a_subclass_in_a_field_of_its_base_is_refused() -> None:
    class More(Placed):
        pass

    class Holder(BaseModel):
        event: Placed

    assert "event" in unpublishable(record(event=PLACED), Holder(event=More(number=1)))


def test_values_that_a_field_does_not_allow_are_refused() -> None:
    message = Placed.model_construct(number=1)
    assert publish(PLACED, message) == b"\x02"
    bad = Placed.model_construct(number="a")
    assert "number: string_type" not in unpublishable(PLACED, bad)
    assert "number" in unpublishable(record("shop.Placed", number="string"), bad)
    assert "number: it has no value" in unpublishable(PLACED, Placed.model_construct())


def test_root_models_dataclasses_sets_and_the_like() -> None:
    @dataclass(slots=True)
    class Point:
        x: int
        names: set[str]

    class Points(RootModel[list[Point]]):
        pass

    schema = {"type": "array", "items": record("Point", x="int", names={"type": "array", "items": "string"})}
    points = Points([Point(1, {"a"}), Point(2, set())])
    assert read(schema, publish(schema, points), Points) == points
    assert read({"type": "array", "items": "int"}, written({"type": "array", "items": "int"}, deque([1]))) == [1]


NODE = record("Node", value="int", next=["null", "Node"])


class Tree(BaseModel):
    value: int
    next: Tree | None = None


def test_records_within_themselves_are_written_as_deep_as_they_are_read() -> None:
    tree = None
    for _ in range(MAX_DEPTH):
        tree = Tree(value=1, next=tree)
    assert read(NODE, publish(NODE, tree), Tree) == tree
    assert f"records nested more than {MAX_DEPTH} levels deep" in unpublishable(NODE, Tree(value=1, next=tree))


def test_half_a_surrogate_pair_is_told_with_its_path() -> None:
    schema = record(a={"type": "array", "items": ["null", record("B", c="string")]})
    assert refusal(schema, {"a": [None, {"c": "\ud800"}]}).startswith("a.1.c: text with half a surrogate pair")


def test_bytes_by_themselves_are_written_as_they_are() -> None:
    """As Confluent's serializers do."""
    assert written("bytes", b"abc") == b"abc"
    assert read("bytes", b"abc") == b"abc"


# --- round trips


class Kind(Enum):
    new = "NEW"
    old = "OLD"


class Rich(BaseModel):
    number: int
    small: int
    real: float
    text: str
    raw: bytes
    flag: bool
    maybe: str | None
    at: datetime
    local: datetime
    exact: int
    day: date
    hour: time
    amount: Decimal
    id: UUID
    fixed_id: UUID
    kind: Kind
    span: Duration
    event: Placed | Paid | None
    events: list[Placed | Paid]
    counts: dict[str, int]
    children: list[Rich]


RICH = record(
    "shop.Rich", number="long", small="int", real="double", text="string", raw="bytes", flag="boolean",
    maybe=["string", "null"], at=logical("long", "timestamp-micros"), local=logical("long", "local-timestamp-micros"),
    exact=logical("long", "timestamp-nanos"), day=logical("int", "date"), hour=logical("long", "time-micros"),
    amount=logical("bytes", "decimal", precision=20, scale=3), id=logical("string", "uuid"), fixed_id=FIXED_UUID,
    kind={"type": "enum", "name": "Kind", "symbols": ["OLD", "NEW"]}, span=DURATION, event=["null", PLACED, PAID],
    events={"type": "array", "items": ["shop.Paid", "shop.Placed"]}, counts={"type": "map", "values": "long"},
    children={"type": "array", "items": "shop.Rich"},
)  # fmt: skip
longs, ints = st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
events = st.builds(Placed, number=ints) | st.builds(Paid, number=ints)
parts = st.integers(0, 2**32 - 1)
zoned = st.datetimes(timezones=st.just(UTC) | st.timezones())
instants = zoned.filter(lambda at: at == at.astimezone(UTC))  # in a gap or a fold of its zone it equals no other


def riches(children: st.SearchStrategy[list[Rich]]) -> st.SearchStrategy[Rich]:
    return st.builds(
        Rich, number=longs, small=ints, real=st.floats(allow_nan=False), text=texts, raw=st.binary(max_size=80),
        flag=st.booleans(), maybe=st.none() | texts, at=instants,
        local=st.datetimes(), exact=longs, day=st.dates(), hour=st.times(),
        amount=st.decimals(-(10**17) + 1, 10**17 - 1, places=3), id=st.uuids(), fixed_id=st.uuids(),
        kind=st.sampled_from(Kind), span=st.builds(Duration, parts, parts, parts), event=st.none() | events,
        events=st.lists(events, max_size=4), counts=st.dictionaries(texts, longs, max_size=4), children=children,
    )  # fmt: skip


@settings(max_examples=50)
@given(riches(st.lists(riches(st.just([])), max_size=2)))
def test_rich_messages_are_read_back_as_they_are(message: Rich) -> None:
    data = written(RICH, message)
    found = read(RICH, data, Rich)
    assert found == message
    assert [type(each) for each in found.events] == [type(each) for each in message.events]
    theirs: Any = schemaless_reader(BytesIO(data), parse_schema(RICH))  # fastavro's reader agrees about the bytes
    assert theirs["number"] == message.number
    assert theirs["text"] == message.text


@given(st.recursive(st.none() | st.booleans() | longs | st.floats(allow_nan=False) | texts | st.binary(max_size=9)
                    | st.uuids() | st.dates(), lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(texts, inner, max_size=3)))  # fmt: skip
def test_any_value_is_read_back_or_refused(value: Any) -> None:
    schema = record("Item", value=["null", "boolean", "long", "double", "string", "bytes",
                                   {"type": "array", "items": "Item"}, {"type": "map", "values": "Item"}])  # fmt: skip

    def wrapped(value: Any) -> Any:
        if isinstance(value, list):
            return {"value": [wrapped(item) for item in value]}
        if isinstance(value, dict):
            return {"value": {key: wrapped(item) for key, item in value.items()}}
        return {"value": value}

    try:
        data = written(schema, wrapped(value))
    except Unfit:
        return
    assert read(schema, data) == wrapped(_as_text(value))


def _as_text(value: Any) -> Any:
    if isinstance(value, UUID | date):
        return str(value)
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    return value

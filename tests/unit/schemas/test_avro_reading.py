from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID, uuid4

import pytest
from pydantic import AliasPath, BaseModel, ConfigDict, Field, RootModel, field_validator, model_validator
from typing_extensions import TypedDict

from fastapi_athomic import PayloadDecodeError
from fastapi_athomic.schemas.avro_diagnosis import MAX_EMPTY_ITEMS
from fastapi_athomic.schemas.avro_logical import Duration
from fastapi_athomic.schemas.avro_schema import AvroSchemaError
from fastapi_athomic.schemas.avro_wire_schema import MAX_DEPTH
from tests.support.avro import by_fastavro, logical, read, record

T = TypeVar("T")
ID = UUID("12345678-1234-5678-1234-567812345678")
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
FIXED_UUID = {"type": "fixed", "name": "Id", "size": 16, "logicalType": "uuid"}
DURATION = {"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"}


def refusal(schema: Any, data: bytes, target: Any, **rules: Any) -> str:
    with pytest.raises(PayloadDecodeError) as caught:
        read(schema, data, target, **rules)
    assert caught.value.step == "avro"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None  # a traceback through it would show the payload
    return str(caught.value)


def number(value: int) -> bytes:
    return by_fastavro("long", value)


NANOS = int(AT.timestamp()) * 1_000_000_000 + 678_901_000


@pytest.mark.parametrize(
    ("schema", "data", "target", "expected"),
    [
        (logical("bytes", "decimal", precision=9, scale=2), b"\x04\xff\x85", Decimal, Decimal("-1.23")),
        # fastavro rounds it to the two digits that the schema declares
        (logical("bytes", "decimal", precision=2, scale=0), b"\x06\x01\x02\x03", Decimal, Decimal(66051)),
        (logical("bytes", "decimal", precision=9, scale=2), b"\x04\xff\x85", bytes, b"\xff\x85"),
        ({"type": "fixed", "name": "D", "size": 4, **logical("fixed", "decimal", precision=9, scale=1)},
         b"\0\0\0\x0f", Decimal, Decimal("1.5")),
        (logical("string", "uuid"), by_fastavro("string", str(ID)), UUID, ID),
        (logical("string", "uuid"), by_fastavro("string", str(ID)), str, str(ID)),
        (FIXED_UUID, ID.bytes, UUID, ID),
        (FIXED_UUID, ID.bytes, bytes, ID.bytes),
        (logical("int", "date"), number(3), date, date(1970, 1, 4)),
        (logical("int", "date"), number(3), int, 3),
        (logical("int", "time-millis"), number(3_723_004), time, time(1, 2, 3, 4_000)),
        (logical("long", "time-micros"), number(3_723_000_004), time, time(1, 2, 3, 4)),
        (logical("long", "timestamp-millis"), number(NANOS // 10**6), datetime, AT.replace(microsecond=678_000)),
        (logical("long", "timestamp-millis"), number(-1), datetime, datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC)),
        (logical("long", "timestamp-micros"), number(NANOS // 1000), datetime, AT),
        (logical("long", "timestamp-micros"), number(NANOS // 1000), int, NANOS // 1000),
        (logical("long", "timestamp-nanos"), number(NANOS), datetime, AT),
        (logical("long", "timestamp-nanos"), number(NANOS + 7), int, NANOS + 7),
        (logical("long", "local-timestamp-millis"), number(1), datetime, datetime(1970, 1, 1, 0, 0, 0, 1_000)),
        (logical("long", "local-timestamp-micros"), number(1), datetime, datetime(1970, 1, 1, 0, 0, 0, 1)),
        (logical("long", "local-timestamp-nanos"), number(1_000), datetime, datetime(1970, 1, 1, 0, 0, 0, 1)),
        (DURATION, b"\1\0\0\0\2\0\0\0\3\0\0\0", Duration, Duration(1, 2, 3)),
        (DURATION, b"\0\0\0\0\2\0\0\0\3\0\0\0", timedelta, timedelta(days=2, milliseconds=3)),
        (DURATION, b"\0\0\0\0\2\0\0\0\3\0\0\0", bytes, b"\0\0\0\0\2\0\0\0\3\0\0\0"),
        (logical("string", "unknown"), b"\x02a", str, "a"),
    ],
)  # fmt: skip
def test_logical_types_come_as_the_type_that_is_asked_for(schema: Any, data: bytes, target: Any, expected: Any) -> None:
    found = read(record(value=schema), data, dict[str, target])["value"]
    assert found == expected
    assert type(found) is type(expected)
    assert getattr(found, "tzinfo", None) == getattr(expected, "tzinfo", None)


@pytest.mark.parametrize(
    ("schema", "data", "expected"),
    [
        (logical("long", "timestamp-nanos"), number(NANOS), AT),
        (DURATION, b"\1\0\0\0\2\0\0\0\3\0\0\0", Duration(1, 2, 3)),
        (logical("string", "uuid"), by_fastavro("string", str(ID)), ID),
        (FIXED_UUID, ID.bytes, ID),
    ],
)
def test_logical_types_come_as_such_where_nothing_is_declared(schema: Any, data: bytes, expected: Any) -> None:
    assert read(record(value=schema), data, dict[str, Any]) == {"value": expected}
    assert read(record(value=schema), data) == {"value": expected}


def test_nanoseconds_are_not_lost_unless_that_is_wanted() -> None:
    class Event(BaseModel):
        at: datetime

    schema = record(at=logical("long", "timestamp-nanos"))
    text = refusal(schema, number(NANOS + 1), Event)
    assert text == ("step avro: at: a datetime cannot hold its nanoseconds: annotate int, or set nanoseconds='cut'")
    assert read(schema, number(NANOS + 1), Event, cuts_nanoseconds=True) == Event(at=AT)


@pytest.mark.parametrize(
    ("schema", "data", "target", "reason"),
    [
        (DURATION, b"\1" + bytes(11), timedelta, "a duration with months has no fixed length: annotate Duration"),
        # fastavro reads 00:00:00.999000
        (logical("int", "time-millis"), number(-1), time, "a time of day outside of a day"),
        (logical("int", "time-millis"), number(86_400_000), time, "a time of day outside of a day"),
        (logical("long", "timestamp-micros"), number(2**62), datetime,
         "a value that Python's type does not take (OverflowError)"),
        (logical("string", "uuid"), b"\x02x", UUID,
         "the payload is not a valid dict[str, UUID]: ?: uuid_parsing (Input should be a valid UUID)"),
        (logical("bytes", "decimal", precision=9, scale=2), by_fastavro("bytes", b"\x7f" * 10_000), Decimal,
         "a decimal of more than 10000 digits"),
    ],
)  # fmt: skip
def test_values_that_python_lacks_are_refused(schema: Any, data: bytes, target: Any, reason: str) -> None:
    assert reason in refusal(record(value=schema), data, dict[str, target])


# --- enums


class ByValue(Enum):
    red = "RED"


class ByName(IntEnum):
    RED = 1


class Painted(BaseModel, Generic[T]):
    colour: T


COLOUR = {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN"]}


@pytest.mark.parametrize(
    ("kind", "expected"), [(ByValue, ByValue.red), (ByName, ByName.RED), (Literal["RED"], "RED"), (str, "RED")]
)
def test_a_symbol_becomes_the_member_with_this_value_or_name(kind: Any, expected: Any) -> None:
    found = read(record(colour=COLOUR), b"\0", Painted[kind]).colour
    assert found == expected
    assert type(found) is type(expected)


def test_a_symbol_that_an_enum_lacks_is_refused() -> None:
    for kind in (ByValue, ByName):
        text = refusal(record(colour=COLOUR), b"\x02", Painted[kind])  # type: ignore[valid-type]
        assert "colour: enum (Input should be" in text


# --- unions of records


class Placed(BaseModel):
    number: int


class Paid(BaseModel):
    number: int


@dataclass
class Sent:
    number: int


class Envelope(BaseModel, Generic[T]):
    content: T
    more: list[T] = []


PLACED, PAID = record("shop.Placed", number="int"), record("shop.Paid", number="int")
SENT = record("shop.Sent", number="int")
ONE_OF = [PLACED, PAID, SENT]
WRITTEN = {PLACED["name"]: Placed(number=1), PAID["name"]: Paid(number=1), SENT["name"]: Sent(number=1)}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_union_gives_the_record_that_was_written(name: str) -> None:
    schema = record(
        "shop.Envelope", content=ONE_OF, more={"type": "array", "items": ["shop.Placed", "shop.Paid", "shop.Sent"]}
    )
    value = {"content": (name, {"number": 1}), "more": [(each, {"number": 1}) for each in WRITTEN]}
    found = read(schema, by_fastavro(schema, value), Envelope[Placed | Paid | Sent])
    assert found.content == WRITTEN[name]
    assert found.more == list(WRITTEN.values())
    assert [type(each) for each in found.more] == [Placed, Paid, Sent]


def test_a_union_gives_the_record_that_was_written_at_the_top_and_in_maps() -> None:
    for name, expected in WRITTEN.items():
        data = by_fastavro(ONE_OF, (name, {"number": 1}))
        assert read(ONE_OF, data, Placed | Paid | Sent) == expected
        assert read(ONE_OF, data, RootModel[Placed | Paid | Sent]).root == expected
        schema = {"type": "map", "values": ONE_OF}
        found = read(schema, by_fastavro(schema, {"a": (name, {"number": 1})}), dict[str, Placed | Paid | Sent])
        assert found == {"a": expected}


def test_records_without_a_union_choose_their_model_too() -> None:
    """As in a topic whose subjects are named by record."""
    assert read(PAID, b"\x02", Placed | Paid) == Paid(number=1)
    assert read(PLACED, b"\x02", Placed | Paid | None) == Placed(number=1)


def test_a_record_that_is_none_of_several_models_is_refused() -> None:
    text = refusal(SENT, b"\x02", Placed | Paid)
    assert text == "step avro: the record shop.Sent is none of Placed, Paid by their names, titles or `records`"
    assert read(SENT, b"\x02", Placed) == Placed(number=1)  # there is no other


def test_a_title_or_records_tell_which_model_a_record_is() -> None:
    class First(BaseModel):
        model_config = ConfigDict(title="shop.Placed")
        number: int

    class Second(BaseModel):
        number: int

    found = read(
        ONE_OF, by_fastavro(ONE_OF, ("shop.Paid", {"number": 1})), First | Second, records={"shop.Paid": Second}
    )
    assert found == Second(number=1)
    found = read(ONE_OF, by_fastavro(ONE_OF, ("shop.Placed", {"number": 1})), First | Second)
    assert found == First(number=1)


def test_a_discriminator_tells_where_names_do_not() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"]

    class Dog(BaseModel):
        kind: Literal["dog"]

    schema = record("Pet", kind="string")
    kind = Annotated[Cat | Dog, Field(discriminator="kind")]
    assert read(schema, by_fastavro(schema, {"kind": "dog"}), kind) == Dog(kind="dog")


def test_a_discriminator_that_the_schema_lacks_is_no_obstacle() -> None:
    class Placed(BaseModel):
        kind: Literal["placed"] = "placed"
        number: int

    class Paid(BaseModel):
        kind: Literal["paid"] = "paid"
        number: int

    class Holder(BaseModel):
        event: Placed | Paid = Field(discriminator="kind")

    schema = record("Holder", event=[PLACED, PAID])
    data = by_fastavro(schema, {"event": ("shop.Paid", {"number": 1})})
    assert read(schema, data, Holder) == Holder(event=Paid(number=1))


def test_records_become_models_that_other_parts_of_the_message_hold_too() -> None:
    """One record in two places, with a model in the one and nothing declared in the other."""
    schema = record("shop.Both", one=PLACED, two="shop.Placed", three=["null", "shop.Placed"])

    class Both(BaseModel):
        one: Placed | Paid
        two: dict[str, int]
        three: Any

    data = by_fastavro(schema, {"one": {"number": 1}, "two": {"number": 2}, "three": {"number": 3}})
    assert read(schema, data, Both) == Both(one=Placed(number=1), two={"number": 2}, three={"number": 3})


class TypedLine(TypedDict):
    sku: str


@dataclass
class TypedOrder:
    lines: list[TypedLine]
    order_id: Annotated[int, Field(alias="orderId")]


def test_dataclasses_typed_dicts_and_aliases() -> None:
    line = record("shop.Line", sku="string")
    schema = record(orderId="long", lines={"type": "array", "items": line})
    data = by_fastavro(schema, {"orderId": 2**62, "lines": [{"sku": "a"}]})
    found = read(schema, data, TypedOrder)
    assert (found.order_id, found.lines) == (2**62, [{"sku": "a"}])
    assert read(line, b"\x02a", TypedLine) == {"sku": "a"}


# --- what is broken


def order() -> tuple[dict[str, Any], bytes, type[BaseModel]]:
    schema = record(
        id="long",
        name="string",
        colour=COLOUR,
        at=logical("long", "timestamp-millis"),
        note=["null", "string"],
        lines={"type": "array", "items": record("shop.Line", sku="string", price="double")},
        tags={"type": "map", "values": "bytes"},
    )
    value = {
        "id": 300, "name": "anna", "colour": "GREEN", "at": AT, "note": "n",
        "lines": [{"sku": "s1", "price": 1.5}, {"sku": "s2", "price": 2.5}], "tags": {"k": b"v"},
    }  # fmt: skip

    class Line(BaseModel):
        sku: str
        price: float

    class Order(BaseModel):
        id: int
        name: str
        colour: Literal["RED", "GREEN"]
        at: datetime
        note: str | None
        lines: list[Line]
        tags: dict[str, bytes]

    return schema, by_fastavro(schema, value), Order


def test_payloads_that_end_early_are_refused_with_the_path() -> None:
    schema, data, kind = order()
    read(schema, data, kind)
    places = set()
    for length in range(len(data)):
        text = refusal(schema, data[:length], kind)
        assert "anna" not in text
        assert text.endswith(": the payload ends in the middle of it")
        places.add(text.split(":")[1].strip())
    assert places == {
        *("id", "name", "colour", "at", "note", "lines", "lines.0.sku", "lines.0.price", "lines.1.sku"),
        *("lines.1.price", "tags", "tags.?"),
    }  # fmt: skip


def test_flipped_bits_give_another_value_or_a_decode_error() -> None:
    schema, data, kind = order()
    refusals = []
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        try:
            read(schema, bytes(damaged), kind)
        except PayloadDecodeError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert all(text.startswith("step avro: ") and "anna" not in text for text in refusals)


def test_bytes_that_are_left_over_are_refused() -> None:
    schema, data, kind = order()
    assert refusal(schema, data + b"\0\0", kind) == "step avro: the value ends, and 2 bytes are left over"


@pytest.mark.parametrize(
    ("schema", "data", "reason"),
    [
        # fastavro takes numbers below zero for places from the end
        (["null", "string"], b"\x01\x02a", "the number of no branch of its union"),
        (["null", "string"], b"\x04\x02a", "the number of no branch of its union"),
        (["null", "string"], number(-2**63), "the number of no branch of its union"),
        (COLOUR, b"\x01", "the number of no symbol of its enum that is known"),
        (COLOUR, b"\x04", "the number of no symbol of its enum that is known"),
        ("string", b"\x04\xff\xff", "text that is not UTF-8"),
        ("string", b"\x03ab", "a length below zero"),
        ("string", number(2**62), "the payload ends in the middle of it"),
        ({"type": "fixed", "name": "F", "size": 9}, b"1234", "the payload ends in the middle of it"),
        ({"type": "array", "items": "long"}, number(2**62) + b"\0", "value.1: the payload ends in the middle of it"),
        ({"type": "map", "values": "long"}, number(2**62) + b"\0\0", "value.?: the payload ends in the middle of it"),
        ({"type": "array", "items": "null"}, number(2**62), f"arrays claim more than {MAX_EMPTY_ITEMS} items"),
        ({"type": "array", "items": record("E", n="null")}, number(-2**62) + b"\0",
         f"arrays claim more than {MAX_EMPTY_ITEMS} items"),
    ],
)  # fmt: skip
def test_damage_is_found_at_once_and_named(schema: Any, data: bytes, reason: str) -> None:
    text = refusal(record(value=schema), data, Any)
    assert text.startswith("step avro: value")
    assert reason in text


def test_many_items_that_take_no_bytes_are_read_within_the_limit() -> None:
    schema = {"type": "array", "items": "null"}
    assert read(schema, b"\x06\0", list[None]) == [None] * 3


def test_arrays_in_several_blocks_are_read() -> None:
    """As Java's writers make them: with the number of bytes in each block."""
    schema = {"type": "array", "items": "int"}
    assert read(schema, b"\x03\x04\x02\x04\x02\x06\0", list[int]) == [1, 2, 3]
    assert "2: the payload ends" in refusal(schema, b"\x03\x04\x02\x04\x02", list[int])


NODE = record("Node", value="int", next=["null", "Node"])


class Tree(BaseModel):
    value: int
    next: Tree | None = None


def chain(length: int) -> bytes:
    return b"\x02\x02" * (length - 1) + b"\x02\0"


def test_records_within_themselves_are_read_up_to_a_depth() -> None:
    """fastavro alone goes as deep as a payload says, which ends the process."""
    found: Any = read(NODE, chain(MAX_DEPTH), Tree)
    depth = 0
    while found is not None:
        found, depth = found.next, depth + 1
    assert depth == MAX_DEPTH
    assert f"records nested more than {MAX_DEPTH} levels deep" in refusal(NODE, chain(MAX_DEPTH + 1), Tree)
    assert f"records nested more than {MAX_DEPTH} levels deep" in refusal(NODE, chain(20_000), Any)


def test_a_payload_that_is_too_long_to_look_into_is_refused_all_the_same() -> None:
    assert refusal("string", b"\x80\x80\x40" + b"a" * 100_000, str).startswith("step avro: it cannot be read: ")


def test_an_object_container_file_is_told() -> None:
    assert "an object container file (.avro)" in refusal(record(value="long"), b"Obj\x01\x04\x14avro.codec", Any)


def test_errors_of_validation_name_the_path_and_no_value() -> None:
    class Line(BaseModel):
        price: Annotated[float, Field(gt=0)]

    class Cart(BaseModel):
        lines: list[Line]

    schema = record(lines={"type": "array", "items": record("Line", price="double")})
    data = by_fastavro(schema, {"lines": [{"price": 1.0}, {"price": -12345.0}]})
    text = refusal(schema, data, Cart)
    assert (
        text
        == "step avro: the payload is not a valid Cart: lines.1.price: greater_than (Input should be greater than 0)"
    )


def test_a_validator_of_the_user_that_fails_is_told_without_its_text() -> None:
    class Odd(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def fail(cls, value: int) -> int:
            raise RuntimeError(f"secret {value}")

    text = refusal(PLACED, b"\x02", Odd)
    assert "a validator raised RuntimeError" in text
    assert "secret" not in text


def test_a_validator_of_a_record_in_a_union_is_told_with_the_path() -> None:
    class Placed(BaseModel):
        number: Annotated[int, Field(lt=5)]

    class Paid(BaseModel):
        number: int

    schema = record("Holder", events={"type": "array", "items": [PLACED, PAID]})
    data = by_fastavro(schema, {"events": [("shop.Placed", {"number": 1}), ("shop.Placed", {"number": 12345})]})
    text = refusal(schema, data, dict[str, list[Placed | Paid]])
    assert text == "step avro: events.1: number: less_than (Input should be less than 5)"


# --- a reader's schema


def test_a_reader_s_schema_renames_drops_fills_in_and_promotes() -> None:
    written = record(
        "old.Order", x="int", name="string", gone={"type": "array", "items": "int"}, colour=COLOUR, u=["int", "string"]
    )
    wanted = record(
        "new.Order",
        x="double",
        title=[{"type": "bytes", "aliases": ["name"]}],
        colour={"type": "enum", "name": "Colour", "symbols": ["RED", "OTHER"], "default": "OTHER"},
        u=["string", "long"],
        raw=[{"type": "bytes", "default": "\u00ff"}],
        day=[{"type": logical("int", "date"), "default": 3}],
        tags=[{"type": {"type": "array", "items": "string"}, "default": ["a"]}],
        lines=[{"type": ["null", record("new.Line", n=[{"type": "int", "default": 5}])], "default": None}],
        sub=[{"type": "new.Line", "default": {}}],
    )
    data = by_fastavro(written, {"x": 3, "name": "n", "gone": [1], "colour": "GREEN", "u": 7})
    found = read(written, data, dict[str, Any], reader_schema=wanted)
    assert found == {
        "x": 3.0, "title": b"n", "colour": "OTHER", "u": 7, "raw": b"\xff", "day": date(1970, 1, 4), "tags": ["a"],
        "lines": None, "sub": {"n": 5},
    }  # fmt: skip
    assert type(found["x"]) is float
    found["tags"].append("b")  # fastavro would give this list to the next message
    assert read(written, data, dict[str, Any], reader_schema=wanted)["tags"] == ["a"]


def test_what_a_reader_s_schema_has_nothing_for_is_refused() -> None:
    with pytest.raises(AvroSchemaError, match=r"shop\.Paid is neither shop\.Placed nor one of its aliases"):
        read(PAID, b"\x02", Any, reader_schema=PLACED)
    with pytest.raises(AvroSchemaError, match="string cannot become int"):
        read("string", b"\x02a", Any, reader_schema="int")
    with pytest.raises(AvroSchemaError, match="Order has no b, and the reader's schema no default"):
        read(record(a="int"), b"\x02", Any, reader_schema=record(a="int", b="int"))
    assert read(ONE_OF, b"\x02\x02", Any, reader_schema=PAID) == {"number": 1}


def test_a_branch_that_a_reader_s_schema_lacks_is_a_decode_error() -> None:
    with pytest.raises(PayloadDecodeError, match="the reader's schema has nothing that it could become"):
        read(ONE_OF, b"\0\x02", Any, reader_schema=PAID)


def test_symbols_without_a_default_are_refused() -> None:
    wanted = {"type": "enum", "name": "Colour", "symbols": ["RED"]}
    assert read(COLOUR, b"\0", str, reader_schema=wanted) == "RED"
    with pytest.raises(PayloadDecodeError, match="the number of no symbol of its enum that is known"):
        read(COLOUR, b"\x02", str, reader_schema=wanted)


def test_a_reader_s_schema_tells_logical_types_but_units_are_the_writer_s() -> None:
    assert read("long", number(1), Any, reader_schema=logical("long", "timestamp-millis")) == datetime(
        1970, 1, 1, 0, 0, 0, 1_000, UTC
    )
    millis, micros = logical("long", "timestamp-millis"), logical("long", "timestamp-micros")
    assert read(millis, number(1), Any, reader_schema=micros) == datetime(1970, 1, 1, 0, 0, 0, 1_000, UTC)
    assert read(millis, number(1), Any, reader_schema="long") == 1


def test_recursive_records_are_resolved() -> None:
    wanted = record("Node", value="long", next=["null", "Node"], more=[{"type": "int", "default": 1}])
    found = read(NODE, chain(2), Any, reader_schema=wanted)
    assert found == {"value": 1, "next": {"value": 1, "next": None, "more": 1}, "more": 1}


# --- fields that are new to the handler

NEW_FIELDS: list[tuple[Any, Any]] = [
    (logical("long", "timestamp-nanos"), 1_001),
    (logical("long", "timestamp-millis"), 10**16),
    (record("shop.Inner", at=logical("long", "timestamp-nanos")), {"at": 1_001}),
    ({"type": "array", "items": logical("long", "timestamp-nanos")}, [1_001]),
    (["null", {"type": "map", "values": logical("long", "timestamp-nanos")}], {"a": 1_001}),
]


class Known(BaseModel):
    number: int


class KnownInside(BaseModel):
    inner: Known


@pytest.mark.parametrize(("kind", "value"), NEW_FIELDS)
def test_a_new_field_that_python_has_no_value_for_is_ignored(kind: Any, value: Any) -> None:
    schema = record(number="long", added=kind)
    data = by_fastavro(schema, {"number": 1, "added": value})
    assert read(schema, data, Known) == Known(number=1)
    inside = record("shop.Outer", inner=schema)
    assert read(inside, by_fastavro(inside, {"inner": {"number": 1, "added": value}}), KnownInside).inner.number == 1


def test_a_field_that_only_code_of_the_users_knows_is_not_ignored() -> None:
    """It comes as the type that it has in the schema: as a number it would be taken for another time."""

    class Renamed(BaseModel):
        at: datetime

        @model_validator(mode="before")
        @classmethod
        def _rename(cls, fields: dict[str, Any]) -> dict[str, Any]:
            return {"at": fields["created"]}

    class Inside(BaseModel):
        at: datetime = Field(validation_alias=AliasPath("meta", "at"))

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    at = logical("long", "timestamp-micros")
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    schema = record(created=at, meta=record("shop.Meta", at=at))
    data = by_fastavro(schema, {"created": moment, "meta": {"at": moment}})
    assert read(schema, data, Renamed).at == moment
    assert read(schema, data, Inside).at == moment
    assert read(schema, data, Open).model_extra == {"created": moment, "meta": {"at": moment}}


def test_strict_models_are_read() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        id: UUID
        at: datetime
        tags: set[int]

    class Other(BaseModel):
        id: str

    at = datetime(2026, 1, 2, tzinfo=UTC)
    parts = {"id": logical("string", "uuid"), "at": logical("long", "timestamp-micros")}
    schema = record("shop.Strict", **parts, tags={"type": "array", "items": "long"})
    strict = Strict(id=uuid4(), at=at, tags={1})
    data = by_fastavro(schema, {"id": strict.id, "at": at, "tags": [1]})
    assert read(schema, data, Strict) == strict
    assert read(schema, data, Strict | Other) == strict

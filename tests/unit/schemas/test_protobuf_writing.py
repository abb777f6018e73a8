"""What is published with Protobuf is read back as the same value, or refused with the path of the field."""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from struct import pack, unpack
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, SecretStr, create_model, field_validator

from fastapi_athomic import PayloadEncodeError
from fastapi_athomic.payload.losses import difference
from fastapi_athomic.payload.steps import Outgoing
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import message, settled
from tests.support.protoc import generated
from tests.support.shop_proto import Card, Cash, Everything, Line, Numbered, Order, Status, shop_pb2

UTC = timezone.utc  # noqa: UP017
MESSAGES: dict[Any, Any] = {
    Everything: shop_pb2.Everything,
    Order: shop_pb2.Order,
    Card: shop_pb2.Card,
    Cash: shop_pb2.Cash,
    Line: shop_pb2.Line,
}


async def written(value: Any, kind: Any = shop_pb2.Everything) -> bytes:
    protobuf = Protobuf(SchemaRegistry("memory://"), messages=MESSAGES, schema=kind, auto_register=True)
    data = await settled(protobuf.encode(value, Outgoing("t")))
    assert isinstance(data, bytes)
    return data


async def both_ways(value: Any, kind: Any = shop_pb2.Everything) -> Any:
    """What a reader gets, with a registry's schema and no generated classes."""
    registry = SchemaRegistry("memory://")
    protobuf = Protobuf(registry, messages=MESSAGES, schema=kind, auto_register=True)
    data = await settled(protobuf.encode(value, Outgoing("t")))
    return await settled(Protobuf(registry).decoder(type(value))(message(data)))


async def refusal(value: Any, kind: Any = shop_pb2.Everything) -> str:
    with pytest.raises(PayloadEncodeError) as caught:
        await written(value, kind)
    assert caught.value.step == "protobuf"
    return str(caught.value)


def of_field(annotation: Any, name: str, value: Any) -> Any:
    """A model with one field, whatever is in it."""
    fields: dict[str, Any] = {name: (annotation, ...)}
    return create_model("Model", **fields).model_construct(**{name: value})


@pytest.mark.parametrize(
    ("annotation", "name", "value"),
    [
        (UUID, "a_string", UUID(int=5)),
        (UUID, "some_bytes", UUID(int=5)),
        (Decimal, "a_string", Decimal("1.50")),
        (Decimal, "a_double", Decimal("0.5")),
        (date, "a_string", date(2026, 1, 2)),
        (datetime, "a_string", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        (Status, "a_string", Status.OPEN),
        (Numbered, "an_int64", Numbered.PAID),
        (Status, "status", Status.PAID),
        (Status | None, "status", None),
        (str, "status", "STATUS_PAID"),
        (int, "status", 77),
        (int, "at", 1_700_000_000_123_456_789),
        (int, "at", -1),
        (str, "a_string", "\0\U0001f600"),
        (int, "took", -1_000_000_005),
        (datetime, "at", datetime(1, 1, 1, tzinfo=UTC)),
        (datetime, "at", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        (datetime, "at", datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))),
        (timedelta, "took", timedelta(-1, 5, 7)),
        (float, "a_double", math.nan),
        (float, "a_double", -math.inf),
        (float, "a_float", 0.5),
        (float, "a_float", math.nan),
        (float, "a_float", math.inf),
        (float, "a_double", 5),
        (int | None, "wrapped", None),
        (int | None, "wrapped", 0),
        (set[int], "numbers", {1, 2}),
        (tuple[int, ...], "numbers", (1, 2)),
        (RootModel[list[int]], "numbers", RootModel[list[int]]([1])),
        (RootModel[str], "a_string", RootModel[str]("a")),
        (dict[str, Any], "struct", {"a": [1, None, {"b": {}}], "fields": {"x": []}}),
        (Card, "struct", Card(reference="a")),
        (Any, "value", None),
        (Any, "value", {"list_value": []}),
        (list[Any], "list", [{"values": [1]}]),
        (str, "mask", "a.b,c"),
        (int | str, "choice", 5),
        (int | str, "choice", "5"),
        (int | str | Card, "choice", Card(reference="r")),
        (int | str | None, "choice", None),
        (Any, "any", {"@type": "athomic.shop.Card", "reference": "r"}),
        (Card | Cash, "any", Cash(reference="r")),
        (Any, "any", {"@type": "google.protobuf.Duration", "value": timedelta(1)}),
        (Any, "any", {"@type": "google.protobuf.Struct", "value": {"a": True}}),
    ],
)
async def test_what_is_read_back_as_the_same(annotation: Any, name: str, value: Any) -> None:
    model = of_field(annotation, name, value)
    registry = SchemaRegistry("memory://")
    protobuf = Protobuf(registry, messages=MESSAGES, schema=shop_pb2.Everything, auto_register=True)

    data = await settled(protobuf.encode(model, Outgoing("t")))
    found = await settled(protobuf.decoder(type(model))(message(data)))

    assert repr(found) == repr(model) or difference(value, getattr(found, name)) is None


SECRET = "do not show"


class Foreign(Enum):
    X = "x"


@pytest.mark.parametrize(
    ("annotation", "name", "value", "reason"),
    [
        (int, "an_int32", 1 << 31, "an_int32: the int is out of range"),
        (int, "a_uint32", -1, "a_uint32: the int is out of range"),
        (int, "a_uint64", 1 << 64, "a_uint64: the int is out of range"),
        (int, "an_int64", 1.0, "an_int64: a float is no int"),
        (int, "an_int64", SECRET, "an_int64: a str is no int"),
        (datetime, "an_int64", datetime(2026, 1, 1), "an_int64: a datetime is no int"),
        (bool, "a_bool", 1, "a_bool: a int is no bool"),
        (str, "a_string", 5, "a_string: a int is no text"),
        (bytes, "a_string", b"abc", "a_string: a bytes is no text"),
        (str, "a_string", "\ud800", "a_string: half a surrogate pair"),
        (str, "some_bytes", SECRET, "some_bytes: a str is no bytes"),
        (float, "a_float", 1e39, "a_float: a float of 32 bits does not hold it"),
        (int, "a_double", (1 << 53) + 1, r"would not be read back as it is: a_double \(int\)"),
        (int, "a_double", 10**400, "a_double: the number is too large for a float"),
        (Decimal, "a_double", Decimal("0.12345678901234567890123"), r"a_double \(Decimal\)"),
        (float, "a_double", SECRET, "a_double: a str is no number"),
        (int | None, "an_int32", None, r"an_int32 \(NoneType\)"),
        (list[int] | None, "numbers", None, r"numbers \(NoneType\)"),
        (list[int | None], "numbers", [1, None], "numbers.1: None is no item of a list"),
        (list[int], "numbers", SECRET, "numbers: a str is no list"),
        (dict[int, Any], "names", {1: None}, r"names\.\?: None is no value of a map"),
        (dict[Any, str], "names", {SECRET: "a"}, r"names\.\?: a str is no int"),
        (str, "status", SECRET, "status: the str is no value of the enum athomic.shop.Status"),
        (Any, "status", Foreign.X, "status: the Foreign is no value of the enum"),
        (int, "status", 1 << 31, "status: the int is out of range"),
        (datetime, "at", datetime(2026, 1, 1), "at: a datetime without a time zone is no Timestamp"),
        (int, "at", 1 << 80, "at: the int, in nanoseconds since 1970, is no Timestamp"),
        (str, "at", SECRET, "at: a str is no Timestamp"),
        (int, "took", 1 << 90, "took: it is too long for a Duration"),
        (Any, "struct", [1], "struct: a list is no Struct"),
        (dict[str, Any], "struct", {"a": (1 << 53) + 1}, r"struct.\? \(int\)"),
        (dict[str, Any], "struct", {"a": b"\xff"}, r"struct\.\?: a bytes is no value of JSON"),
        (dict[str, Any], "struct", {"a": object()}, r"struct\.\?: a object is no value of JSON"),
        (dict[Any, Any], "struct", {1: 1}, "struct: a int is no key of a Struct"),
        (list[Any], "list", SECRET, "list: a str is no ListValue"),
        (list[str], "mask", [1], "mask: a list is no FieldMask"),
        (Any, "any", {"reference": "r"}, "any: an Any needs a message of a known type"),
        (Any, "choice", 1.5, "choice: no field of the oneof is for a float"),
        (SecretStr, "a_string", SecretStr(SECRET), r"a_string \(SecretStr\)"),
        (Any, "inner", Card(reference="r"), "inner: a Card stands for another message than athomic.shop.Everything"),
        (Any, "inner", 5, "inner: a int is no message athomic.shop.Everything"),
        (list[Any], "times", [datetime(2026, 1, 1)], "times.0: a datetime without a time zone"),
        (str, "not_in_the_message", SECRET, "not_in_the_message: missing"),
    ],
)
async def test_what_would_not_be_read_back_is_refused(annotation: Any, name: str, value: Any, reason: str) -> None:
    text = await refusal(of_field(annotation, name, value))

    assert re.search(reason, text), text
    assert SECRET not in text


async def test_a_float_of_32_bits_rounds_and_nothing_else_does() -> None:
    kind = create_model("Everything", a_float=(float, ...), a_double=(float, ...))
    read = await both_ways(kind(a_float=0.1, a_double=0.1))
    assert read.a_double == 0.1
    assert read.a_float == unpack("f", pack("f", 0.1))[0] != 0.1


async def test_two_fields_of_a_oneof_are_one_too_many() -> None:
    class Model(BaseModel):
        by_number: int | None = None
        by_name: str | None = None

    assert "by_number (int)" in await refusal(Model(by_number=1, by_name="a"))


async def test_a_oneof_with_two_fields_for_one_type_is_ambiguous() -> None:
    proto = generated(
        "athomic_ways.proto",
        'syntax = "proto3"; package athomic.ways; message Contact { oneof way { string mail = 1; string phone = 2; } }',
    )

    class Contact(BaseModel):
        way: str

    assert "way: more than one field of the oneof is for a str" in await refusal(Contact(way="a"), proto.Contact)


async def test_what_is_excluded_is_not_written() -> None:
    class Model(BaseModel):
        a_string: str = Field(default="", exclude=True)
        an_int32: int = 0

    assert await both_ways(Model(an_int32=1)) == Model(an_int32=1)
    assert "a_string (str)" in await refusal(Model(a_string="a"))


async def test_a_validator_that_makes_another_value_of_it() -> None:
    class Model(BaseModel):
        a_string: str

        @field_validator("a_string")
        @classmethod
        def _more(cls, value: str) -> str:
            return f"{value}!"

    assert "a_string (str)" in await refusal(Model(a_string="a"))


async def test_an_instance_of_a_subclass_would_lose_what_it_adds() -> None:
    class Special(Card):
        more: str = "x"

    class Model(BaseModel):
        by_card: Card

    assert "by_card (Special)" in await refusal(Model(by_card=Special(reference="r")))


async def test_a_model_that_is_equal_to_all_others_is_compared_field_by_field() -> None:
    class Model(BaseModel):
        an_int32: int | None = None

        def __eq__(self, other: object) -> bool:
            return True

    assert "an_int32 (NoneType)" in await refusal(Model())


@dataclass
class Simple:
    a_string: str
    numbers: list[int]


class Named(NamedTuple):
    a_string: str
    an_int32: int = 0


class Everyday(RootModel[Simple]):
    pass


@pytest.mark.parametrize("value", [Simple("a", [1]), Named("a", 5), Everyday(Simple("a", [1]))])
async def test_records_of_other_kinds(value: Any) -> None:
    assert await both_ways(value) == value


async def test_required_fields_of_proto2_are_named() -> None:
    proto = generated(
        "athomic_required.proto", 'syntax = "proto2"; package athomic.required; message Old { required int32 id = 1; }'
    )

    class Old(BaseModel):
        id: int | None = None

    assert "id" in await refusal(proto.Old(), proto.Old)
    assert "id" in await refusal(Old(), proto.Old)


# --- hypothesis


def ints(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high) | st.sampled_from((low, high))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
TIMES = st.datetimes(timezones=st.sampled_from((UTC, timezone(timedelta(hours=5))))).filter(
    lambda time: timedelta(1) < time.replace(tzinfo=UTC) - datetime(1, 1, 1, tzinfo=UTC) < timedelta(3_652_000)
)
LENGTHS = st.timedeltas(-timedelta(3_000_000), timedelta(3_000_000))
LINES = st.builds(Line, sku=TEXT, quantity=ints(-(1 << 31), (1 << 31) - 1), price=st.floats(allow_nan=False))
CARDS = st.builds(Card, reference=TEXT)
SIMPLE = st.builds(
    Everything,
    a_double=st.floats(allow_nan=False),
    a_float=st.floats(width=32, allow_nan=False),
    an_int32=ints(-(1 << 31), (1 << 31) - 1),
    an_int64=ints(-(1 << 63), (1 << 63) - 1),
    a_uint32=ints(0, (1 << 32) - 1),
    a_uint64=ints(0, (1 << 64) - 1),
    a_sint32=ints(-(1 << 31), (1 << 31) - 1),
    a_sint64=ints(-(1 << 63), (1 << 63) - 1),
    a_fixed32=ints(0, (1 << 32) - 1),
    a_fixed64=ints(0, (1 << 64) - 1),
    a_sfixed32=ints(-(1 << 31), (1 << 31) - 1),
    a_sfixed64=ints(-(1 << 63), (1 << 63) - 1),
    a_bool=st.booleans(),
    a_string=TEXT,
    some_bytes=st.binary(max_size=8),
    status=st.sampled_from(Numbered),
    maybe=st.none() | ints(-(1 << 31), (1 << 31) - 1),
    numbers=st.lists(ints(-(1 << 63), (1 << 63) - 1), max_size=3),
    statuses=st.lists(st.sampled_from(Numbered), max_size=3),
    names=st.dictionaries(ints(-(1 << 31), (1 << 31) - 1), TEXT, max_size=3),
    lines=st.dictionaries(TEXT, LINES, max_size=2),
    at=st.none() | TIMES,
    took=st.none() | LENGTHS,
    wrapped=st.none() | ints(-(1 << 63), (1 << 63) - 1),
    wrapped_text=st.none() | TEXT,
    struct=st.none() | st.dictionaries(TEXT, JSON, max_size=3),
    value=JSON,
    list=st.none() | st.lists(JSON, max_size=3),
    mask=st.none() | st.lists(TEXT, max_size=2),
    empty=st.none() | st.just({}),
    choice=st.none() | ints(-(1 << 63), (1 << 63) - 1) | TEXT | CARDS,
    times=st.lists(TIMES, max_size=2),
    durations=st.dictionaries(TEXT, LENGTHS, max_size=2),
    maybe_status=st.none() | st.sampled_from(Numbered),
)
VALUES = st.builds(lambda inner, value: value.model_copy(update={"inner": inner}), st.none() | SIMPLE, SIMPLE)


async def ready() -> tuple[Any, Any]:
    """A function that writes `Everything`, and one that reads it by the registry's schema: neither has to wait."""
    registry = SchemaRegistry("memory://")
    protobuf = Protobuf(registry, messages=MESSAGES, auto_register=True)
    decode = Protobuf(registry).decoder(Everything)
    data = await settled(protobuf.encode(Everything(), Outgoing("t")))
    await settled(decode(message(data)))
    return lambda value: protobuf.encode(value, Outgoing("t")), lambda data: decode(message(data))


WRITE, READ = asyncio.run(ready())


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_round_trips(value: Everything) -> None:
    assert READ(WRITE(value)) == value


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_what_is_written_is_what_the_generated_class_holds(value: Everything) -> None:
    """Against protoc's class: each value stands in its field."""
    data = WRITE(value)
    found = shop_pb2.Everything.FromString(data[7:])

    for name in ("a_double", "a_float", "an_int64", "a_uint64", "a_sint64", "a_string", "some_bytes"):
        assert getattr(found, name) == getattr(value, name)
    assert list(found.numbers) == value.numbers
    assert dict(found.names) == value.names
    assert found.HasField("maybe") == (value.maybe is not None)
    if value.at is not None:
        assert found.at.ToDatetime(UTC) == value.at
    if value.took is not None:
        assert found.took.ToTimedelta() == value.took


async def test_a_value_is_left_as_it_is() -> None:
    order = Order(id="a", number=1, payment=Cash(reference="r"))
    before = replace(Simple("a", [1]))

    await written(order)
    await written(before)

    assert order == Order(id="a", number=1, payment=Cash(reference="r"))
    assert before == Simple("a", [1])

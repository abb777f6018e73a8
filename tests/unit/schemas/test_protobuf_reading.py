"""What the fields of Protobuf messages become, by the annotations of the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID

import pytest
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, create_model
from typing_extensions import TypeAliasType, TypedDict

from fastapi_athomic import PayloadDecodeError
from fastapi_athomic.payload.steps import Outgoing
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import message, settled
from tests.support.protoc import generated
from tests.support.shop_proto import Card, Cash, Line, Numbered, OrderLine, Status, shop_pb2

UTC = timezone.utc  # noqa: UP017


async def read(target: Any, value: Any, **options: Any) -> Any:
    """A message that is written, and read into the target. Without generated classes for it."""
    registry = SchemaRegistry("memory://")
    data = await settled(Protobuf(registry, auto_register=True).encode(value, Outgoing("t")))
    protobuf = Protobuf(registry, **options)
    first = await settled(protobuf.decoder(target)(message(data)))
    mapped = Protobuf(registry, messages={target: type(value)}, **options)
    if target not in (dict, Any):
        again = await settled(mapped.decoder(target)(message(data)))
        assert repr(again) == repr(first)  # NaN is not equal to itself
    return first


async def field_of(annotation: Any, name: str, value: Any, **options: Any) -> Any:
    """One field of `Everything`, as the annotation has it."""
    fields: dict[str, Any] = {name: (annotation, ...)}
    target = create_model("Everything", **fields)
    return getattr(await read(target, shop_pb2.Everything(**{name: value}), **options), name)


async def refusal(annotation: Any, name: str, value: Any, **options: Any) -> str:
    with pytest.raises(PayloadDecodeError) as caught:
        await field_of(annotation, name, value, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "annotation", "value"),
    [
        ("a_double", float, 0.1),
        ("a_double", float, math.inf),
        ("a_float", float, 0.5),
        ("an_int32", int, -(2**31)),
        ("an_int64", int, -(2**63)),
        ("an_int64", int, 2**63 - 1),
        ("a_uint32", int, 2**32 - 1),
        ("a_uint64", int, 2**64 - 1),
        ("a_sint32", int, -(2**31)),
        ("a_sint64", int, -(2**63)),
        ("a_fixed32", int, 2**32 - 1),
        ("a_fixed64", int, 2**64 - 1),
        ("a_sfixed32", int, -(2**31)),
        ("a_sfixed64", int, -(2**63)),
        ("a_bool", bool, True),
        ("a_string", str, "ü\0"),
        ("some_bytes", bytes, b"\xff\0"),
        ("numbers", list[int], [2**62, -1]),
        ("names", dict[int, str], {-1: "a"}),
    ],
)
async def test_scalars_come_as_they_are(name: str, annotation: Any, value: Any) -> None:
    for kind in (annotation, annotation | None, Any):
        found = await field_of(kind, name, value)

        assert found == value
        assert type(found) is type(value)


async def test_not_a_number() -> None:
    assert math.isnan(await field_of(float, "a_double", math.nan))


@pytest.mark.parametrize(
    ("name", "annotation", "value", "expected"),
    [
        ("a_string", UUID, "00000000-0000-0000-0000-000000000005", UUID(int=5)),
        ("a_string", Decimal, "1.50", Decimal("1.50")),
        ("a_string", date, "2026-01-02", date(2026, 1, 2)),
        ("a_string", Status, "open", Status.OPEN),
        ("a_string", Literal["x", "y"], "y", "y"),
        ("some_bytes", UUID, UUID(int=5).bytes, UUID(int=5)),
        ("numbers", set[int], [1, 2, 1], {1, 2}),
        ("numbers", tuple[int, ...], [1, 2], (1, 2)),
        ("numbers", Sequence[int], [1, 2], [1, 2]),
    ],
)
async def test_pydantic_makes_of_scalars_what_the_annotation_says(
    name: str, annotation: Any, value: Any, expected: Any
) -> None:
    assert await field_of(annotation, name, value) == expected


# --- time

NANOSECONDS = 1_700_000_000_123_456_789
STAMP = {"seconds": NANOSECONDS // 10**9, "nanos": NANOSECONDS % 10**9}


async def test_a_timestamp_is_a_datetime_in_utc() -> None:
    for annotation in (datetime, datetime | None, datetime | int, Any):
        found = await field_of(annotation, "at", {"seconds": -1, "nanos": 1000})

        assert found == datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC)
        assert found.tzinfo is UTC


async def test_an_int_has_a_timestamps_and_a_durations_nanoseconds() -> None:
    assert await field_of(int, "at", STAMP) == NANOSECONDS
    assert await field_of(int, "took", {"seconds": -1, "nanos": -5}) == -1_000_000_005
    assert await field_of(list[int], "times", [STAMP]) == [NANOSECONDS]
    assert await field_of(dict[str, int], "durations", {"a": duration_pb2.Duration(seconds=1)}) == {"a": 10**9}


async def test_text_has_them_too() -> None:
    assert await field_of(str, "at", STAMP) == "2023-11-14T22:13:20.123456789Z"
    assert await field_of(str, "took", {"seconds": -1, "nanos": -5}) == "-1.000000005s"


async def test_what_a_datetime_cannot_hold_is_refused_or_cut() -> None:
    assert "at: a datetime cannot hold its nanoseconds: annotate int" in await refusal(datetime, "at", STAMP)
    assert "took: a timedelta cannot hold" in await refusal(timedelta, "took", {"nanos": 1})

    cut = await field_of(datetime, "at", STAMP, nanoseconds="cut")
    assert cut == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert await field_of(datetime, "at", {"seconds": -1, "nanos": 1}, nanoseconds="cut") == datetime(
        1969, 12, 31, 23, 59, 59, tzinfo=UTC
    )
    assert await field_of(timedelta, "took", {"nanos": -1999}, nanoseconds="cut") == timedelta(microseconds=-1)


async def test_a_duration_is_a_timedelta() -> None:
    for annotation in (timedelta, timedelta | None, Any):
        assert await field_of(annotation, "took", {"seconds": -1, "nanos": -5000}) == timedelta(0, -1, -5)


@pytest.mark.parametrize("stamp", [{"seconds": 1 << 60}, {"seconds": -(1 << 40)}, {"nanos": -1000}, {"nanos": 10**9}])
async def test_no_valid_timestamp(stamp: dict[str, int]) -> None:
    assert await refusal(datetime, "at", stamp) == "step protobuf: at: no valid Timestamp"


async def test_no_valid_duration() -> None:
    assert "took: no valid Duration" in await refusal(timedelta, "took", {"seconds": 1 << 60})
    assert "took: no valid value" in await refusal(str, "took", {"seconds": 1 << 60})


async def test_the_parts_of_a_timestamp_can_be_had() -> None:
    class Stamp(BaseModel):
        seconds: int
        nanos: int

    assert await field_of(Stamp, "at", STAMP) == Stamp(**STAMP)


# --- well-known types


async def test_wrappers_are_values_or_none() -> None:
    assert await field_of(int | None, "wrapped", {"value": 0}) == 0
    assert await field_of(int | None, "wrapped", None) is None
    assert await field_of(str | None, "wrapped_text", {"value": ""}) == ""


async def test_json_in_messages() -> None:
    struct = {"fields": {"a": {"list_value": {"values": [{"null_value": 0}, {"bool_value": True}]}}}}
    value = shop_pb2.Everything()
    value.struct.update({"a": [None, True, {"b": 1.5}], "c": "x"})
    value.value.string_value = "text"
    value.list.extend([1.0, "x"])

    found = await read(dict, value)

    assert found["struct"] == {"a": [None, True, {"b": 1.5}], "c": "x"}
    assert (found["value"], found["list"]) == ("text", [1.0, "x"])
    assert await field_of(dict[str, list[bool | None]], "struct", shop_pb2.Everything(struct=None).struct) == {}
    assert struct


async def test_a_struct_may_become_a_model() -> None:
    class Meta(BaseModel):
        count: int
        tags: list[str]

    value = shop_pb2.Everything()
    value.struct.update({"count": 3, "tags": ["a"]})
    target = create_model("Everything", struct=(Meta, ...))

    assert (await read(target, value)).struct == Meta(count=3, tags=["a"])


async def test_field_masks_and_empty() -> None:
    assert await field_of(list[str], "mask", {"paths": ["a.b", "c"]}) == ["a.b", "c"]
    assert await field_of(str, "mask", {"paths": ["a.b", "c"]}) == "a.b,c"
    assert await field_of(dict[str, Any] | None, "empty", {}) == {}


def packed(value: Any) -> Any:
    any_value = any_pb2.Any()
    any_value.Pack(value)
    return any_value


async def test_an_any_holds_what_its_type_says() -> None:
    card = packed(shop_pb2.Card(reference="r"))

    assert await field_of(Any, "any", card) == {"@type": "athomic.shop.Card", "reference": "r"}
    assert await field_of(Cash | Card, "any", card) == Card(reference="r")
    wrapped = await field_of(Any, "any", packed(shop_pb2.Everything(wrapped={"value": 5}).wrapped))
    assert wrapped == {"@type": "google.protobuf.Int64Value", "value": 5}


async def test_an_any_of_an_unknown_type_is_refused() -> None:
    unknown = any_pb2.Any(type_url="type.googleapis.com/nobody.Knows", value=b"secret")

    assert "any: an Any of a type that is not known here" in await refusal(Any, "any", unknown)
    wrong = any_pb2.Any(type_url="type.googleapis.com/athomic.shop.Card", value=b"\xff")
    assert "any: an Any with bytes that are no such message" in await refusal(Any, "any", wrong)
    assert "no member of the union stands for the message athomic.shop.Line" in await refusal(
        Card | Cash, "any", packed(shop_pb2.Line())
    )


# --- enums


class ByPrefix(Enum):
    STATUS_UNSPECIFIED = 10
    STATUS_OPEN = 11
    STATUS_PAID = 12


class Older(IntEnum):
    UNSPECIFIED = 0
    OPEN = 1


@pytest.mark.parametrize(
    ("annotation", "number", "expected"),
    [
        (Numbered, 2, Numbered.PAID),
        (ByPrefix, 2, ByPrefix.STATUS_PAID),
        (int, 2, 2),
        (int, 77, 77),
        (str, 2, "STATUS_PAID"),
        (Any, 2, "STATUS_PAID"),
        (Any, 77, 77),
        (Literal["STATUS_PAID"], 2, "STATUS_PAID"),
        (Literal[2], 2, 2),
        (Numbered | int, 2, Numbered.PAID),
        (Numbered | int, 77, 77),
        (ByPrefix | int, 77, 77),
        (Status | None, 2, Status.PAID),
        (Status | None, 0, None),
    ],
)
async def test_enums_by_name_or_number(annotation: Any, number: int, expected: Any) -> None:
    found = await field_of(annotation, "status", number)

    assert found == expected
    assert type(found) is type(expected)


async def test_numbers_that_an_enum_has_no_member_for_are_refused() -> None:
    """Also where a member happens to have this number as its value, but stands for another name."""
    assert "status: enum" in await refusal(Older, "status", 2)
    assert "status: a number that the enum has no member for" in await refusal(ByPrefix, "status", 11)
    assert "status: a number that the enum has no member for" in await refusal(Status, "status", 0)
    assert "status: string_type" in await refusal(str, "status", 77)


# --- presence


async def test_an_unset_field_is_none_or_the_models_default() -> None:
    class Model(BaseModel):
        maybe: int | None
        at: datetime | None = None
        wrapped: int = 5
        inner: dict[str, Any] = Field(default_factory=lambda: {"a": 1})
        an_int32: int = 7  # without presence: 0 is what was sent

    assert await read(Model, shop_pb2.Everything()) == Model(maybe=None, wrapped=5, inner={"a": 1}, an_int32=0)


async def test_an_unset_field_that_must_be_there_is_missing() -> None:
    for name in ("maybe", "at", "inner"):
        fields: dict[str, Any] = {name: (dict[str, Any] | int | datetime, ...)}
        target = create_model("Everything", **fields)
        with pytest.raises(PayloadDecodeError, match=f"{name}: missing"):
            await read(target, shop_pb2.Everything())


async def test_a_oneof_is_what_was_written_of_it_and_the_rest_is_none() -> None:
    class Model(BaseModel):
        by_number: int | None
        by_name: str | None = None
        by_card: Card | None = None

    values: list[dict[str, Any]] = [{"by_number": 0}, {"by_name": ""}, {"by_card": {"reference": ""}}]
    for value in values:
        found = await read(Model, shop_pb2.Everything(**value))

        assert found == Model(**{"by_number": None, **value})
    assert await read(Model, shop_pb2.Everything()) == Model(by_number=None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"by_number": 0}, 0),
        ({"by_name": "0"}, "0"),
        ({"by_card": {"reference": "r"}}, Card(reference="r")),
        ({}, None),
    ],
)
async def test_a_field_with_the_name_of_a_oneof_has_whichever_was_written(value: Any, expected: Any) -> None:
    class Model(BaseModel):
        choice: Card | str | int | None

    assert (await read(Model, shop_pb2.Everything(**value))).choice == expected


async def test_a_oneof_of_messages_alike_is_the_one_that_was_written() -> None:
    class Model(BaseModel):
        payment: Card | Cash | None

    assert (await read(Model, shop_pb2.Order(cash={"reference": "r"}))).payment == Cash(reference="r")
    assert (await read(Model, shop_pb2.Order(card={"reference": "r"}))).payment == Card(reference="r")
    assert (await read(Model, shop_pb2.Order())).payment is None


async def test_a_union_in_a_field_of_one_message_is_the_model_of_that_message() -> None:
    class Model(BaseModel):
        cash: Card | Cash
        lines: list[Cash | Line]

    found = await read(Model, shop_pb2.Order(cash={"reference": "r"}, lines=[{"sku": "a"}]))

    assert found == Model(cash=Cash(reference="r"), lines=[Line(sku="a", quantity=0, price=0.0)])


# --- targets


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=lambda name: "".join(part.title() for part in name.split("_")))
    an_int32: int


@pytest.mark.parametrize(
    ("target", "attribute"),
    [
        (create_model("M", an_int32=(int, ...)), "an_int32"),
        (create_model("M", anInt32=(int, ...)), "anInt32"),
        (create_model("M", n=(int, Field(alias="an_int32"))), "n"),
        (create_model("M", n=(int, Field(alias="anInt32"))), "n"),
        (create_model("M", n=(int, Field(validation_alias=AliasChoices("x", "anInt32")))), "n"),
        (create_model("M", an_int32=(int, Field(alias="other"))), "an_int32"),
        (Camel, "an_int32"),
    ],
)
async def test_fields_go_by_their_name_in_proto_or_json(target: Any, attribute: str) -> None:
    assert getattr(await read(target, shop_pb2.Everything(an_int32=5)), attribute) == 5


async def test_a_field_whose_name_is_a_keyword() -> None:
    class Model(BaseModel):
        from_: str = Field(alias="from")

    assert (await read(Model, shop_pb2.Everything(**{"from": "a"}))).from_ == "a"


T = TypeVar("T")


class Item(TypedDict):
    sku: str
    quantity: NotRequired[int]
    discount: NotRequired[dict[str, Any]]


class Tuple(NamedTuple):
    sku: str
    price: float = 0.0


class Page(BaseModel, Generic[T]):
    lines: list[T]


@dataclass
class GenericPage(Generic[T]):
    lines: list[T] = field(default_factory=list)


Items = TypeAliasType("Items", list[OrderLine])


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (list[OrderLine], [OrderLine("a", 1, 0.5)]),
        (Items, [OrderLine("a", 1, 0.5)]),
        (Annotated[list[OrderLine], Field(min_length=1)], [OrderLine("a", 1, 0.5)]),
        (RootModel[list[OrderLine]], RootModel[list[OrderLine]]([OrderLine("a", 1, 0.5)])),
        (list[Item], [{"sku": "a", "quantity": 1}]),
        (list[Tuple], [Tuple("a", 0.5)]),
        (list[dict[str, Any]], [{"sku": "a", "quantity": 1, "price": 0.5, "discount": None}]),
        (list[Any], [{"sku": "a", "quantity": 1, "price": 0.5, "discount": None}]),
    ],
)
async def test_messages_become_records_of_all_kinds(annotation: Any, expected: Any) -> None:
    target = create_model("Order", lines=(annotation, ...))

    found = await read(target, shop_pb2.Order(lines=[{"sku": "a", "quantity": 1, "price": 0.5}]))

    assert found.lines == expected


@pytest.mark.parametrize("target", [Page[OrderLine], GenericPage[OrderLine]])
async def test_generic_targets(target: Any) -> None:
    found = await read(target, shop_pb2.Order(lines=[{"sku": "a", "quantity": 1, "price": 0.5}]))

    assert found.lines == [OrderLine("a", 1, 0.5)]


async def test_other_targets_than_models() -> None:
    value = shop_pb2.Line(sku="a", quantity=1, price=0.5)

    assert await read(OrderLine, value) == OrderLine("a", 1, 0.5)
    assert await read(Item, value) == {"sku": "a", "quantity": 1}
    assert await read(Tuple, value) == Tuple("a", 0.5)
    assert await read(Any, value) == {"sku": "a", "quantity": 1, "price": 0.5, "discount": None}


async def test_models_that_take_or_forbid_more_get_the_fields_that_are_set() -> None:
    class Open(BaseModel, extra="allow"):
        id: str

    class Closed(BaseModel, extra="forbid"):
        id: str

    assert (await read(Open, shop_pb2.Order(id="a", number=5))).model_extra == {"number": 5}
    assert await read(Closed, shop_pb2.Order(id="a")) == Closed(id="a")
    with pytest.raises(PayloadDecodeError, match="extra_forbidden"):
        await read(Closed, shop_pb2.Order(id="a", number=5))


class Nested(BaseModel):
    a_string: str
    inner: Nested | None = None


async def test_messages_in_themselves() -> None:
    value = shop_pb2.Everything(a_string="0")
    for number in range(1, 90):
        value = shop_pb2.Everything(a_string=str(number), inner=value)

    found: Nested | None = await read(Nested, value)

    for number in reversed(range(90)):
        assert found is not None
        assert found.a_string == str(number)
        found = found.inner


async def test_the_place_of_a_failure_is_told() -> None:
    class Inner(BaseModel):
        at: datetime | None = None
        statuses: list[ByPrefix] = []

    class Outer(BaseModel):
        inner: Inner | None = None

    with pytest.raises(PayloadDecodeError, match=r"step protobuf: inner.at: no valid Timestamp"):
        await read(Outer, shop_pb2.Everything(inner={"at": {"seconds": 1 << 60}}))
    with pytest.raises(PayloadDecodeError, match=r"inner.statuses: a number"):
        await read(Outer, shop_pb2.Everything(inner={"statuses": [55]}))


async def test_a_validator_that_fails_is_told_without_the_value() -> None:
    class Model(BaseModel):
        a_string: str

        def model_post_init(self, context: Any) -> None:
            raise RuntimeError(self.a_string)

    with pytest.raises(PayloadDecodeError, match="a validator raised RuntimeError") as caught:
        await read(Model, shop_pb2.Everything(a_string="secret"))
    assert "secret" not in str(caught.value)


# --- older syntax


OLD = """
syntax = "proto2";
package athomic.two;

message Old {
  required int32 id = 1;
  optional string name = 2;
  optional int32 size = 3 [default = 7];
  optional Kind kind = 4 [default = B];
  repeated group Result = 5 {
    required string url = 6;
  }
  optional bytes raw = 7;
  extensions 100 to 199;

  enum Kind {
    A = 1;
    B = 2;
  }
}

extend Old {
  optional string more = 100;
}
"""
EDITION = """
edition = "2023";
package athomic.edition;

message New {
  string name = 1;
  int32 size = 2 [features.field_presence = IMPLICIT];
  New part = 3 [features.message_encoding = DELIMITED];
}
"""
old_pb2 = generated("athomic_two.proto", OLD)
edition_pb2 = generated("athomic_edition.proto", EDITION)


class Old(BaseModel):
    id: int
    name: str | None
    size: int
    kind: Literal["A", "B"]
    result: list[dict[str, str]]


async def test_proto2_with_its_defaults_groups_and_extensions() -> None:
    value = old_pb2.Old(id=1, result=[{"url": "x"}])
    value.Extensions[old_pb2.more] = "kept"

    assert await read(Old, value) == Old(id=1, name=None, size=7, kind="B", result=[{"url": "x"}])
    assert await read(old_pb2.Old, value) == value


async def test_text_of_proto2_that_is_not_utf8() -> None:
    class Model(BaseModel):
        name: str

    registry = SchemaRegistry("memory://")
    await settled(Protobuf(registry, auto_register=True).encode(old_pb2.Old(id=1), Outgoing("t")))
    with pytest.raises(PayloadDecodeError, match="name: string_unicode"):
        await settled(Protobuf(registry).decoder(Model)(message(b"\0\0\0\0\x01\0\x08\x01\x12\x01\xff")))


async def test_editions() -> None:
    class New(BaseModel):
        name: str | None
        size: int
        part: New | None

    value = edition_pb2.New(part={"size": 5})

    assert await read(New, value) == New(name=None, size=0, part=New(name=None, size=5, part=None))


def test_the_wrappers_of_the_library_are_known() -> None:
    from fastapi_athomic.schemas.protobuf_known import WRAPPERS

    assert {each.full_name for each in wrappers_pb2.DESCRIPTOR.message_types_by_name.values()} == WRAPPERS

"""MessagePack: both ways with other implementations, and whatever bytes may come."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgpack
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, create_model, field_serializer

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadPipeline
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.steps import Outgoing
from tests.support.payloads import arrived, message, settled
from tests.unit.payload.test_losses import KEPT, TYPED, _innermost

PIPELINE = PayloadPipeline([MessagePack(thread_above=None)])
NOON = datetime(2026, 1, 2, 12, 0, 0, 250_000, UTC)
ID = UUID("12345678-1234-5678-1234-567812345678")


class Color(Enum):
    RED = "r"


class Order(BaseModel):
    number: int
    price: Decimal
    buyer: UUID
    color: Color = Color.RED
    data: bytes = b"\xff"
    at: datetime = NOON
    day: date = date(2026, 1, 2)
    by_number: dict[int, str] = Field(default_factory=dict)
    tags: set[str] = Field(default_factory=set)


class StrictOrder(Order):
    model_config = ConfigDict(strict=True)


@dataclass
class Point:
    x: float
    y: float


ORDER = Order(number=2**64 - 1, price=Decimal("1.10"), buyer=ID, by_number={-(2**63): "low"}, tags={"a"})
AS_OBJECTS = {
    "number": 2**64 - 1,
    "price": "1.10",
    "buyer": str(ID),
    "color": "r",
    "data": b"\xff",
    "at": NOON,
    "day": "2026-01-02",
    "by_number": {-(2**63): "low"},
    "tags": ["a"],
}
BY_JAVASCRIPT = bytes.fromhex(
    "87a66e756d6265720ca5726174696fcb3ff8000000000000a474657874a2c3bca464617461c40200ffa47768656ed7ff3b9aca006957b340"
    "a3626967cfffffffffffffffffa56974656d7393c0c3ff"
)
"""Recorded: what @msgpack/msgpack 3.1.3 of npm writes for `OF_JAVASCRIPT`, with `useBigInt64`."""
OF_JAVASCRIPT = {
    "number": 12,
    "ratio": 1.5,
    "text": "ü",
    "data": b"\0\xff",
    "when": NOON,
    "big": 2**64 - 1,
    "items": [None, True, -1],
}


def read(data: bytes | None, target_type: Any) -> Any:
    return PIPELINE.decoder(target_type)(message(data))


def error_of(data: bytes | None, target_type: Any) -> str:
    with pytest.raises(PayloadDecodeError) as caught:
        read(data, target_type)
    assert caught.value.step == "messagepack"
    return str(caught.value)


# --- others


def test_what_msgpack_writes_is_read() -> None:
    assert read(msgpack.packb(AS_OBJECTS, datetime=True), Order) == ORDER


def test_what_ormsgpack_writes_is_read() -> None:
    options = ormsgpack.OPT_NON_STR_KEYS | ormsgpack.OPT_DATETIME_AS_TIMESTAMP_EXT
    assert read(ormsgpack.packb(AS_OBJECTS, option=options), Order) == ORDER


def test_ours_is_read_by_msgpack_and_ormsgpack() -> None:
    data = PIPELINE.encode(ORDER)
    assert data is not None
    assert msgpack.unpackb(data, timestamp=3, strict_map_key=False) == AS_OBJECTS
    options = ormsgpack.OPT_NON_STR_KEYS | ormsgpack.OPT_DATETIME_AS_TIMESTAMP_EXT
    assert ormsgpack.unpackb(data, option=options) == AS_OBJECTS


def test_javascript_writes_the_same_bytes() -> None:
    assert PIPELINE.encode(OF_JAVASCRIPT) == BY_JAVASCRIPT
    assert read(BY_JAVASCRIPT, Any) == OF_JAVASCRIPT


def test_the_content_type_is_written_and_others_of_it_are_recognized() -> None:
    outgoing = Outgoing("t")
    data = PIPELINE.write(ORDER, outgoing)
    assert outgoing.headers == (("content-type", b"application/vnd.msgpack"),)
    mixed = PayloadPipeline(reads=[MessagePack()])
    assert isinstance(data, bytes)
    assert mixed.decoder(Order)(arrived(data, outgoing)) == ORDER
    assert mixed.decoder(int)(message(b"\x07", headers=(("content-type", b"application/x-msgpack"),))) == 7
    assert mixed.decoder(int)(message(b"7")) == 7


# --- values


@pytest.mark.parametrize("case", KEPT)
def test_what_json_reads_back_is_read_back(case: str) -> None:
    if case in ("large number", "secret that its author shows"):  # numbers have 64 bits; and see below
        with pytest.raises(PayloadEncodeError):
            PIPELINE.encode(KEPT[case])
    else:
        assert PIPELINE.encode(KEPT[case])


@given(TYPED, TYPED)
def test_whatever_is_published_is_read_back_as_it_is(one: Any, other: Any) -> None:
    made = create_model("Made", one=(one[0], ...), other=(other[0], Field(alias="theOther")))
    published = made.model_construct(one=one[1], other=other[1])
    try:
        data = PIPELINE.encode(published)
    except PayloadEncodeError:
        return
    again = read(data, made)
    if Any not in (_innermost(one[0]), _innermost(other[0])):
        assert repr(again) == repr(published) or again == published


@pytest.mark.parametrize(
    "value", [b"\xff", "text", 7, [1, None], {1: {b"k": float("inf")}}, True, ORDER, Point(1.5, 2.0), ""]
)
def test_values_of_all_types_come_back(value: Any) -> None:
    assert read(PIPELINE.encode(value), type(value)) == value


def test_text_and_bytes_stay_apart() -> None:
    for value in ("a", b"a"):
        assert read(PIPELINE.encode(value), str | bytes) == value


def test_a_strict_model_reads_text_as_what_it_declares_and_else_stays_strict() -> None:
    strict = StrictOrder.model_validate(ORDER.model_dump() | {"data": b"text"})
    assert read(PIPELINE.encode(strict), StrictOrder) == strict
    assert "number: int_type" in error_of(msgpack.packb({**AS_OBJECTS, "number": "7"}, datetime=True), StrictOrder)


def test_a_strict_model_with_bytes_that_are_no_text_is_refused_if_it_needs_text_to_be_read() -> None:
    strict = StrictOrder.model_validate(ORDER.model_dump())
    with pytest.raises(PayloadEncodeError, match="price: "):
        PIPELINE.encode(strict)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"n": 2**64}, "a dict cannot be encoded as MessagePack: n (int): OverflowError"),
        (Order.model_construct(**dict(ORDER) | {"number": 2**64}), "cannot be encoded as MessagePack: number (int)"),
        ({"n": -(2**63) - 1}, "n (int)"),
        ({(1, 2): 3}, "a dict would not be read back as it is: it has an array or a map as a key of a map"),
        (
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))),
            "a datetime would not be read back as it is: it has a timestamp outside the years 1 to 9999",
        ),
        (
            ORDER.model_copy(update={"at": datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=5)))}),
            "a Order would not be read back as it is: it has a timestamp outside",
        ),
        ({"s": SecretStr("s3cret")}, "s (SecretStr)"),
        ("\ud800", "it (str): UnicodeEncodeError"),
    ],
)
def test_what_would_not_come_back_is_refused(value: Any, said: str) -> None:
    with pytest.raises(PayloadEncodeError) as caught:
        PIPELINE.encode(value)
    assert said in str(caught.value)
    assert caught.value.step == "messagepack"


def test_a_secret_is_shown_by_a_serializer_that_is_not_only_for_json() -> None:
    class Revealing(BaseModel):
        password: SecretStr

        @field_serializer("password")
        def _show(self, password: SecretStr) -> str:
            return password.get_secret_value()

    revealing = Revealing(password=SecretStr("s3cret"))
    assert read(PIPELINE.encode(revealing), Revealing) == revealing


# --- timestamps

STAMP = msgpack.Timestamp(1_767_355_200, 123_456_789)
NANOSECONDS = 1_767_355_200_123_456_789


def test_a_timestamp_is_read_by_the_annotation() -> None:
    class Event(BaseModel):
        at: datetime
        ns: int
        both: int | datetime
        anything: Any
        many: list[int]

    data = msgpack.packb({"at": STAMP, "ns": STAMP, "both": STAMP, "anything": STAMP, "many": [STAMP, 1, STAMP]})
    pipeline = PayloadPipeline([MessagePack(nanoseconds="cut")])
    event = pipeline.decoder(Event)(message(data))
    moment = datetime(2026, 1, 2, 12, 0, 0, 123_456, UTC)
    assert (event.at, event.ns, event.both, event.anything) == (moment, NANOSECONDS, moment, moment)
    assert event.many == [NANOSECONDS, 1, NANOSECONDS]


class Seen(BaseModel):
    at: datetime | None = None
    ns: int = 0
    items: list[datetime | int] = []


@pytest.mark.parametrize("thread_above", [None, 0])
async def test_nanoseconds_are_refused_by_a_datetime_and_kept_by_an_int(thread_above: int | None) -> None:
    decode = PayloadPipeline([MessagePack(thread_above=thread_above)]).decoder(Seen)
    exact = msgpack.Timestamp(1_767_355_200, 123_456_000)
    data = msgpack.packb({"at": exact, "ns": STAMP, "items": [exact, STAMP], "ignored": STAMP})
    moment = datetime(2026, 1, 2, 12, 0, 0, 123_456, UTC)
    assert await settled(decode(message(data))) == Seen(at=moment, ns=NANOSECONDS, items=[moment, NANOSECONDS])
    with pytest.raises(PayloadDecodeError, match="valid Seen: at: a datetime cannot hold its nanoseconds"):
        await settled(decode(message(msgpack.packb({"at": STAMP}))))


@pytest.mark.parametrize("seconds", [1_767_355_200, 2**34, -1])
@pytest.mark.parametrize("form", ["shortest", "ext8", "ext16", "ext32"])
def test_nanoseconds_are_found_in_all_forms(seconds: int, form: str) -> None:
    body = msgpack.Timestamp(seconds, 1).to_bytes()
    size = len(body)
    begin = {
        "shortest": b"\xd7" if size == 8 else b"\xc7\x0c",
        "ext8": b"\xc7" + size.to_bytes(1, "big"),
        "ext16": b"\xc8" + size.to_bytes(2, "big"),
        "ext32": b"\xc9" + size.to_bytes(4, "big"),
    }[form]
    for target in (datetime, Any):
        assert "a datetime cannot hold its nanoseconds" in error_of(begin + b"\xff" + body, target)
    assert read(begin + b"\xff" + body, int) == seconds * 10**9 + 1


@pytest.mark.parametrize("target", [dict, dict[str, Any], create_model("Open", __config__=ConfigDict(extra="allow"))])
def test_nanoseconds_are_refused_where_anything_is_kept(target: Any) -> None:
    assert "a datetime cannot hold its nanoseconds" in error_of(msgpack.packb({"at": STAMP}), target)


def test_what_looks_like_nanoseconds_is_none() -> None:
    data = msgpack.packb({"raw": b"\xd7\xff\0\0\0\7", "at": datetime(2026, 1, 2, tzinfo=UTC)}, datetime=True)
    model = create_model("Raw", raw=(bytes, ...), at=(datetime, ...))
    assert read(data, model) == model(raw=b"\xd7\xff\0\0\0\7", at=datetime(2026, 1, 2, tzinfo=UTC))


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nanoseconds must be"):
        MessagePack(nanoseconds="round")  # type: ignore[arg-type]


def test_a_timestamp_outside_of_the_years_of_a_datetime_can_be_a_number() -> None:
    far, farther = msgpack.Timestamp(2**40, 5_000), msgpack.Timestamp(-(2**41), 6_000)
    data = msgpack.packb([far, farther, msgpack.Timestamp(1)])
    assert read(data, tuple[int, int, datetime])[:2] == (2**40 * 10**9 + 5_000, -(2**41) * 10**9 + 6_000)
    for target in (list[datetime], list[Any], tuple[datetime, int, int]):
        assert "a timestamp outside the years 1 to 9999" in error_of(data, target)


def test_a_number_that_is_none_is_refused_as_ever() -> None:
    assert "at: int_parsing" in error_of(msgpack.packb({"at": "s3cret"}), create_model("M", at=(int, ...)))
    assert "text: string_type" in error_of(
        msgpack.packb({"at": STAMP, "text": STAMP}), create_model("M", at=(int, ...), text=(str, ...))
    )


# --- whatever may come


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"\x01\x01", "something stands behind its end"),
        (b"\x92\x01", "it ends too early"),
        (b"\xdd\xff\xff\xff\xff", "a length in it is wrong"),
        (b"\xc6\xff\xff\xff\xff", "it ends too early"),
        (b"\xc1", "it has a byte that stands for nothing"),
        (b"\xa1\xff", "it has text that is not UTF-8"),
        (b"\xd4\x05\x01", "it has a value of the extension type 5, which is not known"),
        (b"\xd4\xff\x01", "a length in it is wrong"),
        (b"\x81\x91\x01\x01", "it has an array or a map as a key of a map"),
        (b"\x81\x80\x01", "it has an array or a map as a key of a map"),
        (b"\x91" * 100_000, "it is nested too deeply"),
        (b"\x81\x01" * 100_000, "it is nested too deeply"),
        (b"\x91" * 1_000 + b"\xd6\xff\0\0\0\1", "it is nested too deeply"),
    ],
)
def test_what_is_no_messagepack_says_why(data: bytes, said: str) -> None:
    for target in (Any, int) if len(data) != 1_006 else (int,):
        error = error_of(data, target)
        assert error.startswith("step messagepack: the payload is no MessagePack: ")
        assert said in error


def test_a_null_value_is_for_types_with_none() -> None:
    assert read(None, Order | None) is None
    assert "the payload is null, and the handler's type Order does not allow None" in error_of(None, Order)
    assert read(b"\xc0", int | None) is None
    assert PIPELINE.encode(None) is None


def test_every_bit_flipped_and_every_truncation_is_read_or_refused() -> None:
    data = PIPELINE.encode(ORDER)
    assert data is not None
    decode = PIPELINE.decoder(Order)
    for cut in range(len(data)):
        error_of(data[:cut], Order)
    refused = set()
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            decode(message(bytes(flipped)))
        except PayloadDecodeError as error:
            refused.add(error.step)
    assert refused == {"messagepack"}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for target in (Order, Any, int):
        with suppress(PayloadDecodeError):
            read(data, target)


def test_json_is_some_messagepack_until_readers_know_both() -> None:
    """docs/messagepack.md: a topic moves from JSON, whose messages may lack a content type."""
    only, first, then = (
        PayloadPipeline([MessagePack()]),
        PayloadPipeline([Json()], reads=[MessagePack()]),
        PayloadPipeline([MessagePack()], reads=[Json()]),
    )
    assert only.decoder(int)(message(b"7")) == 55
    outgoing = Outgoing("t")
    data: Any = only.write(7, outgoing)
    for pipeline in (first, then):
        assert pipeline.decoder(int)(message(b"7")) == 7
        assert pipeline.decoder(int)(arrived(data, outgoing)) == 7


def test_declared_lengths_take_little_memory() -> None:
    size = 5_000_000
    data = (b"\xdd" + size.to_bytes(4, "big")) * 1_000 + b"\xc0" * (size - 5_000)
    tracemalloc.start()
    try:
        error_of(data, Any)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000_000, "1,000 lists of five million were declared: 40 GB"


def test_the_payload_is_in_no_error() -> None:
    for data in (msgpack.packb({"s3cret": "s3cret", "number": "s3cret"}), b"\xa6s3cret\xa6s3cret", b"\xa8s3cret"):
        assert "s3cret" not in error_of(data, Order)

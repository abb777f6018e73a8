"""Every type that a handler may declare, in every format: what was published is what it gets."""

from __future__ import annotations

import re
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypeVar
from uuid import UUID

import attrs
import pydantic.dataclasses
import pytest
from pydantic import (
    AfterValidator,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    SecretStr,
    Tag,
    TypeAdapter,
    create_model,
    field_validator,
)
from typing_extensions import TypeAliasType, TypedDict

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadPipeline
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.steps import Later, Outgoing, Serializer
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived, message

T = TypeVar("T")
NOON = datetime(2026, 1, 2, 12, 0, 0, 123_456, UTC)
ID = UUID("12345678-1234-5678-1234-567812345678")
SECRET = "s3cret-value"


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    lives: int


class Left(BaseModel):
    name: str


class Right(BaseModel):
    name: str
    size: int = 0


def _by_lives(value: Any) -> str:
    lives = value["lives"] if isinstance(value, dict) else value.lives
    return "cat" if lives > 1 else "dog"


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
Called = Annotated[Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")], Discriminator(_by_lives)]


class Page(BaseModel, Generic[T]):
    items: list[T]
    following: T | None = None


@dataclass
class Point:
    x: float
    tags: list[str] = field(default_factory=list)


@pydantic.dataclasses.dataclass(frozen=True)
class Checked:
    x: float
    at: datetime


class Movie(TypedDict):
    name: str
    year: NotRequired[int]


class Numbers(RootModel[list[int]]):
    pass


class Pair(NamedTuple):
    left: int
    right: str


class Color(Enum):
    RED = "r"
    BLUE = "b"


class Size(IntEnum):
    SMALL = 1


class Kind(StrEnum):
    A = "a"


class Node(BaseModel):
    value: int
    children: list[Node] = Field(default_factory=list)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    id: UUID
    at: datetime
    color: Color
    names: tuple[str, ...]
    tags: set[str]
    span: timedelta


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    value: int


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    value: int


class Aliased(BaseModel):
    value: int = Field(alias="theValue")


class Changing(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def _upper(cls, name: str) -> str:
        return name.upper()


UserId = NewType("UserId", int)
Batch = TypeAliasType("Batch", list[Cat])
Wrapped = TypeAliasType("Wrapped", "dict[str, T]", type_params=(T,))
Recursive = TypeAliasType("Recursive", "int | list[Recursive]")

TYPES: dict[str, tuple[Any, Any]] = {
    "model": (Cat, Cat(lives=1)),
    "union of models": (Cat | Dog, Dog(lives=1)),
    "union of models with like fields": (Left | Right, Right(name="a", size=2)),
    "union of models, fewer fields": (Left | Right, Left(name="a")),
    "discriminated union": (Pet, Dog(lives=1)),
    "union discriminated by a function": (Called, Cat(lives=9)),
    "list of a discriminated union": (list[Pet], [Cat(lives=1), Dog(lives=2)]),
    "generic model": (Page[Cat], Page[Cat](items=[Cat(lives=1)], following=Cat(lives=2))),
    "generic model of a union": (Page[Pet], Page[Pet](items=[Dog(lives=1)])),
    "dataclass": (Point, Point(1.5, ["a"])),
    "dataclass of pydantic": (Checked, Checked(1.5, NOON)),
    "list of dataclasses": (list[Point], [Point(1.0), Point(2.0)]),
    "typed dict": (Movie, {"name": "a"}),
    "root model": (Numbers, Numbers([1, 2])),
    "named tuple": (Pair, Pair(1, "a")),
    "literal": (Literal["a", 1], 1),
    "new type": (UserId, 7),
    "alias": (Batch, [Cat(lives=1)]),
    "generic alias": (Wrapped[Cat], {"a": Cat(lives=1)}),
    "recursive alias": (Recursive, [1, [2, [3]]]),
    "constraints": (Annotated[int, Field(gt=0, lt=10)], 5),
    "nested optionals": (list[dict[str, int | None] | None] | None, [None, {"a": None}]),
    "list of models": (list[Cat], [Cat(lives=1), Cat(lives=2)]),
    "sequence": (Sequence[int], [1, 2]),
    "deque": (deque[int], deque([1, 2])),
    "tuple": (tuple[int, str], (1, "a")),
    "set": (set[int], {1, 2}),
    "frozenset": (frozenset[str], frozenset({"a"})),
    "dict with other keys": (dict[int, dict[UUID, date]], {1: {ID: NOON.date()}}),
    "enum": (Color, Color.RED),
    "enum of numbers": (Size, Size.SMALL),
    "enum of text": (Kind, Kind.A),
    "decimal": (Decimal, Decimal("1.10")),
    "uuid": (UUID, ID),
    "datetime": (datetime, NOON),
    "datetime without a zone": (datetime, NOON.replace(tzinfo=None)),
    "date": (date, NOON.date()),
    "time": (time, time(1, 2, 3, 4)),
    "timedelta": (timedelta, timedelta(days=-1, microseconds=1)),
    "path": (Path, Path("a/b")),
    "address": (IPv4Address, IPv4Address("10.0.0.1")),
    "network": (IPv6Network, IPv6Network("2001:db8::/32")),
    "url": (AnyUrl, AnyUrl("https://shop.example/")),
    "pattern": (re.Pattern[str], re.compile("a+")),
    "bool": (bool, True),
    "int": (int, -(2**63)),
    "float": (float, 1.5),
    "anything": (Any, {"a": [1, None, 1.5, "x", True]}),
    "object": (object, {"a": [1]}),
    "dict": (dict[str, Any], {"a": {"b": None}}),
    "tree": (Node, Node(value=1, children=[Node(value=2)])),
    "strict model": (
        Strict,
        Strict(id=ID, at=NOON, color=Color.RED, names=("a",), tags={"b"}, span=timedelta(seconds=1)),
    ),
    "closed model": (Closed, Closed(value=1)),
    "open model": (Open, Open.model_validate({"value": 1, "more": [1]})),
    "aliased model": (Aliased, Aliased(theValue=1)),
    "model whose validator changes something": (Changing, Changing(name="a")),
    "text": (str, "grüße"),
    "empty text": (str, ""),
    "bytes": (bytes, b"text"),
    "empty bytes": (bytes, b""),
    "text or bytes": (str | bytes, "text"),
    "optional text": (str | None, "a"),
    "optional bytes": (bytes | None, b"a"),
}


def _json_schema() -> JsonSchema:
    return JsonSchema(SchemaRegistry("memory://"), schema="true", auto_register=True, validate_reads=True)


FORMATS: dict[str, Callable[[], Serializer]] = {"json": Json, "messagepack": MessagePack, "json-schema": _json_schema}


@pytest.fixture(params=FORMATS)
def pipeline(request: pytest.FixtureRequest) -> PayloadPipeline:
    return PayloadPipeline([FORMATS[request.param]()])


async def done(value: Any) -> Any:
    return await value if isinstance(value, Later) else value


async def there_and_back(pipeline: PayloadPipeline, value: Any, target_type: Any) -> Any:
    outgoing = Outgoing("t")
    data = await done(pipeline.write(value, outgoing))
    return await done(pipeline.decoder(target_type)(arrived(data, outgoing)))


@pytest.mark.parametrize("case", TYPES)
async def test_what_was_published_is_what_the_handler_gets(pipeline: PayloadPipeline, case: str) -> None:
    target_type, value = TYPES[case]
    read = await there_and_back(pipeline, value, target_type)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("case", TYPES)
async def test_so_it_is_with_every_type_in_a_field(pipeline: PayloadPipeline, case: str) -> None:
    target_type, value = TYPES[case]
    holder = create_model("Holder", value=(target_type, ...), beside=(int, 1))
    given: Any = holder(value=value)
    read = await there_and_back(pipeline, given, holder)
    assert read == given
    assert type(read.value) is type(given.value)


@pytest.mark.parametrize("case", TYPES)
async def test_a_null_value_reaches_types_with_none(pipeline: PayloadPipeline, case: str) -> None:
    target_type, _ = TYPES[case]
    assert await there_and_back(pipeline, None, target_type | None) is None
    decode = pipeline.decoder(target_type)
    if TypeAdapter(target_type).core_schema["type"] in ("nullable", "any") or target_type in (Any, object):
        assert await done(decode(message(None))) is None
    else:
        with pytest.raises(PayloadDecodeError, match=r"the payload is null, and the handler's type .* does not allow"):
            await done(decode(message(None)))


@pytest.mark.parametrize("target_type", [Cat, dict, list[int], int, Any, Pet, Cat | None, bool])
async def test_an_empty_payload_is_no_json_and_no_messagepack(target_type: Any) -> None:
    for serializer, said in ((Json(), "it is empty"), (MessagePack(), "it is empty")):
        with pytest.raises(PayloadDecodeError) as caught:
            PayloadPipeline([serializer]).decoder(target_type)(message(b""))
        assert said in str(caught.value)
    with pytest.raises(PayloadDecodeError, match="it is empty"):
        JsonSchema(SchemaRegistry("memory://")).decoder(target_type)(message(b"\0\0\0\0\1"))


Name = NewType("Name", str)
Short = Annotated[str, Field(max_length=3)]


@pytest.mark.parametrize(
    ("target_type", "data", "expected"),
    [
        (str, b"", ""),
        (bytes, b"", b""),
        (str | None, b"", ""),
        (bytes | None, b"", b""),
        (str | bytes, b"a", "a"),
        (str | bytes, b"\xff", b"\xff"),
        (bytes | str | None, b"a", "a"),
        (bytes | str | None, None, None),
        (Name, b"ann", "ann"),
        (Short, b"ann", "ann"),
        (Short | None, None, None),
        (TypeAliasType("Raw", bytes), b"\xff", b"\xff"),
    ],
)
def test_text_and_bytes_are_taken_from_plain_json_as_they_came(target_type: Any, data: Any, expected: Any) -> None:
    assert PayloadPipeline().decoder(target_type)(message(data)) == expected


def test_text_that_is_refused_is_not_shown() -> None:
    for data, target_type, said in (
        (SECRET.encode(), Short, "step str: the payload is not a valid str: string_too_long"),
        (SECRET.encode(), _raising(KeyError(SECRET)), "a validator raised KeyError"),
        (None, Short, "does not allow None"),
        (None, str | bytes, "the handler's type str | bytes does not allow None"),
        (b"\xff", Short, "not UTF-8"),
    ):
        with pytest.raises(PayloadDecodeError) as caught:
            PayloadPipeline().decoder(target_type)(message(data))
        assert said in str(caught.value)
        assert_hidden(caught.value)


async def test_a_secret_is_read_and_never_written(pipeline: PayloadPipeline) -> None:
    holder = create_model("Holder", secret=(SecretStr, ...))
    with pytest.raises(PayloadEncodeError, match=r"secret \(SecretStr\)"):
        await there_and_back(pipeline, holder(secret=SecretStr(SECRET)), holder)
    read = await there_and_back(pipeline, {"secret": SECRET}, holder)
    assert read.secret.get_secret_value() == SECRET


@pytest.mark.parametrize("wrong", ["attrs", "unknown", "forward"])
def test_types_that_pydantic_does_not_know_stop_the_start_up(pipeline: PayloadPipeline, wrong: str) -> None:
    @attrs.define
    class Bolt:
        size: int

    class Unknown:
        pass

    target_type = {"attrs": Bolt, "unknown": Unknown, "forward": "Undefined"}[wrong]
    with pytest.raises(ConfigurationError, match="messages cannot be decoded into"):
        pipeline.decoder(target_type)


async def test_what_pydantic_does_not_know_is_not_published(pipeline: PayloadPipeline) -> None:
    @attrs.define
    class Bolt:
        size: int

    for value, said in ((Bolt(1), "a Bolt cannot be encoded as"), ({"of": Bolt(1)}, r"of \(Bolt\)")):
        with pytest.raises(PayloadEncodeError, match=said):
            await there_and_back(pipeline, value, Any)


NOT_IN_AVRO = {
    *("typed dict", "named tuple", "literal", "recursive alias", "tuple", "decimal", "datetime without a zone"),
    *("timedelta", "path", "address", "network", "url", "pattern", "anything", "object", "dict", "strict model"),
    "open model",
}
"""No schema for these is derived from a class, or it cannot hold the value. See docs/avro.md."""


async def test_avro_gives_the_same_or_refuses_the_type() -> None:
    refused = set()
    for case, (target_type, value) in TYPES.items():
        pipeline = PayloadPipeline([Avro(SchemaRegistry("memory://"), auto_register=True)])
        holder = create_model("Holder", value=(target_type, ...), beside=(int, 1))
        given: Any = holder(value=value)
        try:
            read = await there_and_back(pipeline, given, holder)
        except (ConfigurationError, PayloadEncodeError):
            refused.add(case)
            continue
        assert read == given, case
        assert type(read.value) is type(given.value), case
    assert refused <= NOT_IN_AVRO, refused - NOT_IN_AVRO


# --- errors


class Exhausting(BaseException):
    pass


def _raising(error: BaseException) -> Any:
    def refuse(value: Any) -> Any:
        raise error

    return Annotated[str, AfterValidator(refuse)]


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        AssertionError(SECRET),
        KeyError(SECRET),
        RecursionError(SECRET),
        StopIteration(SECRET),
        UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
        ExceptionGroup(SECRET, [ValueError(SECRET)]),
        PayloadDecodeError(SECRET),
        SystemExit(SECRET),
        Exhausting(SECRET),
        MemoryError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_validator_raises_is_a_decode_error_without_a_value(
    pipeline: PayloadPipeline, error: BaseException
) -> None:
    holder = create_model("Holder", name=(_raising(error), ...))
    with pytest.raises(PayloadDecodeError) as caught:
        await there_and_back(pipeline, {"name": SECRET}, holder)
    assert_hidden(caught.value)
    assert str(caught.value).startswith("step ")


def assert_hidden(error: BaseException) -> None:
    for text in (str(error), repr(error), "".join(traceback.format_exception(error))):
        assert SECRET not in text


PLACES: dict[str, tuple[Any, Any, str]] = {
    "field": (Cat, {"lives": SECRET}, "lives: "),
    "missing": (Cat, {SECRET: SECRET}, "lives: missing"),
    "no object": (Cat, SECRET, "0: model_type"),
    "item": (list[Cat], [{"lives": 1}, {"lives": SECRET}], "1.lives: "),
    "value of a dict": (dict[str, Cat], {SECRET: {"lives": SECRET}}, "?.lives: "),
    "key of a dict": (dict[int, int], {SECRET: 1}, "?.?: "),
    "tag": (Pet, {"kind": SECRET, "lives": 1}, "union_tag_invalid"),
    "field of the tagged": (Pet, {"kind": "dog", "lives": SECRET}, "dog.lives: "),
    "function of a tag": (Called, {"lives": SECRET}, ""),
    "union": (Left | Right, {"size": SECRET}, "Right.size: "),
    "extra": (Closed, {"value": 1, SECRET: SECRET}, "?: extra_forbidden"),
    "alias": (Aliased, {"theValue": SECRET}, "theValue: "),
    "nested generic": (Page[Page[Cat]], {"items": [{"items": [{"lives": SECRET}]}]}, "items.0.items.0.lives: "),
    "typed dict": (Movie, {"name": "a", "year": SECRET}, "year: "),
    "named tuple": (Pair, [SECRET, SECRET], "0: "),
    "dataclass": (Point, {"x": SECRET}, "x: "),
    "enum": (Color, SECRET, "enum"),
    "literal": (Literal["a"], SECRET, "literal_error"),
    "uuid": (UUID, SECRET, "uuid_parsing"),
    "datetime": (datetime, SECRET, "datetime"),
    "decimal": (Decimal, SECRET, "decimal_parsing"),
    "address": (IPv4Address, SECRET, "ip_v4_address"),
    "url": (AnyUrl, SECRET, "url_parsing"),
    "pattern": (list[Annotated[str, Field(pattern="^a$")]], [SECRET], "0: string_pattern_mismatch"),
    "constraint": (Annotated[str, Field(max_length=1)] | int, SECRET, "string_too_long"),
    "tree": (Node, {"value": 1, "children": [{"value": SECRET}]}, "children.0.value: "),
    "strict": (Strict, {"id": SECRET}, "id: uuid_parsing"),
    "secret": (create_model("S", s=(Annotated[SecretStr, Field(max_length=1)], ...)), {"s": SECRET}, "s: "),
}


@pytest.mark.parametrize("case", PLACES)
async def test_errors_tell_step_and_place_and_never_a_value(pipeline: PayloadPipeline, case: str) -> None:
    target_type, value, place = PLACES[case]
    value = [value] if isinstance(value, str) else value  # text is written as it is, which is no JSON
    lists: Any = list
    target_type = lists[target_type] if case in _ALONE else target_type
    with pytest.raises(PayloadDecodeError) as caught:
        await there_and_back(pipeline, value, target_type)
    assert_hidden(caught.value)
    assert caught.value.step in str(caught.value)
    assert place in str(caught.value)


_ALONE = {name for name, (_, value, _) in PLACES.items() if isinstance(value, str)}


async def test_text_that_is_no_json_is_not_shown() -> None:
    for data in (SECRET.encode(), b'{"' + SECRET.encode(), b'{"lives": ' + SECRET.encode(), b"\xff" + SECRET.encode()):
        for target_type in (Cat, Any, dict[str, int]):
            with pytest.raises(PayloadDecodeError) as caught:
                PayloadPipeline().decoder(target_type)(message(data))
            assert_hidden(caught.value)

"""What is published is read back as the same value, or refused with the path of the field (fault 13)."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic.dataclasses
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Json,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    TypeAdapter,
    computed_field,
    create_model,
    field_serializer,
    model_validator,
)
from typing_extensions import TypedDict

from fastapi_athomic import AthomicSettings, PayloadEncodeError, PayloadPipeline, subscribe_to
from fastapi_athomic.payload.fidelity import check_of_message, doubt
from tests.support.apps import Record, new_app, running
from tests.support.payloads import message as received

PIPELINE = PayloadPipeline()
HIDDEN = "s3cret"
T = TypeVar("T")


class Customer(BaseModel):
    name: str = "ann"
    password: SecretStr | None = None


class Gold(Customer):
    points: int = 7


class Plain(BaseModel):
    name: str


class Richer(Plain):
    points: int = 7


class Sister(Plain):
    pass


class Holder(BaseModel):
    customer: Plain
    others: list[Plain] = []
    by_name: dict[str, Plain] = {}
    maybe: Plain | None = None


class Order(BaseModel):
    customer: Customer
    total: float = 1.5
    anything: Any = None


class Color(Enum):
    RED = "red"


class Size(IntEnum):
    SMALL = 1


class Kind(StrEnum):
    A = "a"


@dataclass
class Point:
    x: float
    plain: Plain | None = None


@dataclass(frozen=True, slots=True)
class Place:
    name: str
    at: datetime


@pydantic.dataclasses.dataclass
class Checked:
    x: float
    secret: SecretStr = SecretStr("")


class Pair(NamedTuple):
    left: int
    right: str


class Typed(TypedDict):
    x: int


class Tree(BaseModel):
    children: list[Tree] = []


class Numbers(RootModel[list[float]]):
    pass


class Page(BaseModel, Generic[T]):
    items: list[T]


class Entity(BaseModel):
    """Two entities are equal if their ids are, even if all else differs."""

    id: int
    password: SecretStr

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entity) and other.id == self.id


class Handle:
    """A class without `__eq__`."""

    def __init__(self, text: str) -> None:
        self.text = text


def model(annotation: Any, value: Any, config: ConfigDict | None = None, **options: Any) -> BaseModel:
    """A model with a single field `value`, which is not validated."""
    made = create_model("Made", __config__=config, value=(annotation, Field(**options)))
    return made.model_construct(value=value)


def with_total(extra: Literal["allow", "ignore", "forbid"]) -> BaseModel:
    class Sum(BaseModel):
        model_config = ConfigDict(extra=extra)
        parts: list[int]

        @computed_field
        def total(self) -> int:
            return sum(self.parts)

    return Sum(parts=[1, 2])


def changed(message: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(message, name, value)
    return message


NAN = float("nan")
LOCAL_MEAN_TIME = datetime(1880, 1, 1, tzinfo=ZoneInfo("Europe/Paris"))  # 9 minutes and 21 seconds before UTC
TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
Upper = Annotated[str, AfterValidator(str.upper)]
Doubled = Annotated[str, AfterValidator(lambda text: text * 2)]
Cents = Annotated[float, PlainSerializer(lambda value: round(value * 100))]
Handled = Annotated[
    Handle,
    PlainValidator(lambda text: text if isinstance(text, Handle) else Handle(text)),
    PlainSerializer(lambda handle: handle.text),
]


def deep(levels: int) -> Any:
    nested: Any = 1
    for _ in range(levels):
        nested = [nested]
    return nested


def holding_itself() -> Any:
    message: dict[str, Any] = {"of": [[]]}
    message["of"][0].append(message)
    return message


@dataclass
class Unfinished:
    later: Later  # type: ignore[name-defined]  # noqa: F821


def deep_tree(levels: int) -> Tree:
    tree = Tree()
    for _ in range(levels):
        tree = Tree(children=[tree])
    return tree


class Derives(BaseModel):
    a: int
    b: int = 0

    @model_validator(mode="after")
    def derive(self) -> Derives:
        self.b = self.b + self.a
        return self


@dataclass
class Counted:
    a: int
    double: int = field(init=False)

    def __post_init__(self) -> None:
        self.double = self.a * 2


class Revealing(BaseModel):
    password: SecretStr

    @field_serializer("password", when_used="json")
    def reveal(self, value: SecretStr) -> str:
        return value.get_secret_value()


class Idle(BaseModel):
    model_config = ConfigDict(frozen=True)
    a: int
    _noted: list[int] = PrivateAttr(default_factory=list)

    @cached_property
    def costly(self) -> int:
        return self.a


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Pets(BaseModel):
    pets: list[Annotated[Cat | Dog, Discriminator("kind")]]


def refused() -> dict[str, tuple[Any, str]]:
    """Messages, and how their error names the place. `s3cret` is in values and keys, and errors must not show it."""
    secret = SecretStr(HIDDEN)
    conditional = (  # pydantic has it since 2.12
        {"left out on a condition": (model(int, 2, default=1, exclude_if=lambda value: value > 1), "value (int)")}
        if "exclude_if" in inspect.signature(Field).parameters
        else {}
    )
    return {
        "secret": (Order(customer=Customer(password=secret)), "customer.password (SecretStr)"),
        "secret bytes": (model(SecretBytes, SecretBytes(b"s3cret")), "value (SecretBytes)"),
        "secret of another type": (model(Secret[date], Secret[date](date(2026, 1, 2))), "value"),
        "secret in a dict": ({"customer": {"password": secret}}, "customer.password (SecretStr)"),
        "secret in a list": ([1, secret], "1 (SecretStr)"),
        "secret where anything is allowed": (Order(customer=Customer(), anything={"s3cret": secret}), "anything.?"),
        "secret as an extra": (
            model(int, 1, ConfigDict(extra="allow")).model_copy(update={"more": secret}),
            "more (SecretStr)",
        ),
        "secret behind an equality of its own": (Entity(id=1, password=secret), "password (SecretStr)"),
        "secret in a dataclass": (Checked(1.0, secret), "secret (SecretStr)"),
        "secret by itself": (secret, "it (SecretStr)"),
        "not a number": (Order(customer=Customer(), total=NAN), "total: float_type"),
        "infinity": (Order(customer=Customer(), total=float("inf")), "total: float_type"),
        "not a number, where none is allowed": (model(float | None, NAN), "value (float)"),
        "not a number in a dict": ({"total": NAN}, "total (float)"),
        "not a number by itself": (NAN, "it (float)"),
        "not a number in a dataclass": (Point(NAN), "x: float_type"),
        "not a number in a root model": (Numbers([1.0, NAN]), "1: float_type"),
        "not a decimal number": (model(Decimal, Decimal("NaN")), "value: finite_number"),
        "not a decimal number in a dict": ({"total": Decimal("sNaN")}, "total (Decimal)"),
        "infinite decimal": (model(list[Decimal], [Decimal("-Infinity")]), "value.0: finite_number"),
        "subclass": (Holder(customer=Richer(name="s3cret")), "customer (Richer)"),
        "subclass in a list": (Holder(customer=Plain(name=""), others=[Richer(name="")]), "others.0 (Richer)"),
        "subclass in a dict": (Holder(customer=Plain(name=""), by_name={"s3cret": Richer(name="")}), "by_name.?"),
        "subclass where there may be none": (Holder(customer=Plain(name=""), maybe=Richer(name="")), "maybe (Richer)"),
        "subclass that adds nothing": (Holder(customer=Sister(name="")), "customer (Sister)"),
        "subclass in a union": (model(Plain | int, Richer(name="")), "value (Richer)"),
        "subclass written as it is": (model(SerializeAsAny[Plain], Richer(name="")), "value (Richer)"),
        "subclass in a dataclass": (Point(1.0, Richer(name="")), "plain (Richer)"),
        "subclass in a generic model": (Page[Plain](items=[Richer(name="")]), "items.0 (Richer)"),
        "left out": (model(int, 2, default=1, exclude=True), "value (int)"),
        "left out, and required": (model(int, 2, exclude=True), "value: missing"),
        **conditional,
        "alias nobody reads": (model(int, 2, serialization_alias="valueOf", default=1), "value (int)"),
        "two fields under one name": (
            create_model("Made", a=(int, Field(alias="x")), b=(int, Field(alias="x"))).model_construct(a=1, b=2),
            "a (int)",
        ),
        "computed and forbidden": (with_total("forbid"), "total: extra_forbidden"),
        "computed and allowed": (with_total("allow"), "total (int)"),
        "serializer that rounds": (model(Cents, 1.5), "value (float)"),
        "validator that changes": (model(Doubled, "aa"), "value (str)"),
        "changed by the settings": (model(str, " a ", ConfigDict(str_strip_whitespace=True)), "value (str)"),
        "bytes in base64": (model(bytes, b"\xff", ConfigDict(ser_json_bytes="base64")), "value (bytes)"),
        "time span in floats": (
            model(timedelta, timedelta(days=99_999, microseconds=1), ConfigDict(ser_json_timedelta="float")),
            "value (timedelta)",
        ),
        "JSON within JSON": (model(Json[list[int]], [1]), "value: json_type"),
        "of another type than declared": (changed(Plain(name=""), name=1), "name: string_type"),
        "outside the declared limits": (model(int, 1, gt=2), "value: greater_than"),
        "dict in place of a model": (model(Plain, {"name": "s3cret"}), "value (dict)"),
        "time on a day": (model(date, datetime(2026, 1, 2, 3)), "value"),
        "seconds in an offset": (model(datetime, LOCAL_MEAN_TIME), "value (datetime)"),
        "seconds in an offset, in a dict": ({"born": LOCAL_MEAN_TIME}, "born (datetime)"),
        "time with seconds in its offset": (model(time, time(1, tzinfo=timezone(timedelta(0, 1)))), "value (time)"),
        "flags of a pattern": (model(re.Pattern[str], re.compile("s3cret", 2)), "value (Pattern)"),
        "more in a typed dict": (model(Typed, {"x": 1, "s3cret": 2}), "value (dict)"),
        "keys with one text": ({"of": {1: "a", "1": "b"}}, "of (dict)"),
        "keys with one text, undeclared": (model(dict[str, int], {1: 2, "1": 3}), "value (dict)"),
        "key that is not read": ({"of": {(1, "a"): 1}}, "of.? (tuple)"),
        "generator": ((number for number in [1]), "it (generator)"),
        "generator in a field": (model(Iterable[int], iter([1])), "value"),
        "bytes that are no text": ({"blob": {"raw": b"\xff"}}, "blob.raw (bytes)"),
        "bytes that are no text, in a model": (model(list[bytes], [b"", b"\xff"]), "value.1 (bytes)"),
        "half a character": ({"of": ["\ud800"]}, "of.0 (str)"),
        "what JSON has no word for": ({"of": [{"it": object()}]}, "of.0.it (object)"),
        "what holds itself": (holding_itself(), "of.0 (list)"),
        "class that nobody can read": (Unfinished(1), "messages cannot be decoded into Unfinished: name 'Later'"),
        "number too long to be read": (model(int, 10**5_000), "it"),
        "deeper than it is read": (deep(220), "it"),
        "deeper than it is read, in a model": (deep_tree(120), "it"),
        "field that is missing": (Holder(customer=Plain.model_construct()), "customer.name: missing"),
        "made anew by a validator": (Derives(a=1), "b (int)"),
    }


def kept() -> dict[str, Any]:
    """Messages that are read back as the same value."""
    customer = Customer(name="bob")
    used = Idle(a=1)
    used._noted.append(used.costly)
    configured = {}
    if "val_json_bytes" in ConfigDict.__annotations__:  # pydantic has these two since 2.9
        both_ways = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        configured = {
            "bytes in base64 both ways": model(bytes, b"\xff", both_ways),
            "not a number, as the settings say": model(float, NAN, ConfigDict(ser_json_inf_nan="strings")),
        }
    return {
        "plain model": Holder(customer=Plain(name=""), others=[Plain(name="")], by_name={"a": Plain(name="")}),
        "subclass by itself": Richer(name="", points=8),
        "model with a secret that is none": Order(customer=customer),
        "anything": Order(customer=customer, anything={"of": [1, None, "x", 1.5, True]}),
        "anything, by its own type": Order(
            customer=customer, anything={"at": datetime(2026, 1, 2, tzinfo=UTC), "by": (UUID(int=1), customer)}
        ),
        "secret that its author shows": Revealing(password=SecretStr("x")),
        "infinity, as the settings say": model(float, float("-inf"), ConfigDict(ser_json_inf_nan="constants")),
        **configured,
        "whole number for a float": changed(Order(customer=customer), total=1),
        "left out, and what it is by default": model(int, 1, default=1, exclude=True),
        "computed": with_total("ignore"),
        "alias": model(int, 2, alias="valueOf"),
        "alias that is read": model(int, 2, serialization_alias="a", validation_alias=pydantic.AliasChoices("b", "a")),
        "validator that changes nothing more": model(Upper, "AA"),
        "without an equality": model(Handled, Handle("a")),
        "private attributes and what was worked out": used,
        "not a decimal number, where it is allowed": model(Decimal, Decimal("NaN"), allow_inf_nan=True),
        "union": model(int | str, "1"),
        "discriminated union": Pets(pets=[Cat(name=""), Dog(name="")]),
        "dataclass": Point(1.0, Plain(name="")),
        "frozen dataclass with slots": Place("a", datetime(2026, 1, 2)),
        "dataclass of pydantic": Checked(1.0),
        "named tuple": Pair(1, "a"),
        "root model": Numbers([1.0]),
        "generic model": Page[Plain](items=[Plain(name="")]),
        "generic model without an argument": Page(items=[Plain(name="")]),
        "tree": deep_tree(50),
        "enums": [Color.RED, Size.SMALL, Kind.A],
        "enum fields": model(list[Color | Size | Kind], [Color.RED, Size.SMALL, Kind.A]),
        "hour that comes twice": model(datetime, TWICE),
        "hour that comes twice, in a dict": {"at": TWICE},
        "path, address, pattern": {"path": Path("a/b"), "url": AnyUrl("https://a.example/"), "of": re.compile("a+")},
        "sets, tuples, decimals": {"of": [{1}, frozenset({2}), (3, 4), Decimal("1.10")]},
        "text in bytes": {"of": "grüße".encode()},
        "keys of other types": {1: "a", UUID(int=1): "b", date(2026, 1, 2): "c", Kind.A: "d"},
        "declared keys of other types": model(dict[int, dict[UUID, int]], {1: {UUID(int=1): 2}}),
        "large number": {"of": 2**70, "and": model(int, -(2**70))},
        "span of time": model(timedelta, timedelta(days=-1, microseconds=1)),
        "sequence": model(Sequence[int], (1, 2)),
        "worked out after the start": Counted(1),
        "long text of digits": model(str, "0" * 5_000),
    }


REFUSED, KEPT = refused(), kept()


@pytest.mark.parametrize("case", REFUSED)
def test_fault_13_p22_what_would_not_be_read_back_is_refused_with_its_path(case: str) -> None:
    message, place = REFUSED[case]
    with pytest.raises(PayloadEncodeError) as caught:
        PIPELINE.encode(message)
    assert place in str(caught.value)
    assert HIDDEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("case", KEPT)
def test_fault_13_p22_what_is_read_back_as_it_is_is_published(case: str) -> None:
    assert PIPELINE.encode(KEPT[case])


def test_fault_13_a_model_that_was_as_declared_once_is_looked_at_again() -> None:
    used = Idle(a=1)
    assert PIPELINE.encode(used) == PIPELINE.encode(used) == b'{"a":1}'
    for wrong in (Idle.model_construct(a=HIDDEN), Idle.model_construct()):
        with pytest.raises(PayloadEncodeError, match=r"a: (int_parsing|missing)"):
            PIPELINE.encode(wrong)


def test_fault_13_what_its_author_makes_readable_is_read() -> None:
    read = PIPELINE.decoder(Revealing)(received(PIPELINE.encode(Revealing(password=SecretStr("x")))))
    assert read.password.get_secret_value() == "x"


async def test_fault_13_of_many_none_is_published_if_one_is_refused() -> None:
    record = Record()

    @subscribe_to("plain", group_id="plain")
    async def handle(message: Plain) -> None:
        record.note(message.name)

    async with running(new_app(AthomicSettings(broker_url="memory://"), handle)) as athomic:
        with pytest.raises(PayloadEncodeError, match="name: missing"):
            await athomic.publish_many("plain", [Plain(name="first"), Plain.model_construct()])
        await athomic.publish("plain", Plain(name="next"))
        assert await record.count(1) == ["next"]


def test_what_is_refused_may_be_dumped_and_published_by_its_author() -> None:
    order = Order(customer=Customer(password=SecretStr(HIDDEN)))
    dumped = order.model_dump(mode="json", exclude={"customer": {"password"}})
    assert PIPELINE.decoder(dict)(received(PIPELINE.encode(dumped))) == dumped
    assert PIPELINE.encode(order.model_dump_json()) is not None


def test_what_the_page_shows_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "fidelity.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        exec(compile(block, "fidelity.md", "exec"), {"__name__": "payload"})
    assert capsys.readouterr().out.strip() in blocks[0]
    assert len(blocks) == 2


class Everyday(BaseModel):
    """The usual kind of message."""

    id: UUID
    at: datetime
    total: Decimal
    items: list[Plain] = []
    labels: dict[str, str] = {}
    ratio: float | None = None
    color: Color = Color.RED
    note: str | None = Field(default=None, alias="theNote")


@pytest.mark.parametrize("kind", [Everyday, Holder, Idle, Point, Place, Numbers, Page[Plain]])
def test_usual_types_are_not_read_back(kind: Any) -> None:
    assert check_of_message(TypeAdapter(kind).core_schema) is not doubt


LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(),
    str: st.text(),
    bytes: st.binary(max_size=4),
    Decimal: st.decimals(),
    UUID: st.uuids(),
    date: st.dates(),
    datetime: st.datetimes(timezones=st.sampled_from([None, UTC, timezone(timedelta(seconds=61))])),
    time: st.times(),
    timedelta: st.timedeltas(),
    Color: st.sampled_from(Color),
    Size: st.sampled_from(Size),
    SecretStr: st.text(max_size=3).map(SecretStr),
    Plain: st.builds(Plain) | st.builds(Richer),
    Customer: st.builds(Customer) | st.builds(Gold),
    Point: st.builds(Point),
    Any: st.none() | st.integers() | st.tuples(st.floats()) | st.dictionaries(st.integers(), st.dates(), max_size=2),
}


def _wrapped(of: st.SearchStrategy[tuple[Any, Any]]) -> st.SearchStrategy[tuple[Any, Any]]:
    """Types made of types, with a value of each."""
    lists: Any = list  # mypy takes list[kind] for an annotation
    tuples: Any = tuple
    dicts: Any = dict
    wrappers: list[Callable[[Any, Any], Any]] = [
        lambda kind, value: (lists[kind], [value, value]),
        lambda kind, value: (tuples[kind, ...], (value,)),
        lambda kind, value: (tuples[int, kind], (1, value)),
        lambda kind, value: (dicts[str, kind], {"a": value}),
        lambda kind, value: (kind | None, value),
        lambda kind, value: (kind | str, value),
    ]
    return st.builds(lambda wrap, pair: wrap(*pair), st.sampled_from(wrappers), of)


def _innermost(kind: Any) -> Any:
    while inside := [part for part in get_args(kind) if part not in (str, int, type(None), ...)]:
        kind = inside[0]
    return kind


TYPED = st.recursive(
    st.sampled_from(list(LEAVES)).flatmap(lambda kind: LEAVES[kind].map(lambda value: (kind, value))), _wrapped
)


@given(TYPED, TYPED)
def test_fault_13_whatever_is_published_is_read_back_as_it_is(one: Any, other: Any) -> None:
    """Reads everything that was published, and compares with `==`."""
    made = create_model("Made", one=(one[0], ...), other=(other[0], Field(alias="theOther")))
    message = made.model_construct(one=one[1], other=other[1])
    try:
        data = PIPELINE.encode(message)
    except PayloadEncodeError:
        return
    read = PIPELINE.decoder(made)(received(data))
    if Any not in (_innermost(one[0]), _innermost(other[0])):
        assert read == message

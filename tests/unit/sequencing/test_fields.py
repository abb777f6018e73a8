from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar
from uuid import UUID

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, computed_field
from typing_extensions import TypeAliasType

from fastapi_athomic import AthomicSettings, ConfigurationError, ordered_consumer
from fastapi_athomic.sequencing.fields import check_fields
from fastapi_athomic.subscriptions import Sequencing
from tests.support.apps import new_app, running

T = TypeVar("T")
OrderId = NewType("OrderId", UUID)


def check(target_type: Any, key: str = "order_id", number: str = "sequence") -> None:
    check_fields("shop.ship", Sequencing(aggregate_key_field=key, sequence_id_field=number), target_type)


class Event(BaseModel):
    order_id: str
    sequence: int
    note: str = ""


class Renamed(BaseModel):
    order_id: OrderId = Field(alias="orderId")
    sequence: Annotated[int, Field(ge=1)] = Field(validation_alias="seq")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Computed(BaseModel):
    parts: list[str]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def order_id(self) -> str:
        return self.parts[0]

    @property
    def sequence(self) -> int:
        return int(self.parts[1])


class Envelope(BaseModel, Generic[T]):
    order_id: str
    sequence: int
    body: T


class Colour(StrEnum):
    RED = "red"


class Loose(BaseModel):
    order_id: Colour | None
    sequence: int | str | None


class Versions(BaseModel):
    order_id: Literal["one"]
    sequence: Literal[1, 2]


class Converted(BaseModel):
    order_id: bytes
    sequence: Annotated[str, AfterValidator(int)]


@dataclass
class Plain:
    order_id: int
    sequence: int


class Typed(TypedDict):
    order_id: str
    sequence: NotRequired[int]


class Tuple(NamedTuple):
    order_id: str
    sequence: int


class Foreign:
    """Nobody knows which attributes it gets."""


class Delegating(BaseModel):
    inner: Event

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


Alias = TypeAliasType("Alias", Annotated[Event | Plain, "either"])


@pytest.mark.parametrize(
    "target_type",
    [
        *(Event, Renamed, Open, Computed, Envelope[Event], Loose, Versions, Converted, Plain, Typed, Tuple, Foreign),
        *(Delegating, Alias, Event | None, Event | Typed, dict, dict[str, Any], dict[str, str | int], Any, object),
    ],
    ids=str,
)
def test_a_type_that_has_the_fields_or_may_have_them_is_taken(target_type: Any) -> None:
    check(target_type)


class Rooted(RootModel[Event]): ...


class Wrong(BaseModel):
    order_id: float
    sequence: str


class Flags(BaseModel):
    order_id: bool
    sequence: Decimal


class Nested(BaseModel):
    order_id: Event
    sequence: list[int]


@dataclass
class Other:
    order: str
    sequenz: int


class Empty(BaseModel): ...


@pytest.mark.parametrize(
    ("target_type", "said"),
    [
        (Rooted, "aggregate_key_field is 'order_id', but Rooted has no such field, only root"),
        (
            Other,
            "aggregate_key_field is 'order_id', but Other has no such field, only order, sequenz: did you mean 'or",
        ),
        (Event | Other, "Other has no such field"),
        (Event | Empty, "Empty has none"),
        (
            Wrong,
            r"aggregate_key_field is 'order_id', but the field of Wrong is float, and must be text, a whole number, ",
        ),
        (Flags, "the field of Flags is bool, and must be text"),
        (Nested, "the field of Nested is Event, and must be text"),
        (list[Event], r"list\[Event\] has no fields: take a model, a dataclass or a dict"),
        (int, "int has no fields"),
        (dict[str, list[int]], r"the values of dict\[str, list\[int\]\] are list\[int\], and must be text"),
        (
            dict[str, str],
            r"is 'sequence', but the values of dict\[str, str\] are str, and must be a w",
        ),
    ],
)
def test_a_type_without_the_fields_is_refused_in_one_sentence(target_type: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^handler shop.ship: .*{said}"):
        check(target_type)


@pytest.mark.parametrize(
    ("key", "number", "said"),
    [
        ("orderId", "sequence", "but that is the name in JSON: name the field of Renamed, 'order_id'"),
        ("order_id", "seq", "but that is the name in JSON: name the field of Renamed, 'sequence'"),
        ("order_id", "head.sequence", "a field of the message itself, not of a part of it"),
        ("order_id", "copy", "has no such field"),
        (
            "order_id",
            "order_id",
            "but the field of Renamed is UUID, and must be a whole number",
        ),
    ],
)
def test_a_name_that_is_no_field_is_told_what_it_is(key: str, number: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        check(Renamed, key, number)


async def test_an_app_with_such_a_consumer_does_not_start() -> None:
    @ordered_consumer("t", group_id="g", handler_id="ship", aggregate_key_field="order_id", sequence_id_field="seq")
    async def ship(event: Event) -> None: ...

    with pytest.raises(
        ConfigurationError, match="handler ship: sequence_id_field is 'seq', but Event has no such field"
    ):
        async with running(new_app(AthomicSettings(), ship)):
            pass

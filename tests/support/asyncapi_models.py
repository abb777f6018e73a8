"""Models as people write them, for the AsyncAPI document: with everything that pydantic has."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID

from pydantic import (
    AliasChoices,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    JsonValue,
    RootModel,
    SecretStr,
    Tag,
    computed_field,
)
from pydantic import Discriminator as By
from typing_extensions import TypeAliasType, TypedDict

T = TypeVar("T")


class Status(Enum):
    """What has become of an order."""

    PLACED = "placed"
    PAID = "paid"


class Priority(IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    street: str = Field(min_length=1, max_length=80, examples=["Main Street 1"])
    zip_code: str = Field(alias="zipCode", pattern=r"^\d{5}$")


class Line(BaseModel):
    sku: str
    price: Decimal = Field(gt=0, max_digits=10, decimal_places=2)
    count: int = Field(1, ge=1, le=1000, description="How many")


class Order(BaseModel):
    """An order of a customer.

    It has at least one line.
    """

    order_id: UUID
    at: datetime
    status: Status = Status.PLACED
    priority: Priority | None = None
    lines: list[Line] = Field(min_length=1)
    ship_to: Address | None = None
    bill_to: Address
    notes: dict[str, str] = {}
    tags: set[str] = set()
    position: tuple[float, float] | None = None
    source: Literal["web", "app"] = "web"
    kind: Literal["order"] = "order"

    @computed_field
    def total(self) -> Decimal:
        return sum((line.price * line.count for line in self.lines), Decimal())


class Category(BaseModel):
    name: str
    parent: Category | None = None
    children: list[Category] = []


class Card(BaseModel):
    kind: Literal["card"]
    number: SecretStr


class Transfer(BaseModel):
    kind: Literal["transfer", "sepa"] = "transfer"
    iban: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"


Payment = Annotated[Card | Transfer | Cash, Field(discriminator="kind")]


class Paid(BaseModel):
    payment: Payment
    earlier: list[Payment] = []


class Envelope(BaseModel, Generic[T]):
    data: T
    previous: Envelope[T] | None = None


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True, extra="forbid", title="A title of its own")

    first: int = Field(validation_alias=AliasChoices("First", "one"), serialization_alias="firstOne")
    second: str | None = Field(None, alias="@second", deprecated=True)


class Extra(BaseModel):
    """With what people add to schemas."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"number": 1, "link": {"$ref": "#/nowhere"}}, {"number": 2}],
            "$id": "https://example.com/extra",
            "x-team": "shop",
        }
    )

    number: int = Field(json_schema_extra={"required": True, "example": 3, "nullable": True})
    discriminator: str = "a field that is called so"
    items: list[int] = [1]
    ref: dict[str, str] = Field({"$ref": "a value"}, alias="$ref")
    named: int = Field(0, json_schema_extra={"examples": {"small": 1, "large": 1000}})


class Scalars(BaseModel):
    day: date
    took: timedelta
    host: IPv4Address
    url: AnyUrl
    path: Path
    raw: bytes
    ratio: float = Field(multiple_of=0.5, lt=float("inf"))
    anything: Any = None
    value: JsonValue = None
    packed: Json[list[int]]
    limited: Annotated[list[int], Field(max_length=3)] = []
    by_number: dict[int, Line] = {}
    either: int | str | list[Line] | None = None


class Place(NamedTuple):
    x: int
    name: str = "here"


@dataclass
class Moved:
    """A dataclass."""

    place: Place
    before: list[Place] = field(default_factory=list)


class Row(TypedDict):
    number: int
    line: NotRequired[Line]


class Orders(RootModel[list[Order]]):
    """Several at once."""


def _shape(value: Any) -> str:
    return "line" if "sku" in value else "address"


Shape = Annotated[Annotated[Line, Tag("line")] | Annotated[Address, Tag("address")], By(_shape)]
Tree = TypeAliasType("Tree", "dict[str, Tree] | int")


class Foreign:
    """A class that pydantic does not know."""


class WithForeign(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    foreign: Foreign
    number: int


class Größe(BaseModel):
    höhe: int


KINDS: dict[str, Any] = {
    "order": Order,
    "recursive": Category,
    "discriminated": Payment,
    "with-discriminated": Paid,
    "callable-discriminator": Shape,
    "generic": Envelope[Order],
    "generic-of-list": Envelope[list[Line | None]],
    "aliases": Aliased,
    "extra": Extra,
    "scalars": Scalars,
    "dataclass": Moved,
    "typed-dict": Row,
    "root": Orders,
    "list": list[Order],
    "nullable": Order | None,
    "union": Order | Category | str,
    "mapping": dict[str, Line],
    "tuple": tuple[int, Line],
    "tuple-of-any-length": tuple[Line, ...],
    "tuple-with-rest": Place,
    "bytes": bytes,
    "text": str,
    "number": Decimal,
    "enum": Status,
    "literal": Literal["a", 1, None],
    "alias": list[Tree],
    "any": Any,
    "plain-dict": dict,
    "foreign": WithForeign,
    "other-letters": Größe,
}
"""By the name of a topic."""

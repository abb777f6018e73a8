"""Which values are of a declared type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar
from uuid import uuid4

import pytest
from pydantic import BaseModel, Field, RootModel, model_validator
from typing_extensions import TypeAliasType, TypedDict

from fastapi_athomic import ConfigurationError
from fastapi_athomic.payload.cloudevents_event import CloudEvent
from fastapi_athomic.payload.instances import InstanceCheck
from tests.support.shop_proto import shop_pb2

T = TypeVar("T")


class Order(BaseModel):
    order_id: int
    amount: Decimal = Decimal(0)


class Rush(Order):
    by: datetime


class Guarded(BaseModel):
    number: int = Field(gt=0)

    @model_validator(mode="before")
    @classmethod
    def only_dicts(cls, data: Any) -> Any:
        assert isinstance(data, dict), "instances are not validated again"
        return data


class Envelope(BaseModel, Generic[T]):
    data: T


class Orders(RootModel[list[Order]]):
    pass


@dataclass
class Point:
    x: int


class Row(TypedDict):
    at: datetime
    order: Order


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"


class Square(BaseModel):
    kind: Literal["square"] = "square"


OrderId = NewType("OrderId", int)
Shape = Annotated[Circle | Square, Field(discriminator="kind")]
Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | int")


class Color(Enum):
    RED = "red"


ORDER = Order(order_id=1)
NOW = datetime.now()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Order, ORDER),
        (Order, Rush(order_id=1, by=NOW)),
        (Order, Order.model_construct(order_id="not validated")),
        (Guarded, Guarded(number=1)),
        (Order | Point, Point(1)),
        (Order | None, None),
        (list[Order], [ORDER]),
        (list[Guarded], [Guarded(number=1)]),
        (dict[str, Order], {"a": ORDER}),
        (Envelope[Order], Envelope[Order](data=ORDER)),
        (Envelope[Order], Envelope(data=ORDER)),
        (CloudEvent[Order], CloudEvent(data=ORDER)),
        (Orders, Orders([ORDER])),
        (Point, Point(1)),
        (Row, {"at": NOW, "order": ORDER}),
        (Color, Color.RED),
        (Literal["a", "b"], "b"),
        (bytes, b"\xff"),
        (str, "text"),
        (float, 1),
        (Decimal, Decimal("1.50")),
        (Annotated[list[int], Field(min_length=1)], []),
        (OrderId, 1),
        (Shape, Square()),
        (dict[str, list[tuple[Order, ...]]], {"a": [(ORDER,)]}),
        (Json, {"a": [{"b": [1]}]}),
        (Any, object()),
        (shop_pb2.Order, shop_pb2.Order()),
    ],
    ids=str,
)
def test_what_is_of_the_type(kind: Any, value: object) -> None:
    assert InstanceCheck(kind).problem(value) is None


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (Order, {"order_id": 1}, r"it takes Order, not dict: is_instance_of \(.* instance of Order\)"),
        (Rush, ORDER, "it takes Rush, not Order: .*"),
        (Order, None, "it takes Order, not None: .*"),
        (Order | Point, uuid4(), r"it takes Order \| Point, not UUID: .* Order\); .* Point\)"),
        (list[Order], [ORDER, {"order_id": "s3cret"}], r"it takes list\[Order\], not list: 1: is_instance_of .*"),
        (list[Order], (ORDER,), r"it takes list\[Order\], not tuple: .*"),
        (Envelope[Order], Envelope(data=1), r"it takes Envelope\[Order\], not Envelope: .*"),
        (Envelope[Order], Envelope[int](data=1), r"it takes Envelope\[Order\], not Envelope\[int\]: .*"),
        (Point, {"x": 1}, "it takes Point, not dict: .*"),
        (Row, {"at": "2026-01-01T00:00:00", "order": ORDER}, "it takes Row, not dict: at: datetime_type .*"),
        (Color, "red", "it takes Color, not str: .*"),
        (bytes, "text", "it takes bytes, not str: .*"),
        (str, b"text", "it takes str, not bytes: .*"),
        (int, "s3cret", "it takes int, not str: .*"),
        (OrderId, "s3cret", "it takes OrderId, not str: .*"),
        (Shape, {"kind": "circle"}, r"it takes Circle \| Square, not dict: .*"),
        (shop_pb2.Order, {}, "it takes Order, not dict: .*"),
    ],
    ids=str,
)
def test_what_is_not(kind: Any, value: object, said: str) -> None:
    problem = InstanceCheck(kind).problem(value)
    assert problem is not None
    assert re.fullmatch(said, problem, re.DOTALL), problem
    assert "s3cret" not in problem


def test_what_nothing_can_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="messages cannot be checked to be 5"):
        InstanceCheck(5)

"""What serializers of formats other than JSON compare with: values that have become Python objects on their way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr

from fastapi_athomic.payload.losses import difference

ID = UUID("12345678-1234-5678-1234-567812345678")
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Item(BaseModel):
    price: Decimal
    extra: Any = None


class Order(BaseModel):
    items: list[Item]
    secret: SecretStr = SecretStr("s3cret")


ORDER = Order(items=[Item(price=Decimal("1.10"), extra=ID)])


def test_a_message_that_is_read_as_it_was_has_no_difference() -> None:
    assert difference(ORDER, ORDER.model_copy(deep=True)) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (Order(items=[]), "items (list)"),
        (Order(items=[Item(price=Decimal("1.11"), extra=ID)]), "items.0.price (Decimal)"),
        (Order(items=ORDER.items, secret=SecretStr("**")), "secret (SecretStr)"),
        ({"items": ORDER.items}, "it (Order)"),
    ],
)
def test_the_first_difference_is_told_by_place_and_type(changed: Any, said: str) -> None:
    assert difference(ORDER, changed) == said


def test_where_no_type_is_declared_a_value_is_read_by_its_own() -> None:
    assert difference(ORDER, Order(items=[Item(price=Decimal("1.10"), extra=str(ID))])) is None
    assert difference({"id": ID, "data": b"\xff"}, {"id": str(ID), "data": b"\xff"}, declared=False) is None
    assert difference({"id": ID}, {"id": str(ID)[::-1]}, declared=False) == "id (UUID)"
    assert difference({7: b"\xff"}, {7: b"\xfe"}, declared=False) == "? (bytes)"


def test_the_same_moment_in_another_zone_is_no_difference() -> None:
    assert difference(NOON, NOON.astimezone(timezone(timedelta(hours=2))), declared=False) is None


def test_none_that_is_read_as_something_is_a_difference() -> None:
    assert difference({"price": None}, {"price": 0}, declared=False) == "price (NoneType)"
    assert difference(Item(price=Decimal(1)), Item(price=Decimal(1), extra=0)) == "extra (NoneType)"


def test_mappings_may_come_back_in_another_order() -> None:
    """As those of Protobuf do."""
    assert difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) is None
    assert difference({"a": 1, "b": 2}, {"b": 1, "a": 2}, declared=False) == "a (int)"

"""Schemas of types that are hard to describe: one of them does not spoil the document of all."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from fastapi_athomic.asyncapi.schemas import Schemas, TypeUse


class Good(BaseModel):
    number: int


class Endless(BaseModel):
    limit: float = float("inf")
    low: float = Field(default=1.0, ge=float("-inf"), examples=[float("nan")])


EXAMPLE: Any = {"price": Decimal("1.5"), "made": object}


class Extra(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})
    price: Decimal = Decimal(1)


class Broken(BaseModel):
    @classmethod
    def __get_pydantic_json_schema__(cls, *_: Any) -> Any:
        raise ZeroDivisionError


def described(kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    uses = [TypeUse(kind, "validation"), TypeUse(Good, "validation")]
    schemas = Schemas(uses)
    json.dumps([schemas.of(kind, "validation"), schemas.components], allow_nan=False)
    assert schemas.of(Good, "validation") == {"$ref": "#/components/schemas/Good"}
    return schemas.of(kind, "validation"), schemas.components


def test_numbers_that_json_has_not_are_left_out() -> None:
    _, components = described(Endless)
    fields = components["Endless"]["properties"]
    assert fields["limit"] == {"title": "Limit", "type": "number"}
    assert fields["low"] == {"default": 1.0, "title": "Low", "type": "number"}


def test_what_a_model_adds_may_be_anything() -> None:
    _, components = described(Extra)
    assert components["Extra"]["examples"] == [{"price": "1.5", "made": str(object)}]


@pytest.mark.parametrize("kind", [Broken, list[Broken]])
def test_code_of_a_model_that_fails_costs_its_schema_only(kind: Any) -> None:
    schema, _ = described(kind)
    assert schema["description"] == "There is no JSON schema of this type."

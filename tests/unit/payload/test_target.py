"""Places in errors: what the type names is shown, what only the payload names is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field, ValidationError, computed_field
from typing_extensions import TypedDict

from fastapi_athomic.payload.target import Target


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = Field(validation_alias=AliasChoices("livesLeft", AliasPath("of", "cat")))


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: bytes = b"\xff"  # a JSON schema cannot show it
    age: int = 1


class Sum(BaseModel, extra="forbid"):
    one: int

    @computed_field
    def total(self) -> int:
        return 2 * self.one


@dataclass
class Point:
    x: int


class Pair(NamedTuple):
    left: int


class Typed(TypedDict):
    key: int


@pytest.mark.parametrize(
    ("target_type", "value", "place"),
    [
        (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "dog", "age": "x"}, "dog.age: "),
        (Cat, {"livesLeft": "x"}, "livesLeft: "),
        (Cat, {"of": {"cat": "x"}}, "of.cat: "),
        (Sum, {"one": 1, "total": 2}, "total: extra_forbidden"),
        (Sum, {"one": 1, "s3cret": 2}, "?: extra_forbidden"),
        (Point, {"x": "x"}, "x: "),
        (Pair, ["x"], "0: "),
        (Pair, {"left": "x"}, "left: "),
        (list[Typed], [{"key": "x"}], "0.key: "),
        (dict[str, Dog], {"s3cret": {"age": "x"}}, "?.age: "),
        (int | Cat, {"livesLeft": "x"}, "?: int_type (Input should be a valid integer); Cat.livesLeft: "),
    ],
)
def test_places_are_told_by_the_names_of_the_type(target_type: Any, value: Any, place: str) -> None:
    target = Target(target_type)
    with pytest.raises(ValidationError) as caught:
        target.adapter.validate_python(value)
    told = target.describe(caught.value)
    assert told.startswith(place)
    assert "s3cret" not in told

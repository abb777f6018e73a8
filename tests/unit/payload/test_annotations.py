from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import pytest
import typing_extensions
from typing_extensions import TypeAliasType

from fastapi_athomic.payload.annotations import expanded, split, type_name, unaliased

T = TypeVar("T")
Number = TypeAliasType("Number", int)
Marked = TypeAliasType("Marked", Annotated[Number, "inner"])
Batch = TypeAliasType("Batch", list[T], type_params=(T,))
Same = TypeAliasType("Same", T, type_params=(T,))


def test_an_alias_stands_for_its_value_however_deep() -> None:
    deeper = TypeAliasType("deeper", Number)
    assert [unaliased(each) for each in (Number, deeper, int, "text")] == [int, int, int, "text"]


def test_a_generic_alias_is_filled_in() -> None:
    assert unaliased(Batch[int]) == list[int]
    assert unaliased(Same[Number]) is int


def test_what_is_annotated_is_found_through_aliases_the_outermost_last() -> None:
    assert split(Annotated[Marked, "outer"]) == (int, ("inner", "outer"))
    assert expanded(Annotated[Marked, "outer"]) == Annotated[int, "inner", "outer"]
    assert expanded(Number) is int


def test_aliases_of_python_3_12_are_known_beside_those_of_typing_extensions() -> None:
    made: dict[str, Any] = {}
    try:
        exec("type Order = int", made)
    except SyntaxError:  # Python 3.11
        made["Order"] = typing_extensions.TypeAliasType("Order", int)
    assert unaliased(made["Order"]) is int


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (int, "int"),
        (list[Annotated[int, "x"]], "list[int]"),
        (dict[str, int | None], "dict[str, int | None]"),
        (Callable[[int], str], "Callable[[int], str]"),
        (Any, "Any"),
        (list[Number], "list[Number]"),
    ],
)
def test_types_have_names_for_people(kind: Any, name: str) -> None:
    assert type_name(kind) == name

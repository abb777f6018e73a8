"""What is shown of exceptions, printed as tools do that know nothing of this package."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from fastapi_athomic import error_text
from fastapi_athomic.error_text import (
    LONGEST_LINE,
    LONGEST_TEXT,
    MAX_ERRORS,
    MOST_MEMBERS,
    exc_info,
    line_of_the_service,
    one_line,
    presentable,
    summary,
    text_of,
    type_name,
)

SECRET = "pl4nted-s3cret"


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int = 0
    identity: UUID | None = None
    due: date | None = None
    color: Literal["red", "green"] = "red"
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()
    prices: dict[str, int] = {}
    card: str = ""

    @field_validator("card")
    @classmethod
    def check(cls, card: str) -> str:
        if card.startswith("custom"):
            raise PydanticCustomError("card_error", "bad card {card}", {"card": card})
        raise ValueError(f"bad card {card}")


def raised(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def invalid(**fields: Any) -> ValidationError:
    error = raised(lambda: Order(**fields))
    assert isinstance(error, ValidationError)
    assert SECRET in str(error), "pydantic quotes what it refuses"
    return error


def printed(error: BaseException, *, exposed: bool = True) -> str:
    return "".join(traceback.format_exception(presentable(error, exposed=exposed)))


class FraudError(Exception): ...


# --- as it is


def test_what_has_nothing_to_hide_is_shown_as_it_is() -> None:
    def handle() -> None:
        try:
            raise KeyError("ann")
        except KeyError as error:
            raise FraudError("card refused") from error

    error = raised(handle)
    assert presentable(error) is error
    assert (type_name(error), text_of(error)) == (f"{__name__}.FraudError", "card refused")
    assert summary(error) == f"{__name__}.FraudError: card refused"
    assert summary(KeyError()) == "KeyError"
    assert line_of_the_service(error).startswith(f"in {__name__}.")


def test_a_text_is_one_line_that_cannot_pass_for_another() -> None:
    assert one_line("a\nERROR forged\x1b[31m\r\tb") == "a ERROR forged [31m b"
    assert len(one_line("x" * 10_000)) == LONGEST_LINE
    assert one_line("x" * 10_000).endswith("...")


# --- inputs of validation errors


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"number": SECRET}, "number: int_parsing (Input should be a valid integer, unable to parse string"),
        ({"color": SECRET}, "color: literal_error (Input should be 'red' or 'green')"),
        ({"identity": SECRET}, "identity: uuid_parsing (Input should be a valid UUID)"),
        ({"due": SECRET}, "due: date_from_datetime_parsing (Input should be a valid date"),
        ({"pet": {"kind": SECRET}}, "pet: union_tag_invalid (the tag should be one of 'cat', 'dog')"),
        ({SECRET: 1}, "?: extra_forbidden (Extra inputs are not permitted)"),
        ({"s3cret": SECRET}, "?: extra_forbidden"),
        ({"prices": {SECRET: "x"}}, "prices.?: int_parsing"),
        (
            {"card": SECRET},
            f"card: value_error (refused by a validator, with ValueError in {__name__}.Order.check, ",
        ),
        ({"card": f"custom {SECRET}"}, "card: card_error (refused by a validator)"),
    ],
)
def test_p15_a_validation_error_is_told_by_place_and_kind_without_the_value(fields: dict[str, Any], told: str) -> None:
    error = invalid(**fields)
    assert text_of(error).startswith("1 validation error for Order: ")
    assert told in text_of(error)
    assert SECRET not in text_of(error)
    assert "s3cret" not in text_of(error)


def test_of_many_problems_some_are_told() -> None:
    error = invalid(prices={f"{SECRET}{number}": "x" for number in range(MAX_ERRORS + 1)})
    assert text_of(error).startswith(f"{MAX_ERRORS + 1} validation errors for Order: ")
    assert text_of(error).endswith("; ...")


def test_p15_errors_of_fastapi_are_told_without_the_value() -> None:
    error = RequestValidationError(invalid(number=SECRET).errors())
    assert SECRET in str(error)
    assert text_of(error).startswith("1 validation error: number: int_parsing")
    assert SECRET not in printed(error)


def test_p15_inputs_are_left_out_wherever_the_error_stands_and_all_else_is_kept() -> None:
    def handle() -> None:
        try:
            try:
                Order(number=SECRET)  # type: ignore[arg-type]
            except ValidationError as error:
                raise FraudError(f"cannot read: {error}") from error  # quoted in another text
        except FraudError:
            other = LookupError("in context")
            other.add_note("see the runbook")
            raise other  # noqa: B904

    error = raised(handle)
    text = printed(error)
    assert SECRET not in text
    for kept in (
        "ValidationError: 1 validation error for Order: number: int_parsing",
        "The above exception was the direct cause",
        f"{__name__}.FraudError: cannot read: 1 validation error for Order: number",
        "During handling of the above exception",
        "LookupError: in context\nsee the runbook",
        "Order(number=SECRET)  # type: ignore[arg-type]",
    ):
        assert kept in text
    stand_in = presentable(error)
    assert (type(stand_in).__name__, stand_in.__traceback__) == ("LookupError", error.__traceback__)
    assert str(error.__context__ and error.__context__.__cause__).count(SECRET), "the original is left as it was"


def test_p15_inputs_are_left_out_of_the_members_of_groups() -> None:
    error = ExceptionGroup("many", [invalid(number=SECRET), LookupError("other")])
    text = printed(error)
    assert SECRET not in text
    assert "ExceptionGroup: many (2 sub-exceptions)" in text
    assert "number: int_parsing" in text
    assert "LookupError: other" in text


def test_a_cause_that_python_does_not_show_is_not_shown() -> None:
    def handle() -> None:
        try:
            Order(number=SECRET)  # type: ignore[arg-type]
        except ValidationError:
            raise FraudError("plain") from None

    error = raised(handle)
    assert presentable(error) is error


def test_chains_that_lead_back_to_themselves_end() -> None:
    error = invalid(number=SECRET)
    error.__context__ = other = LookupError("other")
    other.__context__ = error
    assert "LookupError: other" in printed(error)
    assert SECRET not in printed(error)


# --- nothing at all


def test_p15_without_their_texts_exceptions_are_types_and_places() -> None:
    def handle() -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            error.add_note(SECRET)
            raise ExceptionGroup(SECRET, [FraudError(SECRET)]) from error

    error = raised(handle)
    text = printed(error, exposed=False)
    assert "KeyError\n" in text
    assert f"{__name__}.FraudError\n" in text
    assert "in handle\n" in text
    assert SECRET not in text
    assert (text_of(error, exposed=False), summary(error, exposed=False)) == ("", "ExceptionGroup")


def test_an_exception_that_cannot_be_told_is_told_all_the_same() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise FraudError

    assert text_of(UnspeakableError()) == f"(its text cannot be told: {__name__}.FraudError)"
    assert "cannot be told" in printed(UnspeakableError())


@pytest.mark.parametrize("exposed", [True, False])
def test_an_exception_that_meddles_with_its_attributes_is_told_all_the_same(exposed: bool) -> None:
    class MeddlingError(Exception):
        def __getattribute__(self, name: str) -> Any:
            raise FraudError(name)

    error = raised(lambda: (_ for _ in ()).throw(MeddlingError()))
    text = printed(error, exposed=exposed)
    assert "in <genexpr>" in text, "the places it passed through"
    assert f"MeddlingError{f': (it cannot be told: {__name__}.FraudError)' if exposed else ''}\n" in text
    assert line_of_the_service(error).startswith(f"in {__name__}.")


def test_a_huge_text_is_cut() -> None:
    text = printed(RuntimeError("x" * 1_000_000))
    assert "xxx... (1000000 characters)" in text
    assert len(text) < LONGEST_TEXT + 200


def test_loggers_get_the_exceptions_own_type_whatever_is_shown_of_it() -> None:
    """Filters, Sentry and loguru judge by it; loguru pickles it."""
    kind, value, traceback_ = exc_info(invalid(number=SECRET))
    assert kind is ValidationError
    assert SECRET not in str(value)
    assert traceback_ is value.__traceback__ is not None


def test_a_validation_error_with_a_great_many_problems_is_counted_and_never_written_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(error_text, "MOST_ERRORS", 3)
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[int]).validate_python([SECRET] * 4)
    error = caught.value
    assert text_of(error) == "4 validation errors for list[int]: too many problems to be listed"
    quoting = RuntimeError(f"before {error} after")
    quoting.__cause__ = error
    assert text_of(quoting) == f"before {text_of(error)}"
    assert SECRET not in "".join(traceback.format_exception(presentable(quoting)))


@pytest.mark.parametrize("exposed", [True, False])
def test_of_a_large_group_the_first_members_are_shown(exposed: bool) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python(SECRET)
    group = ExceptionGroup("items failed", [ValueError("first"), *[caught.value] * 200])
    shown = presentable(group, exposed=exposed)
    assert isinstance(shown, BaseExceptionGroup)
    assert len(shown.exceptions) == MOST_MEMBERS
    assert SECRET not in "".join(traceback.format_exception(shown))
    assert ("items failed, here the first 100 of 201" in str(shown)) is exposed

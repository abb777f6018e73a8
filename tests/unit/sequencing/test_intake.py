from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from fastapi_athomic import PayloadDecodeError
from fastapi_athomic.sequencing.intake import SequenceReader
from fastapi_athomic.subscriptions import Sequencing

READER = SequenceReader(Sequencing(aggregate_key_field="order", sequence_id_field="number"))
SECRET = "s3cret"


class Step(BaseModel):
    order: Any
    number: Any


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a", b"a"),
        ("é\ud800", b"\xc3\xa9\xed\xa0\x80"),
        ("", b""),
        (7, b"7"),
        (b"\xff", b"\xff"),
        (UUID(int=1), str(UUID(int=1)).encode()),
    ],
)
def test_a_place_in_a_sequence_is_read_from_models_and_dicts(key: Any, expected: bytes) -> None:
    assert READER.read(Step(order=key, number=3)) == (expected, 3)
    assert READER.read({"order": key, "number": -(2**53 - 1)}) == (expected, -(2**53 - 1))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "number is not a whole number"),
        (None, "number is not a whole number"),
        ({"order": SECRET, "number": None}, "number is not a whole number"),
        ({"order": SECRET, "number": True}, "number is not a whole number"),
        ({"order": SECRET, "number": SECRET}, "number is not a whole number"),
        ({"order": SECRET, "number": 2**53}, "below 2\\*\\*53"),
        ({"order": None, "number": 1}, "order is no text"),
        ({"order": False, "number": 1}, "order is no text"),
        ({"order": [SECRET], "number": 1}, "order is no text"),
    ],
)
def test_a_field_of_no_use_is_named_and_its_value_is_not(value: Any, said: str) -> None:
    with pytest.raises(PayloadDecodeError, match=said) as caught:
        READER.read(value)
    assert SECRET not in str(caught.value)
    assert caught.value.step == "sequence"

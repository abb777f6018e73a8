from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from fastapi_athomic import PayloadDecodeError
from fastapi_athomic.decorators import Sequencing
from fastapi_athomic.observation.gauges import SequenceGauge
from fastapi_athomic.sequencing.sequences import SequenceReader

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


def test_the_gauge_says_what_somebody_should_look_at() -> None:
    gauge = SequenceGauge(gap_timeout=1.0, waiting=9)
    assert gauge.reasons() == []
    gauge.trouble, gauge.overdue, gauge.oldest_gap, gauge.blocked, gauge.full = "no store", 2, 61.4, 3, 4
    assert gauge.reasons() == [
        "no store",
        "2 aggregates wait for a missing number, the oldest for 61 s",
        "3 aggregates are blocked by a message that failed",
        "the waiting room is full for 4 aggregates",
    ]

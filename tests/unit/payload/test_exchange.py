"""Plain JSON, text and bytes in both directions, with what everybody else has: Python's own json module."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_athomic import PayloadPipeline
from fastapi_athomic.payload.steps import Outgoing
from tests.support.payloads import arrived, message

EXPLICIT = PayloadPipeline(reads=())


class Order(BaseModel):
    number: int
    note: str | None = None
    prices: list[float] = []


ORDER = Order(number=2**60, note="grüße", prices=[0.1, 1e300])


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}])
def test_json_of_others_is_read(layout: dict[str, Any]) -> None:
    data = json.dumps(ORDER.model_dump(), **layout).encode()
    assert EXPLICIT.decoder(Order)(message(data)) == ORDER


def test_json_is_read_by_others() -> None:
    data = EXPLICIT.encode(ORDER)
    assert data is not None
    assert json.loads(data) == ORDER.model_dump()


@pytest.mark.parametrize(("data", "kind", "value"), [("grüße".encode(), str, "grüße"), (b"\xff\0", bytes, b"\xff\0")])
def test_text_and_bytes_of_others_are_read(data: bytes, kind: Any, value: object) -> None:
    assert EXPLICIT.decoder(kind)(message(data)) == value


@pytest.mark.parametrize(("value", "data"), [("grüße", "grüße".encode()), (b"\xff\0", b"\xff\0")])
def test_text_and_bytes_are_read_by_others(value: object, data: bytes) -> None:
    outgoing = Outgoing("t", b"k")
    written = EXPLICIT.write(value, outgoing)
    assert written == data
    assert isinstance(written, bytes)
    assert arrived(written, outgoing).headers == ()

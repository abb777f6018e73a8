from __future__ import annotations

import gzip
import re
import traceback
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadPipeline
from tests.support.payloads import message as received

PIPELINE = PayloadPipeline()


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    order_id: UUID
    amount: Decimal
    placed_at: datetime
    note: str | None = Field(default=None, alias="theNote")


@dataclass
class Point:
    x: int
    y: int


ORDER = Order(
    order_id=UUID(int=1), amount=Decimal("12.50"), placed_at=datetime(2026, 1, 2, tzinfo=UTC), theNote="grüße"
)


class Gzip:
    name = "gzip"

    def encode(self, data: bytes) -> bytes:
        return gzip.compress(data)

    def decode(self, data: bytes) -> bytes:
        return gzip.decompress(data)


class Checksum:
    name = "checksum"

    def encode(self, data: bytes) -> bytes:
        return zlib.crc32(data).to_bytes(4, "big") + data

    def decode(self, data: bytes) -> bytes:
        if zlib.crc32(data[4:]).to_bytes(4, "big") != data[:4]:
            raise ValueError(f"secret {data!r}")
        return data[4:]


@pytest.mark.parametrize(
    ("message", "target"),
    [
        (ORDER, Order),
        (Point(1, 2), Point),
        ({"a": [1, None, "x"]}, dict),
        ([1, 2], list[int]),
        (b"\x00\xff", bytes),
        ("grüße", str),
        (12, int),
        (None, Order | None),
        (None, bytes | None),
        (None, str | None),
        (None, Any),
        ("text", str | None),
        (b"bytes", bytes | None),
        ({"free": True}, Any),
    ],
)
@pytest.mark.parametrize("steps", [(), (Gzip(),), (Checksum(), Gzip())])
def test_what_is_encoded_is_decoded_again(message: Any, target: Any, steps: tuple[Any, ...]) -> None:
    pipeline = PayloadPipeline(steps)
    assert pipeline.decoder(target)(received(pipeline.encode(message))) == message


def test_steps_run_in_their_order_and_decoding_in_reverse() -> None:
    encoded = PayloadPipeline([Checksum(), Gzip()]).encode(b"data")
    assert encoded is not None
    assert gzip.decompress(encoded)[4:] == b"data"


def test_a_null_value_passes_no_step() -> None:
    assert PayloadPipeline([Gzip()]).encode(None) is None


@pytest.mark.parametrize("target", [bytes, str, Order, int])
def test_a_null_value_is_refused_by_types_without_none(target: Any) -> None:
    with pytest.raises(PayloadDecodeError, match=f"{target.__name__} does not allow None"):
        PIPELINE.decoder(target)(received(None))


def test_the_error_says_where_and_how_and_never_shows_the_payload() -> None:
    payload = b'{"order_id": "s3cret", "amount": 1, "placed_at": "s3cret", "s3cret": 1}'
    with pytest.raises(PayloadDecodeError) as caught:
        PIPELINE.decoder(Order)(received(payload))
    assert str(caught.value).startswith("step json: the payload is not a valid Order: ")
    assert "order_id: uuid_parsing (Input should be a valid UUID)" in str(caught.value)
    assert "?: extra_forbidden" in str(caught.value)
    assert caught.value.step == "json"
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_the_error_of_a_users_validator_does_not_show_the_payload() -> None:
    class Strict(BaseModel):
        value: str

        @field_validator("value")
        @classmethod
        def check(cls, value: str) -> str:
            raise (ValueError if value.startswith("v") else LookupError)(value)

    for secret, told in (
        (b'{"value": "v-s3cret"}', "value: value_error (refused by a validator, with ValueError in "),
        (b'{"value": "l-s3cret"}', "the payload is not a valid Strict: a validator raised LookupError in "),
    ):
        with pytest.raises(PayloadDecodeError) as caught:
            PIPELINE.decoder(Strict)(received(secret))
        assert told in str(caught.value)
        assert f"{Strict.check.__qualname__}, line " in str(caught.value), "where to look"
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_failing_step_is_named_without_its_words() -> None:
    payload = b"0000s3cret"
    with pytest.raises(PayloadDecodeError, match="step checksum could not decode the payload: ValueError") as caught:
        PayloadPipeline([Checksum()]).decoder(bytes)(received(payload))
    assert caught.value.step == "checksum"
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_what_json_cannot_hold_is_refused_by_type() -> None:
    with pytest.raises(PayloadEncodeError, match="a object cannot be encoded as JSON"):
        PIPELINE.encode(object())


def test_a_type_that_pydantic_cannot_validate_stops_the_start_up() -> None:
    class Foreign:
        pass

    with pytest.raises(ConfigurationError, match="Foreign"):
        PIPELINE.decoder(Foreign)


def test_a_step_without_decode_stops_the_start_up() -> None:
    with pytest.raises(ConfigurationError, match="needs name, encode and decode"):
        PayloadPipeline([object()])  # type: ignore[list-item]


@given(st.binary())
def test_any_bytes_decode_or_raise_our_error(data: bytes) -> None:
    for target in (Order, str, dict[str, int], list[Point]):
        try:
            PIPELINE.decoder(target)(received(data))
        except PayloadDecodeError:
            continue


def test_what_the_page_shows_runs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "payload.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        exec(compile(block, "payload.md", "exec"), {"__name__": "payload"})
    assert len(blocks) == 4


def test_it_shows_its_parts() -> None:
    assert repr(PayloadPipeline([Checksum(), Gzip()])) == "<PayloadPipeline json, checksum, gzip>"

"""Keys as text, decoded by type."""

from __future__ import annotations

import traceback
from datetime import date
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadPipeline
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.steps import Outgoing
from tests.support.payloads import Words, message

SECRET = "s3cret"


class Shop(BaseModel):
    name: str


class Size(Enum):
    SMALL = "s"


def key_of(key: bytes | None, target: Any, pipeline: PayloadPipeline | None = None) -> Any:
    return (pipeline or PayloadPipeline()).key_decoder(target)(message(b"not the key", key=key))


@pytest.mark.parametrize(
    ("key", "target", "value"),
    [
        (b"\xff", bytes, b"\xff"),
        ("é".encode(), str, "é"),
        (b"12", int, 12),
        (b"12", int | None, 12),
        (None, int | None, None),
        (None, str | None, None),
        (None, bytes | None, None),
        (b"", str, ""),
        (str(UUID(int=1)).encode(), UUID, UUID(int=1)),
        (b"2026-01-02", date, date(2026, 1, 2)),
        (b"s", Size, Size.SMALL),
        (b'{"name": "a"}', Shop, Shop(name="a")),
        (b"[1, 2]", tuple[int, int], (1, 2)),
        (b"[", str, "["),
        (b"7", Annotated[int, Field(gt=6)], 7),
    ],
)
def test_a_key_is_read_by_its_type(key: bytes | None, target: Any, value: Any) -> None:
    assert key_of(key, target) == value


@pytest.mark.parametrize(
    ("key", "target", "said"),
    [
        (SECRET.encode(), int, r"the key: not a valid int: int_parsing"),
        (SECRET.encode(), UUID, "the key: not a valid UUID: uuid_parsing"),
        (b'{"name": {"x": "s3cret"}}', Shop, "the key: not a valid Shop: name: string_type"),
        (b"\xff", int, "the key: not a valid int: it is not UTF-8"),
        (b"\xff", str, "the key: step str: .* not UTF-8"),
        (None, int, "the key is null, and int does not allow None"),
        (None, bytes, "the key is null, and bytes does not allow None"),
    ],
)
def test_the_error_names_the_key_and_never_shows_it(key: bytes | None, target: Any, said: str) -> None:
    with pytest.raises(PayloadDecodeError, match=said) as caught:
        key_of(key, target)
    assert SECRET not in "".join(traceback.format_exception(caught.value)).replace(f'"{SECRET}"', "")
    assert caught.value.step


@pytest.mark.parametrize(("serializer", "written"), [(Json(), b'{"name":"a"}'), (Words(), b"\1key {'name': 'a'}")])
def test_a_serializer_of_keys_is_used_in_both_directions(serializer: Any, written: bytes) -> None:
    pipeline = PayloadPipeline(key=serializer)
    key = pipeline.write_key(Shop(name="a"), Outgoing("t", part="key"))
    assert key == written
    assert key_of(key, Shop, pipeline) == Shop(name="a")
    with pytest.raises(PayloadDecodeError, match=f"the key: step {serializer.name}"):
        key_of(b"\0", Shop, pipeline)


def test_a_type_that_pydantic_does_not_know_is_refused_at_the_start() -> None:
    class Foreign:
        pass

    with pytest.raises(ConfigurationError, match="Foreign"):
        PayloadPipeline().key_decoder(Foreign)

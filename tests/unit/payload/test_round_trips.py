"""Whatever goes through a pipeline comes back as it was, or is refused; what was damaged on the way is a decode error.

The steps of the package in all orders that make sense, around values from nothing to 5 MB.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fastapi_athomic import ConfigurationError, PayloadDecodeError, PayloadPipeline
from fastapi_athomic.messages import RawMessage
from fastapi_athomic.payload.claim_check import ClaimCheck, Folder
from fastapi_athomic.payload.cloudevents import CloudEvents
from fastapi_athomic.payload.compression import Gzip, Lz4, Zstd
from fastapi_athomic.payload.encryption import AesGcm, Fernet
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.steps import BytesStep, Later, Outgoing
from tests.support.payloads import arrived

MB = 1 << 20
LIMIT = 6 * MB
FERNET_KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
AES_KEY = base64.b64encode(bytes(range(32))).decode()

COMPRESSIONS: list[Callable[[], BytesStep] | None] = [
    None,
    lambda: Gzip(max_size=LIMIT),
    lambda: Zstd(max_size=LIMIT),
    lambda: Lz4(max_size=LIMIT),
]
ENCRYPTIONS: list[Callable[[], BytesStep] | None] = [
    None,
    lambda: Fernet([FERNET_KEY]),
    lambda: AesGcm({"k1": AES_KEY}),
]


class Line(BaseModel):
    sku: str
    quantity: int


class Order(BaseModel):
    number: int
    note: str = ""
    lines: list[Line] = []


ORDERS = st.builds(
    Order,
    number=st.integers(-(2**63), 2**63 - 1),
    note=st.text(max_size=50),
    lines=st.lists(st.builds(Line, sku=st.text(max_size=9), quantity=st.integers(0, 9)), max_size=4),
)


def chains(folder: Path) -> list[list[BytesStep]]:
    found = []
    for compression in COMPRESSIONS:
        for encryption in ENCRYPTIONS:
            for stored in (False, True):
                made = [make() for make in (compression, encryption) if make is not None]
                found.append([*made, *([ClaimCheck(Folder(folder), threshold=100)] if stored else [])])
    return found


async def written(pipeline: PayloadPipeline, message: object, key: bytes | None = b"k") -> RawMessage:
    outgoing = Outgoing("orders", key)
    data = pipeline.write(message, outgoing)
    return arrived(await data if isinstance(data, Later) else data, outgoing)


async def read(pipeline: PayloadPipeline, message: RawMessage, kind: Any) -> Any:
    value = pipeline.decoder(kind)(message)
    return await value if isinstance(value, Later) else value


@given(data=st.binary(max_size=2_000), order=ORDERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_goes_through_any_steps_comes_back(tmp_path: Path, data: bytes, order: Order) -> None:
    for steps in chains(tmp_path):
        for serializer in (Json(), MessagePack(), CloudEvents("/shop"), CloudEvents("/shop", mode="structured")):
            pipeline = PayloadPipeline([serializer, *steps])
            assert await read(pipeline, await written(pipeline, order), Order) == order
            assert await read(pipeline, await written(pipeline, None), Order | None) is None
        pipeline = PayloadPipeline(steps)
        assert await read(pipeline, await written(pipeline, data), bytes) == data


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 64 * 1024, MB, 5 * MB])
async def test_every_size_comes_back(tmp_path: Path, size: int) -> None:
    data = (b"abcdefghij" * (size // 10 + 1))[:size]
    for steps in chains(tmp_path):
        pipeline = PayloadPipeline(steps)
        assert await read(pipeline, await written(pipeline, data), bytes) == data


def flips(data: bytes) -> list[bytes]:
    return [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in (0, 4, 7)]


def cuts(data: bytes) -> list[bytes]:
    return [data[:at] for at in range(len(data))]


async def outcome_of(pipeline: PayloadPipeline, message: RawMessage) -> Any:
    try:
        return await read(pipeline, message, Order)
    except PayloadDecodeError as error:
        return error


@pytest.mark.parametrize("number", range(len(COMPRESSIONS) * len(ENCRYPTIONS) * 2))
async def test_what_was_damaged_is_a_decode_error_of_its_step_or_unharmed(tmp_path: Path, number: int) -> None:
    steps = chains(tmp_path)[number]
    if not steps:
        return
    pipeline = PayloadPipeline([Json(), *steps])
    order = Order(number=1, note="a note that only its reader should see " * 3)
    message = await written(pipeline, order)
    names = {step.name for step in steps} | {"json"}
    assert message.value is not None
    for damaged in [*flips(message.value), *cuts(message.value), message.value + b"\0"]:
        outcome = await outcome_of(pipeline, message._replace(value=damaged))
        if isinstance(outcome, PayloadDecodeError):
            assert outcome.step in names, outcome
            assert "only its reader" not in str(outcome)
        else:  # a bit that says nothing, such as the operating system in gzip's header
            assert outcome == order or not any(step.kind == "encryption" for step in steps)


def test_orders_without_sense_are_refused(tmp_path: Path) -> None:
    sensible: Sequence[Callable[[], BytesStep]] = [
        lambda: Zstd(),
        lambda: AesGcm({"k1": AES_KEY}),
        lambda: ClaimCheck(Folder(tmp_path), threshold=100),
    ]
    for earlier, later in combinations(sensible, 2):
        PayloadPipeline([earlier(), later()])
        with pytest.raises(ConfigurationError, match=f"{later().name} stands before {earlier().name}: .*turn them"):
            PayloadPipeline([later(), earlier()])

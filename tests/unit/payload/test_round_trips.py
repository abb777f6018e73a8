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
from fastapi_athomic.payload.steps import BytesStep, Outgoing, Serializer
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived, message, settled

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


PROTO = """
syntax = "proto3";
message Order { int64 number = 1; string note = 2; repeated Line lines = 3; }
message Line { string sku = 1; int32 quantity = 2; }
"""


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


WITHOUT_A_REGISTRY: list[Callable[[], Serializer]] = [
    Json,
    MessagePack,
    lambda: CloudEvents("/shop"),
    lambda: CloudEvents("/shop", mode="structured"),
]
WITH_A_REGISTRY: list[Callable[[SchemaRegistry], Serializer]] = [
    lambda registry: Avro(registry, auto_register=True),
    lambda registry: Avro(registry, auto_register=True, framing="header"),
    lambda registry: JsonSchema(registry, auto_register=True),
    lambda registry: JsonSchema(registry, auto_register=True, framing="header"),
    lambda registry: Protobuf(registry),
    lambda registry: Protobuf(registry, framing="header"),
    lambda registry: CloudEvents("/shop", serializer=Avro(registry, auto_register=True)),
]


async def serializers() -> list[Serializer]:
    """All of the package, each of those with schemas with a registry of its own."""
    with_schemas = [await with_a_registry(number) for number in range(len(WITH_A_REGISTRY))]
    return [*(make() for make in WITHOUT_A_REGISTRY), *with_schemas]


async def with_a_registry(number: int) -> Serializer:
    registry = SchemaRegistry("memory://", unknown_after=0.0)
    serializer = WITH_A_REGISTRY[number](registry)
    if isinstance(serializer, Protobuf):
        await registry.register("orders-value", "PROTOBUF", PROTO)
    return serializer


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
    return arrived(await settled(pipeline.write(message, outgoing)), outgoing)


async def read(pipeline: PayloadPipeline, message: RawMessage, kind: Any) -> Any:
    return await settled(pipeline.decoder(kind)(message))


@given(data=st.binary(max_size=2_000), order=ORDERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_goes_through_any_steps_comes_back(tmp_path: Path, data: bytes, order: Order) -> None:
    every = await serializers()
    for steps in chains(tmp_path):
        for serializer in every:
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


@pytest.mark.parametrize("size", [0, 1, 100, 64 * 1024, 5 * MB])
async def test_every_size_comes_back_in_every_format(tmp_path: Path, size: int) -> None:
    """With no steps, and with all kinds of steps."""
    order = Order(number=size, note=("abcdefghij" * (size // 10 + 1))[:size], lines=[Line(sku="s", quantity=1)])
    for serializer in await serializers():
        for steps in ([], [Zstd(max_size=LIMIT), AesGcm({"k1": AES_KEY}), ClaimCheck(Folder(tmp_path), threshold=100)]):
            pipeline = PayloadPipeline([serializer, *steps])
            assert await read(pipeline, await written(pipeline, order), Order) == order


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


@pytest.mark.parametrize("number", range(len(WITH_A_REGISTRY)))
async def test_a_damaged_id_header_or_payload_is_a_decode_error_that_names_its_step(number: int) -> None:
    """Some damage gives another value that is as valid: only encryption tells."""
    serializer = await with_a_registry(number)
    pipeline = PayloadPipeline([serializer])
    whole = await written(pipeline, Order(number=1, note="a note that only its reader should see"))
    assert whole.value is not None
    damaged = [whole._replace(value=value) for value in [*flips(whole.value), *cuts(whole.value)]]
    for at, (name, value) in enumerate(whole.headers):
        damaged += [
            whole._replace(headers=(*whole.headers[:at], (name, other), *whole.headers[at + 1 :]))
            for other in [*flips(value or b""), *cuts(value or b""), None]
        ]
    errors = [found for each in damaged if isinstance(found := await outcome_of(pipeline, each), PayloadDecodeError)]
    assert len(errors) > 50
    for error in errors:
        assert error.step in {"avro", "json-schema", "protobuf", "cloudevents"}
        assert f"step {error.step}: " in str(error)
        assert "only its reader" not in str(error)


@pytest.mark.parametrize("number", range(len(WITH_A_REGISTRY)))
async def test_bytes_that_look_like_the_id_of_a_schema_stand_in_no_error(number: int) -> None:
    """0x01 and 16 bytes are a GUID, and the beginning of what has none."""
    pipeline = PayloadPipeline([await with_a_registry(number)])
    secret = b"a secret of old!"
    outcome = await outcome_of(pipeline, message(b"\x01" + secret + b" and more"))
    assert isinstance(outcome, PayloadDecodeError)
    assert secret.hex() not in str(outcome).replace("-", "")


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

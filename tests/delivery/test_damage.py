"""What was damaged on its way becomes a dead letter of stage `decode` that names the step, and has its bytes."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import lz4.frame
import pytest
import zstandard
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import PayloadPipeline, RetryPolicy, include_athomic, subscribe_to
from fastapi_athomic.payload.compression import Gzip, Lz4, Zstd
from fastapi_athomic.payload.encryption import AesGcm, Fernet
from fastapi_athomic.payload.steps import BytesStep, Outgoing
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.apps import Record, running
from tests.support.payloads import settled

from .brokers import Broker
from .brokers import Record as Written

pytestmark = pytest.mark.timeout(120)
KEY = b64encode(os.urandom(32)).decode()
LIMIT = 100_000
SECRET = "what only the reader should see "
STEPS: list[Callable[[], BytesStep]] = [
    lambda: Gzip(max_size=LIMIT, min_size=0),
    lambda: Zstd(max_size=LIMIT, min_size=0),
    lambda: Lz4(max_size=LIMIT, min_size=0),
    lambda: AesGcm({"a": KEY}),
    lambda: Fernet([KEY]),
]
BOMBS = [pack(bytes(50_000_000)) for pack in (gzip.compress, zstandard.compress, lz4.frame.compress)]


class Order(BaseModel):
    number: int
    note: str = SECRET * 3


def damaged(data: bytes) -> list[bytes]:
    """One bit flipped at each position, each shorter payload, and one that is longer."""
    flipped = [data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :] for at in range(len(data))]
    return [*flipped, *(data[:end] for end in range(len(data))), data + b"\0"]


@pytest.mark.parametrize("make", STEPS, ids=["gzip", "zstd", "lz4", "aes-gcm", "fernet"])
async def test_damage_at_every_position(broker: Broker, topic: str, make: Callable[[], BytesStep]) -> None:
    step = make()
    bad, letters, seen = await sent_damaged(broker, topic, PayloadPipeline([step]), bombs=True)

    assert letters
    assert len(letters) + len(seen) == len(bad)
    assert all(order == Order(number=1) for order in seen), "bits that say nothing, such as a time in gzip's header"
    for letter in letters:
        assert letter.error_stage == "decode"
        assert (letter.error_message or "").startswith(f"step {step.name}: ")
    sizes = [letter.error_message for letter in letters if letter.value in BOMBS]
    assert len(sizes) == len(BOMBS)


async def test_damage_to_a_message_with_a_schema(broker: Broker, topic: str) -> None:
    avro = Avro(SchemaRegistry("memory://", unknown_after=0.0), auto_register=True)
    bad, letters, seen = await sent_damaged(broker, topic, PayloadPipeline([avro]), bombs=False)

    assert len(letters) + len(seen) == len(bad)
    assert len(letters) > len(bad) // 2, "what is left is another order, and as valid"
    for letter in letters:
        assert letter.error_stage == "decode"
        assert (letter.error_message or "").startswith("step avro: ")


async def sent_damaged(
    broker: Broker, topic: str, pipeline: PayloadPipeline, *, bombs: bool
) -> tuple[list[bytes], list[Any], list[Order]]:
    """What was produced, the letters, and what the handler got."""
    await broker.create_topic(topic, 1)
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def handle(order: Order) -> None:
        record.note(order)

    athomic = include_athomic(FastAPI(), broker.settings(), handlers=[handle], payload=pipeline)
    outgoing = Outgoing(topic)
    whole = await settled(pipeline.write(Order(number=1), outgoing))
    bad = [*damaged(whole), *(BOMBS if bombs else [])]
    async with running(athomic):
        await broker.produce(topic, [Written(value, headers=outgoing.headers) for value in bad])
        tracemalloc.start()
        try:
            await athomic.drain()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        letters = await athomic.dead_letters("h").browse(limit=10_000)
    assert peak < 20_000_000, "each of the last three unpacks to 50 MB"
    sources = iter(bad)
    assert all(any(letter.value == value for value in sources) for letter in letters), "in order, as they came"
    assert not any(SECRET in (letter.error_message or "") for letter in letters)
    return bad, letters, record.seen

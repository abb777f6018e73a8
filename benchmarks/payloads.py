"""What a payload costs for one message, beside the same done by hand with the bare library (F10).

Run as a program it prints one line of JSON: microseconds of CPU per message, by case and contender. With words, only
the cases whose names hold one of them: `python -m benchmarks.payloads AES zstd`.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import process_time
from typing import Any

import lz4.frame
import msgpack
import zstandard
from cloudevents.core.bindings import kafka as events
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SdkEvent
from cryptography.fernet import Fernet as BareFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, TypeAdapter

from benchmarks.payload_cases import BARE, OURS, Case, Contenders
from fastapi_athomic import PayloadPipeline
from fastapi_athomic.payload.cloudevents import CloudEvent, CloudEvents
from fastapi_athomic.payload.compression import Gzip, Lz4, Zstd
from fastapi_athomic.payload.encryption import AesGcm, Fernet
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.steps import BytesStep, Incoming, Later, Outgoing, Serializer
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.payloads import arrived

SECONDS = 0.01
"""Of one stretch of calls of one contender; the contenders take turns."""
TURNS = 25
"""The fastest turn counts: what disturbs a turn only makes it slower."""
SIZES = {"1 KB": 1_000, "100 KB": 100_000}


class Line(BaseModel):
    sku: str
    quantity: int
    price: float


class Order(BaseModel):
    number: int
    customer: str
    paid: bool
    lines: list[Line]


ORDER = Order(
    number=7,
    customer="Ann Other",
    paid=True,
    lines=[Line(sku=f"sku-{number}", quantity=number, price=9.5) for number in range(10)],
)
ADAPTER: TypeAdapter[Order] = TypeAdapter(Order)
VALIDATE_JSON, TO_JSON = ADAPTER.validator.validate_json, ADAPTER.serializer.to_json
VALIDATE, TO_PYTHON = ADAPTER.validator.validate_python, ADAPTER.serializer.to_python
TOPIC, KEY = "orders", b"customer-1"


@dataclass(frozen=True)
class Tool:
    """A step, and the library that it uses, by hand."""

    step: BytesStep
    do: Callable[[bytes], bytes]
    undo: Callable[[bytes], bytes]


def tools() -> Mapping[str, Tool]:
    """Steps by name. Nothing is done in a thread: the CPU counts."""
    fernet_key, aes_key = base64.urlsafe_b64encode(os.urandom(32)).decode(), os.urandom(32)
    compressor, decompressor = zstandard.ZstdCompressor(write_checksum=True), zstandard.ZstdDecompressor()
    fernet = BareFernet(fernet_key)
    aes = {b"1": AESGCM(aes_key)}

    def seal(data: bytes) -> bytes:
        nonce = os.urandom(12)
        return b"1" + nonce + aes[b"1"].encrypt(nonce, data, TOPIC.encode() + b"/" + KEY)

    def unseal(data: bytes) -> bytes:
        return aes[data[:1]].decrypt(data[1:13], data[13:], TOPIC.encode() + b"/" + KEY)

    return {
        "gzip": Tool(Gzip(6, off_loop_above=None), lambda data: gzip.compress(data, 6), gzip.decompress),
        "zstd": Tool(Zstd(off_loop_above=None), compressor.compress, decompressor.decompress),
        "lz4": Tool(
            Lz4(off_loop_above=None),
            lambda data: lz4.frame.compress(data, content_checksum=True),
            lz4.frame.decompress,
        ),
        "Fernet": Tool(Fernet([fernet_key], off_loop_above=None), fernet.encrypt, fernet.decrypt),
        "AES-GCM": Tool(AesGcm({"1": base64.b64encode(aes_key).decode()}, off_loop_above=None), seal, unseal),
    }


def cases() -> Iterator[Case]:
    """All of them. Nobody asks a registry any more when they are measured."""
    from benchmarks import payload_avro, payload_protobuf

    for label, size in SIZES.items():
        for name, tool in tools().items():
            yield from _of_step(f"{name}, {label}", tool, _text(size))
    yield from _both_ways("JSON", PayloadPipeline(), lambda: TO_JSON(ORDER), VALIDATE_JSON)
    for name, tool in tools().items():
        yield from _both_ways(
            f"JSON, {name}",
            PayloadPipeline([tool.step]),
            lambda tool=tool: tool.do(TO_JSON(ORDER)),  # type: ignore[misc]
            lambda data, tool=tool: VALIDATE_JSON(tool.undo(data)),  # type: ignore[misc]
        )
    yield from _both_ways(
        "MessagePack",
        PayloadPipeline([MessagePack()]),
        lambda: msgpack.packb(TO_PYTHON(ORDER)),
        lambda data: VALIDATE(msgpack.unpackb(data)),
    )
    yield from _both_ways(
        "JSON Schema",
        PayloadPipeline([_json_schema()]),
        lambda: b"\0\0\0\0\1" + TO_JSON(ORDER),
        lambda data: VALIDATE_JSON(data[5:]),
    )
    yield from _cloudevents()
    yield from payload_avro.cases()
    yield from payload_protobuf.cases()


def _text(size: int) -> bytes:
    """Words that repeat, as text's do."""
    chance = random.Random(1)
    words = [b"%08x" % chance.getrandbits(32) for _ in range(200)]
    return b" ".join(chance.choice(words) for _ in range(size // 9 + 1))[:size]


def _of_step(name: str, tool: Tool, data: bytes) -> Iterator[Case]:
    """The step alone, without a pipeline around it."""
    step, do, undo = tool.step, tool.do, tool.undo
    outgoing = Outgoing(TOPIC, KEY)
    written: Any = step.encode(data, outgoing)
    incoming, by_hand = Incoming(TOPIC, KEY, written, ()), do(data)
    assert step.decode(written, incoming) == data == undo(by_hand)
    yield Case(f"{name}, written", {OURS: lambda: step.encode(data, outgoing), BARE: lambda: do(data)})
    yield Case(f"{name}, read", {OURS: lambda: step.decode(written, incoming), BARE: lambda: undo(by_hand)})


def _both_ways(
    name: str, pipeline: PayloadPipeline, write: Callable[[], bytes], read: Callable[[bytes], object]
) -> Iterator[Case]:
    outgoing, decode = Outgoing(TOPIC, KEY), pipeline.decoder(Order)
    data: Any = asyncio.run(_there(pipeline.write(ORDER, outgoing)))
    message, by_hand = arrived(data, outgoing), write()
    assert decode(message) == ORDER == read(by_hand)
    yield Case(f"{name}, written", {OURS: lambda: pipeline.write(ORDER, Outgoing(TOPIC, KEY)), BARE: write})
    yield Case(f"{name}, read", {OURS: lambda: decode(message), BARE: lambda: read(by_hand)})


async def _there(value: Any) -> Any:
    return await value if isinstance(value, Later) else value


def _json_schema() -> Serializer:
    return JsonSchema(SchemaRegistry("memory://"), auto_register=True, validate=False)


def _cloudevents() -> Iterator[Case]:
    """In binary mode, as an event with its attributes, beside the SDK."""
    pipeline = PayloadPipeline([CloudEvents("/shop", types={"ordered": Order}, tracing=False)])
    outgoing, decode = Outgoing(TOPIC, KEY), pipeline.decoder(CloudEvent[Order])
    data: Any = pipeline.write(ORDER, outgoing)
    message, form = arrived(data, outgoing), JSONFormat()

    def write() -> Any:
        event = SdkEvent({"source": "/shop", "type": "ordered"}, TO_PYTHON(ORDER))
        return events.to_binary(event, form)

    sent = write()

    def read() -> Any:
        return VALIDATE(events.from_binary(sent, form, SdkEvent).get_data())

    assert decode(message).data == ORDER == read()
    yield Case("CloudEvents, written", {OURS: lambda: pipeline.write(ORDER, Outgoing(TOPIC, KEY)), BARE: write})
    yield Case("CloudEvents, read", {OURS: lambda: decode(message), BARE: read})


def measured(contenders: Contenders) -> dict[str, float]:
    """Microseconds of CPU per call, by contender."""
    best = dict.fromkeys(contenders, float("inf"))
    numbers = {name: _calls_in(call, SECONDS) for name, call in contenders.items()}
    for _ in range(TURNS):
        for name, call in contenders.items():
            best[name] = min(best[name], _seconds(call, numbers[name]) / numbers[name] * 1e6)
    return best


def _calls_in(call: Callable[[], object], seconds: float) -> int:
    number = 1
    while (taken := _seconds(call, number)) < seconds / 10:
        number *= 4
    return max(1, int(number * seconds / taken))


def _seconds(call: Callable[[], object], number: int) -> float:
    gc.collect()
    began = process_time()
    for _ in range(number):
        call()
    return process_time() - began


def main(words: list[str]) -> None:
    chosen = [case for case in cases() if not words or any(word in case.name for word in words)]
    gc.freeze()
    print(json.dumps({case.name: measured(case.contenders) for case in chosen}))


if __name__ == "__main__":
    main(sys.argv[1:])

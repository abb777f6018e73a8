"""What a payload pipeline costs for one message, beside the same done by hand with the bare library (F10).

Run as a program it prints one line of JSON: microseconds of CPU per message, by case and contender.
"""

from __future__ import annotations

import base64
import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping
from time import process_time
from typing import Any

import lz4.frame
import ormsgpack
import zstandard
from cryptography.fernet import Fernet as BareFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, TypeAdapter

from fastapi_athomic import PayloadPipeline
from fastapi_athomic.payload.compression import Gzip, Lz4, Zstd
from fastapi_athomic.payload.encryption import AesGcm, Fernet
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.steps import Outgoing
from tests.support.payloads import arrived

Contenders = Mapping[str, Callable[[], object]]
OURS, BARE, CONFLUENT = "fastapi-athomic", "the library by hand", "confluent-kafka"
SECONDS = 0.15
"""Of one stretch of calls of one contender; the contenders take turns."""
TURNS = 7
"""The fastest turn counts: what disturbs a turn only makes it slower."""


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
FERNET_KEY = base64.urlsafe_b64encode(os.urandom(32)).decode()
AES_KEY = os.urandom(32)


def cases() -> Iterator[tuple[str, Contenders]]:
    """The cases by name: what each contender does for one message."""
    validate, dump = ADAPTER.validator.validate_json, ADAPTER.serializer.to_json
    yield from _both_ways("JSON", PayloadPipeline(), lambda: dump(ORDER), validate)
    unpacked, to_python = ADAPTER.validator.validate_python, ADAPTER.serializer.to_python
    yield from _both_ways(
        "MessagePack",
        PayloadPipeline([MessagePack()]),
        lambda: ormsgpack.packb(to_python(ORDER)),
        lambda data: unpacked(ormsgpack.unpackb(data)),
    )
    compressor, decompressor = zstandard.ZstdCompressor(), zstandard.ZstdDecompressor()
    fernet, aes = BareFernet(FERNET_KEY), AESGCM(AES_KEY)
    import gzip

    steps: Mapping[str, tuple[Any, Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
        "gzip": (Gzip(), gzip.compress, gzip.decompress),
        "zstd": (Zstd(), compressor.compress, lambda data: decompressor.decompressobj().decompress(data)),
        "lz4": (Lz4(), lz4.frame.compress, lz4.frame.decompress),
        "Fernet": (Fernet([FERNET_KEY]), fernet.encrypt, fernet.decrypt),
        "AES-GCM": (
            AesGcm({"1": base64.b64encode(AES_KEY).decode()}),
            lambda data: _sealed(aes, data),
            lambda data: aes.decrypt(data[:12], data[12:], b"t"),
        ),
    }
    for name, (step, do, undo) in steps.items():
        yield from _both_ways(
            f"JSON, {name}",
            PayloadPipeline([step]),
            lambda do=do: do(dump(ORDER)),  # type: ignore[misc]
            lambda data, undo=undo: validate(undo(data)),  # type: ignore[misc]
        )


def _sealed(aes: AESGCM, data: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + aes.encrypt(nonce, data, b"t")


def _both_ways(
    name: str, pipeline: PayloadPipeline, write: Callable[[], bytes], read: Callable[[bytes], object]
) -> Iterator[tuple[str, Contenders]]:
    outgoing = Outgoing("t", b"k")
    data: Any = pipeline.write(ORDER, outgoing)
    message, decode, by_hand = arrived(data, outgoing), pipeline.decoder(Order), write()
    assert decode(message) == ORDER == read(by_hand)
    yield f"{name}, written", {OURS: lambda: pipeline.write(ORDER, Outgoing("t", b"k")), BARE: write}
    yield f"{name}, read", {OURS: lambda: decode(message), BARE: lambda: read(by_hand)}


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


def main() -> None:
    print(json.dumps({name: measured(contenders) for name, contenders in cases()}))


if __name__ == "__main__":
    main()

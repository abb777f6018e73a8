"""What a payload pipeline costs for one message, beside the same done by hand with the bare library (F10).

Run as a program it prints one line of JSON: microseconds of CPU per message, by case and contender.
"""

from __future__ import annotations

import base64
import gc
import gzip
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from time import process_time
from typing import Any

import lz4.frame
import msgpack
import zstandard
from cryptography.fernet import Fernet as BareFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, TypeAdapter

from benchmarks import payload_avro, payload_protobuf
from fastapi_athomic import PayloadPipeline
from fastapi_athomic.payload.compression import Gzip, Lz4, Zstd
from fastapi_athomic.payload.encryption import AesGcm, Fernet
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.steps import BytesStep, Outgoing
from tests.support.payloads import arrived

Contenders = Mapping[str, Callable[[], object]]
OURS, BARE, CONFLUENT = payload_avro.OURS, payload_avro.BARE, payload_avro.CONFLUENT
SECONDS = 0.1
"""Of one stretch of calls of one contender; the contenders take turns."""
TURNS = 7
"""The fastest turn counts: what disturbs a turn only makes it slower."""
SIZES = {"1 KB": 1_000, "100 KB": 100_000}
GZIP_LEVEL = 6


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


def cases() -> Iterator[tuple[str, Contenders]]:
    """The cases by name: what each contender does for one message."""
    yield from _reading()
    yield from _steps()
    for case, contenders in (*payload_avro.cases(), *payload_protobuf.cases()):
        yield case, {name: call for name, call in contenders.items() if name in (OURS, BARE, CONFLUENT)}


def _reading() -> Iterator[tuple[str, Contenders]]:
    """Whole messages into a model: the serializer, and a step with it."""
    from_json, from_objects = ADAPTER.validator.validate_json, ADAPTER.validator.validate_python
    data = ADAPTER.dump_json(ORDER)
    yield _read("JSON, read", PayloadPipeline(), data, from_json)
    packed: bytes = msgpack.packb(ADAPTER.dump_python(ORDER))
    yield _read("MessagePack, read", PayloadPipeline([MessagePack()]), packed, lambda: from_objects(_unpack(packed)))
    for name, step, _, undo in _each_step():
        encoded = PayloadPipeline([step]).write(ORDER, outgoing := Outgoing("t", b"k"))
        assert isinstance(encoded, bytes)
        bare = _bare_of(name, data)
        yield (
            f"JSON and {name}, read",
            {
                OURS: _reader(PayloadPipeline([step]), encoded, outgoing),
                BARE: lambda undo=undo, bare=bare: from_json(undo(bare)),  # type: ignore[misc]
            },
        )


def _read(name: str, pipeline: PayloadPipeline, data: bytes, by_hand: Callable[..., object]) -> tuple[str, Contenders]:
    bare = (lambda: by_hand(data)) if pipeline.serializer.name == "json" else by_hand
    return name, {OURS: _reader(pipeline, data, Outgoing("t", b"k")), BARE: bare}


def _reader(pipeline: PayloadPipeline, data: bytes, outgoing: Outgoing) -> Callable[[], object]:
    message, decode = arrived(data, outgoing), pipeline.decoder(Order)
    assert decode(message) == ORDER
    return lambda: decode(message)


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, timestamp=0, strict_map_key=False)


def _steps() -> Iterator[tuple[str, Contenders]]:
    """Bytes through a pipeline with one step."""
    for size, length in SIZES.items():
        data = _text(length)
        for name, step, do, undo in _each_step():
            pipeline = PayloadPipeline([step])
            outgoing = Outgoing("t", b"k")
            encoded, bare = pipeline.write(data, outgoing), do(data)
            assert isinstance(encoded, bytes)
            message, decode = arrived(encoded, outgoing), pipeline.decoder(bytes)
            assert decode(message) == data == undo(bare)
            yield (
                f"{name}, {size}, written",
                {
                    OURS: lambda pipeline=pipeline, data=data: pipeline.write(data, Outgoing("t", b"k")),  # type: ignore[misc]
                    BARE: lambda do=do, data=data: do(data),  # type: ignore[misc]
                },
            )
            yield (
                f"{name}, {size}, read",
                {
                    OURS: lambda decode=decode, message=message: decode(message),  # type: ignore[misc]
                    BARE: lambda undo=undo, bare=bare: undo(bare),  # type: ignore[misc]
                },
            )


_FERNET_KEY, _AES_KEY = base64.urlsafe_b64encode(os.urandom(32)).decode(), os.urandom(32)
_AES, _FERNET = AESGCM(_AES_KEY), BareFernet(_FERNET_KEY)
_ZSTD, _UNZSTD = zstandard.ZstdCompressor(write_checksum=True), zstandard.ZstdDecompressor()


def _each_step() -> Iterator[tuple[str, BytesStep, Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    """The step, and what its library needs for the same. Nothing is worked on in a thread."""
    aes_key = base64.b64encode(_AES_KEY).decode()
    yield "gzip", Gzip(off_loop_above=None), lambda data: gzip.compress(data, GZIP_LEVEL), gzip.decompress
    yield "zstd", Zstd(off_loop_above=None), _ZSTD.compress, lambda data: _UNZSTD.decompressobj().decompress(data)
    yield "lz4", Lz4(off_loop_above=None), lambda data: lz4.frame.compress(data, content_checksum=True), _unlz4
    yield "Fernet", Fernet([_FERNET_KEY], off_loop_above=None), _FERNET.encrypt, _FERNET.decrypt
    yield "AES-GCM", AesGcm({"1": aes_key}, off_loop_above=None), _sealed, _opened


def _unlz4(data: bytes) -> bytes:
    unpacked: bytes = lz4.frame.decompress(data)
    return unpacked


def _sealed(data: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + _AES.encrypt(nonce, data, b"t")


def _opened(data: bytes) -> bytes:
    return _AES.decrypt(data[:12], data[12:], b"t")


def _bare_of(name: str, data: bytes) -> bytes:
    return next(do(data) for each, _, do, _ in _each_step() if each == name)


def _text(length: int) -> bytes:
    """Text that compresses about as well as JSON does."""
    chosen = random.Random(1)
    words = [b"%08x" % chosen.getrandbits(32) for _ in range(200)]
    return b" ".join(chosen.choice(words) for _ in range(length // 9 + 1))[:length]


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

"""Messages, and parts of pipelines, for tests of payloads."""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any

from fastapi_athomic import PayloadDecodeError, PayloadUnavailableError
from fastapi_athomic.messages import Headers, RawMessage
from fastapi_athomic.payload.steps import BytesStep, Decoder, Incoming, Later, Outgoing, Part, Received, Serializer
from fastapi_athomic.payload.target import Target


def message(value: bytes | None, *, topic: str = "t", key: bytes | None = None, headers: Headers = ()) -> RawMessage:
    """A message as a pipeline reads it."""
    return RawMessage(topic, 0, 0, 0, key, value, headers)


def arrived(value: bytes | None, outgoing: Outgoing) -> RawMessage:
    """The message that a consumer gets of one that was written."""
    return message(value, topic=outgoing.topic, key=outgoing.key, headers=outgoing.headers)


class Sealed(BytesStep):
    """Stands for encryption whose associated data are the topic and the key: a checksum over all of them."""

    name = "sealed"
    kind = "encryption"

    def __init__(self, *, required: bool = True, writes: bool = True) -> None:
        self.required, self.writes = required, writes

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
        return b"sealed" + _sum(data, outgoing.topic, outgoing.key) + data

    def decode(self, data: bytes, incoming: Incoming) -> bytes:
        seal, data = data[:10], data[10:]
        if seal != b"sealed" + _sum(data, incoming.topic, incoming.key):
            raise PayloadDecodeError("step sealed: the seal is broken", step=self.name)
        return data

    def recognizes(self, data: bytes) -> bool:
        return data.startswith(b"sealed")


def _sum(data: bytes, topic: str, key: bytes | None) -> bytes:
    return zlib.crc32(repr((data, topic, key)).encode()).to_bytes(4, "big")


class Depot(BytesStep):
    """Stands for a claim check: its depot may be away. Payloads of fewer than `above` bytes stay as they are."""

    name = "depot"
    kind = "storage"
    waits = True

    def __init__(self, *, above: int = 0) -> None:
        self.required, self.above = not above, above
        self.away = False
        self.asked = 0
        self.opened: list[str] = []

    def encode(self, data: bytes, outgoing: Outgoing) -> Any:
        return data if len(data) < self.above else Later(partial(self._done, b"depot" + data))

    def decode(self, data: bytes, incoming: Incoming) -> Any:
        return Later(partial(self._done, data.removeprefix(b"depot")))

    async def _done(self, data: bytes) -> bytes:
        self.asked += 1
        if self.away:
            raise PayloadUnavailableError("the depot is away")
        return data

    async def open(self) -> None:
        self.opened.append("open")

    async def close(self) -> None:
        self.opened.append("close")


class Words(Serializer):
    """Stands for another format than JSON: reprs, marked by a byte that no JSON begins with."""

    name = "words"
    content_type = "application/x-words"

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | None:
        if message is None:
            return None
        value = message.model_dump() if hasattr(message, "model_dump") else message
        return b"\1" + outgoing.part.encode() + b" " + repr(value).encode()

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        target = Target(target_type)

        def decode(message: Received) -> Any:
            data = message.value
            if data is None:
                return target.adapter.validate_python(None)
            if not data.startswith(b"\1" + part.encode() + b" "):
                raise PayloadDecodeError("step words: this is something else", step="words")
            return target.adapter.validate_python(_literal(data.partition(b" ")[2]))

        return decode


def _literal(data: bytes) -> Any:
    from ast import literal_eval

    return literal_eval(data.decode())

from __future__ import annotations

from zlib import crc32

from fastapi_athomic import PayloadPipeline
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.steps import BytesStep, Incoming, Outgoing


class Checksum:
    name = "crc32"

    def encode(self, data: bytes) -> bytes:
        return crc32(data).to_bytes(4, "big") + data

    def decode(self, data: bytes) -> bytes:
        if crc32(data[4:]).to_bytes(4, "big") != data[:4]:
            raise ValueError("the checksum is wrong")
        return data[4:]


class Reversed(BytesStep):
    name = "reversed"
    required = False

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
        return data[::-1]

    async def open(self) -> None:
        """Nothing to do."""

    def decode(self, data: bytes, incoming: Incoming) -> bytes:
        return data[::-1]


CHECKED = PayloadPipeline([Json(), Checksum(), Reversed()])

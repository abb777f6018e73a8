"""Claim check: what is too large for Kafka goes to an object store, and a reference travels in its place.

A reference is these bytes, integers big-endian:

    8    magic: C1 'claim' 01 0A. No UTF-8 text begins like this, and no MessagePack
    8    size of the object in bytes
    32   SHA-256 of the object
    n    name of the object, ASCII
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from hashlib import sha256
from secrets import token_hex
from typing import NamedTuple

from ..clock import utc_now
from ..exceptions import (
    ConfigurationError,
    PayloadDecodeError,
    PayloadEncodeError,
    PayloadError,
    PayloadUnavailableError,
)
from .object_stores import S3 as S3
from .object_stores import Folder as Folder
from .object_stores import ObjectStore as ObjectStore
from .object_stores import is_safe
from .steps import BytesStep, Incoming, Kind, Later, Outgoing

MAGIC = b"\xc1claim\x01\n"
_FIXED = len(MAGIC) + 8 + 32
_NOT_SAFE = re.compile(r"^\.|[^A-Za-z0-9._-]")


class Reference(NamedTuple):
    """What travels in place of a payload."""

    name: str
    size: int
    digest: bytes  # SHA-256

    def frame(self) -> bytes:
        """Its bytes."""
        return MAGIC + self.size.to_bytes(8, "big") + self.digest + self.name.encode()


class ClaimCheck(BytesStep):
    """Puts payloads above a threshold into an object store. It is the last step of a pipeline.

    The object is stored before the message is published. If publishing fails then, the object stays, and nobody refers
    to it. Objects are never deleted: let a lifecycle rule of the store do it, when no topic has their messages any
    more. Their names are `<topic>/<date in UTC>/<48 random hex digits>`.

    Args:
        store: `Folder`, `S3`, or anything with the methods of `ObjectStore`.
        threshold: bytes of the payload, as the steps before made it. It must be below the largest message of topic and
            producer (`max_request_size`), from which headers and key go off.
        max_size: larger payloads are neither published nor read.
        required: a header `content-encoding` without this step is not believed. Small payloads travel in the message
            all the same.
        writes: False: only what others have stored is read.
    """

    name = "claim-check"
    kind: Kind = "storage"
    waits = True

    def __init__(
        self,
        store: ObjectStore,
        *,
        threshold: int = 500_000,
        max_size: int = 100_000_000,
        required: bool = False,
        writes: bool = True,
    ) -> None:
        if isinstance(store, type) or not (hasattr(store, "put") and hasattr(store, "get")):
            given = getattr(store, "__name__", None) or type(store).__name__
            raise ConfigurationError(f"ClaimCheck takes a store, Folder(path) or S3(bucket), and was given {given}")
        if not 0 <= threshold <= max_size:
            raise ConfigurationError("ClaimCheck: threshold is a number of bytes, from 0 to max_size")
        self.required = required
        self.writes = writes
        self._store = store
        self._threshold = threshold
        self._max_size = max_size

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes | Later[bytes]:
        if len(data) <= self._threshold and not data.startswith(MAGIC):
            return data
        if len(data) > self._max_size:
            raise PayloadEncodeError(
                f"step claim-check: the payload has {len(data)} bytes, and max_size is {self._max_size}", step=self.name
            )
        return Later(partial(self._keep, data, new_name(outgoing.topic)))  # a repeated attempt overwrites the object

    async def _keep(self, data: bytes, name: str) -> bytes:
        digest = await asyncio.to_thread(_digest, data)
        try:
            await self._store.put(name, data)
        except PayloadError:
            raise
        except Exception as error:
            raise self._away(error) from error
        return Reference(name, len(data), digest).frame()

    def decode(self, data: bytes, incoming: Incoming) -> bytes | Later[bytes]:
        if not data.startswith(MAGIC):
            return data
        return Later(partial(self._fetch, self._reference(data)))

    def recognizes(self, data: bytes) -> bool:
        return data.startswith(MAGIC)

    async def _fetch(self, reference: Reference) -> bytes:
        try:
            data = await self._store.get(reference.name, reference.size)
        except FileNotFoundError:
            raise self._wrong("the object that the message refers to is not in the store") from None
        except PayloadError:
            raise
        except Exception as error:
            raise self._away(error) from error
        if len(data) != reference.size or await asyncio.to_thread(_digest, data) != reference.digest:
            raise self._wrong("the object in the store is not the one that was stored")
        return data

    def _reference(self, data: bytes) -> Reference:
        size = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 8], "big")
        name = data[_FIXED:].decode("ascii", "replace")
        if not is_safe(name):
            raise self._wrong("the reference is damaged")
        if size > self._max_size:
            raise self._wrong(f"the object has more than {self._max_size} bytes (max_size)")
        return Reference(name, size, data[_FIXED - 32 : _FIXED])

    def _wrong(self, words: str) -> PayloadDecodeError:
        return PayloadDecodeError(f"step claim-check: {words}", step=self.name)

    def _away(self, error: Exception) -> PayloadUnavailableError:
        """Without what it says, which may name credentials."""
        return PayloadUnavailableError(f"the object store does not answer: {type(error).__name__}", step=self.name)


def new_name(topic: str) -> str:
    """The name of a new object, which nobody can guess."""
    return f"{_NOT_SAFE.sub('_', topic)[:249] or '_'}/{utc_now():%Y-%m-%d}/{token_hex(24)}"


def _digest(data: bytes) -> bytes:
    return sha256(data).digest()

"""Reading through a pipeline: its steps are undone, the last one first, then its serializer makes the value.

For each message: long on purpose, as each function split off would be one more call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..error_text import located
from ..exceptions import ConfigurationError, PayloadDecodeError, PayloadEncodeError, PayloadError
from .json_format import Json
from .steps import (
    CONTENT_ENCODING,
    CONTENT_TYPE,
    BytesStep,
    Decoder,
    Incoming,
    Later,
    Received,
    Serializer,
    header,
    media_type,
)

SourceOf = Callable[[Any], str]
"""Gives the topic in which a message was first published: not its own, if it came through a retry or redrive topic."""

ENDINGS = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)
"""What ends a task, the process or a coroutine: raised as it is, if something is waited for."""

KNOWN_ENCODINGS = frozenset(
    ("gzip", "zstd", "lz4", "deflate", "br", "snappy", "fernet", "aes-gcm", "aes-256-gcm", "claim-check")
)
"""Names in `content-encoding` that an error may repeat: any other text of a header may be a secret."""

KNOWN_TYPES = {
    "application/avro": "avro",
    "application/protobuf": "protobuf",
    "application/x-protobuf": "protobuf",
    "application/msgpack": "messagepack",
    "application/vnd.msgpack": "messagepack",
    "application/x-msgpack": "messagepack",
    "application/vnd.confluent.json-schema": "json-schema",
    "application/cloudevents+json": "cloudevents",
}
"""Media types that an error may repeat, and the serializer that reads each. (Data of a CloudEvent has its own type.)"""

IDENTITY = "identity"
"""In `content-encoding` (RFC 9110, 8.4.1): no step was done, also if it looks like that."""

MOST_CHOICES, LONGEST_CHOICE = 100, 200
"""For how many values of `content-encoding`, of how many bytes at most, is remembered which steps they name: a header
may say anything."""

_WITHOUT_REGISTRY = ("json", "messagepack")
"""Serializers that read nothing that begins with the id of a schema."""
_BEFORE_LAST, _LAST = len(CONTENT_ENCODING) - 1, (CONTENT_ENCODING[-1], CONTENT_ENCODING[-1].upper())

_Step = tuple[BytesStep, Callable[[bytes, Incoming], Any], bool]
"""A step, its `decode`, and whether it is to be undone for sure; else the bytes tell."""


class Unwrapping:
    """Reads messages: undoes the steps of a pipeline, then deserializes."""

    def __init__(
        self, steps: Sequence[BytesStep], serializer: Serializer, deserialize: Decoder, source_of: SourceOf | None
    ) -> None:
        self._steps: tuple[_Step, ...] = tuple((step, step.decode, step.required) for step in reversed(steps))
        self._some_optional = not all(step.required for step in steps)
        self._chosen: dict[bytes, tuple[_Step, ...]] = {}  # by what the header `content-encoding` says
        self._serializer = serializer
        self._deserialize = deserialize
        self._source_of = source_of

    def decode(self, message: Received) -> Any:
        """The value of a message, or a `Later` of it."""
        topic = message.topic if self._source_of is None else self._source_of(message)
        data, steps = message.value, self._steps
        if data is None or not steps:
            if topic != message.topic:
                message = Incoming(topic, message.key, data, message.headers)
            return self._value(message)
        incoming = Incoming(topic, message.key, data, message.headers)
        if self._some_optional:
            said = None
            for name, text in incoming.headers:
                if name[_BEFORE_LAST:] in _LAST and name.lower() == CONTENT_ENCODING:  # no call for other headers
                    said = text
            if said is not None:
                chosen = self._chosen.get(said)
                steps = self._choose(said) if chosen is None else chosen
        for step, decode, sure in steps:
            try:
                if not (sure or step.recognizes(data)):
                    continue
                done = decode(data, incoming)
            except BaseException as error:
                raise _explained(error, step) from None
            if done.__class__ is bytes:
                data = done
            elif isinstance(done, Later):
                following = steps[[id(each) for each, *_ in steps].index(id(step)) + 1 :]
                return Later(partial(self._decode_later, done, step, following, incoming))
            else:
                data = as_bytes(step, "decode", done)
        incoming.value = data
        try:
            value = self._deserialize(incoming)
        except BaseException as error:
            raise _explained(error, self._serializer) from None
        return value if value.__class__ is not Later else Later(partial(settled, value, self._serializer))

    async def _decode_later(
        self, later: Later[Any], step: BytesStep, following: Sequence[_Step], incoming: Incoming
    ) -> Any:
        data = as_bytes(step, "decode", await settled(later, step))
        for each, decode, sure in following:
            try:
                if not (sure or each.recognizes(data)):
                    continue
                done = decode(data, incoming)
            except BaseException as error:
                raise _explained(error, each) from None
            data = as_bytes(each, "decode", await settled(done, each) if isinstance(done, Later) else done)
        value = self._value(Incoming(incoming.topic, incoming.key, data, incoming.headers))
        return await value if isinstance(value, Later) else value

    def _value(self, message: Received) -> Any:
        """Of a message whose steps are undone."""
        try:
            value = self._deserialize(message)
        except BaseException as error:
            raise _explained(error, self._serializer) from None
        return value if value.__class__ is not Later else Later(partial(settled, value, self._serializer))

    def _choose(self, said: bytes) -> tuple[_Step, ...]:
        """The steps to undo in messages with this header."""
        names = _names(said)
        chosen = tuple(
            (step, decode, True) for step, decode, required in self._steps if required or step.name.lower() in names
        )
        if len(self._chosen) < MOST_CHOICES and len(said) <= LONGEST_CHOICE:
            self._chosen[said] = chosen
        return chosen


def _explained(error: BaseException, part: Serializer | BytesStep) -> BaseException:
    """Our own errors, and Ctrl-C, as they are; of others type and place."""
    if isinstance(error, KeyboardInterrupt | PayloadError):
        return error
    return PayloadDecodeError(failed(part, "decode", error), step=part.name)


async def settled(later: Later[Any], step: Serializer | BytesStep) -> Any:
    """What is waited for. Errors that are none of ours become `PayloadDecodeError`, without their text."""
    try:
        return await later
    except BaseException as error:
        if isinstance(error, (PayloadError, *ENDINGS)):
            raise
        raise PayloadDecodeError(failed(step, "decode", error), step=step.name) from None


def as_bytes(step: Serializer | BytesStep, doing: str, data: Any) -> bytes:
    """What a step gave, as `bytes`; raises our error if it gave something else. `doing`: encode or decode."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    kind = PayloadEncodeError if doing == "encode" else PayloadDecodeError
    raise kind(f"step {step.name} must {doing} to bytes, and gave {type(data).__name__}", step=step.name)


def failed(step: Serializer | BytesStep, doing: str, error: BaseException) -> str:
    """What an error of a step says: its type, and where it was raised; never its text, which may show the payload.

    Ours say what is wrong with an option or a type, and no values: some of it is only seen with the first message.
    """
    said = str(error) if isinstance(error, ConfigurationError) else located(error)
    return f"step {step.name} could not {doing} the payload: {said}"


def by_format(serializers: Sequence[Serializer], target_type: Any) -> Decoder:
    """Reads with the first serializer that recognizes the message; with the first of all, if none does.

    `Json` is asked last: what another one recognizes, such as an envelope, may be JSON as well.
    """
    decoders = [each.decoder(target_type) for each in serializers]
    first = decoders[0]
    both = sorted(zip(serializers, decoders, strict=True), key=lambda pair: isinstance(pair[0], Json))
    known = [(each.recognizes, read) for each, read in both]

    def decode(message: Received) -> Any:
        for recognizes, read in known:
            if recognizes(message):
                return read(message)
        return first(message)

    return decode


def _names(encodings: bytes) -> frozenset[str]:
    """The names in a header `content-encoding`, in lower case."""
    return frozenset(each.lower() for each in listed(encodings))


def listed(encodings: bytes) -> list[str]:
    """The names in a header `content-encoding`."""
    return [name for each in encodings.decode("ascii", "replace").split(",") if (name := each.strip())]


def hint(message: Received, steps: Sequence[BytesStep], serializers: Sequence[Serializer]) -> str:
    """For the end of a decode error: what tells that the message was written by another pipeline than its reader's.

    From its headers, else from its first bytes; they are told by kind, and never shown.
    """
    done = header(message, CONTENT_ENCODING)
    present = {step.name.lower() for step in steps}
    missing = sorted(() if done is None else _names(done) & KNOWN_ENCODINGS - present)
    if missing:
        names = " and ".join(missing)
        return f"; its header {CONTENT_ENCODING} names {names}, which the payload pipeline does not have"
    kind = media_type(message)
    if kind in KNOWN_TYPES and not {KNOWN_TYPES[kind], "cloudevents"} & {each.name for each in serializers}:
        return f"; its header {CONTENT_TYPE} says {kind}, which the payload pipeline does not read: see `reads`"
    data = message.value or b""
    looks = next((name for beginning, name in _BEGINNINGS.items() if data.startswith(beginning)), None)
    if looks is not None and looks not in present:
        return f"; the payload begins like {looks}, which the payload pipeline does not have"
    inner = [part for each in serializers for part in getattr(each, "readers", (each,))]  # an envelope has some
    if data[:1] == b"\0" and len(data) > 4 and all(part.name in _WITHOUT_REGISTRY for part in inner):
        return (
            "; the payload begins with 0x00, as Avro, Protobuf and JSON Schema with a schema registry do: the payload "
            "pipeline of this topic has none of them"
        )
    is_json = any("json" in (each.content_type or "") or each.name == "cloudevents" for each in serializers)
    if data[:1] in (b"{", b"[") and (not is_json or any(step.required for step in steps)):
        return "; the payload begins like JSON"
    return ""


_BEGINNINGS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xffAG\x01": "aes-gcm",
    b"gAAAA": "fernet",
    b"\xc1claim\x01\n": "claim-check",
}
"""What payloads of a step begin with that no text and no JSON begins with."""

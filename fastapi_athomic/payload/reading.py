"""Reading through a pipeline: its steps are undone, the last one first, then its serializer makes the value.

For each message: long on purpose, as each function split off would be one more call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from ..error_text import located
from ..exceptions import PayloadDecodeError, PayloadEncodeError, PayloadError
from ..messages import Headers
from .json_format import Json
from .steps import CONTENT_ENCODING, BytesStep, Decoder, Incoming, Later, Received, Serializer, header

SourceOf = Callable[[Any], str]
"""Gives the topic in which a message was first published: not its own, if it came through a retry or redrive topic."""

KNOWN_ENCODINGS = frozenset(
    ("gzip", "zstd", "lz4", "deflate", "br", "snappy", "fernet", "aes-gcm", "aes-256-gcm", "claim-check")
)
"""Names in `content-encoding` that an error may repeat: any other text of a header may be a secret."""

_LENGTH = len(CONTENT_ENCODING)
IDENTITY = "identity"
"""In `content-encoding` (RFC 9110, 8.4.1): no step was done, also if it looks like that."""

_Step = tuple[BytesStep, Callable[[bytes, Incoming], Any], bool]
"""A step, its `decode`, and whether it is required."""
_new: Any = tuple.__new__  # the constructor of a named tuple is a Python function: it takes three times as long


class Unwrapping:
    """Reads messages: undoes the steps of a pipeline, then deserializes."""

    def __init__(
        self, steps: Sequence[BytesStep], serializer: Serializer, deserialize: Decoder, source_of: SourceOf | None
    ) -> None:
        self._steps = [(step, step.decode, step.required) for step in reversed(steps)]
        self._some_optional = not all(step.required for step in steps)
        self._serializer = serializer
        self._deserialize = deserialize
        self._source_of = source_of

    def decode(self, message: Received) -> Any:
        """The value of a message, or a `Later` of it."""
        topic = message.topic if self._source_of is None else self._source_of(message)
        data = message.value
        if data is None or not self._steps:
            same = topic == message.topic
            return self._read(message if same else Incoming(topic, message.key, data, message.headers))
        return self._go_on(self._steps, _new(Incoming, (topic, message.key, data, message.headers)))

    def _go_on(self, steps: Sequence[_Step], incoming: Incoming) -> Any:
        topic, key, value, headers = incoming
        data = value or b""
        said: bytes | None = None  # which steps were done; None: no header tells
        if self._some_optional:
            for name, text in headers:
                if len(name) == _LENGTH and name.lower() == CONTENT_ENCODING:
                    said = text
        for step, decode, required in steps:
            if not required and not (step.recognizes(data) if said is None else step.name.lower() in _names(said)):
                continue
            try:
                done = decode(data, incoming)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | PayloadError):
                    raise
                raise PayloadDecodeError(failed(step, "decode", error), step=step.name) from None
            if done.__class__ is bytes:
                data = done
            elif isinstance(done, Later):
                following = steps[[each for each, *_ in steps].index(step) + 1 :]
                return Later(partial(self._go_on_later, done, step, following, incoming))
            else:
                data = as_bytes(step, "decode", done)
        try:
            made = self._deserialize(_new(Incoming, (topic, key, data, headers)))
        except BaseException as error:
            raise self._explained(error) from None
        return made if made.__class__ is not Later else Later(partial(settled, made, self._serializer))

    async def _go_on_later(
        self,
        later: Later[Any],
        step: BytesStep,
        following: Sequence[_Step],
        incoming: Incoming,
    ) -> Any:
        done = as_bytes(step, "decode", await settled(later, step))
        value = self._go_on(following, incoming._replace(value=done))
        return await value if isinstance(value, Later) else value

    def _read(self, message: Received) -> Any:
        try:
            value = self._deserialize(message)
        except BaseException as error:
            raise self._explained(error) from None
        return value if value.__class__ is not Later else Later(partial(settled, value, self._serializer))

    def _explained(self, error: BaseException) -> BaseException:
        """Our own errors, and Ctrl-C, as they are; of others type and place."""
        if isinstance(error, KeyboardInterrupt | PayloadError):
            return error
        return PayloadDecodeError(failed(self._serializer, "decode", error), step=self._serializer.name)


async def settled(later: Later[Any], step: Serializer | BytesStep) -> Any:
    """What is waited for. Errors that are none of ours become `PayloadDecodeError`, without their text."""
    try:
        return await later
    except Exception as error:
        if isinstance(error, PayloadError):
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
    """What an error of a step says: its type, and where it was raised; never its text, which may show the payload."""
    return f"step {step.name} could not {doing} the payload: {located(error)}"


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


@lru_cache(64)
def _names(encodings: bytes) -> frozenset[str]:
    """The names in a header `content-encoding`, in lower case."""
    return frozenset(each.lower() for each in listed(encodings))


def listed(encodings: bytes) -> list[str]:
    """The names in a header `content-encoding`."""
    return [name for each in encodings.decode("ascii", "replace").split(",") if (name := each.strip())]


def hint(headers: Headers, steps: Sequence[BytesStep]) -> str:
    """For the end of a decode error: which encodings the message names that its reader does not undo."""
    value = header(Incoming("", None, None, headers), CONTENT_ENCODING)
    if value is None:
        return ""
    missing = sorted(_names(value) & KNOWN_ENCODINGS - {step.name.lower() for step in steps})
    if not missing:
        return ""
    return f"; its header {CONTENT_ENCODING} names {' and '.join(missing)}, which the payload pipeline does not have"

"""Where a message says the id of its schema: in front of the bytes, or in a header.

Both forms are Confluent's (`SchemaId` and the schema id serializers in `confluent_kafka.schema_registry`):

    prefix   0x00 and the id as four bytes, big endian; then, for Protobuf, the message index; then the data
    header   `__value_schema_id` or `__key_schema_id` holds 0x01 and the 16 bytes of the GUID, and behind them, for
             Protobuf, the message index; the payload is the bare data

Other clients may put either into either place, so all four are read. A header counts more than the first bytes.
"""

from __future__ import annotations

from functools import lru_cache, partial
from struct import Struct
from typing import Literal, NamedTuple
from uuid import UUID

from ..exceptions import ConfigurationError, PayloadDecodeError
from ..payload.steps import Outgoing, Part, Received, header
from .registered import RegisteredSchema, SchemaId, SchemaSource

Framing = Literal["prefix", "header"]

HEADERS: dict[Part, str] = {"value": "__value_schema_id", "key": "__key_schema_id"}
NUMBER, GUID = 0, 1
"""The first byte: a number of four bytes follows, or a GUID of 16."""
_NUMBER_END, _GUID_END = 5, 17


class Framed(NamedTuple):
    """A message's payload, and which schema it has."""

    schema_id: SchemaId
    data: bytes
    """What stands behind the id, or the whole payload if the id is in a header."""
    message_index: bytes | None
    """What stands behind the id in the header: Protobuf's message index. None: it is at the beginning of `data`."""


def read_frame(message: Received, part: Part, step: str) -> Framed:
    """Takes the schema id off a payload that is not null.

    Raises:
        PayloadDecodeError: there is no id, or not a whole one. `step` is named in the text.
    """
    data = message.value or b""
    name = HEADERS[part]
    in_header = None
    for known, value in message.headers:  # of several the last counts, as for Confluent's Java client
        if known == name:
            in_header = value
    if in_header is None:
        if data[:1] == b"\0" and len(data) >= _NUMBER_END:  # what nearly all messages have
            return _framed((_unpacked(data)[0], data[_NUMBER_END:], None))
        schema_id, end = _id_of(data)
        if schema_id is None:
            raise _no_id(step, part, data)
        return Framed(schema_id, data[end:], None)
    schema_id, end = _id_of(in_header)
    if schema_id is None:
        raise PayloadDecodeError(f"step {step}: the header {name} holds no schema id", step=step)
    return Framed(schema_id, data, in_header[end:])


_unpacked = Struct(">xI").unpack_from
_framed = partial(tuple.__new__, Framed)  # half the time of calling the class


def has_frame(message: Received, part: Part = "value") -> bool:
    """Whether a message probably has a schema id: by its header, or its first byte."""
    if header(message, HEADERS[part]) is not None:
        return True
    return _id_of(message.value or b"")[0] is not None


async def schema_of(source: SchemaSource, schema_id: SchemaId, step: str) -> RegisteredSchema:
    """The schema that a message names. Raises as `SchemaSource.by_id` does, and names `step` in what is its fault."""
    try:
        return await source.by_id(schema_id)
    except PayloadDecodeError as error:
        text = f"step {step}: {error}"
    raise PayloadDecodeError(text, step=step)


def _id_of(data: bytes) -> tuple[SchemaId | None, int]:
    if len(data) >= _NUMBER_END and data[0] == NUMBER:
        return int.from_bytes(data[1:_NUMBER_END], "big"), _NUMBER_END
    if len(data) >= _GUID_END and data[0] == GUID:
        return _guid(data[1:_GUID_END]), _GUID_END
    return None, 0


@lru_cache(1_000)
def _guid(data: bytes) -> UUID:
    return UUID(bytes=data)


def _no_id(step: str, part: Part, data: bytes) -> PayloadDecodeError:
    what = "payload" if part == "value" else "key"
    text = f"step {step}: the {what} has no schema id: no header {HEADERS[part]}, and "
    if data[:1] in (b"\0", b"\1"):
        text += f"only {len(data)} bytes"
    else:
        text += "it does not begin with the byte 0x00"
    return PayloadDecodeError(text, step=step)


class Frame:
    """Puts the id of one schema to the payloads of one part of messages.

    Args:
        framing: where it stands.
        schema: whose id it is.
        part: the value or the key.
        index: Protobuf's message index, as it stands behind the id.

    Raises:
        ConfigurationError: the registry gave no id of the kind that this framing needs.
    """

    __slots__ = ("_beginning", "_header", "_header_value")

    def __init__(self, framing: Framing, schema: RegisteredSchema, part: Part = "value", index: bytes = b"") -> None:
        self._header = HEADERS[part]
        self._beginning, self._header_value = b"", b""
        if framing == "prefix":
            if schema.id is None:
                raise ConfigurationError("the schema registry numbers no schemas: use framing='header'")
            self._beginning = bytes([NUMBER]) + schema.id.to_bytes(4, "big") + index
        else:
            if schema.guid is None:
                raise ConfigurationError(
                    "the schema registry gives no GUIDs, as Confluent's does since version 8.0: use framing='prefix'"
                )
            self._header_value = bytes([GUID]) + schema.guid.bytes + index

    def put(self, data: bytes, outgoing: Outgoing) -> bytes:
        """The payload with the id, which is added to the headers if it belongs there.

        The header of a message that is published again says the schema of the one before: it is replaced.
        """
        if outgoing.headers:
            outgoing.headers = tuple(each for each in outgoing.headers if each[0] != self._header)
        if not self._header_value:
            return self._beginning + data
        outgoing.headers = (*outgoing.headers, (self._header, self._header_value))
        return data

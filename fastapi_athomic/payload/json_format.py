"""JSON, and `str` and `bytes` as they are: what is used where nothing else is said."""

from __future__ import annotations

from typing import Any

from .deserialization import deserializer
from .serialization import serialize
from .steps import Decoder, Outgoing, Part, Received, Serializer, media_type


class Json(Serializer):
    """JSON (RFC 8259) by pydantic, for anything that can be read back as the same value (see docs/fidelity.md).

    `bytes` and `str` (in UTF-8) are written as they are. The handler's type decides what is read: `bytes` and `str` as
    they came, anything else validated by pydantic straight from the JSON bytes.
    """

    name = "json"
    content_type = "application/json"

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | None:
        return None if message is None else serialize(message)

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        return deserializer(target_type)

    def recognizes(self, message: Received) -> bool:
        """By the content type; without one, anything that does not begin with the zero byte of a schema id."""
        kind = media_type(message)
        if kind is not None:
            return kind == self.content_type or kind.endswith("+json") or kind.startswith("text/")
        return not (message.value or b"").startswith(b"\0")

"""JSON, and `str` and `bytes` as they are: what is used where nothing else is said."""

from __future__ import annotations

from typing import Any

from .deserialization import deserializer
from .off_loop import threads
from .serialization import serialize
from .slices import THREAD_ABOVE, checked_limit
from .steps import Decoder, Outgoing, Part, Received, Serializer, media_type


class Json(Serializer):
    """JSON (RFC 8259) by pydantic, for anything that can be read back as the same value (see docs/fidelity.md).

    `bytes` and `str` (in UTF-8) are written as they are. The handler's type decides what is read: `bytes` and `str` as
    they came, anything else validated by pydantic straight from the JSON bytes.

    Args:
        thread_above: larger payloads (in bytes) are validated in a thread, which lets the event loop go on between the
            items of lists; validators of models run there, too. None: all are validated in the event loop.

    Raises:
        ConfigurationError: `thread_above` is not what it must be.
    """

    name = "json"
    content_type = "application/json"

    def __init__(self, *, thread_above: int | None = THREAD_ABOVE) -> None:
        self.thread_above = thread_above
        self._limit = checked_limit(self)
        self.waits = thread_above is not None

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | None:
        return None if message is None else serialize(message)

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        return deserializer(target_type, self._limit)

    async def open(self) -> None:
        if self.waits:
            threads.open()

    async def close(self) -> None:
        if self.waits:
            threads.close()

    def recognizes(self, message: Received) -> bool:
        """By the content type; without one, anything that does not begin with the zero byte of a schema id.

        Not if it says that it is a CloudEvent: whose data is JSON, perhaps, but not all of it.
        """
        kind = media_type(message)
        if (kind or "").startswith("application/cloudevents") or any(
            name.lower() == "ce_specversion" and value is not None for name, value in message.headers
        ):
            return False
        if kind is not None:
            return kind == self.content_type or kind.endswith("+json") or kind.startswith("text/")
        return not (message.value or b"").startswith(b"\0")

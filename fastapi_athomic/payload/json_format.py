"""JSON, and `str` and `bytes` as they are: what is used where nothing else is said."""

from __future__ import annotations

from typing import Any

from .deserialization import deserializer, deserializer_in_slices
from .off_loop import threads
from .serialization import serialize
from .slices import bytes_or_none, in_thread_above
from .steps import Decoder, Outgoing, Part, Received, Serializer, media_type


class Json(Serializer):
    """JSON (RFC 8259) by pydantic, for anything that can be read back as the same value (see docs/fidelity.md).

    `bytes` and `str` (in UTF-8) are written as they are. The handler's type decides what is read: `bytes` and `str` as
    they came, anything else validated by pydantic straight from the JSON bytes.

    Args:
        thread_above: larger payloads (in bytes) are validated in a thread, which lets the event loop go on between the
            items of lists; validators of models run there, too. None: all are validated in the event loop.
    """

    name = "json"
    content_type = "application/json"

    def __init__(self, *, thread_above: int | None = None) -> None:
        self._thread_above = bytes_or_none(thread_above)
        self.waits = thread_above is not None

    def encode(self, message: Any, outgoing: Outgoing) -> bytes | None:
        return None if message is None else serialize(message)

    def decoder(self, target_type: Any, part: Part = "value") -> Decoder:
        at_once = deserializer(target_type)
        in_slices = None if self._thread_above is None else deserializer_in_slices(target_type)
        if self._thread_above is None or in_slices is None:
            return at_once
        return in_thread_above(self._thread_above, at_once, in_slices)

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

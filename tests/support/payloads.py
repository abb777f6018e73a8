"""Messages for tests of payloads."""

from __future__ import annotations

from fastapi_athomic.messages import Headers, RawMessage
from fastapi_athomic.payload.steps import Outgoing


def message(value: bytes | None, *, topic: str = "t", key: bytes | None = None, headers: Headers = ()) -> RawMessage:
    """A message as a pipeline reads it."""
    return RawMessage(topic, 0, 0, 0, key, value, headers)


def arrived(value: bytes | None, outgoing: Outgoing) -> RawMessage:
    """The message that a consumer gets of one that was written."""
    return message(value, topic=outgoing.topic, key=outgoing.key, headers=outgoing.headers)

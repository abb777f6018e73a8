"""Messages for tests of payloads."""

from __future__ import annotations

from typing import Any

from fastapi_athomic.messages import Headers, RawMessage
from fastapi_athomic.payload.steps import Later, Outgoing


def message(value: bytes | None, *, topic: str = "t", key: bytes | None = None, headers: Headers = ()) -> RawMessage:
    """A message as a pipeline reads it."""
    return RawMessage(topic, 0, 0, 0, key, value, headers)


def arrived(value: bytes | None, outgoing: Outgoing) -> RawMessage:
    """The message that a consumer gets of one that was written."""
    return message(value, topic=outgoing.topic, key=outgoing.key, headers=outgoing.headers)


async def settled(value: Any) -> Any:
    """What a serializer or decoder gives, waited for if it must be."""
    return await value if isinstance(value, Later) else value

"""Messages as they travel between broker and handler: plain values, independent of any client library."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import NamedTuple

REDRIVES = "athomic-redrives"
"""Header of a message that was redriven: how often."""

FAILURE_TRACE = "athomic-failure-traceparent"
"""Header of a dead letter: the span in which the message failed, as a W3C `traceparent`."""

Headers = tuple[tuple[str, bytes | None], ...]
"""Header names and values in the order of the message. Names may repeat, values may be null."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class RawMessage(NamedTuple):
    """A message as it came from the broker, not yet decoded."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # milliseconds since the epoch, as the broker or the producer stamped it
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition it came from."""
        return TopicPartition(self.topic, self.partition)

    def __repr__(self) -> str:  # without payload, key and header values, because messages end up in logs
        return f"<RawMessage {self.topic}[{self.partition}]@{self.offset}>"


class OutgoingMessage(NamedTuple):
    """An encoded message on its way to the broker."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None  # None: chosen by the key, as Kafka's default partitioner does
    timestamp: int | None = None  # milliseconds since the epoch; None: now

    def __repr__(self) -> str:
        return f"<OutgoingMessage {self.topic}>"


class PublishedMessage(NamedTuple):
    """Where the broker put a message."""

    topic: str
    partition: int
    offset: int


class Origin(NamedTuple):
    """Where a message was first published, and how often it has failed since."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # milliseconds since the epoch
    attempts: int = 0  # made before it came back through a retry topic or a redrive
    first_failed_at: float = 0.0  # seconds since the epoch; 0: not failed yet


class MessageHeaders(Mapping[str, bytes | None]):
    """The headers of a message as a read-only mapping. If a name repeats, its last value counts."""

    __slots__ = ("_values", "raw")

    def __init__(self, raw: Headers = ()) -> None:
        self.raw = raw
        self._values: dict[str, bytes | None] = dict(raw)

    def __getitem__(self, name: str) -> bytes | None:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def getall(self, name: str) -> list[bytes | None]:
        """Every value of a name that may repeat."""
        return [value for key, value in self.raw if key == name]

    def text(self, name: str) -> str | None:
        """The value as text; None if the header is absent, null or not UTF-8."""
        value = self._values.get(name)
        try:
            return value.decode() if value is not None else None
        except UnicodeDecodeError:
            return None

    def __repr__(self) -> str:  # names only: values may be secret
        return f"<MessageHeaders {', '.join(self._values)}>"


def key_text(key: bytes) -> str:
    """A key for people: as text if it is UTF-8 that can be printed, else in base64."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = ""
    return text if text.isprintable() and text else f"base64:{b64encode(key).decode()}"


class DeliveryAttempt(NamedTuple):
    """Which attempt to handle the message this is, for handlers that ask for it."""

    number: int  # 1 for the first
    maximum: int  # after this many the message is dead-lettered; 0: no limit

    @property
    def is_last(self) -> bool:
        """Whether the message is dead-lettered if this attempt fails."""
        return self.number == self.maximum

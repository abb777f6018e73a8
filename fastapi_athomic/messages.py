"""Messages as they travel: plain values that know no client library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

REDRIVES = "athomic-redrives"
"""Header of a dead letter that was sent back: how often."""

FAILURE_TRACE = "athomic-failure-traceparent"
"""Header of a dead letter: the span in which it failed, as W3C `traceparent`."""

Headers = tuple[tuple[str, bytes | None], ...]
"""Header names and values in the order they stand in the message; names may repeat, values may be null."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class RawMessage(NamedTuple):
    """A message as it came from the broker, before anything was decoded."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # milliseconds since the epoch, as the broker or the producer stamped it
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def topic_partition(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)

    def __repr__(self) -> str:  # never the payload, the key or a header value: messages end up in logs
        return f"<RawMessage {self.topic}[{self.partition}]@{self.offset}>"


class OutgoingMessage(NamedTuple):
    """A message on its way to the broker, already encoded."""

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
    """Where a message stood first, and what it has been through since."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # milliseconds since the epoch
    attempts: int = 0  # before it came back
    first_failed_at: float = 0.0  # seconds since the epoch; 0: it has not failed


class MessageHeaders(Mapping[str, bytes | None]):
    """The headers of a message as a read-only mapping; of a repeated name the last value counts.

    `getall(name)` gives every value; `text(name)` decodes one, and gives None where the header is absent, null or not
    UTF-8.
    """

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
        return [value for key, value in self.raw if key == name]

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        try:
            return value.decode() if value is not None else None
        except UnicodeDecodeError:
            return None

    def __repr__(self) -> str:  # names only: values may be secret
        return f"<MessageHeaders {', '.join(self._values)}>"


class DeliveryAttempt(NamedTuple):
    """Which delivery of the message this is, for handlers that ask."""

    number: int  # 1 for the first
    maximum: int  # after this many the message is dead-lettered; 0: no limit

    @property
    def is_last(self) -> bool:
        return self.number == self.maximum

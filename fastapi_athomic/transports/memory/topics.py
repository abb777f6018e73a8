"""Topics: the messages of each partition, and the size that a message counts with."""

from __future__ import annotations

from time import time
from typing import Protocol
from zlib import compress

from ...messages import OutgoingMessage, PublishedMessage, RawMessage, TopicPartition

RECORD_OVERHEAD = 70
"""Bytes that a message counts besides its key, value and headers, as in a Kafka batch of one message."""


class Watcher(Protocol):
    """Is told about new messages of a log. `Member` is one."""

    def arrived(self) -> None:
        """The log has new messages. Called under the broker's lock, from any thread."""


class Log:
    """The messages of one partition in offset order. The oldest may have been dropped.

    `Group` adds and removes the `watchers`; everything else changes by the methods.
    """

    def __init__(self) -> None:
        self.first = 0  # the offset of the oldest message that is kept
        self.messages: list[RawMessage] = []
        self.watchers: dict[Watcher, None] = {}  # the members that own the partition

    @property
    def end(self) -> int:
        """The offset that the next message gets."""
        return self.first + len(self.messages)

    def append(self, message: OutgoingMessage, partition: int, retention: int) -> PublishedMessage:
        """Appends the message as one of this partition; keeps at most `retention` messages."""
        offset = self.end
        timestamp = int(time() * 1000) if message.timestamp is None else message.timestamp
        self.messages.append(
            RawMessage(message.topic, partition, offset, timestamp, message.key, message.value, message.headers)
        )
        if len(self.messages) > retention:
            dropped = max(1, min(1_000, retention // 10))  # many at once: dropping moves all that are kept
            del self.messages[:dropped]
            self.first += dropped
        return PublishedMessage(message.topic, partition, offset)

    def read(self, offset: int, limit: int) -> list[RawMessage]:
        """At most `limit` messages from `offset` on. Empty if it is not in the log."""
        start = offset - self.first
        return self.messages[start : start + limit] if start >= 0 else []

    def drop_before(self, offset: int) -> None:
        """Drops the messages with a lower offset."""
        dropped = min(offset, self.end) - self.first
        if dropped > 0:
            del self.messages[:dropped]
            self.first += dropped


class Topics(dict[str, list[Log]]):
    """The logs of each topic's partitions, by the topic's name."""

    def log(self, partition: TopicPartition) -> Log | None:
        """The partition's log; None if there is no such partition."""
        logs = self.get(partition.topic, ())
        return logs[partition.partition] if partition.partition < len(logs) else None


def size_of(message: OutgoingMessage) -> int:
    """The bytes that the message counts, uncompressed."""
    headers = sum(len(name) + len(value or b"") for name, value in message.headers)
    return RECORD_OVERHEAD + len(message.key or b"") + len(message.value or b"") + headers


def compressed_size_of(message: OutgoingMessage) -> int:
    """The bytes that the message counts in a compressed batch of its own; no more than uncompressed."""
    parts = [message.key or b"", message.value or b""]
    for name, value in message.headers:
        parts += name.encode("utf-8", "surrogatepass"), value or b""
    return min(RECORD_OVERHEAD + len(compress(b"".join(parts))), size_of(message))

"""Topics: the messages of each partition, and how large they are."""

from __future__ import annotations

from time import time
from typing import Protocol
from zlib import compress

from ...messages import OutgoingMessage, PublishedMessage, RawMessage, TopicPartition

RECORD_OVERHEAD = 70
"""Bytes a message takes beside its key, value and headers: what Kafka counts for a batch of one."""


class Watcher(Protocol):
    """Wants to know of new messages."""

    def arrived(self) -> None: ...


class Log:
    """One partition: messages in offset order, the oldest of which may have been dropped."""

    def __init__(self) -> None:
        self.first = 0  # offset of the oldest message that is kept
        self.messages: list[RawMessage] = []
        self.watchers: dict[Watcher, None] = {}  # members that own it

    @property
    def end(self) -> int:
        return self.first + len(self.messages)

    def append(self, message: OutgoingMessage, partition: int, retention: int) -> PublishedMessage:
        offset = self.end
        timestamp = int(time() * 1000) if message.timestamp is None else message.timestamp
        self.messages.append(
            RawMessage(message.topic, partition, offset, timestamp, message.key, message.value, message.headers)
        )
        if len(self.messages) > retention:
            dropped = max(1, min(1_000, retention // 10))  # in chunks: dropping moves all that is kept
            del self.messages[:dropped]
            self.first += dropped
        return PublishedMessage(message.topic, partition, offset)

    def read(self, offset: int, limit: int) -> list[RawMessage]:
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
        logs = self.get(partition.topic, ())
        return logs[partition.partition] if partition.partition < len(logs) else None


def size_of(message: OutgoingMessage) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in message.headers)
    return RECORD_OVERHEAD + len(message.key or b"") + len(message.value or b"") + headers


def compressed_size_of(message: OutgoingMessage) -> int:
    """In a batch of its own, where compressing helps."""
    parts = [message.key or b"", message.value or b""]
    for name, value in message.headers:
        parts += name.encode("utf-8", "surrogatepass"), value or b""
    return min(RECORD_OVERHEAD + len(compress(b"".join(parts))), size_of(message))

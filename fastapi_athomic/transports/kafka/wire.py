"""Requests of our own as bytes. aiokafka makes objects of each field, of a request and of its answer.

Schemas: https://kafka.apache.org/protocol.html#protocol_messages
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from struct import Struct
from typing import Any, ClassVar, TypeVar

from ...messages import TopicPartition

T = TypeVar("T")

COUNT, LENGTH = Struct(">i"), Struct(">h")
_HEADER = Struct(">ihhi")  # bytes that follow, key and version of the request, correlation id


class Question:
    """A request, which `connection.Connection` sends. Takes the place of one of aiokafka's."""

    API_KEY: ClassVar[int]
    API_VERSION: ClassVar[int]

    def fits(self, versions: Mapping[int, tuple[int, int]]) -> bool:
        """Whether the broker knows this version. `versions`: the oldest and the newest that it knows, of each key."""
        oldest, newest = versions.get(self.API_KEY, (0, 0))
        return oldest <= self.API_VERSION <= newest

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Any:
        """The request in a version that the broker knows."""
        return self

    def message(self, number: int, client: bytes) -> bytes:
        """What is sent. `number`: the correlation id. `client`: the client's id, as `text` writes it."""
        body = self.body()
        size = _HEADER.size - COUNT.size + len(client) + len(body)
        return _HEADER.pack(size, self.API_KEY, self.API_VERSION, number) + client + body

    def body(self) -> bytes:
        """What is behind the header."""
        raise NotImplementedError

    @staticmethod
    def answer_in(data: bytes, start: int) -> Any:
        """The answer, out of the bytes from there on, behind the header of the response."""
        raise NotImplementedError


@lru_cache(1000)
def text(value: str) -> bytes:
    """As Kafka writes it. Most are names that come again and again."""
    data = value.encode()
    return LENGTH.pack(len(data)) + data


def by_topic(places: Iterable[tuple[TopicPartition, T]]) -> list[tuple[str, list[tuple[int, T]]]]:
    """What there is of each partition, as Kafka groups it."""
    topics: dict[str, list[tuple[int, T]]] = {}
    for (topic, number), what in places:
        topics.setdefault(topic, []).append((number, what))
    return list(topics.items())

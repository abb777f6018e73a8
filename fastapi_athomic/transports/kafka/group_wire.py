"""Commits and heartbeats as bytes: the requests of a group's member that are sent most."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

from ...messages import TopicPartition
from ..base import CommittedOffset
from .wire import COUNT, LENGTH, Question, by_topic, text

_RETENTION = Struct(">q")
BROKERS_RETENTION = -1
_OFFSET = Struct(">iqh")  # partition, offset, length of the note
_CODE = Struct(">ih")  # partition, or how long the answer was throttled; error code


class Member(NamedTuple):
    """The identity that a request is sent with."""

    group: str
    generation: int
    id: str

    def encode(self) -> bytes:
        return text(self.group) + COUNT.pack(self.generation) + text(self.id)


class CommitQuestion(Question):
    """Commits offsets. The answer: whether the broker has accepted all of them."""

    API_KEY, API_VERSION = 8, 3

    def __init__(self, member: Member, *, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        self._member, self._offsets = member, offsets

    def body(self) -> bytes:
        topics = by_topic(self._offsets.items())
        body = [self._member.encode(), _RETENTION.pack(BROKERS_RETENTION), COUNT.pack(len(topics))]
        for topic, partitions in topics:
            body += (text(topic), COUNT.pack(len(partitions)))
            for number, (offset, metadata) in partitions:
                note = metadata.encode()  # each of another text, so not by `text`, which remembers them
                body += (_OFFSET.pack(number, offset, len(note)), note)
        return b"".join(body)

    @staticmethod
    def answer_in(data: bytes, start: int) -> bool:
        (topics,) = COUNT.unpack_from(data, start + COUNT.size)  # the time of throttling is before it
        at = start + 2 * COUNT.size
        for _ in range(topics):
            (length,) = LENGTH.unpack_from(data, at)
            at += LENGTH.size + length
            (partitions,) = COUNT.unpack_from(data, at)
            at += COUNT.size
            end = at + partitions * _CODE.size
            if any(code for _, code in _CODE.iter_unpack(data[at:end])):
                return False
            at = end
        return True


class HeartbeatQuestion(Question):
    """Says that a member is there. The answer: whether the broker has nothing to say to that."""

    API_KEY, API_VERSION = 12, 1

    def __init__(self, member: Member) -> None:
        self._member = member

    def body(self) -> bytes:
        return self._member.encode()

    @staticmethod
    def answer_in(data: bytes, start: int) -> bool:
        _, code = _CODE.unpack_from(data, start)
        return not code

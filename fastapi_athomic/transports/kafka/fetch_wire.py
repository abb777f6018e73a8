"""Fetch requests and their answers as bytes, and incremental fetch sessions (KIP-227).

With a session the broker remembers which partitions a connection fetches, and from where: a request names only what
has changed, an answer only what is new. That makes a long poll for many partitions cheap. aiokafka knows the
request, but no sessions, and makes objects of each partition in each answer.

Schemas: https://kafka.apache.org/protocol.html#The_Messages_Fetch
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from struct import Struct
from typing import Any, NamedTuple

from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.protocol.fetch import FetchRequest

from ...messages import TopicPartition
from .wire import COUNT, LENGTH, Question, by_topic, text

VERSION = 11
"""The newest version of the request that names topics by their names, without tags. Kafka 2.3 and newer have it."""
CONSUMER = -1  # in place of the id of a replica
ANY_EPOCH, ANY_START = -1, -1
NO_SESSION, FIRST_EPOCH, WITHOUT_SESSION = 0, 0, -1
LAST_EPOCH = 2**31 - 1

NO_RACK = text("")

_new = tuple.__new__

# replica, wait, least and most bytes, isolation level, id and epoch of the session, number of topics
_HEAD = Struct(">iiiibiii")
_ASKED = Struct(">iiqqi")  # partition, leader's epoch, offset, start of the log, most bytes
_ANSWER = Struct(">ihii")  # throttle time, error code, id of the session, number of topics
_PART = Struct(">ihqqqi")  # partition, error code, high watermark, last stable offset, start of the log, aborted ones
_ABORTED = Struct(">qq")  # producer id, first offset
_REST = Struct(">ii")  # preferred replica, bytes of batches


class Part(NamedTuple):
    """What an answer says of one partition."""

    place: TopicPartition
    code: int  # of an error; 0: there is none
    highwater: int
    last_stable: int  # -1: unknown
    aborted: list[tuple[int, int]]  # transactions: id of the producer, first offset
    data: bytes  # record batches


class Answer(NamedTuple):
    """The answer to a fetch request."""

    code: int  # of an error that concerns the session, or everything; 0: there is none
    session: int  # its id; 0: the broker keeps none
    parts: list[Part]
    throttled: float = 0.0  # a quota is used up: there may be more than it holds, and the next one is late, in seconds

    @classmethod
    def read(cls, data: bytes, start: int) -> Answer:
        """From the bytes after the header of a response, which begin there."""
        throttle_time, code, session, topics = _ANSWER.unpack_from(data, start)
        at = start + _ANSWER.size
        parts: list[Part] = []
        for _ in range(topics):
            (length,) = LENGTH.unpack_from(data, at)
            at += LENGTH.size
            topic = data[at : at + length].decode()
            (count,) = COUNT.unpack_from(data, at + length)
            at += length + COUNT.size
            for _ in range(count):
                number, error, highwater, last_stable, _, transactions = _PART.unpack_from(data, at)
                at += _PART.size
                aborted = []
                if transactions > 0:
                    end = at + transactions * _ABORTED.size
                    aborted = list(_ABORTED.iter_unpack(data[at:end]))
                    at = end
                _, size = _REST.unpack_from(data, at)
                at += _REST.size
                end = at + size if size > 0 else at
                place = _new(TopicPartition, (topic, number))
                parts.append(_new(Part, (place, error, highwater, last_stable, aborted, data[at:end])))
                at = end
        return cls(code, session, parts, throttle_time / 1000)


def answer_of(response: Any) -> Answer:
    """What a broker answered that knows only older versions of the request."""
    if isinstance(response, Answer):
        return response
    parts = []
    for topic, partitions in response.topics:
        for number, code, highwater, *more in partitions:
            last_stable, aborted = (more[0], more[-2] or []) if len(more) > 1 else (-1, [])
            data = bytes(more[-1] or b"")
            parts.append(Part(TopicPartition(topic, number), code, highwater, last_stable, aborted, data))
    throttled = getattr(response, "throttle_time_ms", 0) / 1000
    return Answer(getattr(response, "error_code", 0), NO_SESSION, parts, throttled=throttled)


class Limits(NamedTuple):
    """Of what a broker answers."""

    most_bytes: int
    most_bytes_of_partition: int


class FetchQuestion(Question):
    """A fetch request.

    Args:
        wait: milliseconds for which the broker may wait for the first message.
        asked: from which offset each partition is fetched; with a session, those that are new or have moved.
        forgotten: partitions that leave the session.
    """

    API_KEY, API_VERSION = 1, VERSION
    answer_in = staticmethod(Answer.read)

    def __init__(
        self,
        wait: int,
        limits: Limits,
        asked: Mapping[TopicPartition, int],
        session: int = NO_SESSION,
        epoch: int = WITHOUT_SESSION,
        forgotten: Collection[TopicPartition] = (),
    ) -> None:
        self.wait, self._limits = wait, limits
        self._asked, self._forgotten = asked, forgotten
        self._session, self._epoch = session, epoch

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Any:
        if self.fits(versions):
            return self
        most = self._limits.most_bytes_of_partition
        asked = by_topic(self._asked.items())
        topics = [(topic, [(number, offset, most) for number, offset in places]) for topic, places in asked]
        request = FetchRequest(self.wait, 1, self._limits.most_bytes, READ_COMMITTED, topics)
        return request.prepare(versions)

    def body(self) -> bytes:
        most, least = self._limits.most_bytes_of_partition, 1
        topics = by_topic(self._asked.items())
        limits = (CONSUMER, self.wait, least, self._limits.most_bytes, READ_COMMITTED)
        body = [_HEAD.pack(*limits, self._session, self._epoch, len(topics))]
        for topic, partitions in topics:
            body += (text(topic), COUNT.pack(len(partitions)))
            body += [_ASKED.pack(number, ANY_EPOCH, offset, ANY_START, most) for number, offset in partitions]
        left = by_topic((place, None) for place in self._forgotten) if self._forgotten else ()
        body.append(COUNT.pack(len(left)))
        for topic, numbers in left:
            body += (text(topic), COUNT.pack(len(numbers)), *(COUNT.pack(number) for number, _ in numbers))
        body.append(NO_RACK)
        return b"".join(body)

    def __repr__(self) -> str:
        return f"fetch of {len(self._asked)} partitions, session {self._session}, epoch {self._epoch}"


class FetchSession:
    """What the broker knows of one session, and what it has to be told.

    `note(place, offset)` says what is wanted: the offset from which a partition is fetched; None: it is not fetched.
    `ends` are where partitions of the session end (high watermark, last stable offset): the broker tells that again
    only if it has changed, also if a partition is fetched from another offset.
    """

    def __init__(self) -> None:
        self._id, self._epoch = NO_SESSION, FIRST_EPOCH
        self._known: dict[TopicPartition, int] = {}
        self._wanted: dict[TopicPartition, int] = {}
        self._changed: set[TopicPartition] = set()
        self.ends: dict[TopicPartition, tuple[int, int]] = {}

    def note(self, place: TopicPartition, offset: int | None) -> None:
        """From now on fetch this partition from there, or not at all."""
        if offset is None:
            self._wanted.pop(place, None)
        else:
            self._wanted[place] = offset
        self._changed.add(place)

    def question(self, wait: int, limits: Limits) -> FetchQuestion:
        """The next request. After it `answered` or `reset` has to be called, before the next one."""
        wanted, known = self._wanted, self._known
        if self._epoch == FIRST_EPOCH:
            self._changed.clear()
            self.ends.clear()
            self._known = dict(wanted)
            return FetchQuestion(wait, limits, self._known, self._id, FIRST_EPOCH)
        asked = {}
        forgotten = []
        for place in self._changed:
            offset = wanted.get(place)
            if offset is None:
                self.ends.pop(place, None)
                if known.pop(place, None) is not None:
                    forgotten.append(place)
            elif known.get(place) != offset:
                known[place] = asked[place] = offset
        self._changed.clear()
        return FetchQuestion(wait, limits, asked, self._id, self._epoch, forgotten)

    def answered(self, answer: Answer) -> None:
        """The broker has taken the last request. Without a session the next request names everything again."""
        self._id = answer.session
        if self._id == NO_SESSION:
            self.reset()
            return
        for part in answer.parts:
            if not part.code:
                self.ends[part.place] = (part.highwater, part.last_stable)
        self._epoch = self._epoch + 1 if self._epoch < LAST_EPOCH else 1

    def reset(self) -> None:
        """The broker may not know the session any more: the next request begins a new one, and ends this one."""
        self._epoch = FIRST_EPOCH

"""Dead letters for people: look at them, send them back to the group that failed, or discard them with a reason.

What was settled is written behind the dead letters themselves, as a marker in the same partition of the DLQ topic: no
other state is kept, and no group's offsets are touched. A redrive that broke off half way goes on where it was:
before it sends, it looks in the redrive topic for what is there already.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from itertools import pairwise
from time import time
from typing import Any, Concatenate, ParamSpec, TypeVar

from .counters import Counters
from .decorators import Subscription
from .dlq import DLQHandler
from .exceptions import ConfigurationError, TransportError
from .isolation import Home
from .messages import FAILURE_TRACE, REDRIVES, MessageHeaders, OutgoingMessage, RawMessage, TopicPartition
from .redelivery import PREFIX
from .settings import AthomicSettings
from .transports.base import Transport

RESOLUTION, RESOLVED, REASON, RESOLVED_AT = (
    f"{PREFIX}{name}" for name in ("resolution", "resolved-offsets", "resolution-reason", "resolved-at")
)
LETTER_ID = f"{PREFIX}dead-letter"
KEPT = frozenset(
    (FAILURE_TRACE, *(f"{PREFIX}original-{name}" for name in ("topic", "partition", "offset", "timestamp")))
)
"""Headers of ours that a redriven message takes along."""
CHUNK = 100
"""Dead letters that are sent back, and marked as such, at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One message that could not be handled."""

    topic: str  # the DLQ topic, and the place in it
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: MessageHeaders
    original_topic: str | None
    original_partition: int | None
    original_offset: int | None
    error_type: str | None
    error_message: str | None
    error_stage: str | None
    attempts: int
    failed_at: datetime | None
    redrives: int  # how often it was sent back already

    def __repr__(self) -> str:  # neither payload nor key
        return f"<DeadLetter {self.topic}[{self.partition}]@{self.offset} {self.error_type}>"


@dataclass(slots=True, kw_only=True)
class SettlingReport:
    """What a redrive or a discard did, or would do."""

    selected: int = 0
    settled: int = 0
    exhausted: int = 0  # sent back too often already: left alone
    resumed: int = 0  # an earlier redrive that broke off had sent them
    dry_run: bool = False
    topics: dict[str, int] = field(default_factory=dict)  # settled per DLQ topic


Predicate = Callable[[DeadLetter], bool]
Progress = Callable[[int], object]

P = ParamSpec("P")
T = TypeVar("T")


def _at_home(
    method: Callable[Concatenate[DeadLetters, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[DeadLetters, P], Coroutine[Any, Any, T]]:
    """The method, in the event loop that the connection to the broker belongs to."""

    @wraps(method)
    async def call(letters: DeadLetters, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await letters._home.run(lambda: method(letters, *args, **kwargs))

    return call


class DeadLetters:
    """The dead letters of one handler."""

    def __init__(
        self,
        subscription: Subscription,
        dlq_handler: DLQHandler,
        counters: Counters,
        transport: Transport,
        settings: AthomicSettings,
        home: Home,
    ) -> None:
        self._home = home
        self._subscription = subscription
        self._dlq_handler = dlq_handler
        self._counters = counters
        self._transport = transport
        self._settings = settings

    # --- looking

    @_at_home
    async def count(self, *, source: str | None = None) -> int:
        """How many wait for somebody. Reads the DLQ topics from end to end."""
        return sum([1 async for _ in self._open(source)])

    @_at_home
    async def browse(
        self,
        *,
        source: str | None = None,
        partition: int | None = None,
        offset: int = 0,
        since: datetime | None = None,
        limit: int = 50,
    ) -> list[DeadLetter]:
        """Dead letters that wait for somebody, per partition in the order in which they were written.

        Args:
            source: of this topic only.
            offset: from this offset of the DLQ topic on.
            since: that failed at this time or later.
            limit: at most so many.
        """
        found: list[DeadLetter] = []
        async for letter in self._open(source, partition, offset):
            if len(found) >= limit:
                break
            if since is None or (letter.failed_at is not None and letter.failed_at >= since):
                found.append(letter)
        return found

    @_at_home
    async def get(self, partition: int, offset: int, *, source: str | None = None) -> DeadLetter | None:
        """The dead letter at this place of the DLQ topic; None where there is none, or it was settled."""
        async for letter in self._open(source, partition, offset):
            return letter if letter.offset == offset else None
        return None

    # --- settling

    @_at_home
    async def redrive(
        self,
        *,
        source: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        where: Predicate | None = None,
        limit: int | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> SettlingReport:
        """Sends dead letters back to the group that failed, and to nobody else.

        Without `partition` and `offset` all of them; `where` selects, `limit` caps their number, `rate` is messages per
        second. Those that were sent back `max_redrives` times already are left alone.

        Raises:
            TransportError: the broker refused one; what was sent before is marked, a further call goes on.
        """
        report = SettlingReport(dry_run=dry_run)
        for topic, origin in (await self._topics(source)).items():
            target = self._dlq_handler.returns.redrive(origin)
            if not dry_run:
                await self._dlq_handler.redrive_topic(origin)
            sent = await self._sent_back(target)
            async for chunk in self._chunks(topic, partition, offset, where, limit, report):
                await self._send_back(target, chunk, sent, report)
                if progress is not None:
                    progress(len(chunk))
                if rate is not None and not dry_run:
                    await asyncio.sleep(len(chunk) / rate)
        return report

    @_at_home
    async def discard(
        self,
        *,
        reason: str,
        source: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        where: Predicate | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> SettlingReport:
        """Settles dead letters without sending them back. They stay in the topic, with the reason behind them."""
        if not reason.strip():
            raise ConfigurationError("a discard needs a reason: it is kept")
        report = SettlingReport(dry_run=dry_run)
        for topic in await self._topics(source):
            async for chunk in self._chunks(topic, partition, offset, where, limit, report):
                if not dry_run:
                    await self._mark(topic, chunk, "discarded", reason)
                self._settled(report, topic, len(chunk))
                if progress is not None:
                    progress(len(chunk))
        return report

    async def _chunks(
        self,
        topic: str,
        partition: int | None,
        offset: int | None,
        where: Predicate | None,
        limit: int | None,
        report: SettlingReport,
    ) -> AsyncIterator[list[DeadLetter]]:
        """What is selected, of one partition at a time."""
        chunk: list[DeadLetter] = []
        async for letter in self._open_in(topic, partition, offset or 0):
            if limit is not None and report.selected >= limit:
                break
            if (offset is not None and letter.offset != offset) or (where is not None and not where(letter)):
                continue
            if chunk and (chunk[0].partition != letter.partition or len(chunk) >= CHUNK):
                yield chunk
                chunk = []
            report.selected += 1
            chunk.append(letter)
        if chunk:
            yield chunk

    async def _send_back(self, target: str, chunk: list[DeadLetter], sent: set[str], report: SettlingReport) -> None:
        topic = chunk[0].topic
        fresh = [letter for letter in chunk if letter.redrives < self._settings.max_redrives]
        report.exhausted += len(chunk) - len(fresh)
        unsent = [letter for letter in fresh if _id(letter) not in sent]
        report.resumed += len(fresh) - len(unsent)
        if report.dry_run:
            self._settled(report, topic, len(fresh))
            return
        count = (await self._bounds(target)) if unsent else {}
        messages = [_redriven(letter, target, len(count)) for letter in unsent]
        results = await self._transport.producer.send(messages, self._settings.publish_timeout)
        failed = next((result for result in results if isinstance(result, Exception)), None)
        lost = {_id(letter) for letter, result in zip(unsent, results, strict=True) if isinstance(result, Exception)}
        done = [letter for letter in fresh if _id(letter) not in lost]
        if done:
            await self._mark(topic, done, "redriven", "")
            self._counters.redriven += len(done)
            self._settled(report, topic, len(done))
        if failed is not None:
            raise TransportError(f"{len(lost)} dead letters could not be sent to {target}: {failed}") from failed

    async def _mark(self, topic: str, letters: Sequence[DeadLetter], resolution: str, reason: str) -> None:
        now = datetime.fromtimestamp(time(), UTC).isoformat(timespec="milliseconds")
        headers = (
            (RESOLUTION, resolution.encode()),
            (RESOLVED, encode_offsets(letter.offset for letter in letters).encode()),
            (REASON, reason.encode()),
            (RESOLVED_AT, now.encode()),
        )
        marker = OutgoingMessage(topic, None, b"", headers, letters[0].partition)
        (result,) = await self._transport.producer.send([marker], self._settings.publish_timeout)
        if isinstance(result, Exception):
            raise TransportError(f"what was {resolution} could not be noted in {topic}: {result}") from result

    @staticmethod
    def _settled(report: SettlingReport, topic: str, count: int) -> None:
        report.settled += count
        report.topics[topic] = report.topics.get(topic, 0) + count

    # --- reading

    async def _open(
        self, source: str | None, partition: int | None = None, offset: int = 0
    ) -> AsyncIterator[DeadLetter]:
        for topic in await self._topics(source):
            async for letter in self._open_in(topic, partition, offset):
                yield letter

    async def _open_in(self, topic: str, partition: int | None, offset: int) -> AsyncIterator[DeadLetter]:
        """The dead letters that were not settled, as they were when the call began."""
        for number, (first, end) in sorted((await self._bounds(topic)).items()):
            if partition not in (None, number):
                continue
            place = TopicPartition(topic, number)
            settled: set[int] = set()
            async for message in self._read(place, first, end):
                settled.update(_settled_by(message))
            async for message in self._read(place, max(first, offset), end):
                if message.offset not in settled and not _is_marker(message):
                    yield _letter(message)

    async def _read(self, place: TopicPartition, first: int, end: int) -> AsyncIterator[RawMessage]:
        while first < end:
            messages = await self._transport.read(place, first, self._settings.request_timeout)
            if not messages:  # what is left are control records
                return
            for message in messages:
                if message.offset < end:
                    yield message
            first = messages[-1].offset + 1

    async def _sent_back(self, target: str) -> set[str]:
        """The ids of what is in the redrive topic."""
        found: set[str] = set()
        if not await self._transport.partition_counts([target], self._settings.request_timeout):
            return found
        for number, (first, end) in (await self._bounds(target)).items():
            async for message in self._read(TopicPartition(target, number), first, end):
                found.add(MessageHeaders(message.headers).text(LETTER_ID) or "")
        return found

    async def _bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return await self._transport.bounds(topic, self._settings.request_timeout)

    # --- topics

    async def _topics(self, source: str | None) -> dict[str, str]:
        """The DLQ topics that exist, and the topic whose dead letters they hold.

        Raises:
            ConfigurationError: the handler has none, or does not consume `source`.
        """
        sources = self._subscription.topics if source is None else (source,)
        if source is None and self._subscription.pattern is not None:
            raise ConfigurationError(f"{self._subscription.handler_id} follows a pattern: say which topic is meant")
        if source is not None and not self._consumes(source):
            raise ConfigurationError(f"{self._subscription.handler_id} does not consume {source}")
        topics = {topic: name for name in sources if (topic := self._dlq_handler.topic_for(name)) is not None}
        if not topics:
            raise ConfigurationError(f"{self._subscription.handler_id} has no dead letters: its dlq is off")
        known = await self._transport.partition_counts(topics, self._settings.request_timeout)
        return {topic: name for topic, name in topics.items() if topic in known}

    def _consumes(self, source: str) -> bool:
        pattern = self._subscription.pattern
        return pattern.fullmatch(source) is not None if pattern is not None else source in self._subscription.topics


def encode_offsets(offsets: Iterable[int]) -> str:
    """`[1, 2, 3, 7]` as `1-3,7`."""
    ordered = sorted(set(offsets))
    starts = [b for a, b in pairwise([-math.inf, *ordered]) if b != a + 1]
    ends = [a for a, b in pairwise([*ordered, math.inf]) if b != a + 1]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def decode_offsets(text: str) -> set[int]:
    """The reverse; nothing where it makes no sense."""
    found: set[int] = set()
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            found.update(range(int(first), min(int(last or first), int(first) + 10 * CHUNK) + 1))
    except ValueError:
        return set()
    return found


def _is_marker(message: RawMessage) -> bool:
    return any(name == RESOLUTION for name, _ in message.headers)


def _settled_by(message: RawMessage) -> set[int]:
    if not _is_marker(message):
        return set()
    return decode_offsets(MessageHeaders(message.headers).text(RESOLVED) or "")


def _id(letter: DeadLetter) -> str:
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


def _redriven(letter: DeadLetter, target: str, partitions: int) -> OutgoingMessage:
    """The original message, and where it was first."""
    ours = {REDRIVES: b"%d" % (letter.redrives + 1), LETTER_ID: _id(letter).encode()}
    kept = tuple(
        (name, value)
        for name, value in letter.headers.raw
        if name not in ours and (not name.startswith(PREFIX) or name in KEPT)
    )
    partition = letter.original_partition
    place = partition if partition is not None and partition < partitions else None
    return OutgoingMessage(target, letter.key, letter.value, (*kept, *ours.items()), place)


def _letter(message: RawMessage) -> DeadLetter:
    headers = MessageHeaders(message.headers)
    return DeadLetter(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=headers,
        original_topic=headers.text(f"{PREFIX}original-topic"),
        original_partition=_number(headers, f"{PREFIX}original-partition"),
        original_offset=_number(headers, f"{PREFIX}original-offset"),
        error_type=headers.text(f"{PREFIX}error-type"),
        error_message=headers.text(f"{PREFIX}error-message"),
        error_stage=headers.text(f"{PREFIX}error-stage"),
        attempts=_number(headers, f"{PREFIX}attempts") or 0,
        failed_at=_moment(headers.text(f"{PREFIX}failed-at")),
        redrives=_number(headers, REDRIVES) or 0,
    )


def _number(headers: MessageHeaders, name: str) -> int | None:
    text = headers.text(name)
    return int(text) if text is not None and text.isdecimal() else None


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None

"""Dead letters for people: look at them, send them back to the group that failed, or discard them with a reason.

What was settled is written behind the dead letters themselves, as a marker in the same partition of the DLQ topic: no
other state is kept, and no group's offsets are touched. A redrive that broke off half way goes on where it was:
before it sends, it looks in the redrive topic for what is there already. Where that cannot be known (the topic was
purged meanwhile) it sends again.

Several handlers may share a DLQ topic: each sees and settles its own letters, by group and handler id. Letters of a
handler id that no handler of the app has (a deploy has renamed it) are those of the handlers that consume the same
source in the same group.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from time import time
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..decorators import Subscription
from ..exceptions import (
    ConfigurationError,
    MessageRefusedError,
    MessageTooLargeError,
    TopicNotFoundError,
    TransportError,
)
from ..loop.isolation import Home
from ..messages import OutgoingMessage, RawMessage, TopicPartition
from ..observation.counters import Counters
from ..settings import AthomicSettings
from ..transports.base import Transport
from .dlq import DLQHandler
from .letters import DeadLetter, SentBack, is_original, read_letter, redriven
from .markers import Settled, is_marker, marker
from .own_topics import templates_of

CHUNK = 100
"""Dead letters that are sent back, and marked as such, at once."""

GONE = "what was too large for the dead letter is no longer in the source topic"
NOT_FOLLOWED = "the handler does not consume the source topic any more"
TOO_LARGE = "the redrive topic does not take a message so large"
NO_KEY = "the redrive topic is compacted and the message has no key"


@dataclass(slots=True, kw_only=True)
class SettlingReport:
    """What a redrive or a discard did, or would do."""

    selected: int = 0
    settled: int = 0
    exhausted: int = 0  # sent back too often already: left alone
    resumed: int = 0  # an earlier redrive that broke off had sent them
    refused: dict[str, int] = field(default_factory=dict)  # cannot be sent back and wait still: how many, by reason
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
        group: Collection[str],
    ) -> None:
        """`group`: the ids of all handlers of the app that are in the handler's group."""
        self._home = home
        self._group = frozenset(group)
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
        for topic in await self._topics(source):
            async for letter in self._open_in(topic, source, partition, offset):
                if letter.offset == offset:
                    return letter
                break
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
        second. Those that were sent back `max_redrives` times already are left alone, and so are those that can never
        be sent: the report says how many, and why. One person at a time: two would send letters twice.

        Raises:
            TransportError: the broker did not take one in time; what was sent before is marked, a further call goes on.
        """
        report, sent = SettlingReport(dry_run=dry_run), dict[str, SentBack]()
        for topic in await self._topics(source):
            async for chunk in self._chunks(topic, source, partition, offset, where, limit, report):
                for origin in dict.fromkeys(map(self._source_of, chunk)):
                    letters = [letter for letter in chunk if self._source_of(letter) == origin]
                    await self._send_back(origin, letters, sent, report)
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
            async for chunk in self._chunks(topic, source, partition, offset, where, limit, report):
                if not dry_run:
                    await self._mark(topic, chunk, "discarded", reason)
                self._settled(report, topic, len(chunk))
                if progress is not None:
                    progress(len(chunk))
        return report

    async def _chunks(
        self,
        topic: str,
        source: str | None,
        partition: int | None,
        offset: int | None,
        where: Predicate | None,
        limit: int | None,
        report: SettlingReport,
    ) -> AsyncIterator[list[DeadLetter]]:
        """What is selected, of one partition at a time."""
        chunk: list[DeadLetter] = []
        async for letter in self._open_in(topic, source, partition, offset or 0):
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

    async def _send_back(
        self, source: str, chunk: list[DeadLetter], sent: dict[str, SentBack], report: SettlingReport
    ) -> None:
        topic = chunk[0].topic
        if not self._consumes(source):
            _refuse(report, NOT_FOLLOWED, len(chunk))
            return
        target = self._dlq_handler.returns.redrive(source)
        if target not in sent:
            sent[target] = await self._sent_back(target)
        fresh = [letter for letter in chunk if letter.redrives < self._settings.max_redrives]
        report.exhausted += len(chunk) - len(fresh)
        there = [letter for letter in fresh if letter in sent[target]]
        report.resumed += len(there)
        messages = await self._messages(target, source, [letter for letter in fresh if letter not in there], report)
        if report.dry_run:
            self._settled(report, topic, len(there) + len(messages))
            return
        failure = await self._send(messages, there, sent[target], report)
        if there:
            await self._mark(topic, there, "redriven", "")
            self._counters.redriven += len(there)
            self._settled(report, topic, len(there))
        if failure is not None:
            raise TransportError(f"not all dead letters could be sent to {target}: {failure}") from failure

    async def _messages(
        self, target: str, source: str, letters: Sequence[DeadLetter], report: SettlingReport
    ) -> list[tuple[DeadLetter, OutgoingMessage]]:
        """What is to be sent. Letters that have lost a part for good are refused."""
        count = await self._partitions_of(target, source, create=not report.dry_run) if letters else 0
        found: list[tuple[DeadLetter, OutgoingMessage]] = []
        for letter in letters:
            original = await self._original(letter) if letter.omitted else None
            if letter.omitted and original is None:
                _refuse(report, GONE)
                continue
            partition = letter.original_partition
            place = partition if partition is not None and partition < count else None
            found.append((letter, redriven(letter, original, target, place)))
        return found

    async def _send(
        self,
        messages: Sequence[tuple[DeadLetter, OutgoingMessage]],
        there: list[DeadLetter],
        sent: SentBack,
        report: SettlingReport,
    ) -> Exception | None:
        """Adds to `there` and `sent` what the topic has taken. Gives the failure of one that may be tried again."""
        producer, timeout = self._transport.producer, self._settings.publish_timeout
        failure: Exception | None = None
        results = await producer.send([message for _, message in messages], timeout)
        for (letter, message), result in zip(messages, results, strict=True):
            if isinstance(result, MessageTooLargeError):
                result = await producer.send_alone(message, timeout)
            if isinstance(result, MessageTooLargeError):
                _refuse(report, TOO_LARGE)
            elif isinstance(result, MessageRefusedError):
                _refuse(report, NO_KEY)
            elif isinstance(result, Exception):
                failure = failure or result
            else:
                there.append(letter)
                sent.add(letter)  # it may stand in another partition too
        return failure

    async def _mark(self, topic: str, letters: Sequence[DeadLetter], resolution: str, reason: str) -> None:
        message = marker(topic, letters, resolution, reason, time())
        (result,) = await self._transport.producer.send([message], self._settings.publish_timeout)
        if isinstance(result, MessageTooLargeError) and len(letters) > 1:
            middle = len(letters) // 2
            for half in (letters[:middle], letters[middle:]):
                await self._mark(topic, half, resolution, reason)
        elif isinstance(result, Exception):
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
            async for letter in self._open_in(topic, source, partition, offset):
                yield letter

    async def _open_in(
        self, topic: str, source: str | None, partition: int | None, offset: int
    ) -> AsyncIterator[DeadLetter]:
        """The handler's dead letters that were not settled, each once, as they were when the call began."""
        for number, (first, end) in sorted((await self._bounds(topic)).items()):
            if partition not in (None, number):
                continue
            place = TopicPartition(topic, number)
            settled, seen = Settled(), set[str]()
            async for message in self._read(place, first, end):
                settled.note(message)
            async for message in self._read(place, max(first, offset), end):
                if is_marker(message) or not self._is_ours(letter := read_letter(message), source):
                    continue
                if letter not in settled and letter.id not in seen:
                    seen.add(letter.id)
                    yield letter

    async def _read(self, place: TopicPartition, first: int, end: int) -> AsyncIterator[RawMessage]:
        while first < end:
            messages = await self._transport.read(place, first, self._settings.request_timeout)
            if not messages:
                return
            for message in messages:
                if message.offset < end:
                    yield message
            first = messages[-1].offset + 1

    async def _original(self, letter: DeadLetter) -> RawMessage | None:
        """The message that the letter was made of, if it is still in its topic."""
        topic, partition, offset = letter.original_topic, letter.original_partition, letter.original_offset
        if topic is None or partition is None or offset is None:
            return None
        try:
            first, end = (await self._bounds(topic)).get(partition, (0, 0))
        except TopicNotFoundError:
            return None
        if not first <= offset < end:
            return None
        messages = await self._transport.read(TopicPartition(topic, partition), offset, self._settings.request_timeout)
        return messages[0] if messages and is_original(messages[0], letter) else None

    async def _sent_back(self, target: str) -> SentBack:
        found = SentBack()
        with suppress(TopicNotFoundError):
            for number, (first, end) in (await self._bounds(target)).items():
                async for message in self._read(TopicPartition(target, number), first, end):
                    found.note(message)
        return found

    async def _partitions_of(self, target: str, source: str, *, create: bool) -> int:
        """How many a redrive topic has; it is made where it is missing."""
        try:
            return len(await self._bounds(target))
        except TopicNotFoundError:
            if create:
                await self._dlq_handler.redrive_topic(source)
            return len(await self._bounds(target)) if create else 0

    async def _bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        return await self._transport.bounds(topic, self._settings.request_timeout)

    # --- whose

    def _is_ours(self, letter: DeadLetter, source: str | None) -> bool:
        """By group and handler. `source`: of this topic only."""
        if source not in (None, self._source_of(letter)):
            return False
        if letter.group_id is None:  # not written by us
            return not isinstance(self._subscription.dlq, str) and "{group_id}" in self._settings.dlq_topic
        if letter.group_id != self._subscription.group_id:
            return False
        if letter.handler_id == self._subscription.handler_id:
            return True
        return letter.handler_id not in self._group and self._consumes(self._source_of(letter))

    def _source_of(self, letter: DeadLetter) -> str:
        """Of what others wrote into our DLQ topic: the topic that this one is for."""
        sources = self._subscription.topics
        return letter.original_topic or next(
            (source for source in sources if letter.topic in self._dlq_topics(source)), letter.topic
        )

    def _consumes(self, source: str) -> bool:
        return self._dlq_handler.returns.consumes(source)

    # --- topics

    async def _topics(self, source: str | None) -> list[str]:
        """The DLQ topics that exist.

        Raises:
            ConfigurationError: the handler has none, or does not consume `source`.
        """
        sources = self._subscription.topics if source is None else (source,)
        if source is None and self._subscription.pattern is not None and not isinstance(self._subscription.dlq, str):
            raise ConfigurationError(f"{self._subscription.handler_id} follows a pattern: say which topic is meant")
        if source is not None and not self._consumes(source):
            raise ConfigurationError(f"{self._subscription.handler_id} does not consume {source}")
        topics = list(dict.fromkeys(topic for name in sources for topic in self._dlq_topics(name)))
        if isinstance(self._subscription.dlq, str) and not topics:  # of a pattern
            topics = [self._subscription.dlq]
        known = await self._transport.partition_counts(topics, self._settings.request_timeout)
        if not known and self._subscription.dlq is False:
            raise ConfigurationError(f"{self._subscription.handler_id} has no dead letters: its dlq is off")
        return [topic for topic in topics if topic in known]

    def _dlq_topics(self, source: str) -> list[str]:
        """Where its dead letters go, and where they went if a deploy has given them a topic of another name."""
        name = self._dlq_handler.returns.name
        usual = [name(template, source) for template in templates_of(self._settings, "dlq_topic")]
        return list(dict.fromkeys([self._dlq_handler.topic_for(source) or usual[0], *usual]))


def _refuse(report: SettlingReport, reason: str, count: int = 1) -> None:
    report.refused[reason] = report.refused.get(reason, 0) + count

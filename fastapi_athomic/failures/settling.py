"""Settling dead letters: a redrive sends them back to the group that failed, a discard does not; a marker notes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import time
from typing import Literal, NamedTuple

from ..exceptions import (
    ConfigurationError,
    MessageRefusedError,
    MessageTooLargeError,
    TopicNotFoundError,
    TransportError,
)
from ..messages import OutgoingMessage, RawMessage, TopicPartition
from .letters import DeadLetter, SentBack, is_original, redriven
from .mailbox import DeadLetterParts, Mailbox
from .markers import marker

Resolution = Literal["redriven", "discarded"]

CHUNK = 100
"""How many dead letters are sent at once, and settled by one marker."""

GONE = "what was too large for the dead letter is no longer in the source topic"
NOT_FOLLOWED = "the handler does not consume the source topic any more"
TOO_LARGE = "the redrive topic does not take a message so large"
NO_KEY = "the redrive topic is compacted and the message has no key"
"""Reasons in `SettlingReport.refused`."""

UNNOTED: Mapping[Resolution, str] = {
    "redriven": "dead letters were sent back, but that could not be noted in {topic}; redrive again, which notes it "
    "and sends none of them twice",
    "discarded": "dead letters stay open, because that they are discarded could not be noted in {topic}; try again",
}
"""What is said when a marker cannot be written."""


@dataclass(slots=True, kw_only=True)
class SettlingReport:
    """What a redrive or a discard did, or would do."""

    selected: int = 0
    settled: int = 0
    exhausted: int = 0  # left alone: they were sent back `max_redrives` times already
    resumed: int = 0  # of the settled ones: an earlier redrive that broke off had sent them
    refused: dict[str, int] = field(default_factory=dict)  # cannot be sent back and stay open: how many, by reason
    dry_run: bool = False
    topics: dict[str, int] = field(default_factory=dict)  # settled per DLQ topic


Predicate = Callable[[DeadLetter], bool]
Progress = Callable[[int], object]
"""Called after each chunk with the number of letters in it."""


class Selection(NamedTuple):
    """Which of a handler's dead letters to settle; by default all that are open."""

    source: str | None = None  # of this topic only
    partition: int | None = None  # of the DLQ topic
    offset: int | None = None  # in the DLQ topic: this letter only
    error_type: str | None = None  # see `DeadLetter.is_of_type`
    where: Predicate | None = None
    limit: int | None = None  # at most this many


class Settling:
    """Redrives and discards the dead letters of one handler. Users call it through `DeadLetters`."""

    def __init__(self, parts: DeadLetterParts, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._dlq_handler = parts.dlq_handler
        self._counters = parts.counters
        self._transport = parts.transport
        self._settings = parts.settings

    async def redrive(
        self, selection: Selection, *, rate: float | None, dry_run: bool, progress: Progress | None
    ) -> SettlingReport:
        """As `DeadLetters.redrive`."""
        report, sent = SettlingReport(dry_run=dry_run), dict[str, SentBack]()
        for topic in await self._mailbox.topics(selection.source):
            async for chunk in self._chunks(topic, selection, report):
                for origin in dict.fromkeys(map(self._mailbox.source_of, chunk)):
                    letters = [letter for letter in chunk if self._mailbox.source_of(letter) == origin]
                    await self._send_back(origin, letters, sent, report)
                if progress is not None:
                    progress(len(chunk))
                if rate is not None and not dry_run:
                    await asyncio.sleep(len(chunk) / rate)
        return report

    async def discard(
        self, selection: Selection, *, reason: str, dry_run: bool, progress: Progress | None
    ) -> SettlingReport:
        """As `DeadLetters.discard`."""
        if not reason.strip():
            raise ConfigurationError("a discard needs a reason, which is kept with the dead letters")
        report = SettlingReport(dry_run=dry_run)
        for topic in await self._mailbox.topics(selection.source):
            async for chunk in self._chunks(topic, selection, report):
                if not dry_run:
                    await self._mark(topic, chunk, "discarded", reason)
                _settled(report, topic, len(chunk))
                if progress is not None:
                    progress(len(chunk))
        return report

    async def _chunks(
        self, topic: str, selection: Selection, report: SettlingReport
    ) -> AsyncIterator[list[DeadLetter]]:
        """The selected letters, counted in `report`. A chunk is of one partition, so that one marker settles it."""
        chunk: list[DeadLetter] = []
        offset, where, limit = selection.offset, selection.where, selection.limit
        async for letter in self._mailbox.open_in(topic, selection.source, selection.partition, offset or 0):
            if limit is not None and report.selected >= limit:
                break
            if (offset is not None and letter.offset != offset) or (where is not None and not where(letter)):
                continue
            if not letter.is_of_type(selection.error_type):
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
        """Redrives a chunk of letters of one source. `sent`: by redrive topic, what it has already.

        The marker comes after the acknowledgement: if this breaks off in between, the next redrive finds the letters in
        the redrive topic and only marks them.
        """
        topic = chunk[0].topic
        if not self._mailbox.consumes(source):
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
            _settled(report, topic, len(there) + len(messages))
            return
        failure = await self._send(messages, there, sent[target], report)
        if there:
            await self._mark(topic, there, "redriven", "")
            self._counters.redriven += len(there)
            _settled(report, topic, len(there))
        if failure is not None:
            raise TransportError(f"not all dead letters could be sent to {target}: {failure}") from failure

    async def _messages(
        self, target: str, source: str, letters: Sequence[DeadLetter], report: SettlingReport
    ) -> list[tuple[DeadLetter, OutgoingMessage]]:
        """The messages to send. Refuses letters with parts left out whose original is gone."""
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
        """Adds what the topic has taken to `there` and `sent`. Returns an error if another try may help."""
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
                sent.add(letter)  # the same letter may be in another partition of the DLQ topic, too
        return failure

    async def _mark(self, topic: str, letters: Sequence[DeadLetter], resolution: Resolution, reason: str) -> None:
        """Writes the marker; several with fewer letters each if the topic does not take one so large."""
        message = marker(topic, letters, resolution, reason, time())
        (result,) = await self._transport.producer.send([message], self._settings.publish_timeout)
        if isinstance(result, MessageTooLargeError) and len(letters) > 1:
            middle = len(letters) // 2
            for half in (letters[:middle], letters[middle:]):
                await self._mark(topic, half, resolution, reason)
        elif isinstance(result, Exception):
            what = UNNOTED[resolution].format(topic=topic)
            raise TransportError(f"{what}: {result}") from result

    async def _original(self, letter: DeadLetter) -> RawMessage | None:
        """The message that the letter was made of, if the source topic still has it."""
        topic, partition, offset = letter.original_topic, letter.original_partition, letter.original_offset
        if topic is None or partition is None or offset is None:
            return None
        try:
            first, end = (await self._mailbox.bounds(topic)).get(partition, (0, 0))
        except TopicNotFoundError:
            return None
        if not first <= offset < end:
            return None
        messages = await self._transport.read(TopicPartition(topic, partition), offset, self._settings.request_timeout)
        return messages[0] if messages and is_original(messages[0], letter) else None

    async def _sent_back(self, target: str) -> SentBack:
        """What the redrive topic has already."""
        found = SentBack()
        with suppress(TopicNotFoundError):
            for number, (first, end) in (await self._mailbox.bounds(target)).items():
                async for message in self._mailbox.read(TopicPartition(target, number), first, end):
                    found.note(message)
        return found

    async def _partitions_of(self, target: str, source: str, *, create: bool) -> int:
        """How many partitions a redrive topic has. If it is missing: 0, or it is created first with `create`."""
        try:
            return len(await self._mailbox.bounds(target))
        except TopicNotFoundError:
            if create:
                await self._dlq_handler.redrive_topic(source)
            return len(await self._mailbox.bounds(target)) if create else 0


def _settled(report: SettlingReport, topic: str, count: int) -> None:
    report.settled += count
    report.topics[topic] = report.topics.get(topic, 0) + count


def _refuse(report: SettlingReport, reason: str, count: int = 1) -> None:
    report.refused[reason] = report.refused.get(reason, 0) + count

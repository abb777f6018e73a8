"""How a failed message is written to its DLQ or retry topic: as it is, or in the first form that the topic takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from opentelemetry import trace

from ..exceptions import MessageRefusedError, MessageTooLargeError, NotAcknowledgedError, TransportError
from ..messages import FAILURE_TRACE, REDRIVES, Headers, MessageHeaders, OutgoingMessage, PublishedMessage, RawMessage
from ..outcomes import FailureContext
from ..settings import AthomicSettings
from ..transports.base import Transport
from .letter_headers import (
    DIGEST,
    DUE,
    KEY_ADDED,
    OF_ONE_WAY,
    OMITTED,
    STAGE,
    WRITTEN_TO,
    dead_letter_headers,
    digest,
    read_number,
)
from .return_topics import ReturnTopics
from .topic_watch import TopicWatch

Report = Callable[[FailureContext, int, str], None]
"""Logs at a level what became of a message that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A dead letter, or a message for a retry topic, on its way; and what has to be left out for the topic to take it.

    A dead letter is the original, byte for byte, with the headers of `dead_letter_headers` appended.
    """

    failure: FailureContext
    settings: AthomicSettings
    topic: str
    partition: int | None
    added: Headers = ()  # beside those of every dead letter
    brief: bool = False  # the error in few words, our headers in our own spelling only
    omitted: tuple[str, ...] = ()  # of `OMITTED`
    with_key: bool = False  # the letter's id stands in for a key that is missing

    def message(self) -> OutgoingMessage:
        original = self.failure.message
        added = (*dead_letter_headers(self.failure, self.settings, brief=self.brief), *self.added, *self._notes())
        replaced = OF_ONE_WAY.union(name for name, _ in added)
        kept = _redrives(original) if "headers" in self.omitted else original.headers
        kept = tuple(header for header in kept if header[0] not in replaced)
        key = None if "key" in self.omitted else original.key
        if self.with_key:
            key = self.failure.letter_id.encode()
        value = b"" if "value" in self.omitted else original.value
        return OutgoingMessage(self.topic, key, value, (*kept, *added), self.partition)

    def _notes(self) -> Headers:
        notes: Headers = ((KEY_ADDED, b"1"),) if self.with_key else ()
        if self.omitted:
            notes += ((DIGEST, digest(self.failure.message).encode()),)
        sizes = _sizes(self.failure.message)
        return (*notes, *((OMITTED[part], b"%d" % sizes[part]) for part in self.omitted))

    def smaller(self) -> Draft | None:
        """First with short errors, then without the largest of value, headers and key that is left.

        None: nothing is left to be left out.
        """
        if not self.brief:
            return replace(self, brief=True)
        sizes = _sizes(self.failure.message)
        left = [part for part in sizes if sizes[part] and part not in self.omitted]
        return replace(self, omitted=(*self.omitted, max(left, key=sizes.__getitem__))) if left else None

    def keyed(self) -> Draft | None:
        """With a key; None: it has one."""
        return None if self.with_key or self.message().key is not None else replace(self, with_key=True)


def _redrives(message: RawMessage) -> Headers:
    """The one header without which a dead letter would come back for ever."""
    count = read_number(MessageHeaders(message.headers), REDRIVES)
    return ((REDRIVES, b"%d" % count),) if count is not None else ()


def _sizes(message: RawMessage) -> dict[str, int]:
    """Bytes of the parts that can be left out."""
    headers = sum(len(name) + len(value or b"") for name, value in message.headers)
    return {"value": len(message.value or b""), "headers": headers, "key": len(message.key or b"")}


NEVER = (MessageTooLargeError, MessageRefusedError)
"""What no waiting cures: another form of the message may."""


class LetterWriter:
    """Writes what one handler failed on to its DLQ and retry topics.

    A dead letter goes to the partition of the same number; where the DLQ topic has fewer, those that share one keep
    their order. What the topic will never take as it is, is written in another form, see `Draft`: what waiting does not
    cure must not hold up a partition.
    """

    def __init__(
        self, transport: Transport, settings: AthomicSettings, returns: ReturnTopics, topics: TopicWatch, report: Report
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._returns = returns
        self._topics = topics
        self._report = report
        # sent to a topic and not acknowledged yet
        self._under_way = WeakKeyDictionary[FailureContext, tuple[str, NotAcknowledgedError]]()

    async def write(self, topic: str, failure: FailureContext, later: float | None) -> Exception | None:
        """Why the message could not be written, in none of its forms; None when it was."""
        result = await self._under_way_to(topic, failure)
        if result is None or isinstance(result, NEVER):
            result = await self._write_in_some_form(topic, failure, later)
        if isinstance(result, NotAcknowledgedError):
            self._under_way[failure] = topic, result
        if not isinstance(result, Exception):
            return None
        self._topics.forget(topic)  # it may be gone, or another of its name
        return result

    async def _under_way_to(self, topic: str, failure: FailureContext) -> PublishedMessage | Exception | None:
        """What was sent before and is still under way is waited for, not sent again. None: there is nothing."""
        sent_to, sent = self._under_way.get(failure, ("", None))
        if sent is None or sent_to != topic:
            return None
        del self._under_way[failure]
        result: PublishedMessage | Exception = await sent.wait(self._settings.publish_timeout)
        return result

    async def _write_in_some_form(
        self, topic: str, failure: FailureContext, later: float | None
    ) -> PublishedMessage | Exception | None:
        try:
            count = await self._topics.partitions_of(topic, failure.origin.topic)
        except TransportError as error:
            return error
        draft: Draft | None = self._draft(topic, count, failure, later)
        alone = False
        result: PublishedMessage | Exception | None = None
        while draft is not None:
            result = await self._send(draft, alone=alone)
            if isinstance(result, MessageTooLargeError):
                draft = draft if not alone else draft.smaller() if later is None else None
                alone = True
            elif isinstance(result, MessageRefusedError):
                draft = draft.keyed() if later is None else None
            else:
                break
        if draft is not None and draft.omitted and not isinstance(result, Exception):
            missing_parts = " and ".join(draft.omitted)
            self._report(failure, logging.WARNING, f"is too large for {topic}: without its {missing_parts}")
        return result

    async def _send(self, draft: Draft, *, alone: bool) -> PublishedMessage | Exception:
        producer, timeout = self._transport.producer, self._settings.publish_timeout
        if alone:
            return await producer.send_alone(draft.message(), timeout)
        (result,) = await producer.send([draft.message()], timeout)
        return result

    def _draft(self, topic: str, count: int, failure: FailureContext, later: float | None) -> Draft:
        added: Headers = ((WRITTEN_TO, topic.encode()),)
        if later is not None:
            due = round((failure.failed_at + later) * 1000)
            stage = self._returns.stage_of(failure.message.topic) + 1
            added += ((DUE, b"%d" % due), (STAGE, b"%d" % stage))
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            added += ((FAILURE_TRACE, f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}".encode()),)
        partition = failure.origin.partition % count
        return Draft(failure=failure, settings=self._settings, topic=topic, partition=partition, added=added)

"""How a failed message is written to its DLQ or retry topic: as it is, or in the first form that the topic takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple
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

Tell = Callable[[FailureContext, int, str], None]
"""Logs what happened to a failure: takes the failure, the log level, and the end of the sentence."""


class Draft(NamedTuple):
    """A dead letter, or a message for a retry topic, in the form in which it is tried next.

    The first form is the original, byte for byte, with the headers of `dead_letter_headers` appended. `smaller` and
    `keyed` give the next one, after the topic has refused this one.
    """

    failure: FailureContext
    settings: AthomicSettings
    topic: str
    partition: int | None
    added: Headers = ()  # besides those that every dead letter has
    brief: bool = False  # a short error message, no traceback, no headers in the spelling of other frameworks
    omitted: tuple[str, ...] = ()  # parts that are left out: keys of `OMITTED`
    with_key: bool = False  # the original has no key; the letter's id is the key

    def message(self) -> OutgoingMessage:
        """The message to send."""
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
        """First `brief`; then without the largest part (value, headers or key) that it still has.

        None: no part is left.
        """
        if not self.brief:
            return self._replace(brief=True)
        sizes = _sizes(self.failure.message)
        left = [part for part in sizes if sizes[part] and part not in self.omitted]
        return self._replace(omitted=(*self.omitted, max(left, key=sizes.__getitem__))) if left else None

    def keyed(self) -> Draft | None:
        """With the letter's id as the key; None if it has a key already."""
        return None if self.with_key or self.message().key is not None else self._replace(with_key=True)


def _redrives(message: RawMessage) -> Headers:
    """The header that stays when headers are left out: without it a letter could be redriven without end."""
    count = read_number(MessageHeaders(message.headers), REDRIVES)
    return ((REDRIVES, b"%d" % count),) if count is not None else ()


def _sizes(message: RawMessage) -> dict[str, int]:
    """Bytes of the parts that can be left out."""
    headers = sum(len(name) + len(value or b"") for name, value in message.headers)
    return {"value": len(message.value or b""), "headers": headers, "key": len(message.key or b"")}


NEVER = (MessageTooLargeError, MessageRefusedError)
"""Waiting and sending the same message again does not help; another form of it may."""


class LetterWriter:
    """Writes failed messages of one handler to its DLQ and retry topics. `DLQHandler` decides which topic, and when.

    A message goes to the partition with the number that it had in its source, modulo the partitions of the topic: so
    the messages of one source partition keep their order. Both kinds of topic get the same headers; a message for a
    retry topic also says when it is due. If a DLQ topic will never take the message as it is, it is written in another
    form (`Draft`): a problem that waiting does not solve must not block a partition.
    """

    def __init__(
        self, transport: Transport, settings: AthomicSettings, returns: ReturnTopics, topics: TopicWatch, tell: Tell
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._returns = returns
        self._topics = topics
        self._tell = tell
        # by failure: the topic it was sent to, and the send that is not acknowledged yet
        self._under_way = WeakKeyDictionary[FailureContext, tuple[str, NotAcknowledgedError]]()

    async def write(self, topic: str, failure: FailureContext, later: float | None) -> Exception | None:
        """None once the topic has acknowledged the message, in whichever form; else why not.

        `later`: for a retry topic, seconds from the failure until the message is due; None for the DLQ.
        """
        result = await self._under_way_to(topic, failure)
        if result is None or isinstance(result, NEVER):
            result = await self._write_in_some_form(topic, failure, later)
        if isinstance(result, NotAcknowledgedError):
            self._under_way[failure] = topic, result
        if not isinstance(result, Exception):
            return None
        self._topics.forget(topic)  # it may have been deleted or recreated
        return result

    async def _under_way_to(self, topic: str, failure: FailureContext) -> PublishedMessage | Exception | None:
        """Waits for an earlier send of this failure that has no acknowledgement yet: a second one would write it twice.

        None: there is no such send.
        """
        sent_to, sent = self._under_way.get(failure, ("", None))
        if sent is None or sent_to != topic:
            return None
        del self._under_way[failure]
        result: PublishedMessage | Exception = await sent.wait(self._settings.publish_timeout)
        return result

    async def _write_in_some_form(
        self, topic: str, failure: FailureContext, later: float | None
    ) -> PublishedMessage | Exception | None:
        """Sends one form after the other, until the topic takes one or there is none left."""
        try:
            count = await self._topics.partitions_of(topic, failure.origin.topic)
        except TransportError as error:
            return error
        draft: Draft | None = self._draft(topic, count, failure, later)
        alone = False
        result: PublishedMessage | Exception | None = None
        while draft is not None:
            result = await self._send(draft, alone=alone)
            if isinstance(result, MessageTooLargeError) and not alone:
                alone = True  # the same form once more, compressed and in a batch of its own
            elif not isinstance(result, NEVER):
                break
            elif later is not None:
                draft = None  # a retry topic gets no other form
            elif isinstance(result, MessageTooLargeError):
                draft = draft.smaller()
            else:
                draft = draft.keyed()
        if draft is not None and draft.omitted and not isinstance(result, Exception):
            left_out = " and ".join(draft.omitted)
            self._tell(failure, logging.WARNING, f"it is too large for {topic}: written without its {left_out}")
        return result

    async def _send(self, draft: Draft, *, alone: bool) -> PublishedMessage | Exception:
        producer, timeout = self._transport.producer, self._settings.publish_timeout
        if alone:
            return await producer.send_alone(draft.message(), timeout)
        (result,) = await producer.send([draft.message()], timeout)
        return result

    def _draft(self, topic: str, count: int, failure: FailureContext, later: float | None) -> Draft:
        added: Headers = ((WRITTEN_TO, topic.encode()), *self._returns.earlier(failure.message))
        if later is not None:
            due = round((failure.failed_at + later) * 1000)
            stage = self._returns.stage_of(failure.message.topic) + 1
            added += ((DUE, b"%d" % due), (STAGE, b"%d" % stage))
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            added += ((FAILURE_TRACE, f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}".encode()),)
        partition = failure.origin.partition % count
        return Draft(failure=failure, settings=self._settings, topic=topic, partition=partition, added=added)

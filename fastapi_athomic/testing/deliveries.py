"""A message for one handler alone: past the broker and the other handlers, through everything else."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from time import time
from typing import Any

from ..athomic import Athomic
from ..exceptions import AthomicError, ConfigurationError, SourceNotFoundError, TransportError
from ..failures.dlq import DLQHandler, Judgement, Verdict
from ..failures.return_topics import ReturnTopics
from ..failures.topic_watch import TopicWatch
from ..handling.patience import Patience
from ..handling.processors import BatchMessageProcessor, ProcessorParts, SingleMessageProcessor
from ..messages import OutgoingMessage, PublishedMessage, RawMessage
from ..outcomes import FailureContext
from ..publisher import GivenHeaders
from ..transports.base import TopicCounts, Transport, TransportProducer
from .observer import HandlerWatch, diverted
from .records import Handled, Identity
from .wrapped import WrappedTransport

FIRST_OFFSET = 1 << 40
"""Messages that are delivered get offsets from here on: no message of a topic has those."""
MOST_ATTEMPTS = 1_000
"""After so many attempts a policy counts as one that never gives up."""


class Deliveries:
    """Delivers messages. Used in the event loop of the routes."""

    def __init__(self, athomic: Athomic, transport: Transport) -> None:
        self._athomic, self._transport = athomic, transport
        self._offset = FIRST_OFFSET

    async def deliver(
        self, watch: HandlerWatch, message: object, *, key: Any, headers: GivenHeaders, topic: str | None
    ) -> Handled:
        """See `TestKit.deliver`."""
        topic = _topic_of(watch, topic)
        with diverted() as sent:
            await self._athomic.publish(topic, message, key=key, headers=headers)
        self._offset += 1
        raw = _arrived(sent[0], self._offset)
        await self._athomic.at_home(lambda: _Way(watch, self._transport, self._athomic).go(raw))
        handled = watch.records.last_of(Identity(watch.handler_id, topic, raw.partition, raw.offset))
        assert handled is not None
        return handled


def _topic_of(watch: HandlerWatch, topic: str | None) -> str:
    subscription = watch.handler.subscription
    if topic is None:
        if len(subscription.topics) != 1:
            has = ", ".join(subscription.topics) or f"a pattern, {subscription.pattern}"
            raise ConfigurationError(f"deliver needs a topic=, as {watch.handler_id} consumes {has}")
        return subscription.topics[0]
    if not watch.parts.dlq_handler.returns.consumes(topic):
        raise SourceNotFoundError(f"{watch.handler_id} does not consume {topic!r}")
    return topic


def _arrived(sent: OutgoingMessage, offset: int) -> RawMessage:
    """The message as a consumer would have got it."""
    moment = round(time() * 1000)
    return RawMessage(sent.topic, sent.partition or 0, offset, moment, sent.key, sent.value, sent.headers)


class _Way:
    """The way of one message: attempt after attempt, and through the retry topics, which are not written to."""

    def __init__(self, watch: HandlerWatch, transport: Transport, athomic: Athomic) -> None:
        returns = watch.parts.dlq_handler.returns
        settings, subscription = athomic.settings, watch.handler.subscription
        self._coming = deque[RawMessage]()
        diverting = _RetriesComeBack(transport, returns, self._coming)
        topics = TopicWatch(
            diverting, timeout=settings.request_timeout, create_topics=settings.makes_topics, made=returns.is_retry
        )
        dlq_handler = DLQHandler(subscription, diverting, settings, returns, topics, witness=watch)
        parts = watch.parts._replace(dlq_handler=dlq_handler, patience=Patience(watch.handler_id))
        self._processor = _BatchOfOne(parts) if subscription.batch_size is not None else _Single(parts)

    async def go(self, message: RawMessage) -> None:
        """Returns when the fate of the message is known."""
        self._coming.append(message)
        while self._coming:
            await self._settle(self._coming.popleft())

    async def _settle(self, message: RawMessage) -> None:
        first_failed_at = 0.0
        for attempt in range(1, MOST_ATTEMPTS):
            judgement = await self._processor.attempt(message, attempt, first_failed_at)
            if judgement is None or judgement.settled:
                return
            failure, first_failed_at = judgement.failure, judgement.failure.first_failed_at
            if judgement.verdict is Verdict.WAITS:
                raise failure.error
            if judgement.verdict is Verdict.BLOCKED:
                raise TransportError(
                    "what has failed could not be written to its retry topic or DLQ"
                ) from failure.error
            await asyncio.sleep(0)
        raise AthomicError(f"it has failed {MOST_ATTEMPTS} times, and its retry policy does not give up")


class _Single:
    """Attempts of a handler that takes one message."""

    def __init__(self, parts: ProcessorParts) -> None:
        self._processor = SingleMessageProcessor(parts)

    async def attempt(self, message: RawMessage, attempt: int, first_failed_at: float) -> Judgement | None:
        """One attempt; None if the handler completed."""
        outcome = await self._processor.process(message, attempt, first_failed_at)
        return outcome if isinstance(outcome, Judgement) else None


class _BatchOfOne:
    """Attempts of a batch handler, which gets the message alone."""

    def __init__(self, parts: ProcessorParts) -> None:
        self._processor = BatchMessageProcessor(parts)

    async def attempt(self, message: RawMessage, attempt: int, first_failed_at: float) -> Judgement | None:
        """One attempt; None if the handler completed."""
        report = await self._processor.process([message], attempt, first_failed_at)
        if report.waits is not None:
            raise TransportError("what the payload needs cannot be reached")
        if report.undecodable:
            return await self._processor.move(report.undecodable[0])
        return await self._judged(report.failure) if report.failure is not None else None

    async def _judged(self, failure: FailureContext) -> Judgement:
        decision = self._processor.decide(failure)
        if decision.delay is not None:
            return Judgement(Verdict.RETRY, failure, decision.delay)
        return await self._processor.move(failure)


class _RetriesComeBack(WrappedTransport):
    """What is sent to a retry topic comes back at once; all else goes to the broker."""

    def __init__(self, inner: Transport, returns: ReturnTopics, coming: deque[RawMessage]) -> None:
        super().__init__(inner)
        self._returns, self._coming = returns, coming

    @property
    def producer(self) -> TransportProducer:
        return _Returning(self.inner.producer, self._returns, self._coming)

    async def partition_counts(self, topics: Collection[str] | None, timeout: float) -> TopicCounts:
        names = list(topics or ())
        ours = [name for name in names if self._returns.is_retry(name)]
        counts = await self.inner.partition_counts([name for name in names if name not in ours], timeout)
        return TopicCounts({**counts, **dict.fromkeys(ours, 1)}, counts.denied, counts.ids)


class _Returning:
    """See `TransportProducer`."""

    def __init__(self, inner: TransportProducer, returns: ReturnTopics, coming: deque[RawMessage]) -> None:
        self._inner, self._returns, self._coming = inner, returns, coming
        self._offset = FIRST_OFFSET

    async def send(self, messages: Sequence[OutgoingMessage], timeout: float) -> list[PublishedMessage | Exception]:
        if not all(self._returns.is_retry(message.topic) for message in messages):
            return await self._inner.send(messages, timeout)
        return [self._come_back(message) for message in messages]

    async def send_alone(self, message: OutgoingMessage, timeout: float) -> PublishedMessage | Exception:
        if not self._returns.is_retry(message.topic):
            return await self._inner.send_alone(message, timeout)
        return self._come_back(message)

    def _come_back(self, message: OutgoingMessage) -> PublishedMessage:
        self._offset += 1
        self._coming.append(_arrived(message, self._offset))
        return PublishedMessage(message.topic, message.partition or 0, self._offset)

"""What becomes of a message that failed: again in place, again later, or a dead letter. Never just dropped."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from opentelemetry import trace

from .decorators import Subscription
from .exceptions import TransportError
from .logs import Complaints, fields_of
from .messages import FAILURE_TRACE, Headers, OutgoingMessage, TopicPartition
from .outcomes import FailureContext
from .redelivery import DUE, PREFIX, STAGE, ReturnTopics
from .retry import RetryDecision
from .settings import AthomicSettings
from .transports.base import Transport

logger = logging.getLogger(__name__)

MAX_ERROR_LENGTH = 1_000
"""Characters of an error message that a dead letter carries."""
MAX_TRACEBACK_LENGTH = 8_000

FIRST_WRITE_DELAY = 0.2
MAX_WRITE_DELAY = 15.0


class Verdict(Enum):
    """The decision on a failed message."""

    RETRY = "retry"  # the same message again, after the delay
    DEFERRED = "deferred"  # moved to a retry topic and acknowledged
    DEAD_LETTERED = "dead_lettered"  # written to the DLQ and acknowledged
    SKIPPED = "skipped"  # the handler asked for no DLQ
    BLOCKED = "blocked"  # the DLQ or retry topic cannot be written: the same again, after the delay


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on one failure. `delay` is in seconds."""

    verdict: Verdict
    failure: FailureContext
    delay: float = 0.0

    @property
    def settled(self) -> bool:
        """The offset may be committed."""
        return self.verdict in (Verdict.DEFERRED, Verdict.DEAD_LETTERED, Verdict.SKIPPED)


class DLQHandler:
    """Decides what happens to the failures of one subscription, and writes its dead letters and deferred messages.

    A dead letter is the original, byte for byte, with the headers of `dead_letter_headers` appended. It goes to the
    partition of the same number, if the DLQ topic has it. A message for a retry topic has the same headers, and says
    when it is due.
    """

    def __init__(self, subscription: Subscription, transport: Transport, settings: AthomicSettings) -> None:
        self._subscription = subscription
        self._transport = transport
        self._settings = settings
        self.returns = ReturnTopics(subscription, settings)
        self._complaints = Complaints()
        self._partition_counts: dict[str, int] = {}  # of the DLQ, retry and redrive topics known to exist
        self._write_delays: dict[TopicPartition, float] = {}
        self.blocked: dict[TopicPartition, str] = {}  # partitions whose dead letter cannot be written, and why

    def topic_for(self, source: str) -> str | None:
        """The DLQ topic for messages of `source`; None if the handler has none."""
        dlq = self._subscription.dlq
        if dlq is False:
            return None
        if isinstance(dlq, str):
            return dlq
        return self._settings.dlq_topic.format(topic=source, group_id=self._subscription.group_id)

    async def handle(self, failure: FailureContext) -> Judgement:
        """Retry in place by the policy, else `move`. Never raises for a broker that is away."""
        decision = self.decide(failure)
        if decision.delay is not None:
            self._report(failure, logging.INFO, f"will be retried in {decision.delay:.2f} s")
            return Judgement(Verdict.RETRY, failure, decision.delay)
        return await self.move(failure)

    def decide(self, failure: FailureContext) -> RetryDecision:
        return self._subscription.retry.decide(
            failure.error,
            stage=failure.stage,
            attempt=failure.attempt,
            elapsed=failure.failed_at - failure.first_failed_at,
            place=self.returns.stage_of(failure.message.topic),
        )

    async def move(self, failure: FailureContext) -> Judgement:
        """Writes the message to its next retry topic, or else to the DLQ, and waits for the acknowledgement.

        BLOCKED with a growing delay where that fails.
        """
        later = self.decide(failure).later
        source = failure.origin.topic
        if later is not None:
            topic: str | None = self.returns.retry(source, self.returns.stage_of(failure.message.topic) + 1)
        else:
            topic = self.topic_for(source)
        if topic is None:
            self._report(failure, logging.ERROR, "is skipped: the handler has no dead-letter topic")
            return Judgement(Verdict.SKIPPED, failure)
        partition = failure.message.topic_partition
        problem = await self._write(topic, failure, later)
        if problem is not None:
            return self._block(partition, failure, f"dead letter to {topic} refused: {problem}")
        self._unblock(partition)
        self._report(failure, logging.ERROR if later is None else logging.WARNING, f"went to {topic}")
        return Judgement(Verdict.DEAD_LETTERED if later is None else Verdict.DEFERRED, failure)

    async def prepare(self, sources: Collection[str]) -> None:
        """Creates the DLQ, retry and redrive topics of the given source topics, with as many partitions, where missing.

        Raises:
            TransportError: names those that are missing still. Writing tries again.
        """
        related = {topic: source for source in sources for topic in self._related(self.returns.source_of(source))}
        missing = [topic for topic in related if topic not in self._partition_counts]
        if not missing:
            return
        timeout = self._settings.request_timeout
        asked = {*missing, *(self.returns.source_of(related[topic]) for topic in missing)}
        counts = await self._transport.partition_counts(asked, timeout)
        absent = {
            topic: counts.get(self.returns.source_of(related[topic]), 1) for topic in missing if topic not in counts
        }
        redrives = {self.returns.redrive(self.returns.source_of(source)) for source in sources}
        if self._settings.create_topics:
            counts.update(await self._create({topic: absent[topic] for topic in absent if topic not in redrives}))
            with suppress(TransportError):  # without it nothing can be sent back, but all else works
                counts.update(await self._create({topic: absent[topic] for topic in absent if topic in redrives}))
        self._partition_counts.update({topic: counts[topic] for topic in missing if topic in counts})
        unknown = [topic for topic in missing if topic not in counts and topic not in redrives]
        if unknown:
            raise TransportError(f"topic {', '.join(unknown)} does not exist and create_topics is off")

    async def _create(self, topics: dict[str, int]) -> dict[str, int]:
        if topics:
            await self._transport.create_topics(topics, self._settings.request_timeout)
        return topics

    def _related(self, source: str) -> list[str]:
        dlq = self.topic_for(source)
        if dlq is None:
            return self.returns.retries(source)
        return [dlq, *self.returns.retries(source), self.returns.redrive(source)]

    def followed(self, sources: Collection[str]) -> list[str]:
        """The retry and redrive topics of the sources that are known to exist."""
        related = [topic for source in sources for topic in self._related(source)[self.topic_for(source) is not None :]]
        return [topic for topic in related if topic in self._partition_counts]

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Another member writes the dead letters of these partitions now."""
        for partition in partitions:
            self._unblock(partition)

    async def _write(self, topic: str, failure: FailureContext, later: float | None) -> Exception | None:
        try:
            if topic not in self._partition_counts:
                await self.prepare([failure.origin.topic])
        except TransportError as error:
            if topic not in self._partition_counts:  # else it is another one that is missing
                return error
        message = self._message_for(topic, failure, later)
        (result,) = await self._transport.producer.send([message], self._settings.publish_timeout)
        return result if isinstance(result, Exception) else None

    def _message_for(self, topic: str, failure: FailureContext, later: float | None) -> OutgoingMessage:
        message = failure.message
        added = dead_letter_headers(failure, self._settings)
        if later is not None:
            due = round((failure.failed_at + later) * 1000)
            stage = self.returns.stage_of(message.topic) + 1
            added += ((DUE, b"%d" % due), (STAGE, b"%d" % stage))
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            added += ((FAILURE_TRACE, f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}".encode()),)
        replaced = {DUE, STAGE, *(name for name, _ in added)}
        kept = tuple(header for header in message.headers if header[0] not in replaced)
        same = failure.origin.partition < self._partition_counts.get(topic, 0)
        return OutgoingMessage(
            topic, message.key, message.value, kept + added, failure.origin.partition if same else None
        )

    def _report(self, failure: FailureContext, level: int, what: str) -> None:
        """One line per failure; of many alike only some."""
        held_back = self._complaints.due(f"{level} {type(failure.error).__name__}")
        if held_back is not None:
            extra = fields_of(failure.message, failure.handler_id)
            more = f" ({held_back} more like it were not logged)" if held_back else ""
            logger.log(level, "%s: %r %s%s", failure.handler_id, failure, what, more, extra=extra)

    def _block(self, partition: TopicPartition, failure: FailureContext, reason: str) -> Judgement:
        delay = self._write_delays.get(partition, FIRST_WRITE_DELAY)
        self._write_delays[partition] = min(delay * 2, MAX_WRITE_DELAY)
        if partition not in self.blocked:
            logger.error("%s: %s waits: %s", failure.handler_id, partition, reason)
        self.blocked[partition] = reason
        return Judgement(Verdict.BLOCKED, failure, delay)

    def _unblock(self, partition: TopicPartition) -> None:
        self.blocked.pop(partition, None)
        self._write_delays.pop(partition, None)


def dead_letter_headers(failure: FailureContext, settings: AthomicSettings) -> Headers:
    """The headers that tell where a dead letter comes from and why, in UTF-8; times in ISO 8601, UTC."""
    origin, error = failure.origin, failure.error
    values = {
        "original-topic": origin.topic,
        "original-partition": str(origin.partition),
        "original-offset": str(origin.offset),
        "original-timestamp": str(origin.timestamp),
        "consumer-group": failure.group_id,
        "handler": failure.handler_id,
        "error-type": _type_name(error),
        "error-message": _text(error)[:MAX_ERROR_LENGTH] if settings.expose_error_messages else "",
        "error-stage": failure.stage.value,
        "attempts": str(failure.attempt),
        "first-failed-at": _time(failure.first_failed_at),
        "failed-at": _time(failure.failed_at),
    }
    if settings.dlq_traceback:
        values["error-traceback"] = "".join(traceback.format_exception(error))[-MAX_TRACEBACK_LENGTH:]
    own: Headers = tuple((PREFIX + name, value.encode("utf-8", "replace")) for name, value in values.items())
    for spelling in settings.dlq_header_spellings:
        own += FOREIGN_SPELLINGS[spelling](failure, values["error-message"])
    return own


def _spring(failure: FailureContext, error_message: str) -> Headers:
    """As Spring Kafka's `DeadLetterPublishingRecoverer` writes them; numbers are big-endian."""
    origin = failure.origin
    return (
        ("kafka_dlt-original-topic", origin.topic.encode()),
        ("kafka_dlt-original-partition", origin.partition.to_bytes(4, "big")),
        ("kafka_dlt-original-offset", origin.offset.to_bytes(8, "big")),
        ("kafka_dlt-original-timestamp", origin.timestamp.to_bytes(8, "big", signed=True)),
        ("kafka_dlt-original-timestamp-type", b"CreateTime"),
        ("kafka_dlt-original-consumer-group", failure.group_id.encode()),
        ("kafka_dlt-exception-fqcn", _type_name(failure.error).encode()),
        ("kafka_dlt-exception-message", error_message.encode("utf-8", "replace")),
    )


def _smallrye(failure: FailureContext, error_message: str) -> Headers:
    """As SmallRye Reactive Messaging writes them."""
    origin = failure.origin
    return (
        ("dead-letter-topic", origin.topic.encode()),
        ("dead-letter-partition", str(origin.partition).encode()),
        ("dead-letter-offset", str(origin.offset).encode()),
        ("dead-letter-reason", error_message.encode("utf-8", "replace")),
        ("dead-letter-exception-class-name", _type_name(failure.error).encode()),
    )


FOREIGN_SPELLINGS: Mapping[str, Callable[[FailureContext, str], Headers]] = {"spring": _spring, "smallrye": _smallrye}


def _type_name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's __str__ may fail, its message must not be lost for that
        return ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

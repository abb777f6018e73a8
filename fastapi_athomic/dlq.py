"""What becomes of a message that failed: again in place, or a dead letter. Never just dropped."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from .decorators import Subscription
from .exceptions import TransportError
from .messages import Headers, OutgoingMessage, TopicPartition
from .outcomes import FailureContext
from .retry import RetryDecision
from .settings import AthomicSettings
from .transports.base import Transport

logger = logging.getLogger(__name__)

PREFIX = "athomic-"
MAX_ERROR_LENGTH = 1_000
"""Characters of an error message that a dead letter carries."""
MAX_TRACEBACK_LENGTH = 8_000

FIRST_WRITE_DELAY = 0.2
MAX_WRITE_DELAY = 15.0


class Verdict(Enum):
    """The decision on a failed message."""

    RETRY = "retry"  # the same message again, after the delay
    DEAD_LETTERED = "dead_lettered"  # written to the DLQ and acknowledged
    SKIPPED = "skipped"  # the handler asked for no DLQ
    BLOCKED = "blocked"  # the DLQ cannot be written: the same dead letter again, after the delay


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on one failure. `delay` is in seconds."""

    verdict: Verdict
    failure: FailureContext
    delay: float = 0.0

    @property
    def settled(self) -> bool:
        """The offset may be committed."""
        return self.verdict in (Verdict.DEAD_LETTERED, Verdict.SKIPPED)


class DLQHandler:
    """Decides what happens to the failures of one subscription, and writes its dead letters.

    A dead letter is the original, byte for byte, with the headers of `dead_letter_headers` appended. It goes to the
    partition of the same number, if the DLQ topic has it.
    """

    def __init__(self, subscription: Subscription, transport: Transport, settings: AthomicSettings) -> None:
        self._subscription = subscription
        self._transport = transport
        self._settings = settings
        self._partition_counts: dict[str, int] = {}  # of the DLQ topics known to exist
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
        """Retry by the policy, else dead-letter. Never raises for a broker that is away."""
        decision = self.decide(failure)
        if decision.delay is not None:
            return Judgement(Verdict.RETRY, failure, decision.delay)
        return await self.dead_letter(failure)

    def decide(self, failure: FailureContext) -> RetryDecision:
        decision = self._subscription.retry.decide(
            failure.error,
            stage=failure.stage,
            attempt=failure.attempt,
            elapsed=failure.failed_at - failure.first_failed_at,
        )
        if decision.delay is not None:
            logger.info("%s: %r will be retried in %.2f s", failure.handler_id, failure, decision.delay)
        return decision

    async def dead_letter(self, failure: FailureContext) -> Judgement:
        """Writes the dead letter and waits for the acknowledgement; BLOCKED with a growing delay where that fails."""
        topic = self.topic_for(failure.message.topic)
        partition = failure.message.topic_partition
        if topic is None:
            logger.error("%s: %r is skipped: the handler has no dead-letter topic", failure.handler_id, failure)
            return Judgement(Verdict.SKIPPED, failure)
        problem = await self._write(topic, failure)
        if problem is not None:
            return self._block(partition, failure, f"dead letter to {topic} refused: {problem}")
        self._unblock(partition)
        logger.error("%s: %r went to %s", failure.handler_id, failure, topic)
        return Judgement(Verdict.DEAD_LETTERED, failure)

    async def prepare(self, sources: Collection[str]) -> None:
        """Creates the DLQ topics of the given source topics, with as many partitions, where they are missing.

        Raises:
            TransportError: the broker does not allow it, or is away. Writing tries again.
        """
        targets = {topic: source for source in sources if (topic := self.topic_for(source)) is not None}
        missing = [topic for topic in targets if topic not in self._partition_counts]
        if not missing:
            return
        timeout = self._settings.request_timeout
        counts = await self._transport.partition_counts([*missing, *(targets[topic] for topic in missing)], timeout)
        absent = {topic: counts.get(targets[topic], 1) for topic in missing if topic not in counts}
        if absent and self._settings.create_topics:
            await self._transport.create_topics(absent, timeout)
            counts.update(absent)
        self._partition_counts.update({topic: counts[topic] for topic in missing if topic in counts})
        unknown = [topic for topic in missing if topic not in counts]
        if unknown:
            raise TransportError(f"dead-letter topic {', '.join(unknown)} does not exist and create_topics is off")

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Another member writes the dead letters of these partitions now."""
        for partition in partitions:
            self._unblock(partition)

    async def _write(self, topic: str, failure: FailureContext) -> Exception | None:
        try:
            await self.prepare([failure.message.topic])
        except TransportError as error:
            return error
        letter = self._letter(topic, failure)
        (result,) = await self._transport.producer.send([letter], self._settings.publish_timeout)
        return result if isinstance(result, Exception) else None

    def _letter(self, topic: str, failure: FailureContext) -> OutgoingMessage:
        message = failure.message
        added = dead_letter_headers(failure, self._settings)
        names = {name for name, _ in added}
        kept = tuple(header for header in message.headers if header[0] not in names)
        same = message.partition < self._partition_counts.get(topic, 0)
        return OutgoingMessage(topic, message.key, message.value, kept + added, message.partition if same else None)

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
    message, error = failure.message, failure.error
    values = {
        "original-topic": message.topic,
        "original-partition": str(message.partition),
        "original-offset": str(message.offset),
        "original-timestamp": str(message.timestamp),
        "consumer-group": failure.group_id,
        "handler": failure.handler_id,
        "error-type": f"{type(error).__module__}.{type(error).__qualname__}",
        "error-message": _text(error)[:MAX_ERROR_LENGTH] if settings.expose_error_messages else "",
        "error-stage": failure.stage.value,
        "attempts": str(failure.attempt),
        "first-failed-at": _time(failure.first_failed_at),
        "failed-at": _time(failure.failed_at),
    }
    if settings.dlq_traceback:
        values["error-traceback"] = "".join(traceback.format_exception(error))[-MAX_TRACEBACK_LENGTH:]
    return tuple((PREFIX + name, value.encode("utf-8", "replace")) for name, value in values.items())


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's __str__ may fail, its message must not be lost for that
        return ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

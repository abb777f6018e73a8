"""What holds for one consumer: the options of its decorator, with what the settings and its tuning say. No secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from ..limits import CircuitBreaker, RateLimit
from ..payload.pipeline import PayloadPipeline
from ..retry import RetryPolicy
from ..settings import AthomicSettings
from ..subscriptions import Sequencing, Subscription

ANY_TOPIC = "<topic>"
"""Stands for the topics that a pattern matches."""


class RetrySettings(BaseModel):
    """When a failed message is tried again."""

    policy: str = Field(description="The class of the policy: `RetryPolicy`, or one of the app's own")
    max_attempts: int = Field(description="Attempts in place, the first one included; 0: no limit")
    delay: float | None = Field(description="Seconds before the second attempt; null: a function of the app decides")
    backoff: float = Field(description="Each delay is so many times the one before")
    max_delay: float = Field(description="Seconds; no delay is longer")
    jitter: float = Field(description="The part of a delay that is left to chance")
    max_elapsed: float | None = Field(description="Seconds since the first failure; no attempt starts after that")
    retry_topics: list[float] = Field(description="Then one attempt from each retry topic, so many seconds later")


class SequencingSettings(BaseModel):
    """How an ordered consumer finds the order of its messages, and what it does where the order breaks."""

    aggregate_key_field: str = Field(description="The field that says which aggregate a message belongs to")
    sequence_id_field: str = Field(description="The field with its sequence number")
    first_sequence: int = Field(description="The number of an aggregate's first message")
    gap_timeout: float = Field(description="Seconds that a missing number is waited for before `on_gap` decides")
    on_gap: str = Field(description="`wait`, `skip` or `dead_letter`")
    on_failure: str = Field(description="`dead_letter` or `block`")


class RateLimitSettings(BaseModel):
    """How many messages each process begins."""

    messages_per_second: float = Field(description="So many at most, on average")
    burst: int = Field(description="So many at most at once, after a pause")


class BreakerSettings(BaseModel):
    """When nothing begins, as what the handler depends on fails."""

    exceptions: list[str] = Field(description="The types of the errors that count")
    failures: int = Field(description="So many calls in a row that fail with one of them open it")
    window: float = Field(description="Seconds in which these calls have to be")
    pause: float = Field(description="Seconds for which it is open at first; twice as long each time after that")
    max_pause: float = Field(description="Seconds; no pause is longer")


class EffectiveSettings(BaseModel):
    """What holds for one consumer: its decorator's options, with what the settings say. No secrets."""

    target_type: str = Field(description="What messages are decoded into")
    concurrency: int = Field(description="As in code and tuning; `concurrency` of the consumer is what holds now")
    batch_size: int | None = Field(description="Most messages of a batch; null: one message at a time")
    batch_linger_ms: int = Field(description="Milliseconds that a batch which is not full waits for more")
    timeout: float | None = Field(description="Seconds that one attempt may take; null: no limit")
    retry: RetrySettings = Field(description="When a failed message is tried again")
    rate_limit: RateLimitSettings | None = Field(
        default=None,
        description="As in code and tuning; `rate_limit` of the consumer is what holds now; null: no limit",
    )
    breaker: BreakerSettings | None = Field(
        default=None, description="As in code and tuning; null: none, unless an operator opens one"
    )
    ordering: str = Field(description="`partition`, `key`, `none` or `sequence`")
    sequencing: SequencingSettings | None = Field(description="Of an ordered consumer; null for others")
    dlq: str | None = Field(description="The DLQ topic, or the template of its name; null: failed messages are skipped")
    payloads: dict[str, str] = Field(description="How the messages of each topic are read: the names of the steps")
    auto_offset_reset: str = Field(description="Where a group without commits begins: `earliest` or `latest`")
    isolation: str = Field(description="`loop`: in the event loop of the routes; `thread`: in one of their own")
    max_buffered_messages: int = Field(description="Most messages of one partition that wait or run")
    max_buffered_bytes: int = Field(description="The same in bytes")
    max_poll_messages: int = Field(description="Most messages taken in at once")
    drain_timeout: float = Field(description="Seconds that handlers may still run when partitions are revoked")
    stall_timeout: float = Field(description="Seconds without progress after which the consumer is rebuilt")
    stuck_after: float = Field(description="Seconds in a handler after which health reports it")
    enable_lineage: bool = Field(description="Whether it takes part in OpenLineage")


def effective_settings(
    subscription: Subscription,
    settings: AthomicSettings,
    *,
    target_type: Any,
    payloads: Mapping[str, str],
    max_buffered: int,
) -> EffectiveSettings:
    """Those of a tuned subscription. `payloads`: by topic, what `steps_of` says."""
    dlq = subscription.dlq
    return EffectiveSettings(
        target_type=_type_name(target_type),
        concurrency=subscription.concurrency,
        batch_size=subscription.batch_size,
        batch_linger_ms=subscription.batch_linger_ms,
        timeout=subscription.timeout,
        retry=_retry(subscription.retry),
        rate_limit=_rate_limit(subscription.rate_limit),
        breaker=_breaker(subscription.breaker),
        ordering=order_of(subscription),
        sequencing=_sequencing(subscription.sequencing),
        dlq=(settings.dlq_topic if dlq is True else dlq) or None,
        payloads=dict(payloads),
        auto_offset_reset=subscription.auto_offset_reset,
        isolation=settings.isolation,
        max_buffered_messages=max_buffered,
        max_buffered_bytes=settings.max_buffered_bytes,
        max_poll_messages=settings.max_poll_messages,
        drain_timeout=settings.drain_timeout,
        stall_timeout=settings.stall_timeout,
        stuck_after=settings.stuck_after,
        enable_lineage=subscription.enable_lineage,
    )


def order_of(subscription: Subscription) -> str:
    """What keeps its messages in order: `partition`, `key`, `none` or `sequence`."""
    return "sequence" if subscription.sequencing is not None else subscription.ordering


def steps_of(pipeline: PayloadPipeline) -> str:
    """The names of what is done when a message is published, and what else is read."""
    written = [pipeline.serializer.name, *(step.name for step in pipeline.steps if step.writes)]
    read = [*(each.name for each in pipeline.reads), *(step.name for step in pipeline.steps if not step.writes)]
    return "+".join(written) + (f" (reads {' '.join(read)})" if read else "")


def _retry(policy: RetryPolicy) -> RetrySettings:
    return RetrySettings(
        policy=type(policy).__name__,
        max_attempts=policy.max_attempts,
        delay=None if callable(policy.delay) else policy.delay,
        backoff=policy.backoff,
        max_delay=policy.longest_delay,
        jitter=policy.jitter,
        max_elapsed=policy.max_elapsed,
        retry_topics=list(policy.retry_topics),
    )


def _rate_limit(limit: RateLimit | None) -> RateLimitSettings | None:
    if limit is None:
        return None
    return RateLimitSettings(messages_per_second=limit.messages_per_second, burst=limit.capacity)


def _breaker(breaker: CircuitBreaker | None) -> BreakerSettings | None:
    if breaker is None:
        return None
    return BreakerSettings(
        exceptions=[_type_name(each) for each in breaker.exceptions],
        failures=breaker.failures,
        window=breaker.window,
        pause=breaker.pause,
        max_pause=breaker.longest_pause,
    )


def _sequencing(sequencing: Sequencing | None) -> SequencingSettings | None:
    return None if sequencing is None else SequencingSettings.model_validate(sequencing, from_attributes=True)


def _type_name(target: Any) -> str:
    return target.__qualname__ if isinstance(target, type) and not hasattr(target, "__args__") else str(target)

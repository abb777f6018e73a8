"""Whether a running consumer is healthy, judged by its progress: that a task exists proves nothing.

The service gathers `ConsumerFacts`, `judge` says what they mean. `judge` is a pure function: it reads no
clock and asks no broker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..messages import TopicPartition
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from .status import ConsumerHealth, HealthStatus

STALE_POLL_SECONDS = 10.0
"""A consumer that has not polled for this long is unhealthy: its poll loop turns several times a second."""
LONG_REBALANCE_SECONDS = 10.0
"""A rebalance that takes longer is reported: some member of the group waits for its running handlers."""
TIMEOUT_GRACE = 10.0
"""Seconds that a handler may take to clean up after its own timeout, before it counts as stuck."""
BLOCKING_SHOWN_SECONDS = 30.0
"""For this long health reports that a handler has blocked the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerFacts:
    """What a running consumer looks like at one moment. Durations are in seconds, up to now."""

    since_poll: float
    since_progress: float  # since messages came, or there was nothing to come
    without_partitions: float  # since the group took them; 0 while it has them
    longest_rebalance: float  # how long a rebalance of its group may take
    in_handler: float  # of the message that has been there longest; 0 if there is none
    since_blocking: float  # since its handler last blocked the event loop; infinite if it never did
    blocked_for: float  # how long it blocked it then
    unwritable: Mapping[TopicPartition, str]  # partitions whose dead letter cannot be written, and why
    problems: Sequence[str]  # what the session says, a sentence each
    sequence_problems: Sequence[str]  # likewise, about the sequences of an ordered consumer
    topics: Mapping[str, object | None] | None
    """As the broker last answered: None for a topic that does not exist. None (the whole map): not asked yet."""


def judge(facts: ConsumerFacts, subscription: Subscription, settings: AthomicSettings) -> ConsumerHealth:
    """Unhealthy: it does not consume, and that is its own fault. Degraded: it consumes, but somebody should look."""
    broken, worrying = [*_broken(facts, subscription, settings)], [*_worrying(facts, subscription)]
    status = HealthStatus.UNHEALTHY if broken else HealthStatus.DEGRADED if worrying else HealthStatus.HEALTHY
    return ConsumerHealth(status=status, reasons=[*broken, *worrying])


def _broken(facts: ConsumerFacts, subscription: Subscription, settings: AthomicSettings) -> Iterator[str]:
    if facts.since_poll > STALE_POLL_SECONDS:
        yield f"has not polled for {facts.since_poll:.0f} s"
    if facts.without_partitions > facts.longest_rebalance:
        yield f"has been waiting for its partitions for {facts.without_partitions:.0f} s"
    if facts.since_progress > settings.stall_timeout / 2:
        yield f"no progress for {facts.since_progress:.0f} s although there is something to consume"
    if facts.in_handler > _stuck_after(subscription, settings):
        yield f"a message has been in the handler for {facts.in_handler:.0f} s"


def _stuck_after(subscription: Subscription, settings: AthomicSettings) -> float:
    """Seconds in the handler. A handler whose own timeout is longer is not stuck."""
    timeout = subscription.timeout
    return max(settings.stuck_after, timeout + TIMEOUT_GRACE if timeout is not None else 0.0)


def _worrying(facts: ConsumerFacts, subscription: Subscription) -> Iterator[str]:
    yield from (f"{partition} waits: {reason}" for partition, reason in facts.unwritable.items())
    yield from facts.problems
    yield from _absent(facts.topics, subscription)
    yield from facts.sequence_problems
    if facts.since_blocking < BLOCKING_SHOWN_SECONDS:
        yield f"blocked the event loop for {facts.blocked_for:.1f} s"
    rebalancing = facts.without_partitions
    if LONG_REBALANCE_SECONDS < rebalancing <= facts.longest_rebalance:
        yield f"a rebalance of its group has been under way for {rebalancing:.0f} s: other members still drain"


def _absent(topics: Mapping[str, object | None] | None, subscription: Subscription) -> Iterator[str]:
    """Missing topics are not the fault of this process: they make a consumer degraded, not unhealthy."""
    if topics is None:
        return
    if (pattern := subscription.pattern) is not None:
        if not topics:
            yield f"no topic matches the pattern {pattern.pattern}: nothing is consumed"
        return
    for topic in subscription.topics:
        if topic in topics and topics[topic] is None:
            yield f"topic {topic} does not exist (any more): until it does, nothing is consumed"

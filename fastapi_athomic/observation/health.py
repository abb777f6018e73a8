"""Whether a running consumer is healthy, judged by its progress: that a task exists proves nothing.

The service gathers `ConsumerFacts`, `judge` says what they mean. `judge` is a pure function: it reads no
clock and asks no broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from ..messages import TopicPartition
from ..settings import AthomicSettings
from ..subscriptions import Subscription
from .meanings import status_of
from .reasons import Reason, ReasonCode, ago
from .status import ConsumerHealth


class ConsumerFacts(NamedTuple):
    """What a running consumer looks like at one moment. Durations are in seconds, up to now."""

    now: datetime
    since_poll: float
    since_progress: float  # since messages came, or there was nothing to come
    without_partitions: float  # since the group took them; 0 while it has them
    longest_rebalance: float  # how long a rebalance of its group may take
    in_handler: float  # of the message that has been there longest; 0 if there is none
    in_queue: float  # of the message that has waited for its turn longest, since it was fetched; 0 if there is none
    full: Mapping[TopicPartition, float]  # for how long partitions have not been fetched, because they have no room
    in_doubt: float  # how long it has not been certain that it is still a member of its group; 0: it is
    cut_off: bool  # that is so because the broker does not answer
    evicted: float  # since the group has put it out; 0: it has not
    restarts: int  # within `health.restarts_within`
    since_restarts: float  # since the first of them
    restart_error: str | None  # why it broke for the last time
    since_blocking: float  # since its handler last blocked the event loop; infinite if it never did
    blocked_for: float  # how long it blocked it then
    unwritable: Sequence[Reason]  # partitions whose dead letter cannot be written
    problems: Sequence[Reason]  # what the session says
    sequence_problems: Sequence[Reason]  # likewise, about the sequences of an ordered consumer
    absent_since: Mapping[str, datetime]  # since when topics are missing; "": none matches the pattern
    topics: Mapping[str, object | None] | None
    """As the broker last answered: None for a topic that does not exist. None (the whole map): not asked yet."""

    def lasting(self, code: ReasonCode, seconds: float, limit: float, message: str) -> Reason:
        """A reason that has been there for so many seconds."""
        return Reason(code=code, message=message, since=ago(seconds, self.now), limit_seconds=limit)


def judge(facts: ConsumerFacts, subscription: Subscription, settings: AthomicSettings) -> ConsumerHealth:
    """Unhealthy: it does not consume, and that is its own fault. Degraded: it consumes, but somebody should look."""
    reasons = [
        *_broken(facts, subscription, settings),
        *_membership(facts, settings),
        *_worrying(facts, subscription),
        *_slow(facts, settings),
    ]
    return ConsumerHealth(status=status_of(reasons), reasons=reasons)


def _broken(facts: ConsumerFacts, subscription: Subscription, settings: AthomicSettings) -> Iterator[Reason]:
    if (seconds := facts.since_poll) > (limit := settings.health.poll_late):
        yield facts.lasting(ReasonCode.POLL_LATE, seconds, limit, f"has not polled for {seconds:.0f} s")
    if (seconds := facts.since_progress) > (limit := settings.stall_timeout / 2):
        said = f"no progress for {seconds:.0f} s although there is something to consume"
        yield facts.lasting(ReasonCode.NO_PROGRESS, seconds, limit, said)
    if (seconds := facts.in_handler) > (limit := _stuck_after(subscription, settings)):
        said = f"a message has been in the handler for {seconds:.0f} s"
        yield facts.lasting(ReasonCode.HANDLER_STUCK, seconds, limit, said)


def _stuck_after(subscription: Subscription, settings: AthomicSettings) -> float:
    """Seconds in the handler. A handler whose own timeout is longer is not stuck."""
    timeout = subscription.timeout
    return max(settings.stuck_after, timeout + settings.health.timeout_grace if timeout is not None else 0.0)


def _membership(facts: ConsumerFacts, settings: AthomicSettings) -> Iterator[Reason]:
    if seconds := facts.in_doubt:
        happened = "the coordinator of its group has not answered" if facts.cut_off else "stood still"
        said = f"{happened} for {seconds:.0f} s, and it may be no member of its group any more: no handler starts"
        yield Reason(code=ReasonCode.MEMBERSHIP_IN_DOUBT, message=said, since=ago(seconds, facts.now))
    if seconds := facts.evicted:
        said = f"was put out of its group {seconds:.0f} s ago, and joins it again"
        yield Reason(code=ReasonCode.MEMBERSHIP_LOST, message=said, since=ago(seconds, facts.now))
    if (seconds := facts.without_partitions) > (limit := facts.longest_rebalance):
        said = f"has been waiting for its partitions for {seconds:.0f} s"
        yield facts.lasting(ReasonCode.WITHOUT_PARTITIONS, seconds, limit, said)
    elif seconds > (limit := settings.health.long_rebalance):
        said = f"a rebalance of its group has been under way for {seconds:.0f} s: other members still drain"
        yield facts.lasting(ReasonCode.REBALANCE_LONG, seconds, limit, said)


def _slow(facts: ConsumerFacts, settings: AthomicSettings) -> Iterator[Reason]:
    health = settings.health
    if (seconds := facts.since_blocking) < health.shown_for:
        said = f"blocked the event loop for {facts.blocked_for:.1f} s"
        yield facts.lasting(ReasonCode.EVENT_LOOP_BLOCKED, seconds, settings.blocking_after, said)
    if (seconds := facts.in_queue) > (limit := health.queue_late):
        said = f"a message has been waiting for its turn for {seconds:.0f} s"
        yield facts.lasting(ReasonCode.QUEUE_LATE, seconds, limit, said)
    full = {place: seconds for place, seconds in facts.full.items() if seconds > health.back_pressure}
    if full:
        said = f"nothing has been fetched for {max(full.values()):.0f} s, as the buffer is full: {_listed(full)}"
        yield facts.lasting(ReasonCode.BACK_PRESSURE, max(full.values()), health.back_pressure, said)
    if facts.restarts >= health.restarts:
        said = f"broke {facts.restarts} times within {facts.since_restarts:.0f} s: {facts.restart_error}"
        yield facts.lasting(ReasonCode.RESTARTS_OFTEN, facts.since_restarts, health.restarts_within, said)


def _listed(places: Iterable[TopicPartition]) -> str:
    first, *others = sorted(places)
    return f"{first} and {len(others)} more" if others else str(first)


def _worrying(facts: ConsumerFacts, subscription: Subscription) -> Iterator[Reason]:
    yield from facts.unwritable
    yield from facts.problems
    yield from _absent(facts, subscription)
    yield from facts.sequence_problems


def _absent(facts: ConsumerFacts, subscription: Subscription) -> Iterator[Reason]:
    """Missing topics are not the fault of this process: they make a consumer degraded, not unhealthy."""
    if (topics := facts.topics) is None:
        return
    if (pattern := subscription.pattern) is not None:
        if not topics:
            said = f"no topic matches the pattern {pattern.pattern}: nothing is consumed"
            yield Reason(code=ReasonCode.NO_TOPIC_MATCHES, message=said, since=facts.absent_since.get(""))
        return
    for topic in subscription.topics:
        if topic in topics and topics[topic] is None:
            said = f"topic {topic} does not exist (any more): until it does, nothing is consumed"
            yield Reason(code=ReasonCode.TOPIC_MISSING, message=said, since=facts.absent_since.get(topic))

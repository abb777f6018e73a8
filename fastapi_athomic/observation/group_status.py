"""One status of a consumer, made of what each of its processes says: counters summed, health the worst of all.

Pure functions: they ask nobody. `sharing` brings the parts together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import chain

from .reasons import Reason
from .status import (
    BreakerStatus,
    ConsumerHealth,
    ConsumerStatus,
    CounterValues,
    LastError,
    OrderedStatus,
    PartitionStatus,
    PauseStatus,
    ProcessInfo,
    RateLimitStatus,
    Rates,
    StatusScope,
    worst,
)

SHOWN_ERRORS = 5
"""Most of `last_errors` in one answer."""
BREAKER_STATES = ("closed", "half_open", "open")
"""Of a circuit breaker: a later one stands for all processes."""
FURTHEST_FROM_RUNNING = ("backing_off", "new", "starting", "stopped", "stopping", "running")
"""States of a consumer, in the order in which one of them stands for all processes."""


def together(parts: Sequence[ConsumerStatus], process: ProcessInfo, note: str | None = None) -> ConsumerStatus:
    """One status of the parts of several processes. The first part says what holds for all; `process` answers."""
    first = parts[0]
    assignment = _assignment(parts)
    lag, lag_seconds = total_lag(assignment)
    in_handler = _greatest(part.oldest_in_handler_seconds for part in parts)
    errors = _errors(parts)
    return first.model_copy(
        update={
            "process": process,
            "scope": StatusScope.GROUP,
            "scope_note": note,
            "members": [member for part in parts for member in _members(part, first)],
            "topics": sorted({topic for part in parts for topic in part.topics}),
            "concurrency": sum(part.concurrency for part in parts),
            "state": min((part.state for part in parts), key=_rank),
            "ready": all(part.ready for part in parts),
            "paused": all(part.paused for part in parts),
            "pauses": _pauses(parts),
            "pauses_note": next((note for part in parts if (note := part.pauses_note)), None),
            "rate_limit": _rate_limit(parts),
            "breaker": _breaker(parts),
            "health": _health(parts),
            "assignment": assignment,
            "lag": lag,
            "lag_seconds": lag_seconds,
            "counters": _counters(parts),
            "rates": _rates(parts),
            "oldest_in_queue_seconds": _greatest(part.oldest_in_queue_seconds for part in parts),
            "oldest_in_handler_seconds": in_handler,
            "oldest_in_flight_seconds": in_handler,
            "last_message_at": max((at for part in parts if (at := part.last_message_at) is not None), default=None),
            "last_error": errors[0] if errors else None,
            "last_errors": errors,
            "restarts": sum(part.restarts for part in parts),
            "last_restart_reason": next((why for part in parts if (why := part.last_restart_reason)), None),
            "dlq_topics": sorted({topic for part in parts for topic in part.dlq_topics}),
            "ordered": _ordered([part.ordered for part in parts if part.ordered is not None]),
        }
    )


def total_lag(partitions: Sequence[PartitionStatus]) -> tuple[int | None, float | None]:
    """Of all these partitions: the sum of their lags, and the greatest age. None: that of one is not known yet."""
    lags = [partition.lag for partition in partitions]
    ages = [partition.lag_seconds for partition in partitions]
    known_lags = [lag for lag in lags if lag is not None]
    known_ages = [age for age in ages if age is not None]
    return (
        sum(known_lags) if len(known_lags) == len(lags) else None,
        max(known_ages, default=0.0) if len(known_ages) == len(ages) else None,
    )


def _seen_at(part: ConsumerStatus) -> datetime:
    return max(member.seen_at for member in part.members)


def _members(part: ConsumerStatus, first: ConsumerStatus) -> Iterable[object]:
    here, there = first.settings.model_dump(), part.settings.model_dump()
    differs = [name for name in here if here[name] != there.get(name)]
    return [member.model_copy(update={"differs": differs}) for member in part.members]


def _assignment(parts: Sequence[ConsumerStatus]) -> list[PartitionStatus]:
    """During a rebalance two processes may still name the same partition: what was seen last counts."""
    found = {
        (partition.topic, partition.partition): partition
        for part in sorted(parts, key=_seen_at)
        for partition in part.assignment
    }
    return [found[place] for place in sorted(found)]


def _rank(state: str) -> int:
    return FURTHEST_FROM_RUNNING.index(state) if state in FURTHEST_FROM_RUNNING else 0


def _health(parts: Sequence[ConsumerStatus]) -> ConsumerHealth:
    """The worst of all. Each reason begins with the names of the processes that give it."""
    found: dict[tuple[str, str], tuple[Reason, list[str]]] = {}
    for part in parts:
        for reason in part.health.reasons:
            _, names = found.setdefault((reason.code, reason.message), (reason, []))
            names.append(part.process.instance_id)
    return ConsumerHealth(
        status=worst([part.health.status for part in parts]),
        reasons=[
            reason.model_copy(update={"message": f"{', '.join(names)}: {reason.message}"})
            for reason, names in found.values()
        ],
    )


def _rate_limit(parts: Sequence[ConsumerStatus]) -> RateLimitStatus | None:
    """The limits of all processes together; None: one of them has none."""
    limits = [part.rate_limit for part in parts if part.rate_limit is not None]
    if len(limits) < len(parts):
        return None
    return RateLimitStatus(
        messages_per_second=sum(limit.messages_per_second for limit in limits),
        burst=sum(limit.burst for limit in limits),
        waiting=sum(limit.waiting for limit in limits),
    )


def _breaker(parts: Sequence[ConsumerStatus]) -> BreakerStatus | None:
    """That of the process that is furthest from letting everything begin; the first one of these."""
    breakers = [part.breaker for part in parts if part.breaker is not None]
    return max(breakers, key=lambda breaker: BREAKER_STATES.index(breaker.state), default=None)


def _pauses(parts: Sequence[ConsumerStatus]) -> list[PauseStatus]:
    """Each once: those that all members share, and those of single processes."""
    found = {
        (pause.topic or "", -1 if pause.partition is None else pause.partition, pause.since): pause
        for part in parts
        for pause in part.pauses
    }
    return [found[place] for place in sorted(found)]


def _counters(parts: Sequence[ConsumerStatus]) -> CounterValues:
    each = [part.counters.model_dump() for part in parts]
    return CounterValues(**{name: sum(counters[name] for counters in each) for name in each[0]})


def _rates(parts: Sequence[ConsumerStatus]) -> Rates:
    """The seconds are those of the part that knows least, of those that know anything."""
    rates = [part.rates for part in parts]
    return Rates(
        received=sum(each.received for each in rates),
        processed=sum(each.processed for each in rates),
        failed=sum(each.failed for each in rates),
        seconds=min((each.seconds for each in rates if each.seconds), default=0.0),
    )


def _greatest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _errors(parts: Sequence[ConsumerStatus]) -> list[LastError]:
    every = chain.from_iterable(part.last_errors for part in parts)
    return sorted(every, key=lambda error: error.at, reverse=True)[:SHOWN_ERRORS]


def _ordered(parts: Sequence[OrderedStatus]) -> OrderedStatus | None:
    """What the store said is about the whole group, and may be older in one process than in another."""
    if not parts:
        return None
    return OrderedStatus(
        aggregates_waiting=max(part.aggregates_waiting for part in parts),
        parked=max(part.parked for part in parts),
        blocked=sum(part.blocked for part in parts),
        full=sum(part.full for part in parts),
        oldest_gap_seconds=max(part.oldest_gap_seconds for part in parts),
    )

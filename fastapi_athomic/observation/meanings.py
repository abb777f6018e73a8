"""What each reason means: how bad it is, which probe it fails, and which setting says how long it may last.

docs/operations.md has the same as a table, with what to do; a test compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from .reasons import Reason, ReasonCode
from .status import HealthReport, HealthStatus

_C = ReasonCode


class Part(StrEnum):
    """What a reason belongs to: decides which probes it fails. Those but the first and the last are the setting's."""

    LIFE = "life"  # a restart of the process cures it: neither live nor ready
    FAULTS = "faults"  # this process does not work, through its own fault
    CHECKS = "checks"  # the app's own checks
    CONSUMERS = "consumers"  # a consumer does not consume, whoever's fault that is
    BROKER = "broker"
    DEPENDENCIES = "dependencies"  # state store, schema registry, object store
    NONE = "none"  # shown in health only


class Meaning(NamedTuple):
    """What a reason means."""

    status: HealthStatus  # of the consumer, or of the app
    part: Part
    limit: str | None = None  # the setting that says how long it may last before it is told


_UNHEALTHY, _DEGRADED, _STARTING = HealthStatus.UNHEALTHY, HealthStatus.DEGRADED, HealthStatus.STARTING

MEANINGS: Mapping[ReasonCode, Meaning] = {
    _C.NOT_STARTED: Meaning(_STARTING, Part.NONE),  # `unstarted`: ready fails, whatever is set
    _C.START_FAILED: Meaning(_UNHEALTHY, Part.LIFE),
    _C.STARTING: Meaning(_STARTING, Part.CONSUMERS),
    _C.CONSUMER_LOOP_ENDED: Meaning(_UNHEALTHY, Part.LIFE),
    _C.CONSUMER_LOOP_STALLED: Meaning(_UNHEALTHY, Part.LIFE, "health.loop_stalled"),
    _C.CONSUMER_LOOP_BLOCKED: Meaning(_UNHEALTHY, Part.FAULTS, "health.loop_late"),
    _C.EVENT_LOOP_LATE: Meaning(_DEGRADED, Part.NONE, "health.loop_late"),
    _C.BROKER_CONNECTING: Meaning(_STARTING, Part.BROKER),
    _C.BROKER_UNREACHABLE: Meaning(_UNHEALTHY, Part.BROKER),
    _C.REGISTRY_UNREACHABLE: Meaning(_DEGRADED, Part.DEPENDENCIES),
    _C.CHECK_PENDING: Meaning(_STARTING, Part.CHECKS, "health.check_timeout"),
    _C.CHECK_FAILED: Meaning(_UNHEALTHY, Part.CHECKS, "health.check_timeout"),
    _C.SUPERVISOR_ENDED: Meaning(_UNHEALTHY, Part.LIFE),
    _C.RESTARTING: Meaning(_UNHEALTHY, Part.CONSUMERS),
    _C.RESTARTS_OFTEN: Meaning(_DEGRADED, Part.NONE, "health.restarts_within"),
    _C.STOPPED: Meaning(_UNHEALTHY, Part.CONSUMERS),
    _C.POLL_LATE: Meaning(_UNHEALTHY, Part.FAULTS, "health.poll_late"),
    _C.MEMBERSHIP_IN_DOUBT: Meaning(_UNHEALTHY, Part.CONSUMERS),
    _C.MEMBERSHIP_LOST: Meaning(_UNHEALTHY, Part.CONSUMERS),
    _C.WITHOUT_PARTITIONS: Meaning(_UNHEALTHY, Part.CONSUMERS, "drain_timeout"),
    _C.REBALANCE_LONG: Meaning(_DEGRADED, Part.NONE, "health.long_rebalance"),
    _C.STATIC_ID_TWICE: Meaning(_DEGRADED, Part.NONE),
    _C.NO_PROGRESS: Meaning(_UNHEALTHY, Part.CONSUMERS, "stall_timeout"),
    _C.HANDLER_STUCK: Meaning(_UNHEALTHY, Part.FAULTS, "stuck_after"),
    _C.QUEUE_LATE: Meaning(_DEGRADED, Part.NONE, "health.queue_late"),
    _C.BACK_PRESSURE: Meaning(_DEGRADED, Part.NONE, "health.back_pressure"),
    _C.EVENT_LOOP_BLOCKED: Meaning(_DEGRADED, Part.NONE, "blocking_after"),
    _C.COMMIT_FAILING: Meaning(_DEGRADED, Part.NONE),
    _C.POSITION_UNKNOWN: Meaning(_DEGRADED, Part.NONE),
    _C.PARTITION_UNREADABLE: Meaning(_DEGRADED, Part.NONE),
    _C.DEAD_LETTER_UNWRITABLE: Meaning(_DEGRADED, Part.NONE),
    _C.FAILURE_TOPICS_UNUSABLE: Meaning(_DEGRADED, Part.NONE),
    _C.RETURN_TOPIC_UNREADABLE: Meaning(_DEGRADED, Part.NONE),
    _C.TOPIC_MISSING: Meaning(_DEGRADED, Part.NONE),
    _C.NO_TOPIC_MATCHES: Meaning(_DEGRADED, Part.NONE),
    _C.BREAKER_OPEN: Meaning(_DEGRADED, Part.NONE),
    _C.PAYLOAD_UNAVAILABLE: Meaning(_DEGRADED, Part.DEPENDENCIES),
    _C.STORE_UNREACHABLE: Meaning(_DEGRADED, Part.DEPENDENCIES),
    _C.SEQUENCE_GAP: Meaning(_DEGRADED, Part.NONE),
    _C.AGGREGATES_BLOCKED: Meaning(_DEGRADED, Part.NONE),
    _C.WAITING_ROOM_FULL: Meaning(_DEGRADED, Part.NONE),
}


def status_of(reasons: Collection[Reason]) -> HealthStatus:
    """The worst of these reasons; healthy if there are none."""
    found = {MEANINGS[reason.code].status for reason in reasons}
    return next((status for status in reversed(HealthStatus) if status in found), HealthStatus.HEALTHY)


def keeps_from_living(report: HealthReport) -> list[ReasonCode]:
    """Why the liveness probe fails; empty: it does not."""
    return _codes(reason for reason in _all(report) if MEANINGS[reason.code].part is Part.LIFE)


def keeps_from_being_ready(
    report: HealthReport, includes: Collection[str], *, now: datetime, broker_reached: datetime | None
) -> list[ReasonCode]:
    """Why the readiness probe fails; empty: it does not.

    `includes`: the setting `health.ready_includes`. `broker_reached`: since when the broker answers; None: it does not.
    A fault of this process counts only if it has lasted for its limit with a broker that answers: else the broker's
    absence may be its cause, and would take all instances out of service at once.
    """

    def counts(reason: Reason) -> bool:
        part = MEANINGS[reason.code].part
        if part is Part.FAULTS and "faults" in includes:
            began = max(reason.since or now, broker_reached) if broker_reached is not None else now
            return broker_reached is not None and (now - began).total_seconds() >= (reason.limit_seconds or 0.0)
        return part is Part.LIFE or (part is not Part.NONE and part.value in includes)

    return _codes(reason for reason in _all(report) if counts(reason))


def _all(report: HealthReport) -> Iterator[Reason]:
    yield from report.reasons
    for health in report.consumers.values():
        yield from health.reasons


def _codes(reasons: Iterator[Reason]) -> list[ReasonCode]:
    return list(dict.fromkeys(reason.code for reason in reasons))

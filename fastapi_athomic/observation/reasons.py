"""Why a consumer is not healthy: a stable code for machines, a sentence for people."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, Field

from ..clock import utc_now


class ReasonCode(StrEnum):
    """The causes. Codes are never renamed: alerts are written on them. docs/operations.md says what to do."""

    # the app
    NOT_STARTED = "not_started"  # its lifespan has not run
    START_FAILED = "start_failed"
    STARTING = "starting"  # consumers wait for the broker, or for their partitions, for the first time
    CONSUMER_LOOP_ENDED = "consumer_loop_ended"  # with isolation="thread": the thread of the consumers has ended
    CONSUMER_LOOP_STALLED = "consumer_loop_stalled"  # its event loop has not turned for so long that it will not again
    CONSUMER_LOOP_BLOCKED = "consumer_loop_blocked"  # it does not turn now
    EVENT_LOOP_LATE = "event_loop_late"  # one of the event loops has just turned late
    BROKER_CONNECTING = "broker_connecting"  # it has not been reached yet
    BROKER_UNREACHABLE = "broker_unreachable"
    REGISTRY_UNREACHABLE = "registry_unreachable"  # the last request to a schema registry failed
    CHECK_PENDING = "check_pending"  # a check of the app's own has not answered yet
    CHECK_FAILED = "check_failed"
    # whether a consumer runs
    SUPERVISOR_ENDED = "supervisor_ended"  # nobody would build it anew
    RESTARTING = "restarting"  # it broke
    RESTARTS_OFTEN = "restarts_often"  # it consumes, but has broken often lately
    STOPPED = "stopped"  # or stopping
    # whether it is a member of its group
    POLL_LATE = "poll_late"
    MEMBERSHIP_IN_DOUBT = "membership_in_doubt"  # fenced: no handler starts
    MEMBERSHIP_LOST = "membership_lost"  # evicted; it joins again
    WITHOUT_PARTITIONS = "without_partitions"  # for longer than any rebalance takes
    REBALANCE_LONG = "rebalance_long"
    STATIC_ID_TWICE = "static_id_twice"  # two members with one `group_instance_id`
    # whether messages move
    NO_PROGRESS = "no_progress"
    HANDLER_STUCK = "handler_stuck"
    QUEUE_LATE = "queue_late"  # fetched messages wait long for their turn
    BACK_PRESSURE = "back_pressure"  # a partition is not fetched: its buffer is full
    EVENT_LOOP_BLOCKED = "event_loop_blocked"  # its handler has just blocked the event loop
    COMMIT_FAILING = "commit_failing"
    POSITION_UNKNOWN = "position_unknown"  # a partition cannot be read yet
    PARTITION_UNREADABLE = "partition_unreadable"  # a damaged batch, say
    DEAD_LETTER_UNWRITABLE = "dead_letter_unwritable"  # a partition waits until its dead letter or retry is written
    FAILURE_TOPICS_UNUSABLE = "failure_topics_unusable"  # DLQ or retry topics are missing, or may not be written
    RETURN_TOPIC_UNREADABLE = "return_topic_unreadable"  # a retry or redrive topic may not be read
    TOPIC_MISSING = "topic_missing"
    NO_TOPIC_MATCHES = "no_topic_matches"  # of a pattern
    BREAKER_OPEN = "breaker_open"  # its circuit breaker is open or half open: nothing begins
    PAYLOAD_UNAVAILABLE = "payload_unavailable"  # messages wait for a schema registry or an object store
    # of an ordered consumer
    STORE_UNREACHABLE = "store_unreachable"
    SEQUENCE_GAP = "sequence_gap"
    AGGREGATES_BLOCKED = "aggregates_blocked"
    WAITING_ROOM_FULL = "waiting_room_full"


class Reason(BaseModel):
    """One reason why something is not healthy."""

    code: ReasonCode = Field(description="The cause; codes are never renamed. docs/operations.md says what to do")
    message: str = Field(description="The same as a sentence, with figures")
    since: datetime | None = Field(default=None, description="Since when, in UTC; null if that is not known")
    limit_seconds: float | None = Field(
        default=None, description="For how long it may last before it is told, by a setting; null: it is told at once"
    )

    def __str__(self) -> str:
        return self.message


def lasting(before: Reason | None, code: ReasonCode, message: str | None) -> Reason | None:
    """The reason from now on; None if there is no message any more.

    It has been there since `before` was first told, also if its message has changed.
    """
    if message is None:
        return None
    since = before.since if before is not None else utc_now()
    return Reason(code=code, message=message, since=since)


def ago(seconds: float, now: datetime | None = None) -> datetime:
    """So many seconds before `now`; None: the present."""
    return (now or utc_now()) - timedelta(seconds=seconds)

"""What the routes say about consumers; the shapes in OpenAPI."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class HealthStatus(StrEnum):
    """From best to worst; the summary is the worst of its consumers."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # works, but somebody should look
    STARTING = "starting"  # not yet ready for the first time
    UNHEALTHY = "unhealthy"  # does not consume


SEVERITY = list(HealthStatus)


def worst(statuses: list[HealthStatus]) -> HealthStatus:
    return max(statuses, key=SEVERITY.index, default=HealthStatus.HEALTHY)


class ConsumerHealth(BaseModel):
    status: HealthStatus
    reasons: list[str] = []


class HealthReport(BaseModel):
    status: HealthStatus
    consumers: dict[str, ConsumerHealth]
    reasons: list[str] = []  # what concerns all consumers: the broker is away, a service could not start


class PartitionStatus(BaseModel):
    topic: str
    partition: int
    position: int | None  # the next offset to be fetched
    committed: int | None
    end_offset: int | None  # the last stable offset: what is in open transactions does not count
    lag: int | None  # messages from the lowest that is not concluded to the end
    lag_seconds: float | None  # age of that one, by its timestamp; None: it has not been fetched yet; 0: there is none
    in_flight: int  # received, not concluded
    paused: bool


class CounterValues(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    received: int
    processed: int
    failed: int
    retried: int
    deferred: int
    dead_lettered: int
    redriven: int
    skipped: int
    redelivered: int
    duplicates: int
    parked: int
    given_up: int
    lost_to_retention: int
    commits: int
    rebalances: int
    abandoned: int


class Rates(BaseModel):
    """Messages per second since the consumer was last ready."""

    received: float
    processed: float


class OrderedStatus(BaseModel):
    """Of an ordered consumer: what waits in its group, as it last heard from the state store."""

    aggregates_waiting: int  # that have messages in their waiting room
    parked: int  # messages in all waiting rooms
    blocked: int  # aggregates whose next message failed, of this process
    full: int  # aggregates whose messages found no room, of this process
    oldest_gap_seconds: float  # for so long a number has been missing


class ConsumerStatus(BaseModel):
    id: str
    topics: list[str]
    pattern: str | None
    group_id: str
    ordering: str
    concurrency: int
    batch_size: int | None
    state: str
    ready: bool
    paused: bool
    health: ConsumerHealth
    assignment: list[PartitionStatus]
    counters: CounterValues
    rates: Rates
    oldest_in_flight_seconds: float | None
    last_message_at: datetime | None
    last_error: str | None  # its type; texts of handlers' errors may hold data
    restarts: int
    dlq_topics: list[str]
    ordered: OrderedStatus | None = None

"""What the routes say about consumers: these models are the shapes in OpenAPI."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from ..operation_settings import Role


class HealthStatus(StrEnum):
    """From best to worst; the summary is the worst of its consumers."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # works, but somebody should look
    STARTING = "starting"  # not yet ready for the first time
    UNHEALTHY = "unhealthy"  # does not consume


SEVERITY = list(HealthStatus)


def worst(statuses: list[HealthStatus]) -> HealthStatus:
    """Healthy if there are none."""
    return max(statuses, key=SEVERITY.index, default=HealthStatus.HEALTHY)


class ProcessInfo(BaseModel):
    """Which process answers: with several workers behind one address every request may meet another one."""

    instance_id: str  # the setting `instance_id`, filled in
    host: str
    pid: int


class ConsumerHealth(BaseModel):
    status: HealthStatus
    reasons: list[str] = []


class HealthReport(BaseModel):
    status: HealthStatus
    process: ProcessInfo
    role: Role = Field("all", description="`web`: the consumers are checked here, and run in other processes")
    consumers: dict[str, ConsumerHealth]
    reasons: list[str] = []  # about all consumers: the broker cannot be reached, a service could not start


class PartitionStatus(BaseModel):
    topic: str
    partition: int
    position: int | None  # the next offset to be fetched
    committed: int | None
    end_offset: int | None  # the last stable offset: messages of open transactions do not count
    lag: int | None  # messages from the lowest that is not concluded up to the end
    lag_seconds: float | None  # age of the lowest, by its timestamp; None: it is not fetched yet; 0: there is none
    in_flight: int  # received, but not concluded
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
    """What waits in the group of an ordered consumer, as the state store last reported it."""

    aggregates_waiting: int  # aggregates with messages in their waiting room
    parked: int  # messages in all waiting rooms
    blocked: int  # aggregates of this process whose next message failed
    full: int  # aggregates of this process whose messages found no room
    oldest_gap_seconds: float  # how long a number has been missing


class LastError(BaseModel):
    """The last time that a message failed, at whichever attempt."""

    type: str = Field(description="The exception's type, with its module unless it is one of Python's own")
    message: str | None = Field(
        description="What the exception says, in one line of up to 500 characters and without inputs of validation "
        "errors; null with `expose_error_messages=false`"
    )
    stage: str = Field(description="In which step: `headers`, `decode`, `handler` or `timeout`")
    topic: str = Field(description="The topic it was read from, perhaps a retry or redrive topic")
    partition: int = Field(description="Its place in the topic")
    offset: int = Field(description="Its place in the partition; of a batch that failed, the first message's")
    at: datetime = Field(description="When it failed, in UTC")
    count: int = Field(description="How many attempts have failed since the consumer was built, this one included")


class ConsumerStatus(BaseModel):
    id: str
    process: ProcessInfo
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
    last_error: LastError | None = Field(description="The last failure of a message; null if there was none")
    restarts: int = Field(description="How often the consumer was rebuilt because consumption broke off")
    last_restart_reason: str | None = Field(
        description="Why consumption broke off for the last time: the client died, the broker refused, no progress. "
        "Of errors that are not the package's own only the type"
    )
    dlq_topics: list[str]
    ordered: OrderedStatus | None = None

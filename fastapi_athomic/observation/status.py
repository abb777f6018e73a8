"""What the routes say about consumers: these models are the shapes in OpenAPI."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


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


class PauseStatus(BaseModel):
    """A pause of a consumer, of one topic of it, or of one partition. They are independent of each other."""

    topic: str | None = Field(None, description="The topic that is paused; null: the whole consumer is")
    partition: int | None = Field(None, description="The partition that is paused; null: the whole topic is")
    since: datetime = Field(description="When it was paused, in UTC")
    until: datetime | None = Field(None, description="When it ends by itself, in UTC; null: when somebody resumes it")
    actor: str = Field(description="Who paused it; `settings`: the handler's tuning did")
    reason: str | None = Field(None, description="Why, in their words")


class RateLimitStatus(BaseModel):
    """How many messages this process begins for a consumer."""

    messages_per_second: float = Field(description="So many at most, on average")
    burst: int = Field(description="So many at most at once, after a pause")
    waiting: int = Field(description="Partitions, keys or aggregates whose next message waits for its turn")


class BreakerStatus(BaseModel):
    """The circuit breaker of a consumer in this process."""

    state: str = Field(description="`closed`; `open`: nothing begins; `half_open`: one message is tried")
    since: datetime = Field(description="Since when, in UTC")
    until: datetime | None = Field(description="When one message is tried, in UTC; null: not open, or until closed")
    forced: bool = Field(description="An operator opened it: it stays open until one closes it")
    failures: int = Field(description="Calls that failed in a row, up to the number that opens it")
    error: str | None = Field(description="The type of the last error that counted")


class ConsumerStatus(BaseModel):
    id: str
    process: ProcessInfo
    topics: list[str]
    pattern: str | None
    group_id: str
    ordering: str
    concurrency: int = Field(description="How many messages or batches this process handles at once, as set last")
    batch_size: int | None
    state: str
    ready: bool
    paused: bool = Field(description="The whole consumer is paused; `pauses` also has those of topics and partitions")
    pauses: list[PauseStatus] = Field([], description="What an operator has paused, and until when")
    rate_limit: RateLimitStatus | None = Field(None, description="As in force; null: none")
    breaker: BreakerStatus | None = Field(None, description="Null: the consumer has none")
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

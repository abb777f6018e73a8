"""What the routes say about consumers: these models are the shapes in OpenAPI."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ..operation_settings import Role
from .effective import EffectiveSettings
from .reasons import Reason


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

    instance_id: str = Field(description="Its name: the setting `instance_id`, filled in")
    host: str = Field(description="The name of its machine")
    pid: int = Field(description="The number of its process there")


class ConsumerHealth(BaseModel):
    """Whether a consumer consumes."""

    status: HealthStatus = Field(description="`healthy`, `degraded`, `starting` or `unhealthy`; of all, the worst")
    reasons: list[Reason] = Field(
        default=[],
        description="Why it is not healthy; over several processes each begins with the names of who says so",
    )


class CheckStatus(BaseModel):
    """What a check of the app's own has said last."""

    ok: bool | None = Field(default=None, description="null: it has not answered yet")
    message: str | None = Field(default=None, description="What is wrong")
    checked_at: datetime | None = Field(default=None, description="When it was asked last, in UTC")
    age_seconds: float | None = Field(default=None, description="How old this answer is")
    took_seconds: float | None = Field(default=None, description="How long it took")


class HealthReport(BaseModel):
    status: HealthStatus
    process: ProcessInfo
    role: Role = Field(default="all", description="`web`: the consumers are checked here, and run in other processes")
    consumers: dict[str, ConsumerHealth]
    checks: dict[str, CheckStatus] = {}  # the app's own, by name
    reasons: list[Reason] = []  # about all consumers: the broker cannot be reached, a service could not start


class PartitionStatus(BaseModel):
    """One partition that a process has."""

    topic: str = Field(description="Also a retry or redrive topic of the consumer")
    partition: int = Field(description="Its number")
    position: int | None = Field(description="The next offset to be fetched")
    committed: int | None = Field(description="The offset at which the group would go on now")
    end_offset: int | None = Field(
        description="The last stable offset, up to which messages can be read: those of open transactions do not count"
    )
    lag: int | None = Field(description="Messages from the lowest that is not finished up to `end_offset`")
    lag_seconds: float | None = Field(
        description="The age of the lowest message that is not finished, by its timestamp; null: it is not fetched "
        "yet; 0: there is none"
    )
    in_flight: int = Field(description="Messages that were received and are not finished")
    paused: bool = Field(description="An operator paused it")
    member: str | None = Field(default=None, description="The `instance_id` of the process that has it")


class CounterValues(BaseModel):
    """Since each process built the consumer; restarts of the consumer do not reset them."""

    model_config = ConfigDict(from_attributes=True)

    received: int = Field(description="Messages taken in from the broker")
    processed: int = Field(description="Messages handled successfully")
    failed: int = Field(description="Attempts that failed")
    retried: int = Field(description="Further attempts that were started")
    deferred: int = Field(description="Messages moved to a retry topic")
    dead_lettered: int = Field(description="Messages moved to a DLQ topic")
    redriven: int = Field(description="Dead letters sent back to their group")
    skipped: int = Field(description="Messages passed over by a rule, such as failed ones without a DLQ")
    redelivered: int = Field(description="Messages taken in again although done; they are not handled again")
    duplicates: int = Field(description="Of the skipped: their sequence number was done or waiting already")
    parked: int = Field(description="Messages put into the waiting room until their turn")
    given_up: int = Field(description="Missing sequence numbers that are no longer waited for")
    lost_to_retention: int = Field(description="Offsets that the broker deleted before they were read")
    commits: int = Field(description="Commits of offsets")
    rebalances: int = Field(description="How often the group gave or took partitions")
    abandoned: int = Field(description="Messages still being handled when their partition had to be given up")


class Rates(BaseModel):
    """Messages per second over the last minute."""

    received: float = Field(description="Messages taken in per second")
    processed: float = Field(description="Messages handled successfully per second")
    failed: float = Field(description="Attempts that failed per second")
    seconds: float = Field(
        description="Over how many seconds: 60 to 65, or less if the consumer was ready for the first time after "
        "that; 0: it has not been ready"
    )


class OrderedStatus(BaseModel):
    """What waits in the group of an ordered consumer, as the state store last reported it."""

    aggregates_waiting: int = Field(description="Aggregates of the group with messages in their waiting room")
    parked: int = Field(description="Messages in all waiting rooms of the group")
    blocked: int = Field(description="Aggregates whose next message failed, held by the processes of this answer")
    full: int = Field(description="Aggregates whose messages found no room, held by the processes of this answer")
    oldest_gap_seconds: float = Field(description="How long a sequence number has been missing")


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
    at: AwareDatetime = Field(description="When it failed, in UTC")
    count: int = Field(description="How many attempts have failed since the consumer was built, this one included")


class PauseStatus(BaseModel):
    """A pause of a consumer, of one topic of it, or of one partition. They are independent of each other."""

    topic: str | None = Field(default=None, description="The topic that is paused; null: the whole consumer is")
    partition: int | None = Field(default=None, description="The partition that is paused; null: the whole topic is")
    since: AwareDatetime = Field(description="When it was paused, in UTC")
    until: AwareDatetime | None = Field(
        default=None, description="When it ends by itself, in UTC; null: when somebody resumes it"
    )
    actor: str = Field(description="Who paused it; `settings`: the handler's tuning did")
    reason: str | None = Field(default=None, description="Why, in their words")


class StatusScope(StrEnum):
    """Whom an answer speaks for."""

    PROCESS = "process"  # the process that answers
    GROUP = "group"  # all processes that have the consumer, as far as they share a state store


class MemberStatus(BaseModel):
    """One process that has the consumer."""

    instance_id: str = Field(description="Its name: the setting `instance_id`, filled in")
    host: str = Field(description="The name of its machine")
    pid: int = Field(description="The number of its process there")
    state: str = Field(description="Of the consumer in this process, as `state` below")
    ready: bool = Field(description="It has joined the group")
    paused: bool = Field(description="An operator paused the whole consumer there")
    health: HealthStatus = Field(description="Of the consumer in this process")
    partitions: int = Field(description="How many partitions it has")
    concurrency: int = Field(description="How many messages or batches it handles at once")
    seen_at: AwareDatetime = Field(description="When its part of this answer was true, in UTC by its own clock")
    differs: list[str] = Field(
        default=[], description="Names in `settings` with other values there, as during a deploy"
    )


class RateLimitStatus(BaseModel):
    """How many messages each process begins for a consumer."""

    messages_per_second: float = Field(description="So many at most, on average")
    burst: int = Field(description="So many at most at once, after a pause")
    waiting: int = Field(description="Partitions, keys or aggregates whose next message waits for its turn")


class BreakerStatus(BaseModel):
    """The circuit breaker of a consumer, which each process has for itself."""

    state: str = Field(description="`closed`; `open`: nothing begins; `half_open`: one message is tried")
    since: datetime = Field(description="Since when, in UTC")
    until: datetime | None = Field(description="When one message is tried, in UTC; null: not open, or until closed")
    forced: bool = Field(description="An operator opened it: it stays open until one closes it")
    failures: int = Field(description="Calls that failed in a row, up to the number that opens it")
    error: str | None = Field(description="The type of the last error that counted")


class ConsumerStatus(BaseModel):
    """One consumer. How the parts of several processes become one answer: docs/status.md."""

    id: str = Field(description="The handler id")
    process: ProcessInfo = Field(description="The process that answers")
    scope: StatusScope = Field(description="Whom the answer speaks for: `process` or `group`")
    scope_note: str | None = Field(
        description="Why the answer speaks for its process only although others were asked for; null: it need not"
    )
    members: list[MemberStatus] = Field(description="The processes that the answer speaks for")
    topics: list[str] = Field(description="The topics it consumes; empty with a pattern")
    pattern: str | None = Field(description="The regular expression for the names of its topics")
    group_id: str = Field(description="The consumer group")
    ordering: str = Field(description="`partition`, `key`, `none` or `sequence`")
    concurrency: int = Field(description="How many messages or batches are handled at once, as set last")
    batch_size: int | None = Field(description="Most messages of a batch; null: one message at a time")
    settings: EffectiveSettings = Field(description="What holds for it")
    state: str = Field(
        description="`new`, `starting`, `running`, `backing_off`, `stopping`, `stopped`, or `elsewhere` (other "
        "processes consume: the role is web); of several processes that of the one that is furthest from running"
    )
    ready: bool = Field(description="It has joined the group; of several processes: all of them have")
    paused: bool = Field(
        description="The whole consumer is paused, in all of several processes; `pauses` also has those of topics and "
        "partitions"
    )
    pauses: list[PauseStatus] = Field(default=[], description="What an operator has paused, and until when")
    pauses_note: str | None = Field(
        default=None, description="Why pauses do not hold for the other members of the group yet: the store is away"
    )
    rate_limit: RateLimitStatus | None = Field(
        default=None, description="How much is begun, as in force; the sum of several processes; null: no limit"
    )
    breaker: BreakerStatus | None = Field(
        default=None, description="Null: none; of several processes the one that is open"
    )
    health: ConsumerHealth = Field(description="Whether it consumes, and what somebody should look at")
    assignment: list[PartitionStatus] = Field(description="The partitions that the processes of this answer have")
    lag: int | None = Field(description="The sum over `assignment`; null: that of a partition is not known yet")
    lag_seconds: float | None = Field(
        description="The greatest of `assignment`; null: that of a partition with a lag is not known yet"
    )
    counters: CounterValues = Field(description="What it has done, counted")
    rates: Rates = Field(description="What it does per second")
    oldest_in_queue_seconds: float | None = Field(
        description="How long the oldest message has been waiting in the process for its call of the handler, "
        "estimated from when it was fetched; null: none waits, or none may start now"
    )
    oldest_in_handler_seconds: float | None = Field(
        description="How long the longest running call of the handler has taken; null: none runs"
    )
    oldest_in_flight_seconds: float | None = Field(description="The same as `oldest_in_handler_seconds`")
    last_message_at: AwareDatetime | None = Field(description="When messages were last taken in, in UTC")
    last_error: LastError | None = Field(description="The last failure of a message; null if there was none")
    last_errors: list[LastError] = Field(description="Up to 5 of the last failures, the newest first")
    restarts: int = Field(description="How often the consumer was rebuilt because consumption broke off")
    last_restart_reason: str | None = Field(
        description="Why consumption broke off for the last time: the client died, the broker refused, no progress. "
        "Of errors that are not the package's own only the type"
    )
    dlq_topics: list[str] = Field(description="Where its dead letters go")
    ordered: OrderedStatus | None = Field(default=None, description="Of an ordered consumer; null for others")

"""Steering consumers over HTTP. `control.steering: Steering` does the work, and logs and tells what was done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Le
from fastapi import APIRouter, Request
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from ..control.results import SteeringResult
from ..control.seek_plans import SeekPlan, Target
from ..observation.status import PauseStatus
from .control_parts import CHANGING, ControlParts, RouterOf, changing_router, with_access
from .fields import LONGEST_TIME, WHOLE, Body, ConsumerId, Flag, Offset, Partition, Reason, Time, Topic
from .problems import (
    NOT_POSSIBLE,
    PARTITION_NOT_FOUND,
    REFUSED,
    STORE_UNAVAILABLE,
    TOPIC_NOT_FOUND,
    as_problems,
)

MOST_CONCURRENCY = 10_000
MOST_PER_SECOND = 1_000_000
AtOnce = Annotated[int, Strict(), Ge(1), Le(MOST_CONCURRENCY), WHOLE]
Burst = Annotated[int, Strict(), Ge(1), Le(MOST_PER_SECOND), WHOLE]


_TOPIC_OF_PARTITION: dict[str, Any] = {
    "if": {"required": ["partition"], "properties": {"partition": {"type": "integer"}}},
    "then": {"required": ["topic"], "properties": {"topic": {"type": "string"}}},
}
"""In JSON Schema what `Scope` checks."""


class Scope(Body):
    """A whole consumer, one topic of it, or one partition."""

    topic: Topic | None = Field(None, description="Null: the whole consumer")
    partition: Partition | None = Field(None, description="Null: the whole topic")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.partition is not None and self.topic is None:
            raise ValueError("partition needs topic: say of which topic")
        return self


class Pause(Scope):
    """What to pause, for how long, and why."""

    model_config = ConfigDict(
        json_schema_extra={
            **_TOPIC_OF_PARTITION,
            "examples": [
                {"reason": "payment provider is down", "seconds": 900},
                {"topic": "orders.placed", "partition": 3, "reason": "a poison message is looked at"},
            ],
        }
    )

    seconds: float | None = Field(
        None,
        gt=0,
        le=LONGEST_TIME,
        allow_inf_nan=False,
        strict=True,
        description="It ends by itself after so long; null: when somebody resumes it",
    )
    reason: Reason


class Resume(Scope):
    """Which pauses to end. Without `topic` all of the consumer."""

    model_config = ConfigDict(
        json_schema_extra={**_TOPIC_OF_PARTITION, "examples": [{"reason": "payment provider is back"}]}
    )

    reason: Reason | None = None


class Pauses(BaseModel):
    """What is paused now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "consumer": "billing",
                    "pauses": [
                        {
                            "topic": None,
                            "partition": None,
                            "since": "2026-11-28T12:00:00Z",
                            "until": "2026-11-28T12:15:00Z",
                            "actor": "ann",
                            "reason": "payment provider is down",
                        }
                    ],
                }
            ]
        }
    )

    consumer: str = Field(description="The handler id")
    pauses: list[PauseStatus]
    note: str | None = Field(
        None, description="Why it does not hold for the other members of the group yet: the state store is away"
    )


class Restart(Body):
    """Why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "it hangs since the network was changed"}]})

    reason: Reason


class Concurrency(Body):
    """How many messages or batches each process handles at once."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"value": 4, "reason": "the database is slow"}]})

    value: AtOnce | None = Field(description="Null: as in code or settings")
    reason: Reason


class Rate(Body):
    """How many messages a second each process begins at most."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages_per_second": 50, "burst": 10, "reason": "spare the provider"}]}
    )

    messages_per_second: float | None = Field(
        gt=0, le=MOST_PER_SECOND, allow_inf_nan=False, strict=True, description="Null: as in code or settings"
    )
    burst: Burst | None = Field(None, description="So many may begin at once")
    reason: Reason


class Breaker(Body):
    """Whether the circuit breaker lets anything begin."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"state": "open", "reason": "the provider is down"}]})

    state: Literal["open", "closed", "auto"] = Field(
        description="`open`: nothing begins until somebody sets another state; `closed`: work goes on, failures are "
        "forgotten; `auto`: one that is open tries one message now, which decides"
    )
    reason: Reason


class ToOffset(Body):
    """An offset."""

    offset: Offset = Field(description="The next message is that of this offset")


class ToTime(Body):
    """A time."""

    time: Time = Field(description="The next message is the first of this time or later, ISO 8601")


class Seek(Body):
    """Where to go on, and why."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"topic": "orders.placed", "to": {"time": "2026-11-28T09:00:00Z"}, "dry_run": True, "reason": "try"},
                {"topic": "orders.placed", "partition": 0, "to": {"offset": 42}, "reason": "skip a damaged batch"},
                {"topic": "orders.placed", "to": "end", "reason": "the backlog is of no use any more"},
            ]
        }
    )

    topic: Topic
    partition: Partition | None = Field(None, description="Null: all partitions of the topic")
    to: ToOffset | ToTime | Literal["beginning", "end"]
    dry_run: Flag = Field(False, description="Only say what would be skipped and repeated")
    force: Flag = Field(False, description="Also if other members of the group have some of the partitions")
    reason: Reason

    @field_validator("to", mode="wrap")
    @classmethod
    def _in_one_sentence(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        """Not one sentence for each form that it is not."""
        try:
            return check(value)
        except ValidationError as error:
            forms = {"offset": "ToOffset", "time": "ToTime"}
            meant = [form for name, form in forms.items() if isinstance(value, dict) and name in value]
            faults = [fault for fault in error.errors() if len(meant) == 1 and fault["loc"][0] == meant[0]]
            told = [f"{fault['loc'][-1]}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults]
            one_of = 'must be {"offset": 42}, {"time": "2026-11-28T09:00:00Z"}, "beginning" or "end"'
            raise ValueError("; ".join(told) or one_of) from None

    @property
    def target(self) -> Target:
        """Where to, for `Steering.seek`."""
        if isinstance(self.to, ToOffset):
            return self.to.offset
        return self.to.time if isinstance(self.to, ToTime) else self.to


def control_routers(new_router: RouterOf, parts: ControlParts) -> Sequence[APIRouter]:
    """The routers of these routes."""
    router = changing_router(new_router, parts)
    _add_pauses(router, parts)
    _add_tuning(router, parts)
    _add_seek(router, parts)
    return [router]


def _add_pauses(router: APIRouter, parts: ControlParts) -> None:
    known = with_access(*CHANGING, TOPIC_NOT_FOUND, PARTITION_NOT_FOUND, NOT_POSSIBLE, REFUSED, STORE_UNAVAILABLE)

    @router.post("/{consumer_id}/pause", summary="Pause a consumer", name="consumers_pause", responses=known)
    async def pause(consumer_id: ConsumerId, body: Pause, request: Request) -> Pauses:
        """The whole consumer, a topic, or a partition. Running calls finish; what was fetched stays in order.

        With a state store it lasts over restarts, and for all members of the group. The same scope again replaces
        the pause."""
        actor = await parts.actor(request, body.reason)
        with as_problems():
            pauses = await parts.steering.pause(
                consumer_id, topic=body.topic, partition=body.partition, seconds=body.seconds, actor=actor
            )
            return Pauses(consumer=consumer_id, pauses=pauses, note=parts.steering.pauses_note)

    @router.post("/{consumer_id}/resume", summary="End pauses", name="consumers_resume", responses=known)
    async def resume(consumer_id: ConsumerId, body: Resume, request: Request) -> Pauses:
        """All of the consumer; those of a topic and its partitions; or that of a partition. Answers what stays."""
        actor = await parts.actor(request, body.reason)
        with as_problems():
            pauses = await parts.steering.resume(consumer_id, topic=body.topic, partition=body.partition, actor=actor)
            return Pauses(consumer=consumer_id, pauses=pauses, note=parts.steering.pauses_note)


def _add_tuning(router: APIRouter, parts: ControlParts) -> None:
    known = with_access(*CHANGING, NOT_POSSIBLE, REFUSED, STORE_UNAVAILABLE)

    @router.post("/{consumer_id}/restart", summary="Restart a consumer", name="consumers_restart", responses=known)
    async def restart(consumer_id: ConsumerId, body: Restart, request: Request) -> SteeringResult:
        """It leaves its group gently and joins again. Nothing concluded repeats.

        With a state store in all processes that have it, one after the other, and the answer says what became of it in
        each. It comes when all have done it, each after up to `drain_timeout` seconds, or after 50 seconds: those
        whose turn has not come yet follow."""
        actor = await parts.actor(request, body.reason)
        with as_problems():
            return await parts.steering.restart(consumer_id, actor=actor)

    @router.post(
        "/{consumer_id}/concurrency",
        summary="Change how much is handled at once",
        name="consumers_concurrency",
        responses=known,
    )
    async def concurrency(consumer_id: ConsumerId, body: Concurrency, request: Request) -> SteeringResult:
        """In each process that has it. Running calls go on, and no order is lost.

        With a state store it is kept, for processes that start later, until it is null again; else it lasts until
        the process ends."""
        actor = await parts.actor(request, body.reason)
        with as_problems():
            return await parts.steering.set_concurrency(consumer_id, body.value, actor=actor)

    @router.post(
        "/{consumer_id}/rate", summary="Change how much is begun each second", name="consumers_rate", responses=known
    )
    async def rate(consumer_id: ConsumerId, body: Rate, request: Request) -> SteeringResult:
        """In each process that has it, each with this limit; kept as the concurrency is."""
        actor = await parts.actor(request, body.reason)
        with as_problems():
            return await parts.steering.set_rate(consumer_id, body.messages_per_second, burst=body.burst, actor=actor)

    @router.post(
        "/{consumer_id}/breaker",
        summary="Open or close the circuit breaker",
        name="consumers_breaker",
        responses=known,
    )
    async def breaker(consumer_id: ConsumerId, body: Breaker, request: Request) -> SteeringResult:
        """In each process that has it; kept as the concurrency is. The consumer need not have one in code."""
        actor = await parts.actor(request, body.reason)
        with as_problems():
            return await parts.steering.set_breaker(consumer_id, body.state, actor=actor)


def _add_seek(router: APIRouter, parts: ControlParts) -> None:
    @router.post(
        "/{consumer_id}/seek",
        summary="Go on elsewhere in a topic",
        name="consumers_seek",
        responses=with_access(*CHANGING, TOPIC_NOT_FOUND, PARTITION_NOT_FOUND, NOT_POSSIBLE, REFUSED),
    )
    async def seek(consumer_id: ConsumerId, body: Seek, request: Request) -> SeekPlan:
        """Back, to handle messages again, or ahead, to skip some; the new position is committed.

        With `dry_run` nothing changes, and the answer says what would be skipped and repeated. That is exact while the
        consumer is paused. Refused while other members of the group have some of the partitions, unless `force` is
        set: then those of the process that answers are moved, and the others by who has them, if there is a state
        store.
        """
        actor = await parts.actor(request, body.reason)
        with as_problems():
            if body.dry_run:
                return await parts.steering.plan_seek(consumer_id, body.topic, partition=body.partition, to=body.target)
            return await parts.steering.seek(
                consumer_id, body.topic, body.partition, to=body.target, force=body.force, actor=actor
            )

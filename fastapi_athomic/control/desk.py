"""Where the consumers of a run are steered: checks what is asked for, and has it done.

All coroutines are awaited in the consumers' event loop; `Steering` brings calls there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from ..checks import POSITIVE_SECONDS, did_you_mean, is_whole, shown
from ..clock import utc_now
from ..consumption.controls import Scope, new_pause, scope_of
from ..consumption.service import ConsumerService
from ..exceptions import (
    ConfigurationError,
    ControlRefusedError,
    HandlerNotFoundError,
    PartitionNotFoundError,
    SourceNotFoundError,
    TransportError,
)
from ..messages import TopicPartition
from ..observation.status import PauseStatus
from .actions import Actor, ControlAction
from .carrying_out import check
from .group_pauses import GroupPauses
from .instructions import Instructions
from .parts import DeskParts
from .results import SteeringResult
from .seek_plans import SeekPlan, Target
from .seeks import Seeks

LOOK_SECONDS = 2.0
"""So long the broker may take to say which partitions a topic has, before a pause. Then it is paused as asked."""
LONGEST_PAUSE = timedelta(days=3650)
"""A time limit beyond that is taken for a mistake."""


class Desk:
    """Steers the consumers of one run."""

    def __init__(self, parts: DeskParts) -> None:
        self._consumers = parts.consumers
        self._transport = parts.transport
        self._seeks = Seeks(parts)
        self._instructions = Instructions(parts)
        self._group_pauses = GroupPauses(parts, self._look)

    async def begin(self) -> None:
        """Before the consumers start: they are paused if they were, and what was set for them holds. Never raises."""
        await self._group_pauses.begin()
        if self._group_pauses.reached:  # else a start would wait for it twice
            await self._instructions.begin()

    async def _look(self) -> None:
        """Does what other processes ask for. Raises `StateStoreError`."""
        await self._seeks.handovers.look()
        await self._instructions.look()

    async def end(self) -> None:
        """Steers no more for other members of the group."""
        await self._group_pauses.end()
        await self._instructions.end()
        await self._seeks.handovers.end()

    def service(self, handler_id: str) -> ConsumerService:
        """The consumer of a handler.

        Raises:
            HandlerNotFoundError: there is no such handler.
        """
        service = self._consumers.get(handler_id)
        if service is None:
            known = self._consumers
            instead = f"{did_you_mean(handler_id, known) or ';'} the handlers are: {', '.join(known) or 'none'}"
            raise HandlerNotFoundError(f"there is no handler {handler_id}{instead}")
        return service

    # --- what `Steering` says

    async def pause(
        self, handler_id: str, topic: str | None, partition: int | None, seconds: float | None, actor: Actor
    ) -> list[PauseStatus]:
        """See `Steering.pause`."""
        service = self.service(handler_id)
        scope = _scope(service, topic, partition)
        self._check_heard(service)
        await self._check_partition(service, scope)
        pause = new_pause(scope, actor=actor.name, reason=actor.reason, until=_end(seconds))
        service.pause(pause)
        await self._group_pauses.share(service, pause)
        return service.controls.pauses.all()

    async def resume(self, handler_id: str, topic: str | None, partition: int | None) -> list[PauseStatus]:
        """See `Steering.resume`."""
        service = self.service(handler_id)
        scope = _scope(service, topic, partition)
        self._check_heard(service)
        await self._group_pauses.refresh()
        await self._group_pauses.withdraw(service, map(scope_of, service.resume(scope)))
        return service.controls.pauses.all()

    @property
    def pauses_note(self) -> str | None:
        """See `Steering.pauses_note`."""
        return self._group_pauses.note

    async def tell_all(
        self, handler_id: str, action: ControlAction, values: Mapping[str, Any], actor: Actor
    ) -> SteeringResult:
        """Has it done in all processes that have the handler. See `Steering.restart`, and those behind it."""
        service = self.service(handler_id)
        check(action, values)
        self._check_heard(service)
        return await self._instructions.give(service, action, values, actor)

    def listen_to_breakers(self, told: Callable[[str, dict[str, Any]], None]) -> None:
        """Has each change of a circuit breaker told that nobody asked for: the handler id, and what it is now."""
        for handler_id, service in self._consumers.items():
            service.controls.limits.breaker.told = partial(told, handler_id)

    async def plan_seek(self, handler_id: str, topic: str, partition: int | None, to: Target) -> SeekPlan:
        """See `Steering.plan_seek`."""
        return await self._seeks.plan(self.service(handler_id), topic, partition, to)

    async def seek(self, handler_id: str, topic: str, partition: int | None, to: Target, *, force: bool) -> SeekPlan:
        """See `Steering.seek`."""
        return await self._seeks.seek(self.service(handler_id), topic, partition, to, force=force)

    # --- what is refused

    def _check_heard(self, service: ConsumerService) -> None:
        """Raises `ControlRefusedError` if no process that consumes would hear of it."""
        if service.elsewhere and not self._instructions.heard:
            raise ControlRefusedError(
                f"{service.name} cannot be steered here: this process has the role web and consumes nothing, "
                "and there is no state store by which processes that consume would hear of it: set state_store_url"
            )

    async def _check_partition(self, service: ConsumerService, scope: Scope) -> None:
        """Raises `PartitionNotFoundError` if the topic has no such partition. It is passed while the broker is away."""
        if scope.topic is None or scope.partition is None:
            return
        place = TopicPartition(scope.topic, scope.partition)
        if service.passage(place) is not None:
            return
        try:
            bounds = await self._transport.bounds(place.topic, LOOK_SECONDS)
        except TransportError:
            return
        if place.partition not in bounds:
            raise PartitionNotFoundError(f"{place}: there is no such partition, the topic has {len(bounds)}, from 0 on")


def _scope(service: ConsumerService, topic: str | None, partition: int | None) -> Scope:
    if topic is None:
        if partition is not None:
            raise ConfigurationError("a partition is named without its topic")
        return Scope()
    if not service.follows(topic):
        known = service.consumed_topics()
        raise SourceNotFoundError(
            f"{service.name} does not consume the topic {shown(topic)}{did_you_mean(topic, known) or ';'} it consumes: "
            f"{', '.join(known) or 'none'}, and its own retry and redrive topics"
        )
    if partition is not None and not (is_whole(partition) and partition >= 0):
        raise ConfigurationError(f"partition must be a whole number of 0 or more, or None, not {shown(partition)}")
    return Scope(topic, partition)


def _end(seconds: float | None) -> datetime | None:
    if seconds is None:
        return None
    if not POSITIVE_SECONDS.holds(seconds) or seconds > LONGEST_PAUSE.total_seconds():
        most = f"at most {LONGEST_PAUSE.total_seconds():.0f} (ten years)"
        raise ConfigurationError(f"seconds must be {POSITIVE_SECONDS.text}, {most}, or None, not {shown(seconds)}")
    return utc_now() + timedelta(seconds=seconds)

"""Where the consumers of a run are steered: checks what is asked for, and has it done.

All coroutines are awaited in the consumers' event loop; `Steering` brings calls there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from ..checks import COUNT, POSITIVE_SECONDS, did_you_mean, is_whole, shown
from ..consumption.controls import Scope, new_pause, scope_of
from ..consumption.service import ConsumerService
from ..exceptions import ConfigurationError, ControlRefusedError, HandlerNotFoundError, SourceNotFoundError
from ..observation.status import PauseStatus
from ..settings import AthomicSettings
from ..stores.shared import SharedState
from ..transports.base import Transport
from .actions import Actor
from .group_pauses import GroupPauses
from .seek_plans import SeekPlan, Target
from .seeks import Seeks

LONGEST_PAUSE = timedelta(days=3650)
"""A time limit beyond that is taken for a mistake."""


class Desk:
    """Steers the consumers of one run."""

    def __init__(
        self,
        consumers: Mapping[str, ConsumerService],
        transport: Transport,
        shared: SharedState | None,
        settings: AthomicSettings,
    ) -> None:
        self._consumers = consumers
        self._seeks = Seeks(consumers, transport, shared, settings)
        self._group_pauses = GroupPauses(consumers, shared, settings, self._seeks.handovers.look)

    async def begin(self) -> None:
        """Before the consumers start: they are paused if they were. Never raises."""
        await self._group_pauses.begin()

    async def end(self) -> None:
        """Steers no more for other members of the group."""
        await self._group_pauses.end()
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
        pause = new_pause(scope, actor=actor.name, reason=actor.reason, until=_end(seconds))
        service.pause(pause)
        await self._group_pauses.share(service, pause)
        return service.controls.pauses.all()

    async def resume(self, handler_id: str, topic: str | None, partition: int | None) -> list[PauseStatus]:
        """See `Steering.resume`."""
        service = self.service(handler_id)
        scope = _scope(service, topic, partition)
        await self._group_pauses.refresh()
        await self._group_pauses.withdraw(service, map(scope_of, service.resume(scope)))
        return service.controls.pauses.all()

    @property
    def pauses_note(self) -> str | None:
        """See `Steering.pauses_note`."""
        return self._group_pauses.note

    async def restart(self, handler_id: str) -> None:
        """See `Steering.restart`."""
        await self.service(handler_id).restart()

    async def set_concurrency(self, handler_id: str, value: int | None) -> int:
        """See `Steering.set_concurrency`."""
        service = self.service(handler_id)
        if value is not None and not COUNT.holds(value):
            raise ConfigurationError(f"concurrency must be {COUNT.text}, or None (as declared), not {shown(value)}")
        return service.set_concurrency(value)

    async def set_rate(self, handler_id: str, messages_per_second: float | None, burst: int | None) -> None:
        """See `Steering.set_rate`."""
        self.service(handler_id)
        raise ControlRefusedError("there are no rate limits yet")

    async def plan_seek(self, handler_id: str, topic: str, partition: int | None, to: Target) -> SeekPlan:
        """See `Steering.plan_seek`."""
        return await self._seeks.plan(self.service(handler_id), topic, partition, to)

    async def seek(self, handler_id: str, topic: str, partition: int | None, to: Target, *, force: bool) -> SeekPlan:
        """See `Steering.seek`."""
        return await self._seeks.seek(self.service(handler_id), topic, partition, to, force=force)


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
    return datetime.now(UTC) + timedelta(seconds=seconds)

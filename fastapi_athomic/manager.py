"""All consumers of one run, by id: has the factory build one per handler, and sums up their health."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from time import monotonic

from .broker import NOTICED_SECONDS, BrokerConnection
from .checks import did_you_mean
from .clock import utc_now
from .consumption.service import ConsumerService
from .discovery import Discovered
from .exceptions import ConfigurationError, TransportError, raise_all
from .factory import ConsumerFactory
from .lifecycle import LifecycleManager
from .observation.meanings import MEANINGS, Part, keeps_from_being_ready, keeps_from_living
from .observation.process import this_process
from .observation.process_health import ProcessHealth
from .observation.rates import LOOK_SECONDS
from .observation.reasons import Reason, ReasonCode
from .observation.status import ConsumerHealth, ConsumerStatus, HealthReport, HealthStatus, worst
from .settings import AthomicSettings

logger = logging.getLogger(__name__)

CONSUMES = (HealthStatus.HEALTHY, HealthStatus.DEGRADED)
NOT_STARTED = "the app has not started: if it is mounted in another app, that one must run its lifespan"


class ConsumerManager:
    """The consumers of one run of an app. Other rooms reach a consumer through `consumers`."""

    def __init__(
        self,
        *,
        handlers: Sequence[Discovered],
        factory: ConsumerFactory,
        settings: AthomicSettings,
        lifecycle: LifecycleManager,
        broker: BrokerConnection,
        process: ProcessHealth,
        only: Collection[str] = (),
    ) -> None:
        """Builds a service for each handler and registers it with `lifecycle`. With the role `web` none is registered.

        `only`: ids of handlers; the others are left to other processes. Empty: none is.

        Raises:
            ConfigurationError: something is wrong with handlers, or a tuning or `only` names one that does not exist.
        """
        self._settings = settings
        self._factory = factory
        self._lifecycle = lifecycle
        self._broker = broker
        self.process = process
        self._only = frozenset(only)
        self._consumers: dict[str, ConsumerService] = {}
        self.groups = {each.subscription.handler_id: each.subscription.group_id for each in handlers}
        """The group of each handler by its id, also of those that do not run in this process."""
        self._looked_at = float("-inf")  # whether samples are due; on the monotonic clock
        self.has_come_up = False  # the start-up probe: all consumers have consumed once
        self._failure: tuple[BaseException, datetime] | None = None  # why the services could not be started, and when
        self._build(handlers)

    def _build(self, handlers: Sequence[Discovered]) -> None:
        tunings = self._settings.tuning_by_handler()
        problems: list[ConfigurationError] = []
        known = [handler.subscription.handler_id for handler in handlers]
        unknown = [
            f"{handler_id} ({self._settings.variable_of_tuning(handler_id)}){did_you_mean(handler_id, known)}"
            for handler_id in sorted(set(tunings) - set(known))
        ]
        if unknown:
            text = f"tuning for unknown handler {'; '.join(unknown)}; the handlers are: {', '.join(known) or 'none'}"
            problems.append(ConfigurationError(text))
        problems += _unknown_choices(self._only, known)
        for discovered in handlers:
            handler_id = discovered.subscription.handler_id
            if self._only and handler_id not in self._only:
                logger.info("handler %s is left to other processes", handler_id)
                continue
            tuning = tunings.get(handler_id)
            if tuning is not None and not tuning.enabled:
                logger.info("handler %s is switched off by its tuning (enabled=false)", handler_id)
                continue
            try:
                service = self._factory.create(discovered, tuning)
            except ConfigurationError as error:  # there may be more: all are told at once
                problems.append(error)
                continue
            if self._settings.role == "web":
                service.leave_to_workers()
            else:
                self._lifecycle.register(service)
            self._consumers[handler_id] = service
        raise_all(problems)
        if not handlers:
            logger.warning("no handlers were found; decorate one with subscribe_to, or name its module in `packages`")

    def note_start(self) -> None:
        """Call it when all services have started: all consumers have had their partitions."""
        self.has_come_up = True

    def note_failure(self, error: BaseException) -> None:
        """Call it when the services could not be started. The app is unhealthy from then on, until it is restarted."""
        self._failure = error, utc_now()

    @property
    def broker_error(self) -> TransportError | None:
        """Why the broker cannot be reached; None while it can."""
        return self._broker.last_error

    @property
    def consumers(self) -> Mapping[str, ConsumerService]:
        """By handler id."""
        return self._consumers

    def statuses(self) -> list[ConsumerStatus]:
        """The status of each consumer."""
        return [consumer.status() for consumer in self._consumers.values()]

    def sample_rates(self) -> None:
        """Call it often: it takes samples for the rates of the last minute, when they are due."""
        now = monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        for consumer in self._consumers.values():
            consumer.meter.sample()

    def health(self) -> HealthReport:
        """The worst status of all consumers, and the reasons that concern all of them. Asks nobody, waits for nothing.

        May be asked from another thread.
        """
        self.process.checks.asked()
        consumers = {name: consumer.health() for name, consumer in self._consumers.items()}
        reasons = [*self._of_start(), *self._of_broker(), *self.process.reasons()]
        status = worst([*(health.status for health in consumers.values()), *self._own(reasons)])
        return HealthReport(
            status=status,
            process=this_process(self._settings.instance_id),
            role=self._settings.role,
            consumers=consumers,
            checks=self.process.checks.statuses(),
            reasons=reasons,
        )

    def _of_start(self) -> Iterator[Reason]:
        if self._failure is not None:
            error, since = self._failure
            yield Reason(code=ReasonCode.START_FAILED, message=f"could not start: {error}", since=since)

    def _of_broker(self) -> Iterator[Reason]:
        broker = self._broker
        if broker.last_error is not None:
            said = f"the broker cannot be reached: {broker.last_error}"
            code, limit = ReasonCode.BROKER_UNREACHABLE, NOTICED_SECONDS
            yield Reason(code=code, message=said, since=broker.changed_at, limit_seconds=limit)
        elif broker.reached_since is None and self._failure is None:
            said = "the broker has not been reached yet"
            yield Reason(code=ReasonCode.BROKER_CONNECTING, message=said, since=broker.changed_at)

    def _own(self, reasons: Sequence[Reason]) -> Iterator[HealthStatus]:
        """What is said about all consumers makes of the app. A broker that was never there is still to come."""
        starts = self._failure is None and not self._lifecycle.started
        if starts:
            yield HealthStatus.STARTING
        for meaning in (MEANINGS[reason.code] for reason in reasons):
            if not (starts and meaning.part is Part.BROKER):
                yield meaning.status

    def why_not_live(self) -> list[ReasonCode]:
        """The liveness probe: not empty only if a restart of the process would help."""
        return keeps_from_living(self.health())

    def why_not_ready(self) -> list[ReasonCode]:
        """The readiness probe: why this instance should get no requests, as far as `health.ready_includes` says."""
        includes, reached = self._settings.ready_includes, self._broker.reached_since
        return keeps_from_being_ready(self.health(), includes, now=utc_now(), broker_reached=reached)

    @property
    def consumes(self) -> bool:
        """All consumers consume, and the broker can be reached: what tests and tools wait for."""
        return (
            self._lifecycle.started
            and self._broker.last_error is None
            and all(consumer.health().status in CONSUMES for consumer in self._consumers.values())
        )


def _unknown_choices(only: Collection[str], known: Sequence[str]) -> list[ConfigurationError]:
    unknown = [f"{handler_id}{did_you_mean(handler_id, known)}" for handler_id in sorted(set(only) - set(known))]
    if not unknown:
        return []
    there = ", ".join(known) or "none"
    return [ConfigurationError(f"unknown handlers were asked for: {'; '.join(unknown)}; the handlers are: {there}")]


def unstarted(settings: AthomicSettings) -> HealthReport:
    """The health of an app that has not started."""
    return HealthReport(
        status=HealthStatus.STARTING,
        process=this_process(settings.instance_id),
        role=settings.role,
        consumers=dict[str, ConsumerHealth](),
        reasons=[Reason(code=ReasonCode.NOT_STARTED, message=NOT_STARTED)],
    )

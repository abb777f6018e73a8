"""All consumers of one run, by id: has the factory build one per handler, and sums up their health."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from .broker import BrokerConnection
from .checks import did_you_mean
from .consumption.service import ConsumerService
from .discovery import Discovered
from .exceptions import ConfigurationError, TransportError, raise_all
from .factory import ConsumerFactory
from .lifecycle import LifecycleManager
from .observation.process import this_process
from .observation.status import ConsumerHealth, ConsumerStatus, HealthReport, HealthStatus, worst
from .settings import AthomicSettings

logger = logging.getLogger(__name__)


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
        self._only = frozenset(only)
        self._consumers: dict[str, ConsumerService] = {}
        self._was_ready = False
        self._failure: BaseException | None = None  # why the services could not be started
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

    def note_failure(self, error: BaseException) -> None:
        """Call it when the services could not be started. The app is unhealthy from then on, until it is restarted."""
        self._failure = error

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

    def health(self) -> HealthReport:
        """The worst status of all consumers, and the reasons that concern all of them."""
        consumers = {name: consumer.health() for name, consumer in self._consumers.items()}
        reasons = self._common_reasons()
        statuses = [health.status for health in consumers.values()]
        if self._failure is not None:
            statuses.append(HealthStatus.UNHEALTHY)
        elif not self._lifecycle.started:
            statuses.append(HealthStatus.STARTING)
        elif self._broker.last_error is not None:
            statuses.append(HealthStatus.UNHEALTHY)
        status = worst(statuses)
        self._was_ready = self._was_ready or status in (HealthStatus.HEALTHY, HealthStatus.DEGRADED)
        process = this_process(self._settings.instance_id)
        return HealthReport(
            status=status, process=process, role=self._settings.role, consumers=consumers, reasons=reasons
        )

    def _common_reasons(self) -> list[str]:
        reasons = []
        if self._failure is not None:
            reasons.append(f"could not start: {self._failure}")
        if self._broker.last_error is not None:
            reasons.append(f"the broker cannot be reached: {self._broker.last_error}")
        return reasons

    @property
    def live(self) -> bool:
        """The liveness probe: false only if a restart of the process would help."""
        return self._failure is None

    @property
    def ready(self) -> bool:
        """The readiness probe: all consumers consume."""
        return self.health().status in (HealthStatus.HEALTHY, HealthStatus.DEGRADED)

    @property
    def has_come_up(self) -> bool:
        """The start-up probe: all consumers consume, or have done so before."""
        return self._was_ready or self.ready


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
        reasons=["the app has not started: if it is mounted in another app, that one must run its lifespan"],
    )

"""Metrics for OpenTelemetry, and what the counters mean: plain integers, read when somebody collects them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, NoOpMeterProvider, Observation
from opentelemetry.metrics._internal import _ProxyMeterProvider

from ..compatibility import histogram
from ..consumption.service import ConsumerService
from ..manager import ConsumerManager
from ..observation.timings import PROCESS_BOUNDS

COUNTERS = {
    "received": "Messages taken in from the broker",
    "processed": "Messages handled with success",
    "failed": "Attempts that failed",
    "retried": "Attempts that were started again",
    "deferred": "Messages moved to a retry topic",
    "dead_lettered": "Messages written to the DLQ",
    "redriven": "Dead letters that were sent back",
    "skipped": "Messages skipped by a rule",
    "redelivered": "Messages that came again and were known to be done",
    "duplicates": "Messages skipped for their sequence number, which was done or there already",
    "parked": "Messages that came before their turn and were put into the waiting room",
    "given_up": "Sequence numbers that did not come and are no longer waited for",
    "lost_to_retention": "Messages that retention dropped before they were read, at most",
    "commits": "Commits of offsets",
    "rebalances": "Assignments of partitions",
    "abandoned": "Handlers that were given up with their partition",
}

Managers = Callable[[], ConsumerManager | None]
"""Returns the manager of the run under way; None while the app does not run."""


class Collector(Protocol):
    """What can be registered in a registry of `prometheus_client`."""

    def collect(self) -> Iterable[Any]: ...


class Metering:
    """OpenTelemetry metrics of one app, by the names of OpenTelemetry's messaging conventions."""

    def __init__(self, manager: Managers, system: str) -> None:
        """`system`: the broker's kind, as the conventions call it."""
        self._manager = manager
        self._system = system
        self._durations: Histogram | None = None

    def begin(self, manager: ConsumerManager) -> None:
        """Call it once for each run of the app. It does nothing in a process that has no meter provider.

        Counters are read when the app's reader collects; durations are recorded as they occur.
        """
        provider = metrics.get_meter_provider()
        if isinstance(provider, NoOpMeterProvider | _ProxyMeterProvider):
            return
        if self._durations is None:  # instruments cannot be removed: those of the first run serve all
            self._durations = self._create_instruments(provider)
        for consumer in manager.consumers.values():
            consumer.counters.timings.recorder = partial(
                self._durations.record, attributes=_attributes(consumer, self._system)
            )

    def _create_instruments(self, provider: MeterProvider) -> Histogram:
        meter = provider.get_meter("fastapi_athomic")
        meter.create_observable_counter(
            "messaging.client.consumed.messages",
            [self._counted("received")],
            unit="{message}",
            description=COUNTERS["received"],
        )
        for name in ("processed", "failed", "dead_lettered"):
            meter.create_observable_counter(
                f"athomic.consumer.{name}", [self._counted(name)], unit="{message}", description=COUNTERS[name]
            )
        return histogram(
            meter,
            "messaging.process.duration",
            unit="s",
            description="Duration of handling a message or a batch",
            bounds=PROCESS_BOUNDS,
        )

    def _counted(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            current = self._manager()
            for consumer in current.consumers.values() if current is not None else ():
                yield Observation(getattr(consumer.counters, name), _attributes(consumer, self._system))

        return observe


def _attributes(consumer: ConsumerService, system: str) -> dict[str, str]:
    return {
        "messaging.system": system,
        "messaging.operation.name": "process",
        "messaging.consumer.group.name": consumer.subscription.group_id,
        "athomic.handler": consumer.name,
    }

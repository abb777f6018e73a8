"""Metrics: plain integers on the hot path, made into samples when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, NoOpMeterProvider, Observation
from opentelemetry.metrics._internal import _ProxyMeterProvider

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


class Collector(Protocol):
    """What a registry of `prometheus_client` takes."""

    def collect(self) -> Iterable[Any]: ...


class Metering:
    """OpenTelemetry metrics of one app, where it has a meter provider."""

    def __init__(self, manager: Managers, system: str) -> None:
        self._manager = manager
        self._system = system
        self._durations: Histogram | None = None

    def begin(self, manager: ConsumerManager) -> None:
        """For each run of the app. Instruments stay, so they are made once."""
        provider = metrics.get_meter_provider()
        if isinstance(provider, NoOpMeterProvider | _ProxyMeterProvider):
            return
        if self._durations is None:
            self._durations = observe_with_opentelemetry(provider, self._manager, self._system)
        record_durations(self._durations, manager, self._system)


def observe_with_opentelemetry(provider: MeterProvider, manager: Managers, system: str) -> Histogram:
    """Instruments by the names of OpenTelemetry's messaging conventions.

    Counters are read when the app's reader collects. Gives the histogram of durations, for `record_durations`.
    """
    meter = provider.get_meter("fastapi_athomic")

    def counted(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            current = manager()
            for consumer in current.consumers.values() if current is not None else ():
                yield Observation(getattr(consumer.counters, name), _attributes(consumer, system))

        return observe

    meter.create_observable_counter(
        "messaging.client.consumed.messages", [counted("received")], unit="{message}", description=COUNTERS["received"]
    )
    for name in ("processed", "failed", "dead_lettered"):
        meter.create_observable_counter(
            f"athomic.consumer.{name}", [counted(name)], unit="{message}", description=COUNTERS[name]
        )

    return meter.create_histogram(
        "messaging.process.duration",
        unit="s",
        description="Duration of handling a message or a batch",
        explicit_bucket_boundaries_advisory=PROCESS_BOUNDS,
    )


def record_durations(histogram: Histogram, manager: ConsumerManager, system: str) -> None:
    """From now on each handling is recorded."""
    for consumer in manager.consumers.values():
        consumer.counters.timings.recorder = partial(histogram.record, attributes=_attributes(consumer, system))


def _attributes(consumer: Any, system: str) -> dict[str, str]:
    return {
        "messaging.system": system,
        "messaging.operation.name": "process",
        "messaging.consumer.group.name": consumer.subscription.group_id,
        "athomic.handler": consumer.name,
    }

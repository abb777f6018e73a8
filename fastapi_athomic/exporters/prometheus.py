"""Metrics of an app's consumers for Prometheus. Needs the extra `prometheus`, and is imported only when it is used.

Everything is computed when somebody scrapes. Names are never changed: docs/telemetry.md has them all,
and the alert rules and the dashboard in `deploy/` are written on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..loop.load import LoopLag
from ..manager import ConsumerManager, unstarted
from ..messages import TopicPartition
from ..observation.process import this_process
from ..observation.status import ConsumerStatus, HealthReport, HealthStatus, OrderedStatus, PartitionStatus, ProcessInfo
from ..settings import AthomicSettings
from .metrics import COUNTERS, Managers

LABELS = ("instance_id", "handler", "group")
"""`instance_id` tells workers apart that share an address: there Prometheus' own label `instance` is the same."""
PLACE = (*LABELS, "topic", "partition")
CONSUMING = (HealthStatus.HEALTHY, HealthStatus.DEGRADED)

OF_CONSUMER: Mapping[str, tuple[str, Callable[[ConsumerStatus], float]]] = {
    "healthy": ("1 for a consumer that consumes", lambda status: status.health.status in CONSUMING),
    "paused": ("1 for a consumer that an operator paused whole", lambda status: status.paused),
    "concurrency": ("Messages or batches handled at once, at most", lambda status: status.concurrency),
    "oldest_in_handler_seconds": (
        "Age of the longest running call of the handler, 0 if none runs",
        lambda status: status.oldest_in_handler_seconds or 0.0,
    ),
    "oldest_in_queue_seconds": (
        "Time that the oldest message has waited for the handler since it was fetched, 0 if none waits",
        lambda status: status.oldest_in_queue_seconds or 0.0,
    ),
}
"""Gauges of a consumer: what they mean, and how they are read."""

OF_ORDERED: Mapping[str, tuple[str, Callable[[OrderedStatus], float]]] = {
    "aggregates_waiting": (
        "Aggregates of the whole group that wait for a missing number",
        lambda ordered: ordered.aggregates_waiting,
    ),
    "parked_messages": ("Messages in the waiting rooms of the whole group", lambda ordered: ordered.parked),
    "oldest_gap_seconds": (
        "Time that a sequence number has been missing in the whole group",
        lambda ordered: ordered.oldest_gap_seconds,
    ),
    "aggregates_blocked": ("Aggregates whose next message failed", lambda ordered: ordered.blocked),
    "aggregates_full": ("Aggregates whose waiting room is full", lambda ordered: ordered.full),
}
"""The same of an ordered consumer."""

OF_LIMITED: Mapping[str, tuple[str, Callable[[ConsumerStatus], float | None]]] = {
    "breaker_open": (
        "1 while a circuit breaker is open or half open",
        lambda status: float(status.breaker.state != "closed") if status.breaker is not None else None,
    ),
    "rate_limit": (
        "Messages per second that the process begins at most",
        lambda status: status.rate_limit.messages_per_second if status.rate_limit is not None else None,
    ),
    "rate_limited": (
        "Partitions, keys or aggregates whose next message waits for the rate limit",
        lambda status: status.rate_limit.waiting if status.rate_limit is not None else None,
    ),
}
"""The same of a consumer with a circuit breaker, or a rate limit; None: it has none."""

OF_PARTITION: Mapping[str, tuple[str, Callable[[PartitionStatus], float | None]]] = {
    "lag": ("Messages from the first unfinished to the end", lambda place: place.lag),
    "lag_seconds": ("Age of the first unfinished message", lambda place: place.lag_seconds),
    "in_flight": ("Messages taken in, not concluded", lambda place: place.in_flight),
    "partition_paused": ("1 for a partition that an operator paused", lambda place: place.paused),
}
"""The same for each partition that is assigned to a consumer. What is not known yet (None) is left out."""


class PrometheusCollector(Collector):
    """For a registry of `prometheus_client`: `registry.register(athomic.prometheus_collector())`."""

    def __init__(self, manager: Managers, lag: LoopLag, settings: AthomicSettings) -> None:
        self._manager = manager
        self._lag = lag
        self._settings = settings

    def describe(self) -> Iterable[Metric]:
        """Returns nothing: which metrics there are depends on the handlers."""
        return ()

    def collect(self) -> Iterator[Metric]:
        manager = self._manager()
        consumes = manager is not None and self._settings.role != "web"
        statuses = manager.statuses() if manager is not None and consumes else []
        process = this_process(self._settings.instance_id)
        yield _info(process)
        yield from self._health(manager, statuses)
        yield from self._counters(statuses)
        yield from self._gauges(statuses)
        if manager is not None and consumes:
            yield from self._places(manager, statuses)
            yield from self._histograms(manager, process.instance_id)
        lag = GaugeMetricFamily("athomic_event_loop_lag_seconds", "How late the event loop is", labels=LABELS[:1])
        lag.add_metric((process.instance_id,), self._lag.seconds)
        yield lag

    def _health(self, manager: ConsumerManager | None, statuses: list[ConsumerStatus]) -> Iterator[Metric]:
        report = manager.health() if manager is not None else unstarted(self._settings)
        yield from _of_app(report)
        broker = GaugeMetricFamily("athomic_broker_reachable", "1 if the broker answers", labels=LABELS[:1])
        reached = manager is not None and manager.broker_error is None
        broker.add_metric((report.process.instance_id,), float(reached))
        yield broker
        name, summary = "athomic_consumer_health_status", "1 for the status that a consumer's health has, 0 for others"
        health = GaugeMetricFamily(name, summary, labels=(*LABELS, "status"))
        name, summary = "athomic_consumer_health_reason", "1 for each reason that a consumer's health gives"
        reasons = GaugeMetricFamily(name, summary, labels=(*LABELS, "code"))
        for status in statuses:
            labels = _labels(status)
            for each in HealthStatus:
                health.add_metric((*labels, each), float(status.health.status is each))
            for code in sorted({reason.code for reason in status.health.reasons}):
                reasons.add_metric((*labels, code), 1.0)
        yield from (health, reasons)

    def _counters(self, statuses: list[ConsumerStatus]) -> Iterator[Metric]:
        for name, summary in COUNTERS.items():
            family = CounterMetricFamily(f"athomic_consumer_{name}", summary, labels=LABELS)
            for status in statuses:
                family.add_metric(_labels(status), getattr(status.counters, name))
            yield family
        restarts = CounterMetricFamily("athomic_consumer_restarts", "Times a consumer was rebuilt", labels=LABELS)
        for status in statuses:
            restarts.add_metric(_labels(status), status.restarts)
        yield restarts

    def _gauges(self, statuses: list[ConsumerStatus]) -> Iterator[Metric]:
        for name, (summary, read) in OF_CONSUMER.items():
            family = GaugeMetricFamily(f"athomic_consumer_{name}", summary, labels=LABELS)
            for status in statuses:
                family.add_metric(_labels(status), float(read(status)))
            yield family
        for name, (summary, read_ordered) in OF_ORDERED.items():
            family = GaugeMetricFamily(f"athomic_consumer_{name}", summary, labels=LABELS)
            for status in statuses:
                if status.ordered is not None:
                    family.add_metric(_labels(status), float(read_ordered(status.ordered)))
            yield family
        for name, (summary, read_limited) in OF_LIMITED.items():
            family = GaugeMetricFamily(f"athomic_consumer_{name}", summary, labels=LABELS)
            for status in statuses:
                if (value := read_limited(status)) is not None:
                    family.add_metric(_labels(status), float(value))
            yield family
        for name, (summary, read_place) in OF_PARTITION.items():
            family = GaugeMetricFamily(f"athomic_consumer_{name}", summary, labels=PLACE)
            for status in statuses:
                for place in status.assignment:
                    if (value := read_place(place)) is not None:
                        family.add_metric(_place(status, place), float(value))
            yield family

    def _places(self, manager: ConsumerManager, statuses: list[ConsumerStatus]) -> Iterator[Metric]:
        """What only the consumers know of their partitions."""
        name, summary = "athomic_consumer_late_seconds", "Time that the first unfinished message has been due"
        late = GaugeMetricFamily(name, summary, labels=PLACE)
        name, summary = "athomic_consumer_partition_blocked", "1 for a partition whose dead letter cannot be written"
        blocked = GaugeMetricFamily(name, summary, labels=PLACE)
        for status in statuses:
            failures = manager.consumers[status.id].dlq_handler
            for place in status.assignment:
                where = _place(status, place)
                blocked.add_metric(where, float(TopicPartition(place.topic, place.partition) in failures.blocked))
                if place.lag_seconds is not None:
                    role = failures.returns.place(place.topic)
                    delay = (role.delay if role is not None else None) or 0.0
                    late.add_metric(where, max(0.0, place.lag_seconds - delay))
        yield from (late, blocked)

    def _histograms(self, manager: ConsumerManager, instance_id: str) -> Iterator[Metric]:
        summaries = {
            "process": "Seconds in the handler, decoding included",
            "queue": "Seconds from the message's timestamp to the handler",
        }
        for name, summary in summaries.items():
            family = HistogramMetricFamily(f"athomic_consumer_{name}_seconds", summary, labels=LABELS)
            for consumer in manager.consumers.values():
                histogram = getattr(consumer.counters.timings, name)
                buckets = [(_bound(bound), count) for bound, count in histogram.cumulative()]
                labels = (instance_id, consumer.name, consumer.subscription.group_id)
                family.add_metric(labels, buckets, histogram.total)
            yield family


def _labels(status: ConsumerStatus) -> tuple[str, ...]:
    return status.process.instance_id, status.id, status.group_id


def _place(status: ConsumerStatus, place: PartitionStatus) -> tuple[str, ...]:
    return (*_labels(status), place.topic, str(place.partition))


def _of_app(report: HealthReport) -> Iterator[Metric]:
    instance_id = report.process.instance_id
    name, summary = "athomic_health_status", "1 for the status that the app's health has, 0 for others"
    health = GaugeMetricFamily(name, summary, labels=("instance_id", "status"))
    for each in HealthStatus:
        health.add_metric((instance_id, each), float(report.status is each))
    name, summary = "athomic_health_reason", "1 for each reason that the app's health gives beside those of consumers"
    reasons = GaugeMetricFamily(name, summary, labels=("instance_id", "code"))
    for code in sorted({reason.code for reason in report.reasons}):
        reasons.add_metric((instance_id, code), 1.0)
    yield from (health, reasons)


def _info(process: ProcessInfo) -> Metric:
    info = InfoMetricFamily("athomic_process", "The process that was scraped")
    values = {name: str(value) for name, value in process}
    info.add_metric((), {**values, "version": version("fastapi-athomic")})
    return info


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else str(seconds)


def exposition(collector: PrometheusCollector) -> tuple[bytes, str]:
    """The answer to a scrape, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry), CONTENT_TYPE_LATEST

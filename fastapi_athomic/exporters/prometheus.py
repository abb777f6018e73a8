"""Metrics of an app's consumers for Prometheus. Needs the extra `prometheus`, and is imported only when it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from ..manager import ConsumerManager
from ..observation.process import this_process
from ..observation.status import ConsumerStatus, HealthStatus, ProcessInfo
from ..settings import AthomicSettings
from .metrics import COUNTERS, Managers

LABELS = ("instance_id", "handler", "group")
"""`instance_id` tells workers apart that share an address: there Prometheus' own label `instance` is the same."""
PLACE = (*LABELS, "topic", "partition")


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
        yield from self._counters(statuses)
        yield from self._gauges(statuses)
        if manager is not None and consumes:
            yield from self._histograms(manager, process.instance_id)
        lag = GaugeMetricFamily("athomic_event_loop_lag_seconds", "How late the event loop is", labels=LABELS[:1])
        lag.add_metric((process.instance_id,), self._lag.seconds)
        yield lag

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
        healthy = GaugeMetricFamily("athomic_consumer_healthy", "1 for a consumer that consumes", labels=LABELS)
        lag = GaugeMetricFamily("athomic_consumer_lag", "Messages from the first unfinished to the end", labels=PLACE)
        age = GaugeMetricFamily("athomic_consumer_lag_seconds", "Age of the first unfinished message", labels=PLACE)
        in_flight = GaugeMetricFamily("athomic_consumer_in_flight", "Messages taken in, not concluded", labels=PLACE)
        for status in statuses:
            labels = _labels(status)
            healthy.add_metric(labels, float(status.health.status in (HealthStatus.HEALTHY, HealthStatus.DEGRADED)))
            for place in status.assignment:
                where = (*labels, place.topic, str(place.partition))
                in_flight.add_metric(where, place.in_flight)
                if place.lag is not None:
                    lag.add_metric(where, place.lag)
                if place.lag_seconds is not None:
                    age.add_metric(where, place.lag_seconds)
        yield from (healthy, lag, age, in_flight)

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

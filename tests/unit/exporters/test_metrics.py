from __future__ import annotations

import os
import socket
import sys
import time
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from opentelemetry.metrics import _internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from fastapi_athomic import AthomicSettings, ConfigurationError, RetryPolicy, __version__, include_athomic
from fastapi_athomic.observation.timings import Histogram, Timings
from tests.support.apps import running


def app() -> Any:
    athomic = include_athomic(FastAPI(), AthomicSettings(instance_id="worker-1"))

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=2, delay=0))
    async def handle(message: str) -> None:
        if message == "bad":
            raise RuntimeError("s3cret")

    return athomic


async def publish(athomic: Any) -> None:
    for message in ("good", "bad", "good"):
        await athomic.publish("t", message, partition=0)
    await athomic.drain()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_scrape_agrees_with_the_status() -> None:
    athomic = app()
    async with running(athomic), AsyncClient(transport=ASGITransport(athomic.app), base_url="http://app") as http:
        await publish(athomic)
        answer = await http.get("/consumers/metrics")
        (status,) = athomic.consumers()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found = samples(answer.text)
    own = frozenset({("instance_id", "worker-1"), ("handler", "h"), ("group", "g")})
    for name in ("received", "processed", "failed", "retried", "dead_lettered", "skipped", "rebalances"):
        assert found[f"athomic_consumer_{name}_total", own] == getattr(status.counters, name), name
    assert found["athomic_consumer_healthy", own] == 1
    place = own | {("topic", "t"), ("partition", "0")}
    assert found["athomic_consumer_lag", place] == 0
    for histogram in ("process", "queue"):
        assert found[f"athomic_consumer_{histogram}_seconds_count", own] == 3
        assert found[f"athomic_consumer_{histogram}_seconds_bucket", own | {("le", "+Inf")}] == 3
    assert found["athomic_event_loop_lag_seconds", frozenset({("instance_id", "worker-1")})] >= 0
    assert "s3cret" not in answer.text


async def test_every_sample_says_which_process_it_is_of() -> None:
    athomic = app()
    async with running(athomic), AsyncClient(transport=ASGITransport(athomic.app), base_url="http://app") as http:
        found = samples((await http.get("/consumers/metrics")).text)
    assert len(found) > 30
    assert {dict(labels).get("instance_id") for _, labels in found} == {"worker-1"}
    (info,) = [dict(labels) for name, labels in found if name == "athomic_process_info"]
    assert info == {
        "instance_id": "worker-1",
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "version": __version__,
    }


async def test_an_app_may_collect_in_its_own_registry() -> None:
    athomic, registry = app(), CollectorRegistry()
    registry.register(athomic.prometheus_collector())
    async with running(athomic):
        await publish(athomic)
        labels = {"instance_id": "worker-1", "handler": "h", "group": "g"}
        assert registry.get_sample_value("athomic_consumer_processed_total", labels) == 2


async def test_without_the_extra_the_route_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi_athomic.exporters.prometheus", None)
    athomic = app()
    async with running(athomic), AsyncClient(transport=ASGITransport(athomic.app), base_url="http://app") as http:
        answer = await http.get("/consumers/metrics")
        assert answer.status_code == 501
        assert "fastapi-athomic[prometheus]" in answer.text
    with pytest.raises(ConfigurationError, match=r"fastapi-athomic\[prometheus\]"):
        athomic.prometheus_collector()


async def test_opentelemetry_reads_the_same_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(_internal, "_METER_PROVIDER", provider)
    athomic, runs = app(), 0
    for _ in range(2):  # a second run registers nothing twice
        async with running(athomic):
            await publish(athomic)
            data: Any = reader.get_metrics_data()
            points = {
                metric.name: [point.value for point in metric.data.data_points]
                for resource in data.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
                if metric.name.startswith(("messaging", "athomic")) and metric.name != "messaging.process.duration"
            }
            (durations,) = [
                metric.data.data_points[0]
                for resource in data.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
                if metric.name == "messaging.process.duration"
            ]
            runs += 1
            assert durations.count == 3 * runs
            assert durations.attributes["athomic.handler"] == "h"
            assert points["messaging.client.consumed.messages"] == [3]
            assert points["athomic.consumer.dead_lettered"] == [1]
    provider.shutdown()


def test_histograms_count_into_the_right_buckets() -> None:
    timings = Timings()
    now_ms = round((100 + timings.wall_offset) * 1000)
    timings.note(100.0, 100.005, now_ms - 40)
    timings.note(100.0, 160.0, now_ms + 5_000)  # a clock that is ahead
    assert timings.process.cumulative()[0] == (0.005, 1)
    assert timings.process.cumulative()[-2:] == [(10.0, 1), (float("inf"), 2)]
    assert timings.queue.cumulative()[0] == (0.005, 1)
    assert [count for bound, count in timings.queue.cumulative() if bound in (0.025, 0.05)] == [1, 2]
    assert timings.queue.total == pytest.approx(0.04, abs=0.001)
    assert Histogram((1.0,)).cumulative() == [(1.0, 0), (float("inf"), 0)]
    timings.set_clock()
    assert timings.wall_offset == pytest.approx(time.time() - time.monotonic(), abs=1)

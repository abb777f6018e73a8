"""The names of metrics do not change, and docs/telemetry.md has all of them as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from httpx import ASGITransport, AsyncClient
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    CircuitBreaker,
    RateLimit,
    RetryPolicy,
    ordered_consumer,
    subscribe_to,
)
from tests.support.apps import eventually, new_app, running
from tests.unit.workers.test_port import Answering, client
from tests.unit.workers.test_supervisor import supervised, up

PAGE = Path(__file__).parents[3] / "docs" / "telemetry.md"
COUNTED = (
    *("received", "processed", "failed", "retried", "deferred", "dead_lettered", "redriven", "skipped", "redelivered"),
    *("duplicates", "parked", "given_up", "lost_to_retention", "commits", "rebalances", "abandoned", "restarts"),
)
OF_CONSUMER = (
    *("healthy", "health_status", "health_reason", "paused", "concurrency", "oldest_in_handler_seconds"),
    *("oldest_in_queue_seconds", "process_seconds", "queue_seconds", "aggregates_waiting", "aggregates_blocked"),
    *("aggregates_full", "parked_messages", "oldest_gap_seconds", "breaker_open", "rate_limit", "rate_limited"),
)
OF_PARTITION = ("lag", "lag_seconds", "late_seconds", "in_flight", "partition_blocked", "partition_paused")
OF_PROCESS = ("process_info", "health_status", "health_reason", "broker_reachable", "event_loop_lag_seconds")
NAMES = {
    *(f"athomic_consumer_{name}_total" for name in COUNTED),
    *(f"athomic_consumer_{name}" for name in (*OF_CONSUMER, *OF_PARTITION)),
    *(f"athomic_{name}" for name in OF_PROCESS),
    *("athomic_worker_processes", "athomic_worker_processes_ready", "athomic_worker_restarts_total"),
}
"""People have alerts and dashboards on them: a name may be added here, but none may be changed or removed."""
OWN_LABELS = {"le"}
"""Those that the format itself adds."""


class Described(NamedTuple):
    """One row of the table."""

    kind: str
    labels: frozenset[str]
    unit: str
    meaning: str


class Order(BaseModel):
    shop: str = "a"
    number: int


def new_example() -> Athomic:
    """An app that has a sample of each metric."""

    limits: Any = {"rate_limit": RateLimit(messages_per_second=1000), "breaker": CircuitBreaker(exceptions=(OSError,))}

    @subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=1), **limits)
    async def handle(message: str) -> None:
        if message == "bad":
            raise RuntimeError("no")

    @ordered_consumer(
        "o", group_id="g", handler_id="o", aggregate_key_field="shop", sequence_id_field="number", on_failure="block"
    )
    async def handle_ordered(order: Order) -> None: ...

    return new_app(AthomicSettings(instance_id="shop-1"), handle, handle_ordered)


async def scraped(athomic: Athomic) -> str:
    async with AsyncClient(transport=ASGITransport(athomic.app), base_url="http://app") as http:
        return (await http.get("/consumers/metrics")).text


@pytest.fixture
async def families() -> dict[str, Metric]:
    """What a worker exposes whose app has each kind of trouble, by the names of the table."""
    athomic = new_example()
    broker = athomic._transport.broker  # type: ignore[attr-defined]
    broker.create_topics({"t": 1, "t.g.dlq": 1})
    async with running(athomic):
        broker.refuse("t.g.dlq")
        await athomic.publish("t", "bad")
        await eventually(lambda: any(each.health.reasons for each in athomic.consumers()))
        broker.disconnect()
        await eventually(lambda: athomic.manager().health().reasons)  # type: ignore[union-attr]
        text = await scraped(athomic)
        broker.reconnect()
        broker.allow("t.g.dlq")
        await athomic.wait_until_ready()
    world = Answering()
    world.said["metrics"] = [text]
    async with supervised(world, 1) as supervisor, client(supervisor) as http:
        await world.until(lambda: up(supervisor))
        # its port adds what it knows itself
        text = (await http.get("/metrics")).text
    return {_name(family): family for family in text_string_to_metric_families(text)}


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def rows() -> Iterator[tuple[str, Described]]:
    for row in re.findall(r"^\| `(athomic_\w+)` \|(.*)\|$", PAGE.read_text(), re.MULTILINE):
        name, rest = row
        kind, labels, unit, meaning = (cell.strip() for cell in rest.split("|"))
        yield name, Described(kind, frozenset(re.findall(r"`(\w+)`", labels)), unit, meaning)


async def test_no_metric_was_renamed(families: dict[str, Metric]) -> None:
    assert {*families} == NAMES


async def test_the_table_has_all_metrics_as_they_are(families: dict[str, Metric]) -> None:
    described = [*rows()]
    assert sorted(name for name, _ in described) == sorted(NAMES), "each once"
    for name, row in described:
        family = families[name]
        assert family.samples, name
        labels = frozenset(label for sample in family.samples for label in sample.labels) - OWN_LABELS
        kind = "gauge" if name.endswith("_info") else family.type
        assert (name, *row[:2], row.meaning) == (name, kind, labels, family.documentation)
        assert (row.unit == "seconds") is name.endswith("_seconds"), name


async def test_an_app_that_has_not_started_says_so() -> None:
    text = await scraped(new_example())
    found = {sample.name: sample for family in text_string_to_metric_families(text) for sample in family.samples}
    assert found["athomic_health_reason"].labels == {"instance_id": "shop-1", "code": "not_started"}
    assert found["athomic_broker_reachable"].value == 0


async def test_one_status_of_health_is_one_and_reasons_have_their_codes(families: dict[str, Metric]) -> None:
    def of(name: str, handler: str) -> dict[str, float]:
        return {
            sample.labels.get("status") or sample.labels["code"]: sample.value
            for sample in families[name].samples
            if sample.labels.get("handler", handler) == handler
        }

    others = dict.fromkeys(("healthy", "starting", "unhealthy"), 0.0)
    assert of("athomic_consumer_health_status", "h") == {**others, "degraded": 1.0}
    assert of("athomic_consumer_health_reason", "h") == {"dead_letter_unwritable": 1.0}
    assert of("athomic_health_status", "h")["unhealthy"] == 1.0
    assert of("athomic_health_reason", "h") == {"broker_unreachable": 1.0}

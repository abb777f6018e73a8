"""Prometheus' rules in deploy/prometheus, run by Prometheus' own rule tester on what apps answered to scrapes.

Each test drives an app into a state, and asserts which alerts fire in it, and that no other does.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from fastapi_athomic import Athomic, AthomicSettings, CircuitBreaker, RetryPolicy, ordered_consumer, subscribe_to
from fastapi_athomic.exceptions import TransportError
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.operation_settings import HealthSettings
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from tests.support.apps import Gate, Record, eventually, new_app, running
from tests.support.causes import manager_of
from tests.support.promtool import Promtool, Scrapes, series
from tests.support.stories import RULES, Story, expect
from tests.unit.workers.test_port import Answering, client
from tests.unit.workers.test_supervisor import supervised, up

ROOT = Path(__file__).parents[2]
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


class Order(BaseModel):
    shop: str = "a"
    number: int


def settings(**options: Any) -> AthomicSettings:
    usual: dict[str, Any] = {"restart_backoff": 0.01, "restart_backoff_max": 0.01, "memory": {"partitions": 2}}
    patient = HealthSettings(loop_late=60.0, restarts=3)
    return AthomicSettings(**(usual | {"instance_id": "shop-1", "blocking_after": 60.0} | options), health=patient)


def handler(act: Callable[[str], Any] | None = None, **options: Any) -> Callable[..., Any]:
    """Of topic t; `act` gets each message first, and may be async."""

    @subscribe_to("t", group_id="g", handler_id="h", **options)
    async def handle(message: str) -> None:
        if act is not None and asyncio.iscoroutine(done := act(message)):
            await done

    return handle


def fails(message: str) -> None:
    if message == "bad":
        raise RuntimeError("no")


class Hanging:
    """Handles messages, but waits in those that say so."""

    def __init__(self) -> None:
        self.gate, self.begun = Gate(), Record()

    async def __call__(self, message: str) -> None:
        self.begun.note(message)
        if message == "hang":
            await self.gate.wait()


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Messages are older by so much for who asks how late a partition is."""
    monkeypatch.setattr("fastapi_athomic.consumption.progress.time", lambda: time.time() + seconds)


@asynccontextmanager
async def healthy_before(athomic: Athomic, story: Story) -> AsyncIterator[Any]:
    """The app runs, has handled a message, and was scraped for 20 minutes. Gives the embedded broker."""
    async with running(athomic):
        await athomic.publish("t", "good", partition=0)
        await athomic.drain()
        await story.scrape(athomic, 20)
        yield athomic._transport.broker  # type: ignore[attr-defined]


def test_the_rules_are_right_for_prometheus(promtool: Promtool) -> None:
    promtool.check(RULES)


def test_each_alert_says_what_it_means_and_where_to_read_on() -> None:
    telemetry = (ROOT / "docs" / "telemetry.md").read_text()
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert {*rule["annotations"]} == {"summary", "description", "runbook"}, rule["alert"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
        assert not anchor or anchor in map(anchor_of, headings), rule["annotations"]["runbook"]
        row = f"| `{rule['alert']}` | {rule['labels']['severity']} |"
        assert row in telemetry, f"docs/telemetry.md lacks {row}"
    assert telemetry.count("| `Athomic") == len(ALERTS)


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_each_alert_is_provoked_by_a_test_here() -> None:
    text = Path(__file__).read_text()
    assert [rule["alert"] for rule in ALERTS if f'"{rule["alert"]}"' not in text] == []


async def test_nothing_fires_for_an_app_that_works(promtool: Promtool) -> None:
    story, athomic = Story(), new_app(settings(), handler(fails, retry=RetryPolicy(max_attempts=1), dlq=False))
    async with healthy_before(athomic, story):
        for _ in range(4):
            await athomic.publish_many("t", ["good", "bad", "good"])
            await athomic.drain()
            await story.scrape(athomic, 20)
        await story.scrape(athomic)
    expect(promtool, story, at={minute: set() for minute in range(0, story.minutes, 10)})


async def test_a_partition_that_is_late_while_others_are_not(
    promtool: Promtool, monkeypatch: pytest.MonkeyPatch
) -> None:
    story, act = Story(), Hanging()
    athomic = new_app(settings(), handler(act, concurrency=2))
    async with healthy_before(athomic, story):
        await athomic.publish("t", "hang", partition=1)
        await act.begun.count(2)
        await story.scrape(athomic, 1)
        later(monkeypatch, 1000)
        for number in range(3, 8):  # the other partition goes on
            await athomic.publish("t", "good", partition=0)
            await act.begun.count(number)
            await eventually(lambda number=number: athomic.consumers()[0].counters.processed == number - 1)  # type: ignore[misc]
            await story.scrape(athomic, 5)
        act.gate.set()
        await athomic.drain()
        await story.scrape(athomic)
    assert 'athomic_consumer_late_seconds{group="g",handler="h",instance_id="shop-1",partition="1",topic="t"} 1' in (
        story.scrapes[2].exposition or ""
    )
    late = {"AthomicConsumerLate"}
    expect(promtool, story, at={20: set(), 24: set(), 32: late, 45: late, 50: set(), story.minutes - 1: set()})


async def test_what_waits_in_a_retry_topic_until_it_is_due_is_not_late(
    promtool: Promtool, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story()
    athomic = new_app(
        settings(), handler(fails, retry=RetryPolicy(max_attempts=1, retry_topics=(3600.0,), allow_reordering=True))
    )
    async with healthy_before(athomic, story):
        await athomic.publish("t", "bad", partition=0)
        place = "t.g.retry.3600s"
        await eventually(
            lambda: any(each.topic == place and each.lag_seconds for each in athomic.consumers()[0].assignment)
        )
        later(monkeypatch, 3000)
        await story.scrape(athomic)
        later(monkeypatch, 4500)
        await story.scrape(athomic)
    overdue = {"AthomicConsumerLate", "AthomicConsumerNoProgress"}
    expect(promtool, story, at={90: set(), 99: set(), 120: overdue})


async def test_nothing_comes_although_there_is_something(promtool: Promtool, monkeypatch: pytest.MonkeyPatch) -> None:
    take, works = MemoryConsumer.take, Gate()

    def empty(consumer: MemoryConsumer, *arguments: Any) -> Any:
        return take(consumer, *arguments) if works._open else {}

    story, athomic = Story(), new_app(settings(), handler())
    async with healthy_before(athomic, story):
        monkeypatch.setattr(MemoryConsumer, "take", empty)
        await athomic.publish("t", "unseen", partition=1)
        await eventually(lambda: athomic.consumers()[0].lag == 1)
        await story.scrape(athomic)
        works.set()
        await athomic.drain()
        await story.scrape(athomic)
    stalled = {"AthomicConsumerNoProgress"}
    expect(promtool, story, at={20: set(), 24: set(), 36: stalled, 99: stalled, 101: set(), 150: set()})


async def test_a_handler_that_hangs(promtool: Promtool, monkeypatch: pytest.MonkeyPatch) -> None:
    story, act = Story(), Hanging()
    athomic = new_app(settings(stuck_after=0.05), handler(act))
    async with healthy_before(athomic, story):
        await athomic.publish("t", "hang", partition=1)
        await act.begun.count(2)
        await eventually(lambda: athomic.consumers()[0].health.status != "healthy")
        later(monkeypatch, 1000)
        await story.scrape(athomic)
        act.gate.set()
        await athomic.drain()
        await story.scrape(athomic)
    hung = {"AthomicConsumerLate", "AthomicConsumerNoProgress", "AthomicConsumerUnhealthy"}
    expect(promtool, story, at={20: set(), 40: hung, 101: set(), 150: set()})
    unhealthy = {
        "exp_labels": {
            "severity": "critical",
            "status": "unhealthy",
            "instance_id": "shop-1",
            "handler": "h",
            "group": "g",
            **story.labels,
        },
        "exp_annotations": {
            "summary": "h does not consume in shop-1",
            "description": "Reasons: handler_stuck.",
            "runbook": "docs/operations.md#causes",
        },
    }
    promtool.test(
        [RULES],
        {
            "interval": "1m",
            "input_series": series(*story.scrapes, **story.labels),
            "alert_rule_test": [
                {"alertname": "AthomicConsumerUnhealthy", "eval_time": "40m", "exp_alerts": [unhealthy]}
            ],
        },
    )


async def test_a_partition_that_waits_for_its_dead_letter(promtool: Promtool) -> None:
    story, athomic = Story(), new_app(settings(), handler(fails, retry=RetryPolicy(max_attempts=1)))
    async with healthy_before(athomic, story) as broker:
        broker.create_topics({"t.g.dlq": 2})
        broker.refuse("t.g.dlq")
        await athomic.publish("t", "bad", partition=1)
        await eventually(lambda: athomic.consumers()[0].health.reasons)
        await story.scrape(athomic)
        broker.allow("t.g.dlq")
        await athomic.drain()
        await story.scrape(athomic)
    blocked = {"AthomicPartitionBlocked"}
    at = {20: set(), 24: set(), 30: blocked, 60: blocked | {"AthomicConsumerDegraded"}}
    expect(promtool, story, at={**at, 101: {"AthomicDeadLetters"}, 120: set()})


async def test_dead_letters(promtool: Promtool) -> None:
    story, athomic = Story(), new_app(settings(), handler(fails, retry=RetryPolicy(max_attempts=1)))
    async with healthy_before(athomic, story):
        await athomic.publish("t", "bad")
        await athomic.drain()
        await story.scrape(athomic)
    wrote = {"AthomicDeadLetters"}
    expect(promtool, story, at={19: set(), 20: wrote, 30: wrote, 36: set()})


async def test_dead_letters_before_a_process_was_scraped_for_the_first_time(promtool: Promtool) -> None:
    story, athomic = Story(), new_app(settings(), handler(fails, retry=RetryPolicy(max_attempts=1)))
    async with running(athomic):
        await athomic.publish("t", "bad")
        await athomic.drain()
        await story.scrape(athomic)
    wrote = {"AthomicDeadLetters"}
    expect(promtool, story, at={0: wrote, 10: wrote, 16: set(), 60: set()})


async def test_messages_that_retention_deleted_unread(promtool: Promtool) -> None:
    story, athomic = Story(), new_app(settings(), handler())
    async with healthy_before(athomic, story) as broker:
        consumer = manager_of(athomic).consumers["h"]
        consumer.pause()
        for _ in range(5):
            await athomic.publish("t", "unread", partition=0)
        broker.delete_messages(TopicPartition("t", 0), 4)
        consumer.resume()
        await athomic.drain()
        await story.scrape(athomic)
    expect(promtool, story, at={19: set(), 21: {"AthomicMessagesLostToRetention"}, 40: set()})


async def test_a_consumer_that_breaks_again_and_again(promtool: Promtool, monkeypatch: pytest.MonkeyPatch) -> None:
    poll, deaths = MemoryConsumer.poll, iter([True] * 4)

    def dies(consumer: MemoryConsumer, wanted: Any) -> None:
        if next(deaths, False):
            raise TransportError("the client died")
        poll(consumer, wanted)

    story, athomic = Story(), new_app(settings(), handler())
    async with healthy_before(athomic, story):
        monkeypatch.setattr(MemoryConsumer, "poll", dies)
        await eventually(lambda: athomic.consumers()[0].restarts == 4)
        await athomic.wait_until_ready()
        await athomic.drain()
        await story.scrape(athomic)
    breaks = {"AthomicConsumerRestarts"}
    expect(promtool, story, at={19: set(), 21: breaks, 30: breaks, 36: set(), 60: set()})


async def test_a_partition_that_is_paused_is_told_after_an_hour_and_not_as_late(
    promtool: Promtool, monkeypatch: pytest.MonkeyPatch
) -> None:
    story, act = Story(), Hanging()
    athomic = new_app(settings(), handler(act))
    async with healthy_before(athomic, story):
        await athomic.publish("t", "hang", partition=0)
        await act.begun.count(2)
        consumer = manager_of(athomic).consumers["h"]
        consumer.pause()
        later(monkeypatch, 1000)
        await story.scrape(athomic)
        consumer.resume()
        act.gate.set()
        await athomic.drain()
        await story.scrape(athomic)
    assert re.search(r"^athomic_consumer_late_seconds.* 1\d{3}\.", story.scrapes[1].exposition or "", re.MULTILINE)
    expect(promtool, story, at={40: set(), 79: set(), 90: {"AthomicConsumerPaused"}, 101: set()})


async def test_a_message_that_fails_again_and_again_is_late_but_something_moves(
    promtool: Promtool, monkeypatch: pytest.MonkeyPatch
) -> None:
    story, retry = Story(), RetryPolicy(max_attempts=1_000_000, delay=0.01, backoff=1.0)
    athomic = new_app(settings(), handler(fails, retry=retry))
    async with healthy_before(athomic, story):
        await athomic.publish("t", "bad", partition=1)
        later(monkeypatch, 1000)
        for _ in range(6):
            failed = athomic.consumers()[0].counters.failed
            await eventually(lambda failed=failed: athomic.consumers()[0].counters.failed > failed)  # type: ignore[misc]
            await story.scrape(athomic, 5)
    late = {"AthomicConsumerLate"}
    expect(promtool, story, at={20: set(), 35: late, 49: late})


async def test_a_circuit_breaker_that_stays_open(promtool: Promtool) -> None:
    def act(message: str) -> None:
        if message == "bad":
            raise ConnectionError

    breaker = CircuitBreaker(exceptions=(OSError,), failures=1)
    story, athomic = Story(), new_app(settings(), handler(act, breaker=breaker))
    async with healthy_before(athomic, story):
        await athomic.publish("t", "bad")
        await eventually(lambda: "state='open'" in str(athomic.consumers()[0].breaker))
        await story.scrape(athomic)
    opened = {"AthomicBreakerOpen"}
    expect(promtool, story, at={20: set(), 28: set(), 32: opened, 50: opened | {"AthomicConsumerDegraded"}})


async def test_a_broker_that_is_away(promtool: Promtool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.broker.PING_INTERVAL", 0.02)
    story, athomic = Story(), new_app(settings(), handler())
    async with healthy_before(athomic, story) as broker:
        broker.disconnect()
        await eventually(lambda: manager_of(athomic).broker_error)
        await story.scrape(athomic)
        broker.reconnect()
        await eventually(lambda: not manager_of(athomic).broker_error)
        await athomic.wait_until_ready()
        await story.scrape(athomic)
    away = {"AthomicBrokerUnreachable"}
    expect(promtool, story, at={24: set(), 30: away, 101: set()})


async def test_an_event_loop_that_is_blocked_again_and_again(promtool: Promtool) -> None:
    story, athomic = Story(), new_app(settings(), handler())
    async with healthy_before(athomic, story):
        await eventually(lambda: athomic.loop_lag.turned_at is not None)
        time.sleep(0.4)  # noqa: ASYNC251 - that is the fault
        await eventually(lambda: athomic.loop_lag.seconds > 0.15)
        await story.scrape(athomic, 10, late=True)
        story.scrapes.append(Scrapes(story.scrapes[0].exposition, 10))
    expect(promtool, story, at={19: set(), 24: set(), 28: {"AthomicEventLoopLate"}, 31: set()})


async def test_an_aggregate_whose_message_failed(promtool: Promtool) -> None:
    @ordered_consumer(
        "o",
        group_id="g",
        handler_id="ordered",
        aggregate_key_field="shop",
        sequence_id_field="number",
        on_failure="block",
        retry=RetryPolicy(max_attempts=1),
    )
    async def handle(order: Order) -> None:
        raise RuntimeError("no")

    story, athomic = Story(), new_app(settings(), handler(), handle)
    async with healthy_before(athomic, story):
        await athomic.publish("o", Order(number=1))
        await eventually(lambda: any(each.ordered and each.ordered.blocked for each in athomic.consumers()))
        await story.scrape(athomic)
    expect(promtool, story, at={20: set(), 30: {"AthomicAggregatesBlocked"}})


async def test_processes_of_a_worker_that_are_missing_or_end_again_and_again(promtool: Promtool) -> None:
    world, story = Answering(), Story()
    async with supervised(world, 2) as supervisor, client(supervisor) as http:

        async def scrape(minutes: int) -> None:
            story.scrapes.append(Scrapes((await http.get("/metrics")).text, minutes))

        await world.until(lambda: up(supervisor))
        await scrape(20)
        for number in range(4):
            world.processes[-1].finish(-9)
            await world.until(lambda number=number: len(world.processes) == number + 3 and up(supervisor))  # type: ignore[misc]
        await scrape(20)
        world.sleeps = False
        world.processes[0].finish(-9)
        await world.until(lambda: not up(supervisor))
        await scrape(20)
    restarts, missing = {"AthomicWorkerRestarts"}, {"AthomicWorkerProcessesMissing"}
    expect(promtool, story, at={19: set(), 21: restarts, 36: set(), 44: set(), 50: missing})

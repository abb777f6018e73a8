"""What Prometheus makes of several processes: the queries in docs/workers.md are right, and so are the alerts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi_athomic import Athomic, AthomicSettings, RetryPolicy, subscribe_to
from tests.support.apps import Gate, Record, eventually, new_app, running
from tests.support.promtool import Promtool, Scrapes, series
from tests.support.stories import RULES, Story, expect
from tests.unit.exporters.test_metric_names import scraped
from tests.unit.workers.test_port import Answering, client
from tests.unit.workers.test_supervisor import supervised, up

ROOT = Path(__file__).parents[2]
LAG = "sum by (group) (max by (group, topic, partition) (last_over_time(athomic_consumer_lag[10m])))"
DONE = "sum by (handler) (increase(athomic_consumer_processed_total[10m]))"


class Worker:
    """One process of a group: an app with a broker of its own, so that each does what the test wants."""

    def __init__(self, instance_id: str) -> None:
        self.gate, self.begun = Gate(), Record()

        @subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=1))
        async def handle(message: str) -> None:
            self.begun.note(message)
            if message == "bad":
                raise RuntimeError("no")
            if message == "hang":
                await self.gate.wait()

        memory: Any = {"partitions": 1}
        self.athomic: Athomic = new_app(AthomicSettings(instance_id=instance_id, memory=memory), handle)

    async def lag_of(self, messages: int) -> None:
        """So many of its messages are not handled until the gate opens."""
        await self.athomic.publish_many("t", ["hang"] * messages)
        await self.begun.until(lambda seen: "hang" in seen)

    async def handled(self, messages: int, message: str = "good") -> None:
        await self.athomic.publish_many("t", [message] * messages)
        await self.athomic.drain()


@asynccontextmanager
async def at_work(*workers: Worker) -> AsyncIterator[None]:
    """They run; whatever happens, no handler hangs in the end."""
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(running(worker.athomic))
            stack.callback(worker.gate.set)
        yield


def values(promtool: Promtool, stories: list[Story], minute: int, **expected: tuple[str, dict[str, float]]) -> None:
    """`expected`: by any name a query, and its values by their labels."""
    tests = [
        {
            "expr": query,
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
        }
        for query, samples in expected.values()
    ]
    inputs = [each for story in stories for each in series(*story.scrapes, **story.labels)]
    promtool.test([RULES], {"interval": "1m", "input_series": inputs, "promql_expr_test": tests})


def test_the_page_has_these_queries() -> None:
    page = (ROOT / "docs" / "workers.md").read_text()
    assert LAG in page
    assert DONE.replace("increase", "rate") in page
    telemetry = (ROOT / "docs" / "telemetry.md").read_text()
    assert re.sub(r"last_over_time\((\w+)\[10m\]\)", r"\1", LAG) in telemetry


async def test_two_targets_add_up_and_a_partition_that_both_report_counts_once(promtool: Promtool) -> None:
    one, two = Worker("shop-1"), Worker("shop-2")
    stories = [Story(instance="shop-1:8000"), Story(instance="shop-2:8000")]
    async with at_work(one, two):
        for worker, story, messages in zip((one, two), stories, (6, 4), strict=True):
            await story.scrape(worker.athomic, 11)
            await worker.handled(messages)
            await worker.lag_of(messages)
            await story.scrape(worker.athomic, 10)
        values(
            promtool,
            stories,
            12,
            lag=(LAG, {'{group="g"}': 6}),  # both report t[0], as within a rebalance: the greater one counts
            wrong=("sum by (group) (athomic_consumer_lag)", {'{group="g"}': 10}),
            done=(f"round({DONE})", {'{handler="h"}': 10}),
            members=("count by (handler) (athomic_consumer_healthy)", {'{handler="h"}': 2}),
        )


async def test_one_port_for_all_processes_of_a_worker(promtool: Promtool) -> None:
    workers, world, story = [Worker("shop:1"), Worker("shop:2")], Answering(), Story()
    answers: list[str] = []
    world.said["metrics"] = lambda place: [answers[place - 1]]
    async with at_work(*workers), supervised(world, 2) as supervisor, client(supervisor) as http:
        for messages in (0, 5):
            for worker in workers:
                await worker.handled(messages)
            answers = [await scraped(worker.athomic) for worker in workers]
            await world.until(lambda: up(supervisor))
            story.scrapes.append(Scrapes((await http.get("/metrics")).text, 11))
    values(
        promtool,
        [story],
        12,
        done=(f"round({DONE})", {'{handler="h"}': 10}),
        members=("count by (handler) (athomic_consumer_healthy)", {'{handler="h"}': 2}),
        processes=("athomic_worker_processes", {'athomic_worker_processes{instance="shop:8000",job="shop"}': 2}),
    )


def taking_turns(*stories: Story) -> list[Story]:
    """As one target sees workers behind one address: each scrape meets the next of them."""
    turns = len(stories)
    found = []
    for turn, story in enumerate(stories):
        answers = [scrape.exposition for scrape in story.scrapes for _ in range(scrape.times)]
        met = [Scrapes(answer if at % turns == turn else None, 1) for at, answer in enumerate(answers)]
        found.append(Story(**story.labels))
        found[-1].scrapes = met
    return found


async def test_workers_behind_one_address_do_not_mix_up(promtool: Promtool) -> None:
    one, two = Worker("web:31"), Worker("web:32")
    stories = [Story(), Story()]
    async with at_work(one, two):
        for worker, story, messages in zip((one, two), stories, (6, 4), strict=True):
            await story.scrape(worker.athomic, 12)
            await worker.handled(messages)
            await worker.lag_of(messages)
            await story.scrape(worker.athomic, 12)
        values(
            promtool,
            taking_turns(*stories),
            16,
            lag=(LAG, {'{group="g"}': 6}),
            # 10 were handled; `increase` extrapolates to the edges of its range
            done=(f"({DONE} > 9) < 12 != bool 0", {'{handler="h"}': 1}),
            # a query without a range sees the one that was met last
            members=("count(athomic_consumer_healthy)", {"{}": 1}),
            all_members=("count(last_over_time(athomic_consumer_healthy[10m]))", {"{}": 2}),
        )


async def test_alerts_fire_for_one_of_several_workers_behind_one_address(promtool: Promtool) -> None:
    one, two = Worker("web:31"), Worker("web:32")
    stories = [Story(), Story()]
    broker = two.athomic._transport.broker  # type: ignore[attr-defined]
    broker.create_topics({"t": 1, "t.g.dlq": 1})
    async with at_work(one, two):
        for worker, story in zip((one, two), stories, strict=True):
            await story.scrape(worker.athomic, 20)
        broker.refuse("t.g.dlq")
        await two.athomic.publish("t", "bad")
        await eventually(lambda: two.athomic.consumers()[0].health.reasons)
        await stories[0].scrape(one.athomic, 40)
        await stories[1].scrape(two.athomic, 40)
        broker.allow("t.g.dlq")
        await two.athomic.drain()
        await stories[0].scrape(one.athomic, 40)
        await stories[1].scrape(two.athomic, 40)
    blocked = {"AthomicPartitionBlocked"}
    at = {19: set(), 24: set(), 32: blocked, 39: blocked, 63: {"AthomicDeadLetters"}, 90: set()}
    expect(promtool, *taking_turns(*stories), at=at)

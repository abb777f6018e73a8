"""The services of docs/migrating-from-*.md, before and after, run as their pages say: what is lost, and what moves.

Each page shows its files, and these files are run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.processes import Process, free_port
from tests.support.redis_server import ExternalRedis, RedisServer
from tests.support.walkthrough import ROOT, files

SECONDS = 60.0
PARTITIONS = 2


class Service:
    """One of the files of a page under uvicorn."""

    def __init__(self, folder: Path, module: str, **environment: str) -> None:
        port = str(free_port())
        self._base = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", port, "--app-dir", str(folder)]
        self.process = Process(command, folder / f"{module}.log", **plain(environment))

    def start(self) -> None:
        self.process.start()
        self.process.wait_until(lambda: httpx.get(f"{self._base}/docs", timeout=5).raise_for_status(), SECONDS)

    def place(self, order: str) -> None:
        body = {"order_id": order, "customer": "ann", "amount": 1}
        httpx.post(f"{self._base}/orders", json=body, timeout=30).raise_for_status()

    def status(self) -> dict[str, Any]:
        (consumer,) = httpx.get(f"{self._base}/consumers", timeout=5).raise_for_status().json()
        return dict(consumer)

    def owns(self) -> set[int]:
        return {place["partition"] for place in self.status()["assignment"]}

    def output(self) -> str:
        return self.process.output()


class Topic:
    def __init__(self, bootstrap: str, name: str) -> None:
        self.name = name
        self._producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
        admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(30)

    def write(self, partition: int, order: str, *, customer: str = "ann", amount: float = 1) -> None:
        self.put(partition, f'{{"order_id": "{order}", "customer": "{customer}", "amount": {amount}}}'.encode())

    def put(self, partition: int, value: bytes) -> None:
        self._producer.produce(self.name, value, key=b"key", partition=partition)
        assert self._producer.flush(30) == 0


def plain(more: dict[str, str]) -> dict[str, str]:
    """An environment without settings of anybody's else."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ATHOMIC_")}
    return {**ours, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


def written(page: str, folder: Path, topic: str) -> Path:
    """Writes the page's files, with names of our own for topic and group, and a FastStream that stops soon."""
    changes = {
        '"orders.placed"': f'"{topic}"',
        '"billing"': f'"{topic}"',
        '"localhost:9092"))': '""), graceful_timeout=1)',
    }
    for name, text in files(ROOT / "docs" / page).items():
        for theirs, ours in changes.items():
            text = text.replace(theirs, ours)
        (folder / name).write_text(text)
    return folder


def charged(*outputs: str) -> list[str]:
    """The orders, in the order of each log."""
    return [order for text in outputs for order in re.findall(r"\bcharged (\w+)", text)]


def wait(holds: Callable[[], object], what: str, *services: Service) -> None:
    end = monotonic() + SECONDS
    while not holds():
        assert monotonic() < end, f"{what}\n" + "\n---\n".join(service.output()[-2000:] for service in services)
        sleep(0.05)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", ["migrating-from-aiokafka.md", "migrating-from-faststream.md"])
def test_one_group_moves_while_both_run(
    page: str, apache_kafka: KafkaBroker | ExternalKafka, tmp_path: Path, stack: ExitStack
) -> None:
    topic = Topic(apache_kafka.bootstrap, f"orders-{uuid4().hex[:8]}")
    folder = written(page, tmp_path, topic.name)
    before = Service(folder, "before", KAFKA=apache_kafka.bootstrap)
    after = Service(folder, "after", ATHOMIC_BROKER_URL=f"kafka://{apache_kafka.bootstrap}")
    for service in (before, after):
        stack.callback(service.process.stop)

    def all_charged() -> list[str]:
        return charged(before.output(), after.output())

    def wait_for(orders: set[str]) -> None:
        wait(lambda: set(all_charged()) >= orders, f"not all charged of {orders}", before, after)

    before.start()
    topic.put(0, b"no order")
    topic.write(0, "refused", amount=-1)
    before.place("first")
    wait_for({"first"})
    wait(lambda: "charging refused" in before.output(), "never begun", before)

    after.start()  # a rolling deploy: both are members of the group
    wait(lambda: len(after.owns()) == 1, "each has one of two partitions", before, after)
    (ours,) = after.owns()
    theirs = 1 - ours
    orders = {f"order{number}" for number in range(6)}
    for number, order in enumerate(sorted(orders)):
        (before, after)[number % 2].place(order)
    topic.write(theirs, "old")
    topic.write(ours, "new")
    wait_for({"old", "new", *orders})
    assert "charged old" in before.output()
    assert "charged new" in after.output()

    topic.write(theirs, "interrupted", customer="slow")
    wait(lambda: "charging interrupted" in before.output(), "never begun", before)
    before.process.stop(45)
    wait(lambda: after.owns() == {ours, theirs}, "it takes over", after)
    topic.write(theirs, "last")
    topic.write(ours, "hopeless", amount=-1)
    wait_for({"last"})
    wait(lambda: after.status()["counters"]["dead_lettered"] == 1, "a dead letter", after)

    assert sorted(all_charged()) == sorted(["first", "old", "new", "last", *orders]), "once each"
    assert "charging interrupted" not in after.output(), "what the page says is lost, is"
    assert "charging refused" not in after.output(), "and so is this"
    counters = after.status()["counters"]
    assert counters["received"] == counters["processed"] + 1, "and what does not decode: only `hopeless` failed here"


@pytest.mark.timeout(240)
def test_celerys_queue_runs_empty_beside_the_topic(
    apache_kafka: KafkaBroker | ExternalKafka,
    redis_server: RedisServer | ExternalRedis,
    tmp_path: Path,
    stack: ExitStack,
) -> None:
    topic = Topic(apache_kafka.bootstrap, f"orders-{uuid4().hex[:8]}")
    folder = written("migrating-from-celery.md", tmp_path, topic.name)
    queue = redis.Redis.from_url(redis_server.url)
    stack.callback(queue.close)
    queue.delete("celery")
    before = Service(folder, "before", CELERY_BROKER_URL=redis_server.url)
    after = Service(folder, "after", ATHOMIC_BROKER_URL=f"kafka://{apache_kafka.bootstrap}")
    options = ["--app", "before:jobs", "--workdir", str(folder), "worker", "--concurrency", "1"]
    fewer = ["--without-mingle", "--without-gossip"]  # it looks for no others, so it starts sooner
    address = plain({"CELERY_BROKER_URL": redis_server.url, "PYTHONPATH": f"{folder}:{ROOT}"})
    worker = Process([sys.executable, "-m", "celery", *options, *fewer], folder / "worker.log", **address)
    for each in (before.process, after.process, worker):
        stack.callback(each.stop)

    before.start()
    for order in ("one", "two", "three"):
        before.place(order)
    before.process.stop()
    assert queue.llen("celery") == 3
    after.start()  # the web that publishes; its handlers may begin at once
    after.place("four")
    worker.start()
    worker.wait_until(lambda: expect(len(charged(worker.output())) == 3), SECONDS)
    wait(lambda: charged(after.output()) == ["four"], "the topic is followed", after)
    assert charged(worker.output()) == ["one", "two", "three"]
    assert left(queue) == 0

    enqueue = "import before; before.bill.delay({'order_id': 'lost', 'customer': 'slow', 'amount': 1})"
    subprocess.run([sys.executable, "-c", enqueue], env=address, check=True, timeout=60)
    worker.wait_until(lambda: expect("charging lost" in worker.output()), SECONDS)
    children = psutil.Process(worker.pid).children(recursive=True)
    worker.kill()
    for child in children:
        child.kill()
    assert left(queue) == 0, "what a killed worker had begun waits nowhere: it is lost, as the page says"


def left(queue: redis.Redis) -> int:
    """How many tasks wait in Redis, or were handed out and not acknowledged."""
    return int(queue.llen("celery")) + int(queue.hlen("unacked"))


def expect(seen: bool) -> None:
    assert seen, "not yet"

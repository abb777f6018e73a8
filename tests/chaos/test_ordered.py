"""Does P17 hold while workers and Redis are killed? On Apache Kafka and Redis.

Three workers. Each aggregate's messages are spread over all partitions, shuffled and partly duplicated, and one attempt
in a hundred fails. Workers are killed, Redis is killed and started again, and frozen for a while.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.redis_server import RedisServer

from .halts import Handling
from .harness import Arena, Worker

pytestmark = pytest.mark.timeout(300)

AGGREGATES, LENGTH = 40, 150
PARTITIONS = 6
WINDOW = 400
"""Each message is shuffled among so many neighbours."""
RATE = 400
"""Messages per second."""
LEASE = 3
"""Seconds. Redis is away for longer than that, so any worker may then take over any aggregate."""
WORKERS = 3
REPEATED_PER_FAULT = 40
"""Of each worker that it hits: what it handles within `commit_interval` and while it is patient with Redis, and the ten
in flight. More if it catches up just then, none if it waits for messages."""


class ShuffledLoad(threading.Thread):
    """A foreign producer that ignores order."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__(daemon=True)
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 2, "log_level": 0})
        self._topic = topic
        self._ending = threading.Event()

    def run(self) -> None:
        for number, (key, sequence) in enumerate(self._messages()):
            value = json.dumps({"key": key, "sequence": sequence}).encode()
            self._producer.produce(self._topic, value, key.encode(), partition=random.randrange(PARTITIONS))
            self._producer.poll(0)
            if number % (RATE // 20) == 0 and self._ending.wait(0.05):
                return
        assert self._producer.flush(60) == 0

    def _messages(self) -> Iterator[tuple[str, int]]:
        in_order = [(f"k{key}", number) for number in range(1, LENGTH + 1) for key in range(AGGREGATES)]
        for start in range(0, len(in_order), WINDOW):
            window = in_order[start : start + WINDOW]
            window += random.sample(window, WINDOW // 5)
            random.shuffle(window)
            yield from window

    def stop(self) -> None:
        self._ending.set()
        self.join()


class OrderedArena(Arena):
    """An arena whose workers have an ordered consumer, with a Redis that can be killed."""

    def __init__(self, bootstrap: str, directory: Path, redis: RedisServer) -> None:
        environment = {
            "ATHOMIC_STATE_STORE_URL": redis.url,
            "ATHOMIC_ORDERED__LEASE": str(LEASE),
            "ATHOMIC_KAFKA__SESSION_TIMEOUT": "3",
            "ATHOMIC_KAFKA__HEARTBEAT_INTERVAL": "0.5",
        }
        super().__init__(bootstrap, directory, environment, PARTITIONS)
        self.redis = redis
        self.shuffled = ShuffledLoad(bootstrap, self.topic)

    def add_worker(self) -> Worker:
        worker = Worker(len(self.workers), self._directory, self._environment, "tests.chaos.ordered_worker")
        self.workers.append(worker)
        worker.start()
        return worker

    def restart_redis(self) -> None:
        self.redis.kill()
        assert not self.redis.process.is_running
        self.wait_for(lambda: any("cannot be reached" in text for text in self._reasons()), "health says so")
        time.sleep(LEASE + 1)
        handled = len(self.handlings())
        self.redis.start()
        self.wait_for(lambda: len(self.handlings()) > handled + 100, "work goes on")
        self.faults["Redis down"] += 1

    def freeze_redis(self) -> None:
        """It takes connections, and never answers."""
        self.redis.process.freeze()
        self.wait_for(lambda: any("cannot be reached" in text for text in self._reasons()), "health says so")
        handled = len(self.handlings())
        self.redis.process.thaw()
        self.wait_for(lambda: len(self.handlings()) > handled + 100, "work goes on")
        self.faults["Redis frozen"] += 1

    def _reasons(self) -> list[str]:
        consumers = [worker.fetch("/consumers") for worker in self.workers]
        return [reason["message"] for (consumer,) in consumers for reason in consumer["health"]["reasons"]]

    def close(self) -> None:
        self.shuffled.stop()
        super().close()


@pytest.fixture
def fighting(
    apache_kafka: KafkaBroker | ExternalKafka, mortal_redis: RedisServer, tmp_path: Path
) -> Iterator[OrderedArena]:
    arena = OrderedArena(apache_kafka.bootstrap, tmp_path, mortal_redis)
    try:
        arena.open(WORKERS)
        arena.shuffled.start()
        yield arena
    finally:
        arena.close()


def by_aggregate(handlings: list[Handling]) -> dict[str, list[Handling]]:
    found: dict[str, list[Handling]] = defaultdict(list)
    for handling in sorted(handlings):
        found[handling.key].append(handling)
    return found


def first_times(handlings: list[Handling]) -> list[Handling]:
    seen: dict[int, Handling] = {}
    for handling in handlings:
        seen.setdefault(handling.sequence, handling)
    return list(seen.values())


def counters(arena: OrderedArena) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for worker in arena.workers:
        (status,) = worker.fetch("/consumers")
        for name, value in status["counters"].items():
            found[name] += value
    return found


def test_p17_each_aggregate_sees_its_numbers_in_order_through_kills_and_a_redis_restart(
    fighting: OrderedArena,
) -> None:
    fighting.wait_for(lambda: len(fighting.handlings()) > 300, "the workers work")
    fighting.kill(fighting.workers[0])
    fighting.restart_redis()
    fighting.kill(fighting.workers[1])
    fighting.kill(fighting.workers[2])
    fighting.freeze_redis()
    fighting.restart_redis()
    fighting.shuffled.join()
    fighting.wait_for(
        lambda: len({(h.key, h.sequence) for h in fighting.handlings()}) == AGGREGATES * LENGTH, "all are handled"
    )
    totals: Any = counters(fighting)
    found = by_aggregate(fighting.handlings())
    repeated = sum(map(len, found.values())) - AGGREGATES * LENGTH
    print(f"repeated {repeated}; faults: {dict(fighting.faults)}; counters: {dict(totals)}")  # noqa: T201 - the figures
    for key, handlings in found.items():
        firsts = first_times(handlings)
        assert [handling.sequence for handling in firsts] == list(range(1, LENGTH + 1)), key
        for before, after in pairwise(firsts):
            assert before.ended <= after.began, f"{key}: {after.sequence} began before {before.sequence} was done"
    assert fighting.faults == {"SIGKILL": 3, "Redis down": 2, "Redis frozen": 1}
    assert repeated <= REPEATED_PER_FAULT * (3 + (2 + 1) * WORKERS)
    assert totals["parked"], "nothing came early"
    assert totals["duplicates"], "nothing came twice"

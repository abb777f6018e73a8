"""Promises that need real processes: limits on repeats, on the time to stop, and on memory."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.delivery.brokers import KafkaBroker as Foreign
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

from .harness import Arena

pytestmark = pytest.mark.timeout(300)
SLACK = 3.0
"""Seconds beyond `shutdown_timeout` in which P10, which is a promise about time, may be kept by a whole process: what
its server and Python do at their ends is in them, and the machine is busy."""

Kafka = KafkaBroker | ExternalKafka


def alone(kafka: Kafka, directory: Path, **environment: str) -> Arena:
    """One worker, one partition, and no messages except those the test writes."""
    arena = Arena(kafka.bootstrap, directory, environment, partitions=1)
    arena.open(1)
    return arena


async def committed(arena: Arena) -> dict[int, int]:
    return await Foreign(arena.bootstrap).committed(arena.topic, arena.topic)


def received(arena: Arena) -> int:
    """How many messages the only worker has received since it started."""
    return int(arena.workers[0].fetch("/consumers/worker")["counters"]["received"])


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_p05_what_was_done_behind_a_slow_message_survives_a_crash(
    apache_kafka: Kafka, tmp_path: Path, isolation: str
) -> None:
    gate = tmp_path / "gate"
    slowness = {"CHAOS_GATE": str(gate), "CHAOS_HANDLER_SECONDS": "0.001"}
    arena = alone(apache_kafka, tmp_path, **slowness, ATHOMIC_ISOLATION=isolation)
    try:
        arena.load.write("slow", slow=True)
        for number in range(5_000):
            arena.load.write(f"k{number % 100}")
        produced = arena.load.finish()
        arena.wait_for(lambda: len(arena.handlings()) == 5_000, "all but the slow one are done")
        (worker,) = arena.workers
        worker.process.kill()
        assert sum((await committed(arena)).values()) == 0, "the slow one holds the committed offset"
        worker.start()
        worker.wait_until_ready()
        arena.wait_for(lambda: received(arena) == produced, "all of them come again")
        gate.touch()
        arena.wait_for(lambda: any(h.key == "slow" for h in arena.handlings()), "the slow one is done")
        worker.process.stop()  # it finishes what still runs
        handlings = arena.handlings()
        assert {(h.key, h.sequence) for h in handlings} == {
            (key, number) for key, count in arena.load.produced.items() for number in range(count)
        }
        assert len(handlings) - produced < 50
    finally:
        arena.close()


@pytest.mark.parametrize(
    ("handler", "isolation"),
    [("stubborn", "loop"), ("thread", "loop"), ("stubborn", "thread"), ("thread", "thread"), ("blocking", "thread")],
)
async def test_p10_a_handler_that_ignores_cancellation_does_not_hold_up_the_stop(
    apache_kafka: Kafka, tmp_path: Path, handler: str, isolation: str
) -> None:
    limit = 3.0
    arena = alone(
        apache_kafka,
        tmp_path,
        CHAOS_HANDLER=handler,
        ATHOMIC_ISOLATION=isolation,
        ATHOMIC_SHUTDOWN_TIMEOUT=str(limit),
        ATHOMIC_DRAIN_TIMEOUT="2",
    )
    try:
        arena.load.write("k")
        arena.load.finish()
        arena.wait_for(lambda: len(arena.handlings()) == 1, "the handler runs")
        (worker,) = arena.workers
        began = time.monotonic()
        worker.process.stop(seconds=60)
        assert time.monotonic() - began < limit + SLACK
        assert "killed" not in worker.process.ending, "it ended by itself"
        assert not any((await committed(arena)).values()), "what was cut off is not committed"
    finally:
        arena.close()


def test_p16_memory_levels_off_behind_a_handler_that_never_returns(apache_kafka: Kafka, tmp_path: Path) -> None:
    arena = alone(apache_kafka, tmp_path, CHAOS_HANDLER="stubborn", CHAOS_CONCURRENCY="1")
    try:
        (worker,) = arena.workers
        process = psutil.Process(worker.process.pid)
        idle = process.memory_info().rss
        for number in range(400_000):
            arena.load.write(f"k{number % 1_000}", padding="x" * 100)
        arena.load.finish()

        arena.wait_for(lambda: received(arena) >= 250, "the buffer fills")
        full, polls = received(arena), 0
        samples = []
        while polls < 50:  # each asks the worker for its status while its fetch loop goes on
            samples.append(process.memory_info().rss)
            polls += 1
            time.sleep(0.05)
            full = max(full, received(arena))
        assert full <= 500, "what is taken in ahead"
        assert max(samples) - idle < 40_000_000
        assert samples[-1] - samples[10] < 2_000_000, "it grows no more"
        assert worker.fetch("/consumers/health")["status"] == "healthy"
    finally:
        arena.close()

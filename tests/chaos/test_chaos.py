"""Do the promises hold while workers and the broker are killed? On Apache Kafka.

Heartbeats are more frequent than by default, as each rebalance waits for those of all members; sessions are shorter, as
all wait for their end after a kill or a freeze, but not in the storm, where the broker itself is away.

Three workers, 600 messages per second over 120 keys, handlers of 20 ms, 50 at once. `ATHOMIC_TEST_CHAOS_SECONDS` makes
the storm last longer.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.support.kafka_broker import ExternalKafka, KafkaBroker

from .harness import Arena, Report, arena

pytestmark = pytest.mark.timeout(900)

STORM_SECONDS = float(os.environ.get("ATHOMIC_TEST_CHAOS_SECONDS", "0"))


@pytest.fixture(params=["loop", "thread"])
def isolation(request: pytest.FixtureRequest) -> str:
    """Runs consumers in the event loop of the routes, and in a thread of their own."""
    return str(request.param)


@pytest.fixture
def fighting(apache_kafka: KafkaBroker | ExternalKafka, tmp_path: Path, isolation: str) -> Iterator[Arena]:
    with arena(
        apache_kafka.bootstrap,
        tmp_path,
        ATHOMIC_ISOLATION=isolation,
        ATHOMIC_KAFKA__SESSION_TIMEOUT="6",
        ATHOMIC_KAFKA__HEARTBEAT_INTERVAL="0.5",
    ) as opened:
        opened.wait_for(lambda: len(opened.handlings()) > 500, "the workers work")
        yield opened


def check(report: Report, *, repeated: float) -> None:
    print(report)  # noqa: T201 - the figures are what the harness is for
    assert report.lost == []
    assert report.misordered == []
    assert report.repeated <= repeated, str(report)


def test_p03_a_rolling_restart_repeats_nothing(fighting: Arena) -> None:
    for _ in range(3):
        for worker in list(fighting.workers):
            fighting.restart(worker)
    report = fighting.settle()
    check(report, repeated=0)
    assert report.faults == {"SIGTERM": 9}


def test_p05_a_crash_repeats_a_handful(fighting: Arena) -> None:
    for worker in [*fighting.workers, *fighting.workers]:
        fighting.catch_up()
        fighting.kill(worker)
    report = fighting.settle()
    check(report, repeated=float("inf"))
    assert report.needless == 0
    assert median(report.uncommitted) <= 5, "a handful; more where the machine gave the broker no time to take a commit"
    assert report.faults == {"SIGKILL": 6}


def test_p05_a_freeze_beyond_the_session_repeats_a_handful(fighting: Arena) -> None:
    for worker in fighting.workers[:2]:
        fighting.catch_up()
        fighting.freeze(worker)
    report = fighting.settle()
    check(report, repeated=float("inf"))  # how much is in flight depends on the machine
    assert report.needless <= 2, "a process may be frozen between the look at the clock and the handler"
    assert report.faults == {"SIGSTOP": 2}
    said = "".join(worker.process.output() for worker in fighting.workers)
    assert said.count("membership is in doubt") >= 2
    assert not re.search(r"event loop for ([4-9]\.|[1-9]\d)", said), "a frozen process is no handler's fault"


def test_p04_members_that_come_and_go_repeat_nothing(fighting: Arena) -> None:
    for _ in range(5):
        fighting.join_and_leave()
    report = fighting.settle()
    check(report, repeated=0)
    assert report.faults == {"join and leave": 5}


def test_p01_p02_a_storm_of_everything_loses_and_misorders_nothing(
    mortal_kafka: KafkaBroker, tmp_path: Path, isolation: str
) -> None:
    """Handlers fail at random too, and later messages of their key wait. The broker goes away and comes back."""
    with arena(
        mortal_kafka.bootstrap,
        tmp_path,
        CHAOS_FAILURES="0.02",
        ATHOMIC_ISOLATION=isolation,
        ATHOMIC_KAFKA__HEARTBEAT_INTERVAL="0.5",
    ) as fighting:
        fighting.wait_for(lambda: len(fighting.handlings()) > 500, "the workers work")
        end, rounds = time.monotonic() + STORM_SECONDS, 0
        while rounds < 2 or time.monotonic() < end:
            fighting.restart(random.choice(fighting.workers))
            fighting.kill(random.choice(fighting.workers))
            fighting.join_and_leave()
            fighting.restart_broker(mortal_kafka)
            rounds += 1
        report = fighting.settle()
    assert set(report.faults.values()) == {rounds}
    # a worker that catches up handles 50 messages at once: more are in flight, and more are done between two commits
    check(report, repeated=30 * 2 * rounds)

"""`fastapi-athomic run` with real processes on Apache Kafka, under load: restarted, killed, replaced, stopped."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.harness import ROOT, START_SECONDS, Arena
from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.processes import Process, free_port

PROCESSES = 4
PARTITIONS = 8
RATE = 200
SHUTDOWN_SECONDS = 20.0
pytestmark = pytest.mark.timeout(300)


class Supervised:
    """A supervisor with its processes, and what they handle."""

    def __init__(self, bootstrap: str, directory: Path, *, processes: int = PROCESSES, **environment: str) -> None:
        self.arena = Arena(bootstrap, directory, {}, PARTITIONS)
        self.arena.load._rate = RATE
        self.port = free_port()
        command = [sys.executable, "-m", "fastapi_athomic", "run", "tests.chaos.worker:app", "--only", "worker"]
        command += ["--processes", str(processes), "--port", str(self.port)]
        inherited = {name: value for name, value in psutil.Process().environ().items() if name in ("PATH", "HOME")}
        settings = {
            "PYTHONPATH": str(ROOT),
            "ATHOMIC_SHUTDOWN_TIMEOUT": f"{SHUTDOWN_SECONDS:g}",
            "ATHOMIC_WORKER__RESTART_BACKOFF": "0.1",
            "CHAOS_CONCURRENCY": "4",
        }
        environment = inherited | self.arena._environment | settings | environment
        self.process = Process(command, directory / "log", **environment)
        self.known: set[int] = set()  # all processes that were seen

    def start(self) -> None:
        self.arena.open(0)
        self.process.start()
        self.process.wait_until(lambda: self.get("/health/ready"), START_SECONDS)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}/consumers{path}", timeout=5).raise_for_status()

    def places(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"http://127.0.0.1:{self.port}/consumers/health", timeout=5).json()[
            "places"
        ]
        return found

    def pids(self) -> set[int]:
        """Those that consume at the moment."""
        found = {place["pid"] for place in self.places() if place["state"] == "running"}
        self.known |= found
        return found

    def wait_for_others(self, than: set[int]) -> set[int]:
        """Returns when all places have processes that consume, and none of these."""

        def others() -> bool:
            return len(self.pids() - than) == PROCESSES and not self.pids() & than

        self.arena.wait_for(others, f"others than {than} consume\n{self.process.output()[-3000:]}")
        return self.pids()

    def ends(self, seconds: float) -> int:
        """The exit status of the supervisor, which must come in time."""
        return self.process.wait(seconds)

    def left(self) -> list[int]:
        return [pid for pid in self.known if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]

    def close(self) -> None:
        for pid in self.known:
            if psutil.pid_exists(pid):
                psutil.Process(pid).kill()
        self.arena.load.stop()
        self.process.kill()


@pytest.fixture
def supervised(apache_kafka: KafkaBroker | ExternalKafka, tmp_path: Path) -> Iterator[Supervised]:
    found = Supervised(apache_kafka.bootstrap, tmp_path)
    try:
        yield found
    finally:
        found.close()


def test_four_processes_handle_everything_and_a_rolling_restart_under_load_repeats_nothing(
    supervised: Supervised,
) -> None:
    supervised.start()
    before = supervised.pids()
    assert len(before) == PROCESSES
    arena = supervised.arena
    arena.load.start()
    arena.wait_for(lambda: {handling.process for handling in arena.handlings()} == before, "all have work")
    supervised.process.signal(signal.SIGHUP)
    after = supervised.wait_for_others(before)
    arena.wait_for(lambda: {each.process for each in arena.handlings()[-50:]} <= after, "the new ones have work")
    report = arena.settle()
    assert (report.lost, report.repeated, report.misordered) == ([], 0, []), str(report)
    families = {each.name: each for each in text_string_to_metric_families(supervised.get("/metrics").text)}
    processed = families["athomic_consumer_processed"].samples
    assert len({sample.labels["instance_id"] for sample in processed}) == PROCESSES
    assert families["athomic_worker_processes_ready"].samples[0].value == PROCESSES
    partitions = [place["partition"] for status in supervised.get("").json() for place in status["assignment"]]
    assert sorted(partitions) == list(range(PARTITIONS)), "each partition is in one process"
    supervised.process.signal(signal.SIGTERM)
    assert supervised.ends(SHUTDOWN_SECONDS) == 0
    assert supervised.left() == []
    assert not any(each in supervised.process.output() for each in ("Traceback", "ERROR", "unasked"))


def test_a_killed_process_is_replaced_and_nothing_is_lost(supervised: Supervised) -> None:
    supervised.start()
    before = supervised.pids()
    arena = supervised.arena
    arena.load.start()
    arena.wait_for(lambda: {handling.process for handling in arena.handlings()} == before, "all have work")
    victim = min(before)
    psutil.Process(victim).kill()
    arena.wait_for(lambda: len(supervised.pids() - {victim}) == PROCESSES, "another one is there")
    (fresh,) = supervised.pids() - before
    arena.wait_for(lambda: any(each.process == fresh for each in arena.handlings()), "it has work")
    assert arena.settle().lost == []
    (place,) = [each for each in supervised.get("/health").json()["places"] if each["pid"] == fresh]
    assert (place["restarts"], place["last_end"]) == (1, f"process {victim} was killed by SIGKILL")
    assert "athomic_worker_restarts_total 1" in supervised.get("/metrics").text


def test_without_their_supervisor_processes_end_by_themselves(supervised: Supervised) -> None:
    supervised.start()
    assert len(supervised.pids()) == PROCESSES
    supervised.process.kill()
    supervised.arena.wait_for(lambda: not supervised.left(), "they end", SHUTDOWN_SECONDS)


def test_a_second_interrupt_ends_at_once(apache_kafka: KafkaBroker | ExternalKafka, tmp_path: Path) -> None:
    supervised = Supervised(apache_kafka.bootstrap, tmp_path, processes=1, CHAOS_HANDLER="stubborn")
    try:
        supervised.start()
        (pid,) = supervised.pids()
        supervised.arena.load.write("k0")
        supervised.arena.wait_for(lambda: bool(supervised.arena.handlings()), "the handler runs, and does not end")
        supervised.process.signal(signal.SIGINT)
        supervised.arena.wait_for(
            lambda: supervised.process.is_running and "stopping" in supervised.get("").text, "it stops"
        )
        supervised.process.signal(signal.SIGINT)
        assert supervised.ends(SHUTDOWN_SECONDS / 2) == 130
        assert supervised.left() == []
        assert f"process {pid} is killed" in supervised.process.output()
    finally:
        supervised.close()


def test_a_process_whose_event_loop_stands_still_is_killed_and_replaced(
    apache_kafka: KafkaBroker | ExternalKafka, tmp_path: Path
) -> None:
    supervised = Supervised(
        apache_kafka.bootstrap, tmp_path, processes=1, CHAOS_HANDLER="blocking", ATHOMIC_WORKER__SILENT_TIMEOUT="3"
    )
    try:
        supervised.start()
        (pid,) = supervised.pids()
        supervised.arena.load.write("k0")
        supervised.arena.load.finish()
        supervised.arena.wait_for(lambda: not supervised.left(), "it is killed")
        assert f"process {pid} has not answered for 3 s: it is killed, and replaced" in supervised.process.output()

        def replaced() -> bool:
            """It need not have said that it runs: the message may stop it before that."""
            return any(place["pid"] not in (None, pid) for place in supervised.places())

        supervised.arena.wait_for(replaced, "another one is there")
    finally:
        supervised.close()

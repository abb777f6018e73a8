"""E3: how long messages wait while the processes that handle them are replaced, one after the other."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks.builds import OURS, Build, origin, uvicorn, with_twins
from benchmarks.deploy_apps import CONCURRENCY, HAND, READY_PATHS, WORK_SECONDS
from benchmarks.everyday_apps import FASTSTREAM
from benchmarks.paced import paced
from benchmarks.report import Goal, Measured, NoFigureError, Table
from benchmarks.runs import Options, at_most, interleave, running_broker
from benchmarks.workload import create_topics
from tests.support.processes import Process, free_port

WORKERS, RESTARTS = 3, 6
RATE, KEYS, PARTITIONS = 600, 120, 6
START_SECONDS, STOP_SECONDS = 60.0, 60.0
STEADY_SECONDS = 3.0
"""Of load before the first restart and after the last one."""
STANDSTILL_SECONDS = 20.0
"""What is not handled while nothing else is for so long, is lost."""
LOST, REPEATED, MISORDERED = "lost", "repeated", "out of order"
WRONG = (LOST, REPEATED, MISORDERED)


class Handling(NamedTuple):
    """One line of the record; times in nanoseconds of the machine's monotonic clock."""

    sent: int
    began: int
    ended: int
    key: int
    number: int


def handlings(lines: Iterable[str]) -> list[Handling]:
    return [Handling(*map(int, line.split())) for line in lines]


def judged(done: Sequence[Handling], written: int) -> dict[str, float]:
    """What became of so many messages. Those that came again do not count as out of order."""
    seen: set[tuple[int, int]] = set()
    greatest: dict[int, int] = {}
    waits, misordered = [], 0
    for handling in sorted(done, key=lambda handling: handling.began):
        place = (handling.key, handling.number)
        if place in seen:
            continue
        seen.add(place)
        misordered += handling.number < greatest.get(handling.key, -1)
        greatest[handling.key] = max(handling.number, greatest.get(handling.key, -1))
        waits.append((handling.ended - handling.sent) / 1e6)
    waits.sort()
    return {
        "p50": waits[len(waits) // 2],
        "p99": waits[int(len(waits) * 0.99)],
        "longest": waits[-1],
        LOST: written - len(seen),
        REPEATED: len(done) - len(seen),
        MISORDERED: misordered,
    }


class Worker:
    """One process of the service. It keeps its port over restarts."""

    def __init__(self, contender: str, build: Build, log: Path, **environment: str) -> None:
        port = free_port()
        self._ready = f"http://127.0.0.1:{port}{READY_PATHS.get(contender, '/')}"
        command = uvicorn("benchmarks.deploy_apps:app", port, build)
        self._process = Process(command, log, **build.environment(BENCH_APP=contender, **environment))

    def start(self) -> None:
        self._process.start()

    def wait_until_ready(self) -> None:
        try:
            self._process.wait_until(lambda: httpx.get(self._ready, timeout=5).raise_for_status(), START_SECONDS)
        except RuntimeError as problem:
            raise NoFigureError(str(problem).splitlines()[-1]) from problem

    def stop(self) -> None:
        self._process.stop(STOP_SECONDS)


class Deploy:
    """One contender, its workers and their record."""

    def __init__(self, bootstrap: str, name: str, against: Build | None, folder: Path) -> None:
        contender, build = origin(name, against)
        self._bootstrap, self._topic = bootstrap, f"deploy-{os.urandom(3).hex()}"
        create_topics(bootstrap, [self._topic], PARTITIONS)
        self._record = folder / "record"
        self._record.touch()
        environment = {
            "BENCH_BOOTSTRAP": bootstrap,
            "BENCH_TOPICS": self._topic,
            "BENCH_RECORD": str(self._record),
        }
        self._workers = [Worker(contender, build, folder / f"{number}.log", **environment) for number in range(WORKERS)]

    def measure(self, restarts: int) -> Measured:
        with ExitStack() as stack:
            for worker in self._workers:
                stack.callback(worker.stop)
                worker.start()
            for worker in self._workers:
                worker.wait_until_ready()
            with paced(self._bootstrap, RATE, KEYS, PARTITIONS, [self._topic]) as pace:
                time.sleep(STEADY_SECONDS)
                for number in range(restarts):
                    worker = self._workers[number % WORKERS]
                    worker.stop()
                    worker.start()
                    worker.wait_until_ready()
                time.sleep(STEADY_SECONDS)
            self._wait_for(pace.written)
        return judged(self._handlings(), pace.written)

    def _handlings(self) -> list[Handling]:
        """Without the line that is being written."""
        whole, _, _ = self._record.read_text().rpartition("\n")
        return handlings(whole.splitlines())

    def _wait_for(self, written: int) -> None:
        """Until all were handled, or nothing moves any more."""
        done, moved_at = 0, time.monotonic()
        while time.monotonic() < moved_at + STANDSTILL_SECONDS:
            found = self._handlings()
            if len({(handling.key, handling.number) for handling in found}) >= written:
                return
            if len(found) > done:
                done, moved_at = len(found), time.monotonic()
            time.sleep(0.5)


@dataclass(frozen=True)
class Deploys:
    """Who promises nothing keeps its figure, beside what it lost, repeated and misordered."""

    contenders: Sequence[str] = (OURS, HAND, FASTSTREAM)

    def tables(self, name: str, options: Options) -> Iterator[Table]:
        assert options.against is not None
        restarts = max(1, round(RESTARTS * options.scale))
        with running_broker("kafka") as broker:
            setting = (
                f"{broker.description}; {WORKERS} uvicorn processes, one topic of {PARTITIONS} partitions, {RATE} "
                f"messages/s over {KEYS} keys from a foreign producer, a handler that waits for "
                f"{WORK_SECONDS * 1000:g} ms. {restarts} times a process is told to stop (SIGTERM), and when it has, "
                "another takes its place; the next goes when that one is ready. Ours keeps the order of each key with "
                f"{CONCURRENCY} at once, the others take one at a time (FastStream as shipped, at most once). Latency "
                f"from publish to done, of all messages, from {STEADY_SECONDS:g} s before the first restart to "
                f"{STEADY_SECONDS:g} s after the last. Medians of {options.rounds} interleaved rounds; ours have no "
                "figure if anything was lost, repeated or out of order."
            )
            twin = options.against.twin(OURS)
            goals: list[Goal] = [at_most(OURS, twin, 0.25, "p99"), at_most(OURS, twin, 0.4, "longest")]
            columns = ["p99", "p50", "longest", *WRONG]
            table = Table(name, "E3: rolling restarts", setting, columns, goals)
            table.runs = {contender: [] for contender in with_twins(self.contenders, options.against)}

            def run(contender: str) -> Measured:
                with tempfile.TemporaryDirectory() as folder:
                    found = Deploy(broker.bootstrap, contender, options.against, Path(folder)).measure(restarts)
                wrong = ", ".join(f"{found[column]:.0f} {column}" for column in WRONG if found[column])
                if wrong and contender.startswith(OURS):
                    raise NoFigureError(wrong)
                return found

            interleave(table, options.rounds, run)
        yield table

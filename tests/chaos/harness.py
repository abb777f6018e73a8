"""Real workers, a real broker, a foreign producer, and a record of every handling that survives crashes.

Workers are uvicorn processes. The record is a file that each of them writes to. Sequence numbers per key show what was
lost, repeated or misordered.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fastapi_athomic.loop.load import LOAD_SECONDS
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import Process, free_port

from .halts import Halt, Handling, commits, needless, places

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
KEYS = 120
RATE = 600  # messages per second


@dataclass
class Report:
    """The record compared with what was produced."""

    produced: int
    lost: list[tuple[str, int]]
    repeated: int
    needless: int  # how many of `repeated` were neither in flight nor uncommitted when a process was killed or frozen
    uncommitted: list[int]  # for each process that was killed or frozen: what it had done, and not committed
    misordered: list[tuple[str, int, int]]  # key, the number that came, and the greater one that came before
    faults: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        faults = ", ".join(f"{count} x {name}" for name, count in self.faults.items())
        return (
            f"produced {self.produced}, lost {len(self.lost)}, repeated {self.repeated} ({self.needless} needlessly), "
            f"uncommitted {self.uncommitted}, out of order {len(self.misordered)}; faults: {faults}"
        )


class Worker:
    """One uvicorn process. It keeps its port over restarts."""

    def __init__(
        self, number: int, directory: Path, environment: dict[str, str], module: str = "tests.chaos.worker"
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port)]
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment = inherited | environment | {"PYTHONPATH": str(ROOT)}
        self.process = Process([*command, "--log-level", "warning"], directory / f"worker-{number}.log", **environment)

    def start(self) -> None:
        self.process.start()

    def wait_until_ready(self) -> None:
        self.process.wait_until(lambda: self.fetch("/consumers/health/startup"), START_SECONDS)

    def fetch(self, path: str) -> Any:
        return httpx.get(f"{self.url}{path}", timeout=5).raise_for_status().json()


class Load(threading.Thread):
    """A foreign client that writes so many numbered messages per second until it is stopped."""

    def __init__(self, bootstrap: str, topic: str, rate: int = RATE, keys: int = KEYS) -> None:
        super().__init__(daemon=True)
        config: dict[str, Any] = {"enable.idempotence": True, "linger.ms": 2, "partitioner": "murmur2_random"}
        self._producer = Producer(config | {"bootstrap.servers": bootstrap, "log_level": 0})
        self._topic, self._rate, self._keys = topic, rate, keys
        self._ending = threading.Event()
        self.produced: dict[str, int] = defaultdict(int)  # by key: how many are acknowledged or on their way

    def run(self) -> None:
        began, count = time.monotonic(), 0
        while not self._ending.is_set():
            due = int((time.monotonic() - began) * self._rate)
            for _ in range(due - count):
                key = f"k{count % self._keys}"
                self.write(key)
                count += 1
            self._producer.poll(0)
            self._ending.wait(0.005)

    def write(self, key: str, **more: Any) -> None:
        sequence = self.produced[key]
        value = json.dumps({"key": key, "sequence": sequence, **more}).encode()
        try:
            self._producer.produce(self._topic, value, key.encode())
        except BufferError:  # the queue is full
            self._producer.flush()
            self._producer.produce(self._topic, value, key.encode())
        self.produced[key] = sequence + 1

    def stop(self) -> None:
        self._ending.set()
        if self.is_alive():
            self.join()

    def finish(self) -> int:
        """Stops; returns the number of messages when all are acknowledged."""
        self.stop()
        assert self._producer.flush(60) == 0, "the broker did not take all messages"
        return sum(self.produced.values())


class Record:
    """What the workers have written. Reads each line only once, as reading it all again would starve them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handlings: list[Handling] = []
        self.places: set[tuple[str, int]] = set()  # the keys and numbers that were handled
        self._read_to = 0

    def read_on(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            new, newline, _ = file.read().rpartition(b"\n")
        self._read_to += len(new) + len(newline)
        for line in new.decode().splitlines():
            began, ended, process, key, sequence = line.split()
            self.handlings.append(Handling(int(began), int(ended), int(process), key, int(sequence)))
            self.places.add((key, int(sequence)))


class Arena:
    """A topic, its workers, its load and its record."""

    def __init__(
        self, bootstrap: str, directory: Path, worker_environment: dict[str, str], partitions: int = 6
    ) -> None:
        self.topic = f"chaos-{directory.name}-{random.randrange(10**6)}"
        self.record = Record(directory / "record")
        self.bootstrap = bootstrap
        self.faults: dict[str, int] = defaultdict(int)
        self.halts: list[Halt] = []
        self._directory = directory
        self._environment = {
            "ATHOMIC_BROKER_URL": f"kafka://{bootstrap}",
            "CHAOS_TOPIC": self.topic,
            "CHAOS_RECORD": str(self.record.path),
        } | worker_environment
        self._partitions = partitions
        self.workers: list[Worker] = []
        self.load = Load(bootstrap, self.topic)

    def open(self, workers: int) -> None:
        self.record.path.touch()
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.create_topics([NewTopic(self.topic, self._partitions, 1)])[self.topic].result(30)
        for _ in range(workers):
            self.add_worker()
        for worker in self.workers:
            worker.wait_until_ready()

    def add_worker(self) -> Worker:
        worker = Worker(len(self.workers), self._directory, self._environment)
        self.workers.append(worker)
        worker.start()
        return worker

    def close(self) -> None:
        self.load.stop()
        for worker in self.workers:
            worker.process.thaw()
            worker.process.kill()

    # --- faults: each checks that it really happened

    def restart(self, worker: Worker) -> None:
        """Sends SIGTERM and starts a new process in its place."""
        worker.process.stop()
        assert not worker.process.is_running
        self.faults["SIGTERM"] += 1
        worker.start()
        worker.wait_until_ready()

    def kill(self, worker: Worker) -> None:
        """Sends SIGKILL while it works and starts a new process in its place."""
        pid = worker.process.pid
        self.wait_for(lambda: any(handling.process == pid for handling in self.handlings()), "the worker works")
        asked = time.monotonic_ns()
        worker.process.kill()
        self._note_halt(pid, asked)
        self.faults["SIGKILL"] += 1
        worker.start()
        worker.wait_until_ready()

    def freeze(self, worker: Worker) -> None:
        """Stops it (SIGSTOP) until its session is over and the others have taken over all its partitions."""
        frozen, asked = worker.process.pid, time.monotonic_ns()
        keys = {each.key for each in self.handlings() if each.process == frozen and each.ended > asked - 10**9}
        assert keys, "it has worked"
        worker.process.freeze()
        self.wait_for(lambda: psutil.Process(frozen).status() == psutil.STATUS_STOPPED, "it stops")
        began = time.monotonic_ns()
        self._note_halt(frozen, asked)

        def meanwhile() -> list[Handling]:
            return [each for each in self.handlings() if each.began > began]

        self.wait_for(lambda: keys <= {each.key for each in meanwhile()}, "others have taken over its partitions")
        assert all(each.process != frozen for each in meanwhile()), "it was not frozen"
        worker.process.thaw()
        self.faults["SIGSTOP"] += 1
        worker.wait_until_ready()

    def _note_halt(self, process: int, asked: int) -> None:
        stopped = time.monotonic_ns()
        self.halts.append(Halt(process, asked, stopped, commits(self.bootstrap, self.topic)))

    def join_and_leave(self) -> None:
        """Adds a member for a moment."""
        worker = self.add_worker()
        worker.wait_until_ready()
        self.wait_for(lambda: any(h.process == worker.process.pid for h in self.handlings()), "the new member works")
        worker.process.stop()
        self.workers.remove(worker)
        self.faults["join and leave"] += 1

    def restart_broker(self, broker: KafkaBroker) -> None:
        """Stops the broker for a moment, and checks that work goes on afterwards."""
        broker.stop()
        assert not broker.process.is_running
        handled = len(self.handlings())
        time.sleep(3)
        broker.start()
        self.wait_for(lambda: len(self.handlings()) > handled + 100, "work goes on")
        self.faults["broker down"] += 1

    # --- the record

    def handlings(self) -> list[Handling]:
        self.record.read_on()
        return self.record.handlings

    def wait_for(self, holds: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"did not happen: {what}"
            time.sleep(0.05)

    def catch_up(self) -> None:
        """Returns when messages have been handled promptly for a while.

        Then there is no backlog, and no thread counts as busy (a busy one commits less often).
        """
        self.wait_for(self._keeps_up, "it catches up")

    def _keeps_up(self) -> bool:
        end = time.monotonic() + 3 * LOAD_SECONDS
        while time.monotonic() < end:
            if self._seconds_behind() >= 0.3:
                return False
        return True

    def _seconds_behind(self) -> float:
        """How long it takes until everything produced so far is handled."""
        produced, began = dict(self.load.produced), time.monotonic()

        def all_handled() -> bool:
            self.record.read_on()
            return all((key, count - 1) in self.record.places for key, count in produced.items())

        self.wait_for(all_handled, "what is produced is handled")
        return time.monotonic() - began

    def settle(self, seconds: float = 120.0) -> Report:
        """Stops the load, waits until everything is handled, and compares."""
        self.load.finish()
        produced = {(key, number) for key, count in self.load.produced.items() for number in range(count)}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.record.read_on()
            if produced <= self.record.places:
                break
            time.sleep(0.2)
        return self._report(produced)

    def _report(self, produced: set[tuple[str, int]]) -> Report:
        handlings = sorted(self.handlings())
        seen: set[tuple[str, int]] = set()
        greatest: dict[str, int] = {}
        misordered = []
        for handling in handlings:
            place = (handling.key, handling.sequence)
            before = greatest.get(handling.key, -1)
            if place not in seen and handling.sequence < before:
                misordered.append((handling.key, handling.sequence, before))
            seen.add(place)
            greatest[handling.key] = max(before, handling.sequence)
        lost = sorted(produced - seen)
        repeated = len(handlings) - len(seen)
        where = places(self.bootstrap, self.topic) if self.halts else {}
        uncalled = needless(handlings, self.halts, where) if self.halts else repeated
        uncommitted = [halt.uncommitted(handlings, where) for halt in self.halts]
        return Report(len(produced), lost, repeated, uncalled, uncommitted, misordered, dict(self.faults))


@contextmanager
def arena(bootstrap: str, directory: Path, *, workers: int = 3, **environment: str) -> Iterator[Arena]:
    """Yields an arena with workers that are ready and a load that runs."""
    opened = Arena(bootstrap, directory, environment)
    try:
        opened.open(workers)
        opened.load.start()
        yield opened
    finally:
        opened.close()

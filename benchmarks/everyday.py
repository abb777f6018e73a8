"""E1, E2, E4 and E5: what a service with many handlers costs while little or nothing happens.

Each contender is one uvicorn process. `everyday_apps` are the services, `paced` writes what trickles.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from confluent_kafka.admin import AdminClient

from benchmarks.builds import OURS, Build, origin, uvicorn, with_twins
from benchmarks.everyday_apps import FASTSTREAM
from benchmarks.paced import paced
from benchmarks.report import Goal, Measured, NoFigureError, Table
from benchmarks.runs import Options, at_most, interleave, of, running_broker
from benchmarks.workload import Source, create_topics
from tests.support.processes import Process, free_port

PARTITIONS = 4
START_SECONDS, PATIENCE_SECONDS = 60.0, 20.0
SETTLING_SECONDS = 5.0
SPELL_SECONDS = 20.0
IDLE_HANDLERS = 50
TRICKLE_HANDLERS, TRICKLE_RATE, TRICKLE_KEYS, TRICKLE_WARM_UP_SECONDS = 20, 1_000, 40, 5.0
CPU, CPU_PER_MESSAGE = "CPU of a core", "CPU per message"
READY, FIRST_READY = "ready", "ready, first start"
CONNECTIONS = "connections"


class Service:
    """One contender's process and what it can be asked."""

    def __init__(self, process: Process, url: str) -> None:
        self._process = process
        self._http = httpx.Client(base_url=url, timeout=10)
        self.psutil = psutil.Process(process.pid)

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """Raises `NoFigureError` if it does not answer."""
        try:
            found: dict[str, Any] = self._http.get(path, params=parameters).raise_for_status().json()
        except httpx.HTTPError as problem:
            raise NoFigureError(f"the service does not answer: {problem!r}") from problem
        return found

    def wait_for(self, messages: int, seconds: float) -> int:
        """When the last of so many messages was handled. Raises `NoFigureError` if one was lost or came twice."""
        end = time.monotonic() + seconds
        while (found := self._found())["handled"] < messages:
            if time.monotonic() > end or not self._process.is_running:
                raise NoFigureError(f"{messages - found['handled']} of {messages} messages were not handled")
            time.sleep(0.2)
        if wrong := found["wrong"] or found["handled"] - messages:
            raise NoFigureError(f"{wrong} messages lost, repeated or out of order")
        return int(found["newest_at"])

    def _found(self) -> dict[str, Any]:
        """Nothing while its port is not open."""
        try:
            return self.get("/handled")
        except NoFigureError:
            return {"handled": 0, "wrong": 0, "newest_at": 0}

    def cpu_seconds(self) -> float:
        times = self.psutil.cpu_times()
        return times.user + times.system

    def connections(self) -> int:
        """Those that are established, without those of HTTP."""
        port = self._http.base_url.port
        return sum(
            connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port != port
            for connection in self.psutil.net_connections("tcp")
        )

    def close(self) -> None:
        self._http.close()
        self._process.stop(60)


class Bench:
    """Topics of one run, and the services that are started on them."""

    def __init__(self, bootstrap: str, handlers: int, against: Build | None) -> None:
        self.bootstrap = bootstrap
        self._against = against
        self._prefix = f"everyday-{os.urandom(3).hex()}"
        self.topics = [f"{self._prefix}-{number:02}" for number in range(handlers)]
        self._source = Source(bootstrap, partitions=PARTITIONS)
        create_topics(bootstrap, self.topics, PARTITIONS)

    def write_everywhere(self) -> int:
        """One message to each partition; returns how many. Who has handled them is ready."""
        for topic in self.topics:
            for partition in range(PARTITIONS):
                self._source.write(topic, -PARTITIONS + partition)  # keys that no load has
        self._source.flush()
        return len(self.topics) * PARTITIONS

    @contextmanager
    def service(self, name: str, *, first_number: int = 0) -> Iterator[Service]:
        """`first_number`: of each key, when earlier services have handled those before."""
        contender, build = origin(name, self._against)
        port = free_port()
        environment = build.environment(
            BENCH_APP=contender,
            BENCH_BOOTSTRAP=self.bootstrap,
            BENCH_TOPICS=" ".join(self.topics),
            BENCH_FIRST_NUMBER=str(first_number),
        )
        command = uvicorn("benchmarks.everyday_apps:app", port, build)
        with tempfile.TemporaryDirectory() as folder:
            process = Process(command, Path(folder) / "log", **environment)
            process.start()
            service = Service(process, f"http://127.0.0.1:{port}")
            try:
                yield service
            except NoFigureError as problem:
                last = process.output().strip().splitlines()[-1:]
                raise NoFigureError("; ".join([str(problem), *last])) from problem
            finally:
                service.close()

    def close(self) -> None:
        """Deletes the topics, also those that the service has made: the next run finds the broker as it was."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        made = [topic for topic in admin.list_topics(timeout=30).topics if topic.startswith(self._prefix)]
        for deleted in admin.delete_topics(made).values():
            deleted.result(30)


@contextmanager
def bench(bootstrap: str, handlers: int, against: Build | None) -> Iterator[Bench]:
    opened = Bench(bootstrap, handlers, against)
    try:
        yield opened
    finally:
        opened.close()


# --- what one run measures


def idle(at: Bench, name: str, scale: float) -> Measured:
    """E1: all handlers are ready, and then nothing comes."""
    waiting = at.write_everywhere()
    with at.service(name) as service:
        service.wait_for(waiting, START_SECONDS)
        time.sleep(SETTLING_SECONDS)
        used, began = service.cpu_seconds(), time.monotonic()
        time.sleep(SPELL_SECONDS * scale)
        share = (service.cpu_seconds() - used) / (time.monotonic() - began)
        service.wait_for(waiting, 0)
    return {CPU: share * 100}


def trickle(at: Bench, name: str, scale: float) -> Measured:
    """E2: a few messages for each handler, all the time."""
    waiting = at.write_everywhere()
    with at.service(name) as service:
        service.wait_for(waiting, START_SECONDS)
        with paced(at.bootstrap, TRICKLE_RATE, TRICKLE_KEYS, PARTITIONS, at.topics) as pace:
            time.sleep(TRICKLE_WARM_UP_SECONDS)
            used, began = service.cpu_seconds(), time.monotonic_ns()
            time.sleep(SPELL_SECONDS * scale)
            used, ended = service.cpu_seconds() - used, time.monotonic_ns()
        service.wait_for(waiting + pace.written, PATIENCE_SECONDS)
        waits = service.get("/waits", since=began, until=ended)
    share = used / (ended - began) * 1e9
    count = waits.pop("count")
    return {CPU: share * 100, CPU_PER_MESSAGE: used / count * 1e6} | waits


def starting(at: Bench, name: str, scale: float) -> Measured:
    """E4: a first start, which makes groups and what topics the contender wants, and then a redeploy."""
    seconds = []
    for start in range(2):
        waiting = at.write_everywhere()
        began = time.monotonic_ns()
        with at.service(name, first_number=start) as service:
            seconds.append((service.wait_for(waiting, START_SECONDS) - began) / 1e9)
    return dict(zip((FIRST_READY, READY), seconds, strict=True))


def connected(at: Bench, name: str, scale: float) -> Measured:
    """E5: how many connections are open once all is quiet."""
    waiting = at.write_everywhere()
    with at.service(name) as service:
        service.wait_for(waiting, START_SECONDS)
        time.sleep(SETTLING_SECONDS)
        return {CONNECTIONS: service.connections()}


# --- the figures


@dataclass(frozen=True)
class Everyday:
    title: str
    setting: str
    columns: Sequence[str]
    measure: Callable[[Bench, str, float], Measured]
    handlers: int
    goals: Callable[[str], Sequence[Goal]]  # given the name of our twin
    contenders: Sequence[str] = (OURS, FASTSTREAM)

    def tables(self, name: str, options: Options) -> Iterator[Table]:
        assert options.against is not None
        with running_broker("kafka") as broker:
            setting = (
                f"{broker.description}; {self.handlers} handlers, each with a topic of {PARTITIONS} partitions and a "
                f"group of its own, in one uvicorn process; {self.setting.format(spell=SPELL_SECONDS * options.scale)} "
                f"Medians of {options.rounds} interleaved rounds."
            )
            goals = self.goals(options.against.twin(OURS))
            table = Table(name, self.title, setting, self.columns, goals)
            table.runs = {contender: [] for contender in with_twins(self.contenders, options.against)}

            def run(contender: str) -> Measured:
                with bench(broker.bootstrap, self.handlers, options.against) as at:
                    return self.measure(at, contender, options.scale)

            interleave(table, options.rounds, run)
        yield table


IDLE = Everyday(
    "E1: nothing to do",
    "all caught up, and nothing comes for {spell:g} s.",
    [CPU],
    idle,
    IDLE_HANDLERS,
    lambda twin: [at_most(OURS, FASTSTREAM, 0.35, CPU)],
)
TRICKLE = Everyday(
    "E2: a trickle",
    f"{TRICKLE_RATE:,} messages/s from a foreign producer without linger, {TRICKLE_KEYS} keys a topic, "
    f"for {{spell:g}} s after {TRICKLE_WARM_UP_SECONDS:g} s of warm-up; latency from publish to handler.",
    [CPU, CPU_PER_MESSAGE, "p50", "p99"],
    trickle,
    TRICKLE_HANDLERS,
    lambda twin: [
        at_most(OURS, FASTSTREAM, 0.5, CPU),
        at_most(OURS, twin, 1, "p50"),
        Goal(f"{OURS}, p99 in ms", of(OURS, "p99"), 10, at_most=True),
    ],
)
START = Everyday(
    "E4: from process start to all ready",
    "a handler is ready when it has handled a message that waits in each partition. The first start meets groups that "
    "do not exist yet; the other is a redeploy, after a clean stop, and the goal's.",
    [READY, FIRST_READY],
    starting,
    IDLE_HANDLERS,
    lambda twin: [at_most(OURS, FASTSTREAM, 1, READY)],
)
CONNECTED = Everyday(
    "E5: connections to the broker",
    f"established connections, {SETTLING_SECONDS:g} s after all are ready.",
    [CONNECTIONS],
    connected,
    IDLE_HANDLERS,
    lambda twin: [at_most(OURS, FASTSTREAM, 0.6, CONNECTIONS)],
)

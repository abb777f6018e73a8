"""How much more several processes of `fastapi-athomic run` handle than one, on a topic of 8 partitions.

`python -m benchmarks.workers BOOTSTRAP` prints a table. Messages are written when all processes are ready; the time
runs until the last one is handled. The load of the machine is told, as others may be using it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple
from uuid import uuid4

import httpx
import psutil
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import Process, free_port

PARTITIONS = 8
ROOT = Path(__file__).parents[1]
START_SECONDS = 120.0
WORK = {"compute": 0.001, "wait": 0.02}
"""Seconds of each message: of the processor, and of waiting."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.workers", description=__doc__)
    parser.add_argument("bootstrap", metavar="BOOTSTRAP")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="the medians are shown")
    parser.add_argument("--handlers", nargs="*", choices=WORK, default=[*WORK])
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {options.messages} messages, {PARTITIONS} partitions\n")
    print("| handler | processes | messages/s | to the first row | cores used | messages/s of a core | load |")
    print("|---|---|---|---|---|---|---|")
    for handler in options.handlers:
        runs: dict[int, list[Run]] = {processes: [] for processes in options.processes}
        for _ in range(options.rounds):  # in turn, as the load of the machine changes
            for processes, found in runs.items():
                found.append(measured(options.bootstrap, handler, processes, options.messages))
        single = median(run.rate for run in runs[options.processes[0]])
        for processes, found in runs.items():
            rate = median(run.rate for run in found)
            cores, load = median(run.cores for run in found), median(run.load for run in found)
            cells = f"{WORK[handler] * 1000:g} ms | {processes} | {rate:,.0f} | {rate / single:.2f}"
            print(f"| {handler}s {cells} | {cores:.2f} | {rate / cores:,.0f} | {load:.0f} |", flush=True)


class Run(NamedTuple):
    rate: float  # messages/s
    cores: float  # that the processes used, on the average
    load: float  # of the machine, over the last minute: how many processes wanted a core


def measured(bootstrap: str, handler: str, processes: int, messages: int) -> Run:
    topic, port = f"bench-workers-{uuid4().hex[:8]}", free_port()
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ATHOMIC_BROKER_URL": f"kafka://{bootstrap}",
        "BENCH_TOPIC": topic,
        "BENCH_HANDLER": handler,
        "BENCH_SECONDS": str(WORK[handler]),
    }
    command = [sys.executable, "-m", "fastapi_athomic", "run", "benchmarks.worker_app:app"]
    url = f"http://127.0.0.1:{port}/consumers"
    with tempfile.TemporaryDirectory() as directory:
        process = Process(
            [*command, "--processes", str(processes), "--port", str(port)], Path(directory) / "log", **environment
        )
        process.start()
        try:
            process.wait_until(lambda: httpx.get(f"{url}/health/ready").raise_for_status(), START_SECONDS)
            children = psutil.Process(process.pid).children()
            used, began = cpu_seconds(children), time.monotonic()
            write(bootstrap, topic, messages)
            while processed(url) < messages:
                time.sleep(0.25)
            seconds = time.monotonic() - began
            return Run(messages / seconds, (cpu_seconds(children) - used) / seconds, os.getloadavg()[0])
        finally:
            process.stop(60)


def write(bootstrap: str, topic: str, messages: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    for number in range(messages):
        producer.produce(topic, b'{"number": %d}' % number, partition=number % PARTITIONS)
    assert producer.flush(60) == 0


def processed(url: str) -> float:
    """By all processes together."""
    answer = httpx.get(f"{url}/metrics", timeout=10).raise_for_status().text
    families = {family.name: family for family in text_string_to_metric_families(answer)}
    return sum(sample.value for sample in families["athomic_consumer_processed"].samples)


def cpu_seconds(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()

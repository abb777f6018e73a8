"""Runs the contenders interleaved, several times, and writes a table of medians.

`scripts/bench` [--mock] [--rounds 3] [--count 60000]. A run that lost, repeated or misordered anything gets no figure.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.contenders import CONTENDERS
from tests.support.kafka_broker import start_kafka
from tests.support.mock_cluster import MockCluster

ROOT = Path(__file__).parents[1]
PARTITIONS, KEYS, WARM_UP = 4, 1_000, 10_000
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PACKAGES = ("fastapi-athomic", "aiokafka", "faststream", "pydantic", "opentelemetry-sdk")
BASE = {"": "hand-written", "traced": "hand-written traced", "batch": "hand-written batch"}


def fill(bootstrap: str, topic: str, count: int, *, create: bool) -> None:
    if create:
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
    config: dict[str, Any] = {"bootstrap.servers": bootstrap, "linger.ms": 20, "enable.idempotence": True}
    producer = Producer(config | {"log_level": 0})
    producer.list_topics(topic, 30)
    headers: Any = [("traceparent", TRACEPARENT), ("x-tenant-id", b"acme")]
    for number in range(count):
        key = number % KEYS
        order = {"number": number, "key": key, "customer": f"c{key}", "items": ["a", "b"], "amount": 1.5}
        value = json.dumps(order | {"note": "x" * 60}).encode()
        while True:
            try:
                producer.produce(topic, value, b"%d" % key, partition=key % PARTITIONS, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0


def measure(name: str, bootstrap: str, topic: str, count: int, seconds: float) -> dict[str, Any]:
    arguments = [name, bootstrap, topic, str(WARM_UP), str(count)]
    command = [sys.executable, "-m", "benchmarks.contenders", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {seconds:g} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["?"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if result["wrong"] or result["handled"] != WARM_UP + count:
        return {"failed": f"handled {result['handled']}, repeated or out of order {result['wrong']}"}
    return result


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| consumer | messages/s | spread | CPU per message | to the hand-written loop |", "|---|---|---|---|---|"]
    speeds = {
        name: median(run["per_second"] for run in runs)
        for name, runs in results.items()
        if runs and all("failed" not in run for run in runs)
    }
    for name, runs in results.items():
        if name not in speeds:
            problem = next((run["failed"] for run in runs if "failed" in run), "not run")
            lines.append(f"| {name} | no figure: {problem} | | | |")
            continue
        low, high = min(run["per_second"] for run in runs), max(run["per_second"] for run in runs)
        cpu = median(run["cpu_us"] for run in runs)
        base = speeds.get(BASE[name.split()[-1] if name.split()[-1] in BASE else ""])
        ratio = f"{speeds[name] / base:.2f}" if base else ""
        lines.append(f"| {name} | {speeds[name]:,.0f} | {low:,.0f} to {high:,.0f} | {cpu:.1f} µs | {ratio} |")
    return "\n".join(lines)


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mock", action="store_true", help="librdkafka's mock cluster instead of Apache Kafka")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--only", nargs="*", choices=list(CONTENDERS), help="these contenders only")
    options = parser.parse_args()
    names = options.only or list(CONTENDERS)
    with tempfile.TemporaryDirectory() as directory:
        broker: Any = MockCluster() if options.mock else start_kafka(Path(directory) / "kafka")
        try:
            fill(broker.bootstrap, "orders", WARM_UP + options.count, create=not options.mock)
            results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            for _ in range(options.rounds):
                for name in names:
                    results[name].append(measure(name, broker.bootstrap, "orders", options.count, seconds=240))
        finally:
            if not options.mock:
                broker.stop()
    text = (
        f"{broker.description}, {options.count:,} messages after {WARM_UP:,} of warm-up, {PARTITIONS} partitions, "
        f"median of {options.rounds} interleaved runs, each in its own process. Python {platform.python_version()}, "
        f"{versions()}.\n\n{table(results)}\n"
    )
    print(text)
    name = "consume-mock.md" if options.mock else "consume-kafka.md"
    (ROOT / "benchmarks" / "results" / name).write_text(text)


if __name__ == "__main__":
    main()

"""F5: how fast routes answer while a backlog drains. `scripts/bench-http` [--rounds 3] [--seconds 15]."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from benchmarks.http_apps import APPS
from benchmarks.run import ROOT, fill, versions
from tests.support.kafka_broker import start_kafka
from tests.support.processes import free_port

RATE = 200.0
WARM_UP_SECONDS = 3.0
BACKLOG = 300_000
FIGURES = ("p50", "p99", "p99.9", "max")


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def wait_until_it_consumes(port: int, name: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if get(port, "/handled") or name == "no consumer":
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{name} consumes nothing")


def measure(name: str, bootstrap: str, seconds: float) -> dict[str, float]:
    """Milliseconds for the percentiles, and messages consumed per second meanwhile."""
    port = free_port()
    environment = os.environ | {
        "BENCH_APP": name,
        "BENCH_BOOTSTRAP": bootstrap,
        "BENCH_TOPIC": "orders",
        "BENCH_GROUP": f"bench-{uuid4().hex[:12]}",
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.http_apps:app", "--port", str(port)]
    app = subprocess.Popen([*command, "--log-level", "error", "--no-access-log"], cwd=ROOT, env=environment)
    try:
        wait_until_it_consumes(port, name)
        time.sleep(WARM_UP_SECONDS)
        before, began = get(port, "/handled"), time.monotonic()
        load = [sys.executable, "-m", "benchmarks.http_load", str(port), str(RATE), str(seconds)]
        done = subprocess.run(load, cwd=ROOT, capture_output=True, text=True, check=True)
        consumed = (get(port, "/handled") - before) / (time.monotonic() - began)
        if get(port, "/handled") >= BACKLOG:
            raise RuntimeError(f"{name} had drained the backlog before the end: no figure")
        result: dict[str, float] = json.loads(done.stdout)
        return result | {"consumed": consumed}
    finally:
        app.terminate()
        try:
            app.wait(15)
        except subprocess.TimeoutExpired:
            app.kill()
            app.wait()


def table(results: dict[str, list[dict[str, float]]]) -> str:
    base = median(run["consumed"] for run in results.get("hand-written", [{"consumed": 0.0}]))
    lines = [
        "| app | p50 | p99 | p99.9 | longest | p99, spread | consumed/s | to the loop that never yields |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        cells = [f"{median(run[figure] for run in runs):.1f} ms" for figure in FIGURES]
        tails = [run["p99"] for run in runs]
        consumed = median(run["consumed"] for run in runs)
        ratio = f"{consumed / base:.2f}" if base and consumed else ""
        spread = f"{min(tails):.1f} to {max(tails):.1f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {spread} | {consumed:,.0f} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--only", nargs="*", choices=list(APPS), help="these apps only")
    parser.add_argument("--no-file", action="store_true", help="print the table, write no file")
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in options.only or APPS}
    with tempfile.TemporaryDirectory() as directory:
        broker: Any = start_kafka(Path(directory) / "kafka")
        try:
            fill(broker.bootstrap, "orders", BACKLOG, create=True)
            for _ in range(options.rounds):
                for name, runs in results.items():
                    runs.append(measure(name, broker.bootstrap, options.seconds))
        finally:
            broker.stop()
    text = (
        f"{broker.description}, a backlog of {BACKLOG:,} messages, handlers that compute for 0.1 ms, "
        f"{RATE:g} requests/s open loop for {options.seconds:g} s after {WARM_UP_SECONDS:g} s of warm-up, "
        f"median of {options.rounds} interleaved runs, {os.cpu_count()} cores shared by app, broker and load. "
        f"Python {platform.python_version()}, {versions()}.\n\n{table(results)}\n"
    )
    print(text)
    if not options.no_file:
        (ROOT / "benchmarks" / "results" / "http-beside-kafka.md").write_text(text)


if __name__ == "__main__":
    main()

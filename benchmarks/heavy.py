"""What a handler that computes costs the routes beside it, in each of the ways of docs/heavy-computation.md.

`python -m benchmarks.heavy` prints a table. Each way runs in a uvicorn process of its own on memory://, while one
client asks a route that does nothing, again and again. The load of the machine is told, as others may be using it.
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

import httpx
import psutil

from tests.support.processes import Process, free_port

ROOT = Path(__file__).parents[1]
START_SECONDS = 120.0
WORK = ("numpy", "python")
WAYS = ("none", "loop", "isolation", "thread", "process", "batch")
PAUSE = 0.005


class Run(NamedTuple):
    rate: float  # messages/s
    of_a_core: float  # messages for each second of CPU that the app and its processes used; says less of the machine
    p50: float  # of the route, in ms
    p99: float
    load: float  # of the machine, over the last minute: how many processes wanted a core


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.heavy", description=__doc__)
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="the medians are shown")
    parser.add_argument("--work", nargs="*", choices=WORK, default=[*WORK])
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {options.messages} messages\n")
    print("| work | way | messages/s | of a core | p50 of a route | p99 | load |")
    print("|---|---|---|---|---|---|---|")
    for work in options.work:
        runs: dict[str, list[Run]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):  # in turn, as the load of the machine changes
            for way, found in runs.items():
                found.append(measured(work, way, options.messages))
        for way, found in runs.items():
            rate, of_a_core, p50, p99, load = (median(values) for values in zip(*found, strict=True))
            cells = f"{rate:,.0f} | {of_a_core:,.0f} | {p50:.1f} ms | {p99:.0f} ms | {load:.0f}"
            print(f"| {work} | {way} | {cells} |", flush=True)


def measured(work: str, way: str, messages: int) -> Run:
    """One run; `none` begins nothing, and asks the route for two seconds."""
    port = free_port()
    environment = {"PYTHONPATH": str(ROOT), "BENCH_WORK": work, "BENCH_WAY": way, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "uvicorn", "benchmarks.heavy_app:app", "--port", str(port), "--log-level", "error"]
    with tempfile.TemporaryDirectory() as folder, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        process = Process(command, Path(folder) / "log", **{**os.environ, **environment})
        process.start()
        try:
            process.wait_until(lambda: http.get("/consumers/health").raise_for_status(), START_SECONDS)
            if way == "none":
                return asked(http, 0, process.pid)
            http.post("/begin", params={"messages": messages}).raise_for_status()
            return asked(http, messages, process.pid)
        finally:
            process.stop(60)


def asked(http: httpx.Client, messages: int, pid: int) -> Run:
    """Asks the route until all messages are handled."""
    waits: list[float] = []
    used = cpu_seconds(pid)
    end = time.monotonic() + 2
    while True:
        for _ in range(20):
            began = time.perf_counter()
            http.get("/ping").raise_for_status()
            waits.append((time.perf_counter() - began) * 1000)
            time.sleep(PAUSE)
        done = http.get("/done").json()
        if done["handled"] >= messages and (messages or time.monotonic() > end):
            break
    waits.sort()
    rate = messages / done["seconds"] if messages else 0.0
    of_a_core = messages / (cpu_seconds(pid) - used)
    return Run(rate, of_a_core, median(waits), waits[int(len(waits) * 0.99)], os.getloadavg()[0])


def cpu_seconds(pid: int) -> float:
    """Of a process and its children."""
    app = psutil.Process(pid)
    times = [each.cpu_times() for each in (app, *app.children(recursive=True))]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()

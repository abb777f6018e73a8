"""F5 and E6: how fast routes answer while a backlog drains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import uuid4

import httpx

from benchmarks.builds import HERE, ROOT, Build, origin, uvicorn
from benchmarks.report import Measured, NoFigureError
from tests.support.processes import free_port

RATE = 200.0
WARM_UP_SECONDS = 3.0
START_SECONDS = 60.0
BUSY, NUMPY = "busy", "numpy"
FASTEST = {BUSY: 9_500, NUMPY: 1_500}
"""The most messages per second that a handler allows: one of 0.1 ms, and one that multiplies matrices."""
MOCK_BACKLOG, MOCK_SECONDS = 75_000, 4.0
"""The mock cluster keeps 5 MB per partition, so only so many seconds of load can be measured beside it."""


ANYWHERE = ", on any core"
"""Ends the name of an app that may use any core."""


class Cores(NamedTuple):
    """The numbers of all cores, and of those for the app."""

    every: tuple[int, ...]
    app: tuple[int, ...]


@contextmanager
def core_of_its_own() -> Iterator[Cores | None]:
    """Keeps a core for the app. What is started meanwhile, the broker and the load, stays away from it.

    It is as if they ran on other machines. Otherwise an app that answers each request at once would pay for the load
    generator that it wakes each time, and one that answers twelve together would not. Yields None where cores cannot be
    chosen.
    """
    every = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
    if len(every) < 2:
        yield None
        return
    os.sched_setaffinity(0, every[1:])
    try:
        yield Cores(every, every[:1])
    finally:
        os.sched_setaffinity(0, every)


class HttpRun:
    """Starts an app, waits until it consumes, and sends it requests on a schedule."""

    def __init__(
        self,
        bootstrap: str,
        seconds: float,
        *,
        mock: bool,
        cores: Cores | None,
        against: Build | None,
        work: str = BUSY,
    ) -> None:
        self._bootstrap = bootstrap
        self._work = work
        self._against = against
        self._cores = cores
        self.seconds = min(seconds, MOCK_SECONDS) if mock else seconds
        self.backlog = MOCK_BACKLOG if mock else int((WARM_UP_SECONDS + 2 * seconds + 7) * FASTEST[work])

    def measure(self, name: str) -> Measured:
        """Raises `NoFigureError`."""
        port = free_port()
        contender, build = origin(name, self._against)
        environment = build.environment(
            BENCH_APP=contender.removesuffix(ANYWHERE),
            BENCH_CORES=self._cores_of(contender),
            BENCH_WORK=self._work,
            OPENBLAS_NUM_THREADS="1",
            BENCH_BOOTSTRAP=self._bootstrap,
            BENCH_TOPIC="orders",
            BENCH_GROUP=f"bench-{uuid4().hex[:12]}",
        )
        app = subprocess.Popen(uvicorn("benchmarks.http_apps:app", port, build), cwd=ROOT, env=environment)
        try:
            return self._ask(contender, port)
        finally:
            app.terminate()
            try:
                app.wait(15)
            except subprocess.TimeoutExpired:
                app.kill()
                app.wait()

    def _cores_of(self, name: str) -> str:
        if self._cores is None:
            return ""
        return ",".join(map(str, self._cores.every if name.endswith(ANYWHERE) else self._cores.app))

    def _ask(self, name: str, port: int) -> Measured:
        _wait_until_it_consumes(port, name)
        time.sleep(WARM_UP_SECONDS)
        before, began = _handled(port), time.monotonic()
        load = [sys.executable, "-m", "benchmarks.http_load", str(port), str(RATE), str(self.seconds)]
        done = subprocess.run(load, cwd=ROOT, env=HERE.environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoFigureError((done.stderr.strip().splitlines() or ["the load ended without a word"])[-1])
        after, seconds = _handled(port), time.monotonic() - began
        if after["handled"] >= self.backlog:
            raise NoFigureError("it had drained the backlog before the end")
        if after["wrong"]:
            raise NoFigureError(f"{after['wrong']} messages lost, repeated or out of order")
        result: dict[str, float] = json.loads(done.stdout)
        return result | {"consumed/s": (after["handled"] - before["handled"]) / seconds}


def _handled(port: int) -> dict[str, int]:
    """Raises `NoFigureError` if the app does not answer."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/handled", timeout=10).raise_for_status()
    except httpx.HTTPError as problem:
        raise NoFigureError(f"the app does not answer: {problem!r}") from problem
    found: dict[str, int] = answer.json()
    return found


def _wait_until_it_consumes(port: int, name: str) -> Any:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            if _handled(port)["handled"] or name == "no consumer":
                return
        except NoFigureError:
            pass
        time.sleep(0.1)
    raise NoFigureError("it consumes nothing")

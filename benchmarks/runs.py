"""How contenders are run: in interleaved rounds, each in a process of its own, on one broker."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.builds import HERE, ROOT, Build
from benchmarks.report import Goal, Measured, NoFigureError, NoWorse, Table
from benchmarks.workload import Keys
from tests.support.kafka_broker import start_kafka
from tests.support.mock_cluster import MockCluster

BrokerName = Literal["mock", "kafka"]
PATIENCE = 120.0  # seconds for one run


@dataclass(frozen=True)
class Options:
    broker: BrokerName
    rounds: int
    keys: Sequence[Keys]
    seconds: float  # of HTTP load
    scale: float  # of the number of messages; of the seconds or restarts of everyday load
    against: Build | None = None  # the build whose contenders are run, too


@contextmanager
def running_broker(name: BrokerName) -> Iterator[Any]:
    if name == "mock":
        yield MockCluster()
        return
    with tempfile.TemporaryDirectory() as directory:
        broker = start_kafka(Path(directory) / "kafka")
        try:
            yield broker
        finally:
            broker.stop()


def python(*arguments: str, build: Build = HERE, seconds: float = PATIENCE) -> list[str]:
    """Runs a module in a process of its own and returns its lines. Raises `NoFigureError` if it fails."""
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=build.environment(), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoFigureError(f"not done after {seconds:g} s") from None
    if done.returncode:
        raise NoFigureError((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return done.stdout.splitlines()


def checked(lines: Sequence[str]) -> Measured:
    """The figures of the last line. Raises `NoFigureError` if messages went wrong."""
    result: dict[str, float] = json.loads(lines[-1])
    if wrong := result.pop("wrong"):
        raise NoFigureError(f"{wrong:g} messages lost, repeated or out of order")
    return result


def interleave(table: Table, rounds: int, run: Callable[[str], Measured]) -> None:
    """Runs each contender once per round, so that a slow minute of the machine slows all of them."""
    for _ in range(rounds):
        for name, runs in table.runs.items():
            if name in table.problems:
                continue
            try:
                runs.append(run(name))
            except NoFigureError as problem:
                table.problems[name] = str(problem)


def times(column: str, ours: str, other: str) -> Callable[[Mapping[str, Measured]], float]:
    return lambda measured: measured[ours][column] / measured[other][column]


def of(name: str, column: str) -> Callable[[Mapping[str, Measured]], float]:
    return lambda measured: measured[name][column]


def goal(ours: str, other: str, wanted: float, column: str = "messages/s") -> Goal:
    return Goal(f"{ours} / {other}", times(column, ours, other), wanted)


def at_most(ours: str, other: str, wanted: float, column: str) -> Goal:
    """For columns of which less is better."""
    return Goal(f"{column}: {ours} / {other}", times(column, ours, other), wanted, at_most=True)


def no_worse(names: Collection[str], against: Build | None, *columns: str) -> list[Goal | NoWorse]:
    """Each contender of `names` that has a twin of the other build is to be as good as that."""
    twins = {} if against is None else {name: against.twin(name) for name in names if against.twin(name) in names}
    return [NoWorse(name, twin, column) for name, twin in twins.items() for column in columns]

"""The processes of the service, and a prober that asks them for a route all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx
import psutil

from tests.chaos.harness import Worker

ANSWER_SECONDS = 5.0
"""How long a route may take on a busy machine."""


class Growth(NamedTuple):
    """What a process holds now: memory, threads, files."""

    megabytes: float
    threads: int
    files: int  # open ones, connections included

    @classmethod
    def of(cls, pid: int) -> Growth:
        process = psutil.Process(pid)
        return cls(round(process.memory_info().rss / 1e6, 1), process.num_threads(), process.num_fds())


@dataclass
class Member:
    """One process of the service."""

    worker: Worker
    instance_id: str | None  # for static membership
    up: bool = False  # it must answer: no event is stopping it
    grown: list[Growth] = field(default_factory=list)  # at the end of each quiet spell since it was started


class Prober(threading.Thread):
    """Asks each process that is up for a route, again and again, and notes those that do not answer."""

    def __init__(self, members: Callable[[], Collection[Member]]) -> None:
        super().__init__(daemon=True, name="life-prober")
        self._members = members
        self._ended = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self.slowest = 0.0  # seconds

    def run(self) -> None:
        with httpx.Client(timeout=ANSWER_SECONDS) as client:
            while not self._ended.wait(0.2):
                for member in self._members():
                    if member.up:
                        self._ask(client, member)

    def _ask(self, client: httpx.Client, member: Member) -> None:
        began, process = time.monotonic(), member.worker.process.pid
        try:
            client.get(f"{member.worker.url}/ping").raise_for_status()
        except httpx.HTTPError as error:
            if member.up and member.worker.process.pid == process:
                seconds = time.monotonic() - began
                self.failures.append(f"a route did not answer: {type(error).__name__} after {seconds:.1f} s")
        else:
            self.answers += 1
            self.slowest = max(self.slowest, time.monotonic() - began)

    def stop(self) -> None:
        self._ended.set()
        if self.is_alive():
            self.join()

"""Runs lives one after the other, each with events drawn at random, until the time is over."""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.support.kafka_broker import IMPATIENT, KafkaBroker
from tests.support.redis_server import RedisServer, RedisUnavailableError

from . import checks
from .events import EVENTS
from .world import World

MOST_TOPICS = 150
"""With more topics, the next life begins on a new broker."""


@dataclass
class Finding:
    """What was wrong, after which event, in which life."""

    life: str
    event: str
    problem: str

    def __str__(self) -> str:
        return f"{self.life}: {self.event}: {self.problem}"


@dataclass
class Biography:
    """What happened in all lives."""

    events: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    handled: int = 0
    produced: int = 0
    answers: int = 0
    slowest: float = 0.0  # seconds of the slowest route

    def add(self, world: World) -> None:
        self.produced += world.ledger.produced
        self.handled += sum(account.total for account in world.ledger.accounts.values())
        self.answers += world.prober.answers
        self.slowest = max(self.slowest, world.prober.slowest)

    def __str__(self) -> str:
        events = ", ".join(f"{count} x {name}" for name, count in sorted(self.events.items()))
        return (
            f"{events}\nproduced {self.produced}, handled {self.handled}, routes answered {self.answers} times, "
            f"the slowest after {self.slowest:.2f} s; {len(self.findings)} findings"
        )


class Chronicle:
    """Reports what happens, with the seconds since the start."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:7.1f} s  {text}")


@contextmanager
def broker_and_redis(directory: Path) -> Iterator[tuple[KafkaBroker, str | None]]:
    """Starts a broker and, if possible, a Redis; yields both (the Redis as its URL)."""
    broker = KafkaBroker(directory / "broker", heap="300m", **IMPATIENT)
    broker.start()
    redis = None
    try:
        try:
            redis = RedisServer(directory / "redis")
            redis.start()
        except RedisUnavailableError:
            redis = None
        yield broker, redis.url if redis is not None else None
    finally:
        broker.stop()
        if redis is not None:
            redis.stop()


def live(world: World, names: Iterable[str], chance: Random, biography: Biography) -> None:
    """Runs the events until something is wrong."""
    for name in names:
        world.say(name)
        problems = _go_through(world, name, chance)
        biography.events[name] += 1
        for problem in problems:
            finding = Finding(world.prefix, name, problem)
            biography.findings.append(finding)
            world.say(f"  WRONG: {finding}")
        if problems:
            return


def _go_through(world: World, name: str, chance: Random) -> list[str]:
    try:
        world.load.go_on()
        problems = EVENTS[name].run(world, chance)
        return [*(problems or []), *([] if problems else checks.all_of(world))]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"[:600], *traceback.format_tb(error.__traceback__)[-1:]]


def drawn(chance: Random, seconds: float, among: Sequence[str]) -> Iterator[Iterator[str]]:
    """Yields the events of each life, drawn at random, until the time is over."""
    end = time.monotonic() + seconds
    weights = [max(EVENTS[name].weight, 1) for name in among]

    def events() -> Iterator[str]:
        while time.monotonic() < end:
            yield from chance.choices(among, weights)

    while time.monotonic() < end:
        yield events()


def lives(
    plans: Iterable[Iterable[str]], chance: Random, say: Callable[[str], None], without: Collection[str] = ()
) -> Biography:
    """Runs one life after the other, each by its plan, which is the names of its events.

    A life ends with the first finding, and then the logs are kept. `without`: handlers that are left out.
    """
    biography, chronicle = Biography(), Chronicle(say)
    root = Path(tempfile.mkdtemp(prefix="life-"))
    numbered = enumerate(plans, 1)
    more = True
    while more:
        beside = Path(tempfile.mkdtemp(prefix="broker-", dir=root))
        with broker_and_redis(beside) as (broker, redis_url):
            for number, names in numbered:
                with life(broker, root, f"life{number}", chronicle, redis_url, without) as world:
                    live(world, names, chance, biography)
                    biography.add(world)
                if len(world.topics()) > MOST_TOPICS:
                    break
            else:
                more = False
        shutil.rmtree(beside)
    if not biography.findings:
        shutil.rmtree(root)
    return biography


@contextmanager
def life(
    broker: KafkaBroker,
    root: Path,
    name: str,
    say: Callable[[str], None],
    redis_url: str | None,
    without: Collection[str] = (),
) -> Iterator[World]:
    world = World(broker, root / name, name, say, redis_url, without)
    say(f"{name} begins, its logs are in {world.directory}")
    try:
        world.open()
        yield world
    finally:
        world.close()

"""Messages that their handlers, or their readers, cannot get over."""

from __future__ import annotations

import time
from random import Random

from .. import checks
from ..world import World
from ..writers import burst, until
from .registry import SOON, Problems, event, fail, happens


@event(3)
def poison(world: World, chance: Random) -> Problems:
    """Of every kind (keys begin with it), each with neighbours before and behind, which are handled."""
    kinds = ["always", "panic", "cancelled", "nonsense"]
    chance.shuffle(kinds)
    for kind in kinds:
        for handler in ("loop", "dependency", "retrying"):
            fail(world, handler, kind, count=1)
        fail(world, "thread", "panic", count=1)
        burst(world.writer("none"), ["main", "tries"], 40)
    return [f"poison: {problem}" for problem in checks.settle(world)]


@event()
def undecodable(world: World, chance: Random) -> Problems:
    writer = world.writer("none")
    for value in (b"\xff\xfe\x00", b"{", b"[1]"):
        message = world.ledger.number("main", f"undecodable-{next(world.numbers)}")
        world.ledger.expect(message)
        writer.send(message, value=value)
    burst(writer, ["main"], 40)
    return [f"undecodable: {problem}" for problem in checks.settle(world)]


@event()
def larger_unpacked(world: World, chance: Random) -> Problems:
    """A message that fails, and whose dead letter is larger than the broker takes when it is not compressed."""
    writer = world.writer("gzip")
    key = f"large-{next(world.numbers)}"
    writer.write("tries", key, deed={"kind": "always", "at": ["retrying"]}, padding="x" * 5_000_000)
    writer.flush()
    burst(world.writer("none"), ["tries"], 40)
    return [f"a letter larger than allowed: {problem}" for problem in checks.settle(world)]


@event()
def cancellation_swallowed(world: World, chance: Random) -> Problems:
    """By a handler that is cut off at a stop: it has not handled the message."""
    flag = f"swallow-{next(world.numbers)}"
    deed = {"kind": "swallow", "at": ["loop"], "flag": flag}
    writer = world.writer("none")
    writer.write("main", flag, deed=deed)
    writer.flush()
    until(lambda: (world.flags / f"{flag}-began").exists(), SOON, "the handler has begun")
    world.violence += 1  # what is cut off with it
    for member in world.members:
        world.restart(member)
    (world.flags / flag).touch()
    return [f"cut off at a stop: {problem}" for problem in checks.settle(world)]


@event()
def a_handler_hangs(world: World, chance: Random) -> Problems:
    """For a moment: lag shows what it has in hand, in a group that has committed nothing, too."""
    flag = f"wait-{next(world.numbers)}"
    writer = world.writer("none")
    writer.write("main", flag, deed={"kind": "wait", "at": ["loop"], "flag": flag})
    writer.flush()
    problems = happens(lambda: _loop_lags(world), "lag shows what hangs", 5)
    time.sleep(1)
    if not _loop_lags(world):
        problems.append("lag no longer shows what hangs")
    (world.flags / flag).touch()
    return problems + checks.settle(world)


def _loop_lags(world: World) -> bool:
    return any(lag.startswith("loop ") for lag in world.lags())

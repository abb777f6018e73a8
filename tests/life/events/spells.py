"""Time passes and nothing comes, or transactions of others stand open."""

from __future__ import annotations

from random import Random

from confluent_kafka import IsolationLevel

from .. import checks, timers
from ..world import World
from ..writers import Transactions, burst
from .registry import Problems, event


@event(4)
def quiet(world: World, chance: Random) -> Problems:
    """Nothing comes for longer than every timer. The next message is handled like the first."""
    burst(world.writer("none"), ["main"], 1500)
    problems = checks.all_of(world)
    problems += checks.stays_well(world, timers.QUIET_SECONDS)
    for member in world.members:
        problems += checks.holds_no_more(member)
    after = [world.writer("none").write(topic, "after-quiet") for topic in _sources(world)]
    world.writer("none").flush()
    assert after
    return problems + checks.settle(world)


@event(1)
def quiet_again_and_again(world: World, chance: Random) -> Problems:
    """So often that what grows would show."""
    problems: Problems = []
    while not problems and len(world.members[-1].grown) < 5:
        problems = quiet(world, chance) or []
    return problems


def _sources(world: World) -> list[str]:
    return ["main", "tries", "orders", "fleeting", *(["sequence"] if "ordered" in world.handlers else []), *world.many]


@event(3)
def transaction_left_open(world: World, chance: Random) -> Problems:
    """For longer than `stall_timeout`, with messages of others behind it."""
    writer = _leave_open(world)
    problems = checks.stays_well(world, timers.STALL_SECONDS * 1.6)
    writer.commit() if chance.random() < 0.5 else writer.abort()
    return problems


@event()
def quiet_beside_an_open_transaction(world: World, chance: Random) -> Problems:
    """Nothing else comes for longer than every timer."""
    burst(world.writer("none"), ["main"], 1500)
    problems = checks.settle(world)
    writer = _leave_open(world)
    problems += checks.stays_well(world, timers.QUIET_SECONDS)
    writer.commit()
    return problems


def _leave_open(world: World) -> Transactions:
    """A transaction, and messages of others behind it, which nobody may see before its end."""
    writer = Transactions(world.broker.bootstrap, world.prefix, world.ledger, f"open{next(world.numbers)}")
    writer.begin()
    for number in range(24):
        writer.write("main", f"k{number}")
    writer.producer.flush()
    burst(world.writer("none"), ["main"], 40)
    stable, end = (
        sum(world.ends("main", level).values())
        for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
    )
    assert stable < end, "the transaction is not open"
    return writer

"""What happens to the processes of the service, and to the broker's."""

from __future__ import annotations

import time
from random import Random

from .. import checks, timers
from ..world import World
from ..writers import burst, until
from .own_topics import back, give_up
from .registry import SOON, Problems, event, fail, happens


@event(3)
def deploy(world: World, chance: Random) -> Problems:
    """Other options, while messages wait in a retry topic and others have just become dead letters."""
    letters, problems = give_up(world, "retrying")
    if world.options.retry_topics:
        _let_wait(world)
    old, new = world.options, world.options.changed(chance)
    world.say(f"  {new}")
    world.deploy(new, rolling=chance.random() < 0.5)
    doing = f"a deploy from {old} to {new}"
    problems += [f"{doing}: {problem}" for problem in checks.settle(world, 60)]
    report = world.redrive("retrying")
    if report["settled"] >= len(letters):
        return problems + back(world, "retrying", letters, f"sent back after {doing}")
    if old.dlq_name:  # nothing tells a name that is no longer in the code
        return problems
    dlq = f"{world.prefix}.{world.own('retrying', 'dlq')}"
    told = [*world.reasons(), *world.outputs().splitlines()]
    if not any(dlq in line and "letters" in line for line in told):
        problems.append(f"{len(letters)} dead letters in {dlq} were forgotten without a word ({report}) by {doing}")
    return problems


def _let_wait(world: World) -> None:
    """Messages in the retry topics that are not yet due, each in one of a handler."""
    for handler in ("retrying", "latest"):
        if handler not in world.handlers:
            continue
        topic = world.own(handler, f"retry.{world.options.retry_topics[0]:g}s")
        waited = sum(world.ends(topic).values()) if f"{world.prefix}.{topic}" in world.topics() else 0

        def wait(topic: str = topic, waited: int = waited) -> bool:
            return f"{world.prefix}.{topic}" in world.topics() and sum(world.ends(topic).values()) > waited

        fail(world, handler, "until_retried")
        until(wait, SOON, f"messages wait in {topic}", pause=0.02)


@event()
def rolling_restart(world: World, chance: Random) -> Problems:
    """Repeats nothing."""
    for member in world.members:
        world.restart(member)
    return checks.settle(world)


@event()
def kill(world: World, chance: Random) -> None:
    member = chance.choice(world.members)
    burst(world.writer("none"), ["main", "tries", "orders"], 300)
    member.up = False
    member.worker.process.kill()
    world.violence += 1
    world.start([member])


@event()
def freeze(world: World, chance: Random) -> None:
    """For longer than the session."""
    member = chance.choice(world.members)
    member.up = False
    member.worker.process.freeze()
    time.sleep(timers.SESSION_SECONDS * 1.5)
    member.worker.process.thaw()
    world.violence += 1
    member.worker.wait_until_ready()
    member.up = True


@event(3)
def twin(world: World, chance: Random) -> Problems:
    """A second process with the same `group_instance_id`: one of them goes on, health of the other names the id."""
    member = next(member for member in world.members if member.instance_id)
    other = world.join_twin(member)
    world.violence += 1
    problems = happens(lambda: _names_the_id(world), "health of one of the twins names the id")
    burst(world.writer("none"), ["main", "orders"], 300)
    problems += [f"with a twin: {problem}" for problem in checks.settle(world)]
    world.leave(other)
    world.restart(member)  # as somebody does who has read it, and has given the twin an id of its own
    return problems


def _names_the_id(world: World) -> bool:
    found = ""
    for member in world.members:
        try:
            found += str(member.worker.fetch("/consumers"))
        except Exception:  # it is on its way
            continue
    return f"{world.prefix}-static" in found


@event()
def broker_away(world: World, chance: Random) -> None:
    """For a moment, or for longer than the session."""
    world.interrupt(chance.choice((0.5, timers.SESSION_SECONDS * 1.5)))


@event()
def broker_moves(world: World, chance: Random) -> None:
    """It comes back at another address; the one of the settings leads there."""
    before = world.broker.port
    world.interrupt(0.5, elsewhere=True)
    assert world.broker.port != before


@event(0)
def birth(world: World, chance: Random) -> Problems:
    """What comes to groups that have never committed: during the first deploy, and while the first message hangs."""
    world.stop_all()
    burst(world.writer("none"), ["main", "tries", "orders"], 30)
    world.start(world.members)
    return [f"what came during the first deploy: {problem}" for problem in checks.settle(world)]

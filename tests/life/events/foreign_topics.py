"""What others do to the topics that handlers consume."""

from __future__ import annotations

import time
from random import Random

from .. import checks
from ..world import World
from ..writers import CODECS, Transactions, burst
from .registry import Problems, event, happens


@event()
def compressed(world: World, chance: Random) -> Problems:
    """Producers with every codec."""
    problems = []
    for codec in CODECS[1:]:
        writer = world.writer(codec)
        burst(writer, ["main", "tries", "orders"], 60, padding="x" * 200)
        world.say(f"  60 compressed by {codec}")
        problems += [f"{codec}: {problem}" for problem in checks.settle(world)]
    return problems


@event()
def transactions(world: World, chance: Random) -> Problems:
    """Some are committed, some aborted, the last of all is aborted."""
    writer = Transactions(world.broker.bootstrap, world.prefix, world.ledger, f"tx{next(world.numbers)}")
    for commits in (True, False, True, False):
        writer.begin()
        for number in range(20):
            writer.write(chance.choice(("main", "orders")), f"k{number % 5}")
        writer.commit() if commits else writer.abort()
    return []


@event()
def topic_appears(world: World, chance: Random) -> Problems:
    """One that matches the pattern: what is in it before it is found is handled, too."""
    topic = world.appear()
    burst(world.writer("none"), [topic], 30)
    return [f"a topic that appeared: {problem}" for problem in checks.settle(world)]


@event()
def topic_grows(world: World, chance: Random) -> Problems:
    """Messages are in the new partition before anybody has found it."""
    topic = chance.choice(("main", "orders"))
    if world.partitions[topic] >= 8:
        return []
    partition = world.grow(topic)
    writer = world.writer("none")
    for number in range(20):
        message = world.ledger.number(topic, f"grown{world.partitions[topic]}-{number % 4}")
        world.ledger.expect(message)
        writer.send(message, partition=partition)
    writer.flush()
    assert partition in world.ends(topic)
    return [f"a partition that was added: {problem}" for problem in checks.settle(world)]


@event()
def topic_vanishes(world: World, chance: Random) -> Problems:
    """One of the pattern, with work in hand, and comes back."""
    topic = chance.choice(list(world.many))
    burst(world.writer("none"), [topic], 50)
    assert world.delete_topic(topic)
    partitions = world.many.pop(topic)
    world.load.pause()
    world.ledger.read_on()
    time.sleep(chance.choice((0.0, 4.0)))
    world.ledger.excuse(topic)
    world.make_topic(topic, partitions)
    world.many[topic] = partitions
    world.load.go_on()
    burst(world.writer("none"), [topic], 50)
    return [f"a topic that came back: {problem}" for problem in checks.settle(world)]


@event()
def named_topic_vanishes(world: World, chance: Random) -> Problems:
    """One that a handler names: health says so until it is back."""
    burst(world.writer("none"), ["fleeting"], 30)
    problems = checks.settle(world)
    assert world.delete_topic("fleeting")
    name = f"{world.prefix}.fleeting"
    problems += happens(lambda: any(name in reason for reason in world.reasons()), "health says that it is gone")
    world.make_topic("fleeting", world.partitions["fleeting"])
    burst(world.writer("none"), ["fleeting"], 30)
    return problems + [f"a named topic that came back: {problem}" for problem in checks.settle(world)]


@event()
def start_moves(world: World, chance: Random) -> Problems:
    """While nobody runs, past what was not handled yet: the rest is handled, and the loss is told."""
    world.load.pause()
    problems = checks.settle(world)
    before = world.ends("fleeting")[0]
    world.stop_all()
    writer = world.writer("none")
    written = [world.ledger.number("fleeting", f"trimmed{next(world.numbers)}") for _ in range(30)]
    for message in written:
        writer.send(message, partition=0)
    writer.flush()
    world.delete_records("fleeting", {0: before + 10})
    for message in written[10:]:
        world.ledger.expect(message)
    world.start(world.members)
    problems += [f"behind a start that moved: {problem}" for problem in checks.settle(world)]
    told = [
        name
        for consumers in world.statuses().values()
        for name, value in consumers["fleeting"]["counters"].items()
        if "retention" in name and value
    ]
    return problems if told else [*problems, "nothing counts the 10 messages that were lost to retention"]


@event()
def batch_damaged(world: World, chance: Random) -> Problems:
    """On the broker's disk: its partition is held, and nothing else; made sound again, it goes on by itself."""
    number, writer = next(world.numbers), world.writer("none")
    sound, damaged = f"sound-{number}", f"SOUND-{number}"
    world.stop_all()
    for partition, padding in ((0, ""), (0, sound), (0, ""), (1, ""), (2, "")):
        message = world.ledger.number("fleeting", f"beside{number}-{partition}")
        world.ledger.expect(message)
        writer.send(message, partition=partition, padding=padding)
        writer.flush()  # a batch of its own
    world.change_on_disk("fleeting", sound.encode(), damaged.encode())
    world.start(world.members)
    place = f"{world.prefix}.fleeting[0]"
    problems = happens(lambda: any(place in reason for reason in world.reasons()), f"health names {place}")
    for n in range(20):
        message = world.ledger.number("fleeting", f"beside{number}-{n % 2 + 1}")
        world.ledger.expect(message)
        writer.send(message, partition=n % 2 + 1)
    burst(writer, ["main", "orders"], 30)
    problems += happens(lambda: _only_missing(world, {f"beside{number}-0"}), "all others are handled")
    if checks.restarts(world):
        problems.append("a partition that is held has its consumer rebuilt")
    world.change_on_disk("fleeting", damaged.encode(), sound.encode())
    return problems + [f"a batch that was damaged: {problem}" for problem in checks.settle(world)]


def _only_missing(world: World, keys: set[str]) -> bool:
    world.ledger.read_on()
    return all(message.key in keys for messages in world.ledger.missing().values() for message in messages)

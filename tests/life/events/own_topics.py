"""What operators do with dead letters, and to the topics that the service makes."""

from __future__ import annotations

import time
from random import Random

from .. import checks
from ..ledger import Message
from ..world import World
from .registry import Problems, event, fail


def give_up(world: World, handler: str, count: int = 5) -> tuple[list[Message], Problems]:
    """Messages that have become dead letters of the handler."""
    written = fail(world, handler, count=count)
    problems = [f"dead letters of {handler}: {problem}" for problem in checks.settle(world)]
    world.load.go_on()
    return written, problems


def back(world: World, handler: str, letters: list[Message], doing: str) -> Problems:
    """They were sent back (with others that failed before, and fail again), and must now be handled."""
    world.ledger.sent_back(handler, letters)
    return [f"{doing}: {problem}" for problem in checks.settle(world)]


@event()
def dead_letters_are_sent_back(world: World, chance: Random) -> Problems:
    handler = chance.choice([one for one in ("retrying", "latest", "loop", "thread") if one in world.handlers])
    letters, problems = give_up(world, handler)
    report = world.redrive(handler)
    if report["settled"] < len(letters):
        problems.append(f"{report['settled']} of {len(letters)} dead letters of {handler} were sent back")
    return problems + back(world, handler, letters, f"sent back to {handler}")


@event()
def dead_letters_are_sent_back_while_nobody_runs(world: World, chance: Random) -> Problems:
    handler = chance.choice([one for one in ("retrying", "latest") if one in world.handlers])
    letters, problems = give_up(world, handler)
    world.stop_all()
    report = world.redrive_by_command(handler)
    if report["settled"] < len(letters):
        problems.append(f"{report['settled']} of {len(letters)} dead letters of {handler} were sent back")
    world.start(world.members)
    return problems + back(world, handler, letters, f"sent back to {handler} while nobody ran")


@event()
def a_shared_dlq(world: World, chance: Random) -> Problems:
    """Each of its handlers sees, sends back and settles its own."""
    billed, problems = give_up(world, "billing", 3)
    shipped, more = give_up(world, "shipping", 4)
    problems += more
    report = world.redrive("billing")
    if report["settled"] != len(billed):
        problems.append(f"billing sent {report['settled']} back, {len(billed)} are its own")
    problems += back(world, "billing", billed, "sent back to billing")
    report = world.redrive("shipping")
    if report["settled"] != len(shipped):
        problems.append(f"shipping sent {report['settled']} back, {len(shipped)} are its own")
    return problems + back(world, "shipping", shipped, "sent back to shipping")


@event(3)
def own_topic_deleted(world: World, chance: Random) -> Problems:
    """After a redrive, so that offsets are the same again afterwards; then all of it once more."""
    handler = chance.choice([one for one in ("retrying", "latest") if one in world.handlers])
    letters, problems = give_up(world, handler)
    world.redrive(handler)
    problems += back(world, handler, letters, f"sent back to {handler}")
    kinds = [world.dlq_of(handler), world.own(handler, "redrive")]
    kinds += [world.own(handler, f"retry.{delay:g}s") for delay in world.options.retry_topics]
    topic = chance.choice(kinds[:1] + kinds)
    assert world.delete_topic(topic), f"{topic} was not there"
    world.say(f"  deleted {topic}")
    letters, more = give_up(world, handler)
    problems += more
    report = world.redrive(handler)
    if report["settled"] < len(letters):
        problems.append(f"{report} of {len(letters)} sent back to {handler} after {topic} was deleted")
    problems += back(world, handler, letters, f"sent back to {handler} after {topic} was deleted")
    if world.options.retry_topics:
        fail(world, handler, "until_retried")
    return problems + [f"after {topic} was deleted: {problem}" for problem in checks.settle(world)]


@event()
def own_topic_purged(world: World, chance: Random) -> Problems:
    """All records of a DLQ are deleted: those letters are gone, later ones are not."""
    handler = chance.choice(("retrying", "billing"))
    _, problems = give_up(world, handler)
    dlq = world.dlq_of(handler)
    world.delete_records(dlq, world.ends(dlq))
    letters, more = give_up(world, handler)
    report = world.redrive(handler)
    if report["settled"] < len(letters):
        more.append(f"{report['settled']} of {len(letters)} sent back to {handler} after its DLQ was purged")
    return problems + more + back(world, handler, letters, f"sent back to {handler} after its DLQ was purged")


@event()
def patterns_that_fail(world: World, chance: Random) -> Problems:
    """Two groups follow the same topics and fail: neither takes the other's dead letters for messages."""
    topic, writer = next(iter(world.many)), world.writer("none")
    deed = {"kind": "always", "at": ["pattern", "pattern_too"]}
    for _ in range(2):
        writer.write(topic, f"always-{next(world.numbers)}", deed=deed)
    writer.flush()
    problems = checks.settle(world)
    end = time.monotonic() + 5
    while time.monotonic() < end and len(world.topics()) < len(world.expected_topics()) + 10:
        time.sleep(0.3)
    return problems + checks.surroundings(world)

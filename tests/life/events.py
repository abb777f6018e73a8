"""What happens in a life. Each event makes sure that it happened, and gives what it found wrong meanwhile.

`faults` are the numbers of what each has caught (docs/promises.md says what they were).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from confluent_kafka import IsolationLevel

from . import checks, timers
from .handlers import TOPICS
from .ledger import Message
from .world import World
from .writers import CODECS, Transactions, burst, until

Problems = list[str]
SOON = 30.0
"""Seconds in which a thing that was made to happen happens, on a machine that does much else."""


@dataclass(frozen=True)
class Event:
    name: str
    run: Callable[[World, Random], Problems | None]
    weight: int  # how often it is drawn, beside the others


EVENTS: dict[str, Event] = {}


def event(weight: int = 2) -> Callable[[Callable[[World, Random], Problems | None]], Callable[..., Problems | None]]:
    def note(run: Callable[[World, Random], Problems | None]) -> Callable[..., Problems | None]:
        EVENTS[run.__name__] = Event(run.__name__, run, weight)
        return run

    return note


# --- time


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


# --- topics of others


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
    problems += _problem(lambda: any(name in reason for reason in world.reasons()), "health says that it is gone")
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
    problems = _problem(lambda: any(place in reason for reason in world.reasons()), f"health names {place}")
    for n in range(20):
        message = world.ledger.number("fleeting", f"beside{number}-{n % 2 + 1}")
        world.ledger.expect(message)
        writer.send(message, partition=n % 2 + 1)
    burst(writer, ["main", "orders"], 30)
    problems += _problem(lambda: _only_missing(world, {f"beside{number}-0"}), "all others are handled")
    if checks.restarts(world):
        problems.append("a partition that is held has its consumer rebuilt")
    world.change_on_disk("fleeting", damaged.encode(), sound.encode())
    return problems + [f"a batch that was damaged: {problem}" for problem in checks.settle(world)]


def _only_missing(world: World, keys: set[str]) -> bool:
    world.ledger.read_on()
    return all(message.key in keys for messages in world.ledger.missing().values() for message in messages)


def _problem(holds: Callable[[], bool], what: str, seconds: float = SOON) -> Problems:
    """Nothing, if it happens in time."""
    try:
        until(holds, seconds, what)
    except AssertionError as error:
        return [str(error)]
    return []


# --- topics of ours


def fail(world: World, handler: str, kind: str = "until_redriven", count: int = 5, **more: object) -> list[Message]:
    """Messages that fail at one handler. Each has a key of its own."""
    topic = TOPICS[handler] if TOPICS[handler] != "many" else next(iter(world.many))
    deed = {"kind": kind, "at": [handler]}
    writer = world.writer("none")
    written = [writer.write(topic, f"{kind}-{next(world.numbers)}", deed=deed, **more) for _ in range(count)]
    writer.flush()
    return written


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


# --- processes


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
    problems = _problem(lambda: _names_the_id(world), "health of one of the twins names the id")
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


# --- poison


@event(3)
def poison(world: World, chance: Random) -> Problems:
    """Of every kind, each with neighbours before and behind, which are handled."""
    kinds = ["always", "panic", "cancelled", "nonsense"]
    chance.shuffle(kinds)
    problems: Problems = []
    for kind in kinds:
        for handler in ("loop", "dependency", "retrying"):
            fail(world, handler, kind, count=1)
        fail(world, "thread", "panic", count=1)
        burst(world.writer("none"), ["main", "tries"], 40)
        if problems := [f"poison ({kind}): {problem}" for problem in checks.settle(world)]:
            break
    return problems


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
    problems = _problem(lambda: _loop_lags(world), "lag shows what hangs", 5)
    time.sleep(1)
    if not _loop_lags(world):
        problems.append("lag no longer shows what hangs")
    (world.flags / flag).touch()
    return problems + checks.settle(world)


def _loop_lags(world: World) -> bool:
    return any(lag.startswith("loop ") for lag in world.lags())


# --- birth


@event(0)
def birth(world: World, chance: Random) -> Problems:
    """What comes to groups that have never committed: during the first deploy, and while the first message hangs."""
    world.stop_all()
    burst(world.writer("none"), ["main", "tries", "orders"], 30)
    world.start(world.members)
    return [f"what came during the first deploy: {problem}" for problem in checks.settle(world)]

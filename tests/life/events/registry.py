"""How events are known, and what several of them do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ..handlers import TOPICS
from ..ledger import Message
from ..world import World
from ..writers import until

Problems = list[str]
Run = Callable[[World, Random], Problems | None]

SOON = 30.0
"""Seconds in which a thing that was made to happen happens, on a machine that does much else."""


@dataclass(frozen=True)
class Event:
    name: str
    run: Run
    weight: int  # how often it is drawn, beside the others


EVENTS: dict[str, Event] = {}


def event(weight: int = 2) -> Callable[[Run], Run]:
    """Notes the function as an event of this name. With a weight of 0 it is never drawn."""

    def note(run: Run) -> Run:
        EVENTS[run.__name__] = Event(run.__name__, run, weight)
        return run

    return note


def happens(holds: Callable[[], bool], what: str, seconds: float = SOON) -> Problems:
    """Nothing, if it happens in time."""
    try:
        until(holds, seconds, what)
    except AssertionError as error:
        return [str(error)]
    return []


def fail(world: World, handler: str, kind: str = "until_redriven", count: int = 5, **more: object) -> list[Message]:
    """Messages that fail at one handler. Each has a key of its own."""
    topic = TOPICS[handler] if TOPICS[handler] != "many" else next(iter(world.many))
    deed = {"kind": kind, "at": [handler]}
    writer = world.writer("none")
    written = [writer.write(topic, f"{kind}-{next(world.numbers)}", deed=deed, **more) for _ in range(count)]
    writer.flush()
    return written

"""Whatever an operator does while messages flow: none is lost, repeated or out of order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from tests.support.apps import eventually, running

from .steered import KINDS, Steered

ORDERS = ["a", "b", "c", "d", "e"]
COUNT = 60
CASES = [(kind, "loop") for kind in KINDS] + [("key", "thread"), ("ordered", "thread")]


@pytest.mark.parametrize(("kind", "isolation"), CASES)
async def test_p08_steering_under_load_loses_repeats_and_misorders_nothing(kind: str, isolation: str) -> None:
    app = Steered(kind, isolation=isolation, max_buffered_messages=20, max_poll_messages=5)
    chance = random.Random(f"{kind}{isolation}")
    numbers = range(1, COUNT + 1)
    async with running(app.athomic) as athomic:

        async def publish() -> None:
            for number in numbers:
                for order in ORDERS:
                    await app.publish(order, range(number, number + 1))

        async def steer() -> None:
            for _ in range(40):
                topic = chance.choice([None, "t"])
                partition = chance.randrange(3) if topic else None
                actions: list[Callable[[], Awaitable[object]]] = [
                    partial(athomic.pause, "h", topic=topic, partition=partition),
                    partial(athomic.resume, "h", topic=topic, partition=partition),
                    partial(athomic.set_concurrency, "h", chance.choice([None, 1, 2, 7])),
                    partial(athomic.restart, "h"),
                ]
                await chance.choice(actions)()
                for _ in range(chance.randrange(30)):
                    await asyncio.sleep(0)

        await asyncio.gather(publish(), steer())
        await athomic.resume("h")
        await athomic.set_concurrency("h", None)
        await athomic.drain()
        (status,) = athomic.consumers()
        found = app.by_order()
        if kind == "none":
            found = {order: sorted(seen) for order, seen in found.items()}
        assert found == {order: list(numbers) for order in ORDERS}
        assert (status.pauses, status.concurrency, status.restarts) == ([], 3, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pause_of_a_partition_stops_it_alone_and_keeps_its_order(kind: str) -> None:
    app = Steered(kind)
    async with running(app.athomic) as athomic:
        app.gate.clear()
        await app.publish("a", range(1, 9), partition=0)
        await app.record.until(lambda seen: ("a", 1) in seen)
        await athomic.pause("h", topic="t", partition=0)
        app.gate.set()
        begun = list(app.record.seen)
        await app.publish("b", range(1, 5), partition=1)
        await app.record.until(lambda seen: ("b", 4) in seen)
        waiting = [each for each in app.record.seen if each[0] == "a"]
        assert waiting == begun, "what ran may finish, nothing new begins"
        assert [place.paused for place in athomic.consumers()[0].assignment] == [True, False, False]
        assert not athomic.consumers()[0].paused
        await athomic.resume("h", topic="t", partition=0)
        await athomic.drain()
    assert {order: sorted(seen) if kind == "none" else seen for order, seen in app.by_order().items()} == {
        "a": list(range(1, 9)),
        "b": list(range(1, 5)),
    }


async def test_an_early_message_of_a_paused_partition_waits_although_its_turn_has_come() -> None:
    """It is parked in the state store: no partition of this process hands it over when its number is next."""
    app = Steered("ordered")
    async with running(app.athomic) as athomic:
        await app.publish("a", range(2, 3), partition=0)
        await app.athomic.drain()
        await athomic.pause("h", topic="t", partition=0)
        await app.publish("a", range(1, 2), partition=1)
        await app.publish("b", range(1, 4), partition=2)
        await app.record.until(lambda seen: ("b", 3) in seen and ("a", 1) in seen)
        assert app.by_order()["a"] == [1]
        await athomic.resume("h")
        await app.record.until(lambda seen: ("a", 2) in seen)
        await athomic.drain()


async def test_paused_partitions_are_not_fetched() -> None:
    app = Steered()
    async with running(app.athomic) as athomic:
        await athomic.pause("h", topic="t", partition=0)
        session: Any = athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        polled = session.polled_at  # the fetch that waits now may still bring messages; the next leaves it out
        await eventually(lambda: session.polled_at > polled)
        await app.publish("a", range(1, 9), partition=0)
        await app.publish("b", range(1, 9), partition=1)
        await app.record.until(lambda seen: ("b", 8) in seen)
        places: list[Any] = athomic.consumers()[0].assignment
        assert [(place.position, place.in_flight) for place in places] == [(0, 0), (8, 0), (0, 0)]
        await athomic.resume("h", topic="t")
        await athomic.drain()
    assert app.by_order() == {"a": list(range(1, 9)), "b": list(range(1, 9))}

"""P8: what an operator does while messages flow loses nothing, and repeats what the plan says."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from time import time

import pytest

from fastapi_athomic import Actor, Athomic, RawMessage, RetryPolicy, subscribe_to
from fastapi_athomic.control import group_pauses
from fastapi_athomic.operation_settings import ControlSettings
from tests.support.apps import SECONDS, Record, eventually, new_app, owned, running

from .brokers import Broker
from .test_delivery import Event, event, eventually_committed, numbers

ANN = Actor(name="ann", reason="a test")


@pytest.mark.not_on("mock", reason="it knows no offsets of times")
async def test_p08_a_seek_by_time_under_load_repeats_what_its_plan_says(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 3)
    await broker.produce(topic, [event(number, partition=number % 3) for number in numbers(60)])
    pivot = max(message.timestamp for message in await broker.read(topic)) + 1
    await eventually(lambda: time() * 1000 > pivot)
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", concurrency=2)
    async def handle(message: Event, raw: RawMessage) -> None:
        record.note((raw.partition, message.number))
        await asyncio.sleep(0)

    async with running(new_app(broker.settings(), handle)) as athomic:

        async def write() -> None:
            for start in range(60, 360, 30):
                await broker.produce(topic, [event(number, partition=number % 3) for number in numbers(30, start)])

        writing = asyncio.create_task(write())
        await record.until(lambda seen: len(seen) >= 150 and {number for _, number in seen} >= set(numbers(60)))
        at = datetime.fromtimestamp(pivot / 1000, UTC)
        first = await athomic.seek("h", topic, to=at, actor=ANN)
        assert (first.done, first.skipped, first.exact) == (True, 0, True)
        assert {part.to_offset for part in first.partitions} == {20}
        await writing
        await athomic.drain()
        await athomic.pause("h", actor=ANN)
        plan = await athomic.plan_seek("h", topic, partition=1, to="beginning")
        assert (plan.skipped, plan.repeated, plan.exact) == (0, 120, True)
        assert (await athomic.seek("h", topic, 1, to="beginning")).repeated == 120
        await athomic.resume("h")
        await athomic.drain()
    await eventually_committed(broker, topic, 360)
    times = Counter(number for _, number in record.seen)
    assert set(times) == set(numbers(360))
    assert sum(times.values()) == 360 + (first.repeated or 0) + 120
    assert all(times[number] == 1 + (number % 3 == 1) for number in numbers(60)), (
        "those before that time stay as they are"
    )


async def test_p08_a_paused_partition_waits_and_keeps_its_order_while_others_go_on(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 3)
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", ordering="key", concurrency=4)
    async def handle(message: Event, raw: RawMessage) -> None:
        await asyncio.sleep(0)
        record.note((raw.partition, message.number))

    async with running(new_app(broker.settings(), handle)) as athomic:

        def written(count: int, start: int = 0) -> list[tuple[int, int]]:
            return [(number % 3, number) for number in numbers(count, start)]

        await broker.produce(topic, [event(number, f"k{number % 3}", number % 3) for number in numbers(150)])
        await record.count(30)
        await athomic.pause("h", topic=topic, partition=1, actor=ANN)
        await broker.produce(topic, [event(number, f"k{number % 3}", number % 3) for number in numbers(150, 150)])
        others = {each for each in written(300) if each[0] != 1}
        await record.until(lambda seen: others <= set(seen))
        held = [each for each in record.seen if each[0] == 1]
        assert held == [each for each in written(300) if each[0] == 1][: len(held)]
        assert len(held) < 100, "those of the second half wait"
        await athomic.restart("h", actor=ANN)
        await athomic.wait_until_ready()
        await athomic.set_concurrency("h", 1, actor=ANN)
        await athomic.resume("h", topic=topic, actor=ANN)
        await record.count(300)
        await athomic.drain()
    await eventually_committed(broker, topic, 300)
    for partition in range(3):
        assert [each for each in record.seen if each[0] == partition] == [
            each for each in written(300) if each[0] == partition
        ]


@pytest.mark.not_on("mock", reason="it lets nobody in before the session of a member that left is over")
async def test_p08_three_members_are_paused_and_moved_by_one_of_them_under_load(
    broker: Broker, topic: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the state store: in Redis, or in memory on memory://."""
    monkeypatch.setattr(group_pauses, "LOOK_SECONDS", 0.2)
    in_memory = broker.name == "memory" and broker.isolation == "loop"
    url = None if in_memory else request.getfixturevalue("redis_server").url
    control = ControlSettings(enabled=True, allow_anonymous=True)
    await broker.create_topic(topic, 3)
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", concurrency=2)
    async def handle(message: Event, raw: RawMessage) -> None:
        record.note((raw.partition, message.number))
        await asyncio.sleep(0)

    first, *others = (new_app(broker.settings(control=control, state_store_url=url), handle) for _ in range(3))
    async with running(first), running(others[0]), running(others[1]):
        members = [first, *others]
        await eventually(lambda: all(len(owned(member, topic)) == 1 for member in members))

        async def write() -> None:
            for start in range(0, 300, 30):
                await broker.produce(topic, [event(number, partition=number % 3) for number in numbers(30, start)])

        writing = asyncio.create_task(write())
        await record.count(60)
        moved = await first.seek("h", topic, to="beginning", force=True, actor=ANN)
        assert (moved.done, moved.skipped, moved.exact) == (True, 0, True)
        await writing
        await first.pause("h", topic=topic, actor=ANN)
        await eventually(lambda: all(place.paused for member in members for place in member.consumers()[0].assignment))
        said = await first.plan_seek("h", topic, to="end")
        async with asyncio.timeout(SECONDS):
            while said.skipped != _lag(members):  # of other members' partitions it knows what they have committed
                said = await first.plan_seek("h", topic, to="end")
        assert len(said.problems) == 2, "two partitions are not its own"
        plan = await first.seek("h", topic, to="end", force=True, actor=ANN)
        assert (plan.done, plan.repeated, plan.exact) == (True, 0, True)
        assert (said.skipped, said.repeated) == (plan.skipped, 0)
        await others[1].resume("h", actor=ANN)
        await eventually(lambda: not any(member.consumers()[0].pauses for member in members))
        await broker.produce(topic, [event(number, partition=number % 3) for number in numbers(3, 300)])
        for member in members:
            await member.drain()
    times = Counter(number for _, number in record.seen)
    assert sum(times.values()) == 303 + (moved.repeated or 0) - (plan.skipped or 0)
    assert set(numbers(3, 300)) <= set(times)


def _lag(members: list[Athomic]) -> int | None:
    """Messages that nobody has concluded; None while that is not known."""
    places = [place for member in members for place in member.consumers()[0].assignment]
    lags = [place.lag for place in places]
    return None if None in lags else sum(lag for lag in lags if lag is not None)


@pytest.mark.not_on("mock", reason="it lets nobody in before the session of a member that left is over")
async def test_p08_a_redrive_under_load_sends_back_to_three_members_what_its_dry_run_says(
    broker: Broker, topic: str
) -> None:
    """Through one of them, while new messages come and another one leaves and joins again."""
    await broker.create_topic(topic, 3)
    record, broken = Record(), {number for number in numbers(90) if number % 3 == 0 or number % 5 == 0}
    mended: set[str] = set()

    @subscribe_to(topic, group_id=topic, handler_id="h", concurrency=2, retry=RetryPolicy(max_attempts=1))
    async def handle(message: Event, raw: RawMessage) -> None:
        record.note(message.number)
        await asyncio.sleep(0)
        if message.number in broken and not mended:
            raise KeyError("no such order") if message.number % 3 == 0 else ValueError("no money")

    first, *others = (new_app(broker.settings(), handle) for _ in range(3))
    async with running(first), running(others[0]), running(others[1]):
        members = [first, *others]
        await eventually(lambda: all(len(owned(member, topic)) == 1 for member in members))
        await broker.produce(topic, [event(number, partition=number % 3) for number in numbers(90)])
        for member in members:
            await member.drain()
        mended.add("all")

        async def write() -> None:
            for start in range(90, 390, 30):
                await broker.produce(topic, [event(number, partition=number % 3) for number in numbers(30, start)])

        writing = asyncio.create_task(write())
        await record.until(lambda seen: max(seen) > 90)
        letters = others[0].dead_letters("h")
        said = await letters.redrive(error_type="builtins.ValueError", limit=7, dry_run=True)
        done, _ = await asyncio.gather(
            letters.redrive(error_type="builtins.ValueError", limit=7, actor=ANN), others[1].restart("h")
        )
        assert (said.selected, said.settled) == (done.selected, done.settled) == (7, 7)
        rest = await first.dead_letters("h").redrive(dry_run=True)
        assert rest.settled == len(broken) - 7
        discarded = await letters.discard(reason="a test", error_type="builtins.ValueError", actor=ANN)
        sent = await first.dead_letters("h").redrive(actor=ANN)
        assert discarded.settled + sent.settled == rest.settled
        await writing
        for member in members:
            await member.drain()
        assert await letters.count() == 0
    times = Counter(record.seen)
    assert set(times) == set(numbers(390)), "none is lost"
    again = {number for number, count in times.items() if count > 1}
    assert {number for number in again if number % 3} < broken
    assert again - {number for number in again if number % 3} == {number for number in broken if number % 3 == 0}
    assert len(again) == done.settled + sent.settled
    assert sum(times.values()) == 390 + done.settled + sent.settled, "and none is handled more often than that"

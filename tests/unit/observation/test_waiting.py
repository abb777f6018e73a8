from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from fastapi_athomic import Athomic, AthomicSettings, RetryPolicy, ordered_consumer, subscribe_to
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.observation.status import PauseStatus
from fastapi_athomic.observation.waiting import ConsumerWork, PartitionWork, still_waiting
from tests.support.apps import Gate, Record, eventually, new_app, running

SETTINGS = AthomicSettings(restart_backoff=0.01, restart_backoff_max=0.01)


def work(*partitions: PartitionWork, **options: Any) -> ConsumerWork:
    given: dict[str, Any] = {
        "handler_id": "billing",
        "ready": True,
        "pauses": [],
        "moving": False,
        "in_handler": None,
        "parked": 0,
        "reasons": [],
        **options,
    }
    return ConsumerWork(partitions=partitions, **given)


NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def pause(**options: Any) -> PauseStatus:
    return PauseStatus(**{"since": NOON, "actor": "ann", "reason": "reindexing", **options})


def part(left: int | None, **options: Any) -> PartitionWork:
    given: dict[str, Any] = {"in_hand": 0, "running": 0, "due_in": None, "paused": False, "blocked": False, **options}
    return PartitionWork(place=TopicPartition("orders", 3), left=left, **given)


LEFT = "billing: 2 messages left in orders[3]"
TURN = f"{LEFT} (2 fetched, for their turn or another attempt)"
ONE = "billing: 1 message left in orders[3] (1 in the handler for up to 3.2 s)"
UNWRITABLE = "orders[3] waits: dead letter to x refused"


@pytest.mark.parametrize(
    ("consumer", "said"),
    [
        (work(part(2)), LEFT),
        (work(part(1, in_hand=1, running=1), in_handler=3.21), ONE),
        (work(part(2, in_hand=2)), TURN),
        (work(part(2, in_hand=2, due_in=7.04)), f"{LEFT} (the oldest is due in about 7.0 s)"),
        (work(part(2, in_hand=2, due_in=-1.0)), TURN),
        (
            work(part(2, in_hand=2, paused=True), pauses=[pause()]),
            f"billing is paused by ann (reindexing): resume it; {LEFT}",
        ),
        (
            work(part(2, in_hand=2), pauses=[pause(topic="u", partition=1, until=NOON, reason=None)]),
            f"billing: u[1] is paused by ann, until 2026-01-31 12:00:00 UTC: resume it; {TURN}",
        ),
        (work(pauses=[pause()]), "nothing more is known"),
        (work(part(0)), "billing: orders[3] is handled, but not committed yet"),
        (work(part(None)), "billing: orders[3] has not been read yet"),
        (work(moving=True), "billing: its group is being rebalanced"),
        (work(parked=3), "billing: 3 messages parked until missing sequence numbers come"),
        (
            work(part(2, in_hand=2, blocked=True), reasons=[UNWRITABLE]),
            f"billing: {UNWRITABLE}; {LEFT} (blocked by a dead letter)",
        ),
        (work(part(9), ready=False, reasons=["starting (it joins)"]), "billing is not ready: starting (it joins)"),
    ],
)
def test_each_thing_that_is_waited_for_has_its_sentence(consumer: ConsumerWork, said: str) -> None:
    assert still_waiting([consumer], None) == said


def test_a_broker_that_is_away_comes_first_and_much_is_counted() -> None:
    said = still_waiting([work(part(1)) for _ in range(30)], "no route")
    assert said.startswith("the broker cannot be reached (no route); billing: 1 message left in orders[3];")
    assert said.endswith("; and 21 more")


async def drained(athomic: Athomic) -> str:
    with pytest.raises(TimeoutError) as caught:
        await athomic.drain(0.05)
    return str(caught.value)


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_drain_names_the_handler_that_runs(isolation: Any) -> None:
    gate, begun = Gate(), Record()

    @subscribe_to("t", group_id="g", handler_id="billing")
    async def handle(message: str) -> None:
        begun.note(message)
        await gate.wait()

    async with running(new_app(AthomicSettings(isolation=isolation), handle)) as athomic:
        await athomic.publish_many("t", ["a", "b", "c"], key=lambda _: "k")
        await begun.count(1)
        (place,) = [place for place in athomic.consumers()[0].assignment if place.in_flight]
        said = await drained(athomic)
        assert said.startswith("not all messages are handled and committed after 0.05 s: billing: 3 messages left in ")
        assert f"t[{place.partition}] (1 in the handler for up to 0." in said
        gate.set()
        await athomic.drain()


async def test_drain_names_a_retry_topic_and_when_it_is_due() -> None:
    @subscribe_to(
        "t", group_id="g", handler_id="h", ordering="none", retry=RetryPolicy(max_attempts=1, retry_topics=(600,))
    )
    async def handle(message: str) -> None:
        raise RuntimeError("no")

    async with running(new_app(SETTINGS, handle)) as athomic:
        await athomic.publish("t", "m", partition=0)
        await eventually(lambda: any(p.in_flight and p.topic != "t" for p in athomic.consumers()[0].assignment))
        said = await drained(athomic)
    assert "h: 1 message left in t.g.retry.600s[" in said
    assert "(the oldest is due in about 59" in said or "(the oldest is due in about 600.0 s" in said


async def test_drain_names_a_paused_consumer() -> None:
    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    async with running(new_app(SETTINGS, handle)) as athomic:
        manager = athomic.manager()
        assert manager is not None
        manager.consumers["h"].pause()
        await athomic.publish_many("t", ["a", "b"], key=lambda _: "k")
        said = await drained(athomic)
        assert ": h is paused by app: resume it; h: 2 messages left in t[" in said
        manager.consumers["h"].resume()
        await athomic.drain()


async def test_drain_names_a_dead_letter_that_cannot_be_written_and_another_attempt() -> None:
    @subscribe_to("t", group_id="g", handler_id="blocked", retry=RetryPolicy(max_attempts=1))
    async def blocked(message: str) -> None:
        raise RuntimeError("no")

    @subscribe_to(
        "u", group_id="g", handler_id="again", retry=RetryPolicy(max_attempts=2, delay=600, max_delay=600, jitter=0)
    )
    async def again(message: str) -> None:
        raise RuntimeError("no")

    async with running(new_app(SETTINGS, blocked, again)) as athomic:
        athomic._transport.broker.refuse("t.g.dlq")  # type: ignore[attr-defined]
        await athomic.publish("t", "m")
        await athomic.publish("u", "m")
        await eventually(lambda: all(status.counters.failed for status in athomic.consumers()))
        await eventually(lambda: athomic.health() and athomic.health().status == "degraded")  # type: ignore[union-attr]
        said = await drained(athomic)
    assert "waits: dead letter to t.g.dlq refused" in said
    assert "(blocked by a dead letter)" in said
    assert "again: 1 message left in u[" in said
    assert "(1 fetched, for their turn or another attempt)" in said


async def test_drain_names_parked_messages() -> None:
    @ordered_consumer("t", group_id="g", handler_id="h", aggregate_key_field="a", sequence_id_field="n")
    async def handle(message: dict[str, Any]) -> None: ...

    @subscribe_to("u", group_id="g2", handler_id="other")
    async def slow(message: str) -> None:
        await asyncio.Event().wait()

    async with running(new_app(AthomicSettings(shutdown_timeout=0.2), handle, slow)) as athomic:
        await athomic.publish_many("t", [{"a": "x", "n": 0}, {"a": "x", "n": 2}], key=lambda _: "k")
        await athomic.publish("u", "m")
        await eventually(lambda: (o := athomic.consumers()[0].ordered) is not None and o.parked == 1)
        said = await drained(athomic)
    assert "h: 1 message parked until missing sequence numbers come" in said


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_wait_until_ready_names_a_broker_that_cannot_be_reached(isolation: Any) -> None:
    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    athomic = new_app(AthomicSettings(isolation=isolation), handle)
    athomic._transport.broker.disconnect()  # type: ignore[attr-defined]
    async with athomic.app.router.lifespan_context(athomic.app):
        with pytest.raises(TimeoutError) as caught:
            await athomic.wait_until_ready(0.05)
    said = str(caught.value)
    assert said.startswith("the consumers are not ready after 0.05 s: the broker cannot be reached (the br")
    assert "h is not ready: new (its start waits for the broker)" in said


async def test_drain_says_that_the_broker_is_gone_and_why_a_consumer_does_not_come_back() -> None:
    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    async with running(new_app(SETTINGS, handle)) as athomic:
        athomic._transport.broker.disconnect()  # type: ignore[attr-defined]
        said = await drained(athomic)
        assert "the broker cannot be reached (the broker is disconnected)" in said
        athomic._transport.broker.reconnect()  # type: ignore[attr-defined]
        await athomic.drain()

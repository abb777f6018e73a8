"""The engine's finer points: gaps in offsets, back pressure, groups, supervision. On the brokers that can show them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from confluent_kafka import Producer
from pydantic import BaseModel

from fastapi_athomic import DeliveryAttempt, KafkaSettings, RetryPolicy, subscribe_to
from fastapi_athomic.consumption.session import ConsumerSession
from fastapi_athomic.settings import HandlerTuning
from tests.support.apps import Gate, Record, eventually, new_app, owned, running

from .brokers import HEARTBEAT_SECONDS, Broker
from .brokers import Record as Written
from .test_delivery import event, eventually_committed, numbers

MOCK = "librdkafka's mock cluster"


class Event(BaseModel):
    number: int


# --- offsets


@pytest.mark.not_on("memory", "mock", reason="only Apache Kafka has transactions")
async def test_p01_offsets_with_gaps_are_committed_to_the_end(broker: Broker, topic: str) -> None:
    """Commit markers take offsets too, and aborted messages are never seen."""
    await broker.create_topic(topic, 1)

    def write() -> None:
        bootstrap = broker.url.removeprefix("kafka://")
        producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic, "log_level": 0})
        producer.init_transactions(30)
        for start, commit in ((0, True), (100, False), (5, True), (200, False)):
            producer.begin_transaction()
            for number in numbers(5, start):
                producer.produce(topic, b'{"number": %d}' % number)
            producer.flush(30)
            if commit:
                producer.commit_transaction(30)
            else:
                producer.abort_transaction(30)

    await asyncio.to_thread(write)
    record = Record()

    @subscribe_to(topic, group_id=topic, ordering="none", concurrency=3)
    async def handle(message: Event) -> None:
        record.note(message.number)

    async with running(new_app(broker.settings(), handle)):
        assert sorted(await record.count(10)) == numbers(10)
        await eventually_committed(broker, topic, 24)  # two committed and two aborted transactions, with their markers
    async with running(new_app(broker.settings(), handle)):
        await broker.produce(topic, [event(10)])
        await record.count(11)
    assert sorted(record.seen) == numbers(11)


async def test_intake_slows_when_the_note_of_what_is_done_would_no_longer_fit(broker: Broker, topic: str) -> None:
    count = 30_000
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(number, partition=0) for number in numbers(count)])
    go_on, done = Gate(), 0

    @subscribe_to(topic, group_id=topic, handler_id="h", ordering="none", concurrency=50)
    async def handle(message: Event) -> None:
        nonlocal done
        if message.number == 0:
            await go_on.wait()
        done += 1

    async with running(new_app(broker.settings(), handle)) as athomic:
        await eventually(lambda: done >= 21_000)
        polled = athomic.consumers()[0].counters.received
        await eventually(lambda: done == athomic.consumers()[0].counters.received - 1)
        assert polled <= 22_000
        assert athomic.consumers()[0].counters.received <= 22_000
        go_on.set()
        await eventually(lambda: done == count)
        await eventually_committed(broker, topic, count)


# --- back pressure


@pytest.fixture
def without_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """While partitions are full, who is not called waits for ever."""
    monkeypatch.setattr(ConsumerSession, "_patience", lambda *_: 36_000.0)


@pytest.mark.parametrize(
    ("padding", "limits", "most"),
    [
        (0, {"max_buffered_messages": 50, "max_poll_messages": 20}, 50),
        (400, {"max_buffered_bytes": 1_000, "max_poll_messages": 3}, 5),
    ],
    ids=["messages", "bytes"],
)
async def test_full_buffers_stop_the_intake_from_their_partition_only(
    broker: Broker, topic: str, without_clock: None, padding: int, limits: dict[str, int], most: int
) -> None:
    await broker.create_topic(topic, 2)
    value = b'{"number": %d, "padding": "' + b"x" * padding + b'"}'
    await broker.produce(topic, [Written(value % number, partition=0) for number in numbers(200)])
    record, go_on = Record(), Gate()

    @subscribe_to(topic, group_id=topic, handler_id="h", concurrency=2)
    async def handle(message: Event) -> None:
        if message.number < 200:
            await go_on.wait()
        record.note(message.number)

    async with running(new_app(broker.settings(**limits), handle)) as athomic:
        await eventually(lambda: athomic.consumers()[0].counters.received >= 3)
        await broker.produce(topic, [event(number, partition=1) for number in numbers(100, 200)])
        assert await record.count(100) == numbers(100, 200), "the other partition goes on"
        assert athomic.consumers()[0].counters.received <= 100 + most
        go_on.set()
        assert (await record.count(300))[100:] == numbers(200)


@pytest.mark.not_on("memory", "mock", reason="only Apache Kafka evicts members that do not poll")
async def test_p09_a_handler_slower_than_the_poll_interval_keeps_its_place(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(1)])
    record = Record()
    kafka = KafkaSettings(max_poll_interval=1.5, session_timeout=3, heartbeat_interval=1)

    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def handle(message: Event) -> None:
        record.note("begin")
        await asyncio.sleep(4.5)
        record.note("end")

    async with running(new_app(broker.settings(kafka=kafka, drain_timeout=1.0), handle)) as athomic:
        await record.count(2)
        await eventually_committed(broker, topic, 1)
        assert athomic.consumers()[0].counters.rebalances == 1
        assert athomic.consumers()[0].restarts == 0
    assert record.seen == ["begin", "end"]


# --- groups


@pytest.mark.not_on("mock", reason=f"{MOCK} lets aiokafka have one member per group")
async def test_a_pause_set_by_an_operator_survives_a_rebalance(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 2)
    record = Record()

    def build(name: str, *, paused: bool) -> Any:
        @subscribe_to(topic, group_id=topic, handler_id="h")
        async def handle(message: Event) -> None:
            record.note((name, message.number))

        return new_app(broker.settings(handler_tuning={"h": HandlerTuning(paused=paused)}), handle)

    first, second = build("paused", paused=True), build("other", paused=False)
    async with running(first):
        async with running(second):
            await eventually(lambda: len(owned(first, topic)) == 1)
            await broker.produce(topic, [event(number, partition=number % 2) for number in numbers(10)])
            await record.count(5)
            assert all(place.paused for place in first.consumers()[0].assignment)
        await eventually(lambda: len(owned(first, topic)) == 2)
        assert {name for name, _ in record.seen} == {"other"}
        first.manager().consumers["h"].resume()
        await record.count(10)
    assert sorted(number for _, number in record.seen) == numbers(10)


@pytest.mark.not_on("memory", "mock", reason="only Apache Kafka has static members")
async def test_a_static_member_comes_back_without_a_rebalance_for_the_others(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 2)
    record = Record()

    def build(name: str) -> Any:
        @subscribe_to(topic, group_id=topic, handler_id="h")
        async def handle(message: Event) -> None:
            record.note(message.number)

        kafka = KafkaSettings(group_instance_id=name, session_timeout=20, heartbeat_interval=HEARTBEAT_SECONDS)
        return new_app(broker.settings(kafka=kafka), handle)

    first, second = build("first"), build("second")
    async with running(first):
        async with running(second):
            await eventually(lambda: len(owned(first, topic)) == 1)
        rebalances = first.consumers()[0].counters.rebalances
        async with running(second):
            await broker.produce(topic, [event(number, partition=number % 2) for number in numbers(10)])
            await record.count(10)
            assert first.consumers()[0].counters.rebalances == rebalances
    assert sorted(record.seen) == numbers(10)


@pytest.mark.not_on("mock", reason=f"{MOCK} lets aiokafka have one member per group")
async def test_p04_what_outlives_the_drain_is_fenced(broker: Broker, topic: str) -> None:
    """It is handled again by the partition's new owner, and its late end commits nothing."""
    await broker.create_topic(topic, 2)
    await broker.produce(topic, [event(0, partition=0), event(1, partition=1)])
    begun, go_on, ended = Record(), Gate(), Record()

    def build(name: str) -> Any:
        @subscribe_to(topic, group_id=topic, handler_id="h", concurrency=2)
        async def handle(message: Event) -> None:
            begun.note((name, message.number))
            if name == "slow":
                await go_on.wait()
            ended.note((name, message.number))

        return new_app(broker.settings(drain_timeout=0.2), handle)

    slow, quick = build("slow"), build("quick")
    async with running(slow):
        await begun.count(2)
        async with running(quick):
            await begun.until(lambda seen: ("quick", 0) in seen or ("quick", 1) in seen)
            await ended.count(1)
            assert slow.consumers()[0].counters.abandoned == 2
            go_on.set()
            await ended.until(lambda seen: {("slow", 0), ("slow", 1)} <= set(seen))
            await eventually_committed(broker, topic, 2)


# --- supervision


@pytest.mark.not_on("mock", "kafka", reason="the fault is injected into the embedded broker")
async def test_a_consumer_without_progress_is_rebuilt(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.create_topic(topic, 1)
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def handle(message: Event) -> None:
        record.note(message.number)

    async with running(new_app(broker.settings(stall_timeout=0.3), handle)) as athomic:
        inner = athomic._transport.broker  # type: ignore[attr-defined]
        monkeypatch.setattr(inner, "read", lambda *_: [])
        await broker.produce(topic, [event(1)])
        await eventually(lambda: "no progress" in str(athomic.health()))
        await eventually(lambda: athomic.consumers()[0].restarts >= 1)
        monkeypatch.undo()
        assert await record.count(1) == [1]
        await eventually(lambda: (health := athomic.health()) is not None and health.status == "healthy")


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
async def test_p21_fault_04_what_is_no_exception_counts_as_an_attempt_and_ends_in_the_dlq(
    broker: Broker, topic: str, error: type[BaseException]
) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(1), event(2)])
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=RetryPolicy(max_attempts=2, delay=0))
    async def handle(message: Event, attempt: DeliveryAttempt) -> None:
        record.note((message.number, attempt.number))
        if message.number == 1:
            raise error

    async with running(new_app(broker.settings(), handle)) as athomic:
        await record.count(3)
        await eventually_committed(broker, topic, 2)
        (status,) = athomic.consumers()
    assert record.seen == [(1, 1), (1, 2), (2, 1)]
    assert (status.restarts, status.counters.dead_lettered) == (0, 1)
    assert [letter.value for letter in await broker.read(f"{topic}.{topic}.dlq")] == [b'{"number": 1}']


@pytest.mark.not_on("mock", "kafka", reason="time is what the test is about, not the broker")
async def test_p13_health_names_a_stuck_handler_and_recovers(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    go_on = Gate()

    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def handle(message: Event) -> None:
        await go_on.wait()

    async with running(new_app(broker.settings(stuck_after=0.1), handle)) as athomic:
        await broker.produce(topic, [event(1)])
        await eventually(lambda: "has been in the handler" in str(athomic.health()))
        health = athomic.health()
        assert health is not None
        assert health.status == "unhealthy"
        assert athomic.consumers()[0].oldest_in_flight_seconds is not None
        go_on.set()
        await eventually(lambda: (health := athomic.health()) is not None and health.status == "healthy")


@pytest.mark.not_on("mock", "kafka", reason="the fault is injected into the embedded broker")
async def test_p13_waiting_for_a_retry_is_not_being_stuck(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=RetryPolicy(max_attempts=2, delay=0.5, jitter=0))
    async def handle(message: Event) -> None:
        record.note(message.number)
        if len(record.seen) == 1:
            raise RuntimeError("once")

    async with running(new_app(broker.settings(stuck_after=0.1), handle)) as athomic:
        await broker.produce(topic, [event(1), Written(b'{"number": 2}')])
        await record.count(1)
        while len(record.seen) == 1:
            assert "in the handler" not in str(athomic.health())
            await asyncio.sleep(0.01)
        await record.count(3)


@pytest.mark.not_on("mock", reason=f"{MOCK} lets aiokafka have one member per group")
async def test_a_member_without_partitions_does_not_spin(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in polls: what is idle waits, and does not ask as often as the event loop turns."""
    await broker.create_topic(topic, 1)
    polls = 0
    poll = ConsumerSession._poll

    async def counted(session: ConsumerSession) -> int:
        nonlocal polls
        polls += 1
        return await poll(session)

    @subscribe_to(topic, group_id=topic, handler_id="h", dlq=False)
    async def handle(message: Event) -> None: ...

    async with running(new_app(broker.settings(), handle)), running(new_app(broker.settings(), handle)) as second:
        await eventually(lambda: second.consumers()[0].ready)
        monkeypatch.setattr("fastapi_athomic.consumption.session.POLL_SECONDS", 0.1)
        monkeypatch.setattr(ConsumerSession, "_poll", counted)
        turns = 0
        while polls < 20:  # the first ones may have been called for
            turns += 1
            await asyncio.sleep(0)
        assert turns > 100 * polls


async def test_a_stop_ends_a_poll_that_waits_for_messages(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.create_topic(topic, 1)
    record = Record()

    @subscribe_to(topic, group_id=topic)
    async def handle(message: Event) -> None:
        record.note(message.number)

    async with running(new_app(broker.settings(), handle)):
        await broker.produce(topic, [event(0)])
        await record.count(1)
        monkeypatch.setattr("fastapi_athomic.consumption.session.POLL_SECONDS", 3600.0)
        await broker.produce(topic, [event(1)])  # the poll after it takes an hour
        await record.count(2)

"""The embedded broker's own rules; what it shares with the others is in tests/delivery."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from fastapi_athomic import (
    AthomicSettings,
    CommitFailedError,
    MessageTooLargeError,
    TopicNotFoundError,
    TransportClosedError,
    TransportError,
)
from fastapi_athomic.messages import OutgoingMessage, TopicPartition
from fastapi_athomic.settings import MemorySettings
from fastapi_athomic.transports.base import CommittedOffset, ConsumerConfig
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from fastapi_athomic.transports.memory.transport import MemoryTransport

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


class Listener:
    """Notes what it is told; holds up a revocation until `may_give_up`. Goes on where the group has got to."""

    consumer: MemoryConsumer

    def __init__(self) -> None:
        self.assigned: asyncio.Queue[frozenset[TopicPartition]] = asyncio.Queue()
        self.revoked: asyncio.Queue[frozenset[TopicPartition]] = asyncio.Queue()
        self.told = asyncio.Event()  # of an arrival
        self.may_give_up = asyncio.Event()
        self.may_give_up.set()
        self.on_revoke: Callable[[], object] = lambda: None

    def on_arrival(self) -> None:
        self.told.set()

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        committed = await self.consumer.committed(partitions, 1)
        for partition in partitions:
            await self.consumer.seek(partition, committed[partition].offset if partition in committed else -2)
        self.assigned.put_nowait(partitions)

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        self.revoked.put_nowait(partitions)
        await self.may_give_up.wait()
        result = self.on_revoke()
        if asyncio.iscoroutine(result):
            await result


@pytest.fixture
async def transport() -> AsyncIterator[MemoryTransport]:
    transport = MemoryTransport(AthomicSettings(memory=MemorySettings(partitions=2, max_message_bytes=200)))
    await transport.start(1)
    await transport.create_topics({"t": 2}, 1)
    yield transport
    await transport.stop(1)


def config(**changes: object) -> ConsumerConfig:
    return ConsumerConfig(**({"group_id": "g", "client_id": "c", "topics": ("t",)} | changes))  # type: ignore[arg-type]


async def join(transport: MemoryTransport, listener: Listener, **changes: object) -> MemoryConsumer:
    consumer = listener.consumer = transport.consumer(config(**changes), listener)
    await consumer.start()
    return consumer


async def put(transport: MemoryTransport, count: int, partition: int = 0, topic: str = "t") -> None:
    messages = [OutgoingMessage(topic, None, b"%d" % number, partition=partition) for number in range(count)]
    for result in await transport.producer.send(messages, 1):
        assert not isinstance(result, Exception), result


async def test_who_has_found_nothing_is_told_at_once_of_what_comes(transport: MemoryTransport) -> None:
    consumer = await join(transport, listener := Listener())
    await listener.assigned.get()
    consumer.poll([P0])
    assert (consumer.take([P0], 10), list(consumer.ready())) == ({}, [])
    listener.told.clear()
    await put(transport, 3)
    assert listener.told.is_set()
    assert list(consumer.ready()) == [P0]
    assert [message.value for message in consumer.take([P0], 10)[P0]] == [b"0", b"1", b"2"]
    assert list(consumer.ready()) == []


async def test_a_long_backlog_does_not_keep_other_partitions_waiting(transport: MemoryTransport) -> None:
    await put(transport, 1_000, partition=0)
    await put(transport, 5, partition=1)
    consumer = await join(transport, listener := Listener())
    await listener.assigned.get()
    listener.told.clear()
    found = consumer.take([P0, P1], 100)
    assert (len(found[P0]), len(found[P1])) == (50, 5)
    assert listener.told.is_set(), "there are more, though fewer came than were asked for"
    listener.told.clear()
    assert len(consumer.take([P0], 10)[P0]) == 10
    assert not listener.told.is_set(), "whoever got as many as were asked for asks again"
    assert consumer.take([P1], 100) == {}
    assert consumer.position(P0) == 60
    assert consumer.end_offset(P0) == 1_000


async def test_nothing_is_taken_of_partitions_that_are_not_asked_for(transport: MemoryTransport) -> None:
    await put(transport, 3, partition=0)
    consumer = await join(transport, listener := Listener())
    await listener.assigned.get()
    assert consumer.take([P1], 100) == {}
    assert consumer.take([], 100) == {}
    assert len(consumer.take([P0], 100)[P0]) == 3


async def test_the_listener_is_told_of_what_is_wanted_and_of_nothing_else(
    transport: MemoryTransport,
) -> None:
    consumer = await join(transport, listener := Listener())
    await listener.assigned.get()
    consumer.poll([P1])
    listener.told.clear()
    await put(transport, 3, partition=0)
    assert not listener.told.is_set(), "a full partition may get messages without end"
    await put(transport, 3, partition=1)
    assert listener.told.is_set()
    consumer.poll([P0, P1])
    consumer.take([P0, P1], 10)
    listener.told.clear()
    await consumer.seek(P0, 0)
    assert listener.told.is_set()


async def test_a_rebalance_waits_until_all_have_given_up(transport: MemoryTransport) -> None:
    first = await join(transport, one := Listener())
    assert await one.assigned.get() == {P0, P1}
    one.may_give_up.clear()
    second = await join(transport, two := Listener())
    assert await one.revoked.get() == {P0, P1}
    assert two.assigned.empty()
    await first.commit({P0: CommittedOffset(7, "note")}, 1)  # the last chance, and it is taken
    one.may_give_up.set()
    assert len(await one.assigned.get()) == len(await two.assigned.get()) == 1
    assert first.assignment() | second.assignment() == {P0, P1}
    assert await second.committed([P0, P1], 1) == {P0: CommittedOffset(7, "note")}


async def test_a_member_that_leaves_hands_its_partitions_over(transport: MemoryTransport) -> None:
    await join(transport, one := Listener())
    second = await join(transport, two := Listener())
    await two.assigned.get()
    await second.stop(1)
    while await one.assigned.get() != {P0, P1}:
        pass
    with pytest.raises(TransportClosedError):
        second.poll([P0])
    with pytest.raises(TransportClosedError):
        second.take([P0], 1)
    assert list(second.ready()) == []


async def test_a_member_that_holds_up_a_rebalance_is_evicted_and_commits_nothing(
    transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_athomic.transports.memory.consumer.REBALANCE_RESERVE", 0.05)
    first = await join(transport, one := Listener(), drain_timeout=0.05)
    await one.assigned.get()
    one.may_give_up.clear()
    await join(transport, two := Listener(), drain_timeout=0.05)
    assert await two.assigned.get() == {P0, P1}
    with pytest.raises(CommitFailedError):
        await first.commit({P0: CommittedOffset(1)}, 1)
    one.may_give_up.set()  # it comes back, and is a member again
    assert len(await one.assigned.get()) == 1
    await first.commit({next(iter(first.assignment())): CommittedOffset(1)}, 1)


async def test_a_member_whose_event_loop_died_is_replaced() -> None:
    settings = AthomicSettings(broker_url="memory://dead-loop")
    transport = MemoryTransport(settings)
    await transport.create_topics({"t": 2}, 1)
    other = MemoryTransport(settings)

    async def join_and_die() -> None:
        listener = Listener()
        await join(other, listener)
        await listener.assigned.get()

    thread = threading.Thread(target=lambda: asyncio.run(join_and_die()))
    thread.start()
    await asyncio.to_thread(thread.join)
    await join(transport, listener := Listener())
    assert await listener.assigned.get() == {P0, P1}
    await transport.stop(1)


async def test_members_in_different_threads_share_and_are_woken(transport: MemoryTransport) -> None:
    settings = AthomicSettings(broker_url="memory://threads")
    here, there = MemoryTransport(settings), MemoryTransport(settings)
    await here.start(1)
    await here.create_topics({"t": 1}, 1)
    joined = threading.Event()
    fetched: list[bytes | None] = []

    async def consume() -> None:
        consumer = await join(there, listener := Listener())
        await listener.assigned.get()
        consumer.poll([P0])
        listener.told.clear()
        joined.set()
        async with asyncio.timeout(30):
            await listener.told.wait()
        found = consumer.take([P0], 10)
        fetched.extend(message.value for message in found[P0])
        await there.stop(1)

    thread = threading.Thread(target=lambda: asyncio.run(consume()))
    thread.start()
    await asyncio.to_thread(joined.wait, 30)
    await put(here, 1)
    await asyncio.to_thread(thread.join, 30)
    assert fetched == [b"0"]
    await here.stop(1)


async def test_new_topics_of_a_pattern_are_followed(transport: MemoryTransport) -> None:
    import re

    await join(transport, listener := Listener(), topics=(), pattern=re.compile("t|t-.*"))
    assert await listener.assigned.get() == {P0, P1}
    await transport.create_topics({"t-new": 1, "other": 1}, 1)
    assert await listener.assigned.get() == {P0, P1, TopicPartition("t-new", 0)}


async def test_retention_drops_the_oldest_and_the_consumer_says_where_it_goes_on() -> None:
    transport = MemoryTransport(AthomicSettings(memory=MemorySettings(retention_messages=100)))
    await transport.start(1)
    await transport.create_topics({"t": 1}, 1)
    consumer = await join(transport, listener := Listener())
    await listener.assigned.get()
    await put(transport, 250)
    assert consumer.take([P0], 1_000) == {}
    assert consumer.misplaced() == {P0}
    await consumer.seek(P0, -2)
    assert consumer.misplaced() == frozenset()
    found = consumer.take([P0], 1_000)[P0]
    assert 90 <= len(found) <= 100
    assert found[-1].offset == 249
    await transport.stop(1)


async def test_what_a_send_can_meet(transport: MemoryTransport) -> None:
    sent = await transport.producer.send(
        [
            OutgoingMessage("nowhere", None, b""),
            OutgoingMessage("t", None, b"x" * 200),
            OutgoingMessage("t", None, b"", partition=9),
            OutgoingMessage("t", None, b"fine", partition=0),
        ],
        1,
    )
    assert [type(result) for result in sent[:3]] == [TopicNotFoundError, MessageTooLargeError, TransportError]
    assert sent[3] == ("t", 0, 0)
    await transport.stop(1)
    (result,) = await transport.producer.send([OutgoingMessage("t", None, b"")], 1)
    assert isinstance(result, TransportClosedError)


async def test_faults_can_be_injected(transport: MemoryTransport) -> None:
    transport.broker.refuse("t")
    (refused,) = await transport.producer.send([OutgoingMessage("t", None, b"")], 1)
    assert isinstance(refused, TransportError)
    transport.broker.allow("t")

    transport.broker.disconnect()
    with pytest.raises(TransportError):
        await transport.partition_counts(["t"], 1)
    (lost,) = await transport.producer.send([OutgoingMessage("t", None, b"")], 0)
    assert isinstance(lost, TransportError)
    waiting = asyncio.create_task(transport.producer.send([OutgoingMessage("t", None, b"")], 30))
    await asyncio.sleep(0)
    transport.broker.reconnect()
    assert not isinstance((await waiting)[0], Exception)


async def test_seek_goes_to_an_offset_the_beginning_or_the_end(transport: MemoryTransport) -> None:
    await put(transport, 5)
    consumer = await join(transport, listener := Listener())
    await listener.assigned.get()
    for offset, expected in ((3, 3), (-1, 5), (-2, 0)):
        await consumer.seek(P0, offset)
        assert consumer.position(P0) == expected
    with pytest.raises(TransportError):
        await consumer.seek(TopicPartition("t", 9), 0)


def test_two_nameless_brokers_never_meet() -> None:
    one, other = MemoryTransport(AthomicSettings()), MemoryTransport(AthomicSettings())
    assert one.broker is not other.broker
    shared = AthomicSettings(broker_url="memory://shared")
    assert MemoryTransport(shared).broker is not MemoryTransport(AthomicSettings()).broker
    first = MemoryTransport(shared)
    assert first.broker is MemoryTransport(shared).broker


async def test_the_first_offset_of_a_time_is_found_in_each_partition(transport: MemoryTransport) -> None:
    await transport.create_topics({"t": 2}, 1)
    times = {0: [100, 300, 200, 300], 1: [100]}
    for partition, stamps in times.items():
        for stamp in stamps:
            await transport.producer.send([OutgoingMessage("t", None, b"x", (), partition, stamp)], 1)
    transport.broker.log(P0).drop_before(1)  # type: ignore[union-attr]
    assert await transport.offsets_at("t", 200, 1) == {0: 1}
    assert await transport.offsets_at("t", 0, 1) == {0: 1, 1: 0}
    assert await transport.offsets_at("t", 301, 1) == {}
    with pytest.raises(TopicNotFoundError):
        await transport.offsets_at("nowhere", 0, 1)

"""What Apache Kafka and aiokafka bring with them; what all transports share is in tests/delivery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from aiokafka.errors import KafkaError, KafkaStorageError, RequestTimedOutError, TopicAuthorizationFailedError
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fastapi_athomic import (
    AthomicSettings,
    CommitFailedError,
    KafkaSettings,
    MessageTooLargeError,
    RawMessage,
    RetryPolicy,
    TopicNotFoundError,
    subscribe_to,
)
from fastapi_athomic.messages import OutgoingMessage, PublishedMessage, TopicPartition
from fastapi_athomic.transports.base import CommittedOffset, ConsumerConfig
from fastapi_athomic.transports.kafka import fetch_schedule
from fastapi_athomic.transports.kafka.consumer import KafkaConsumer
from fastapi_athomic.transports.kafka.fetch_lane import Lane
from fastapi_athomic.transports.kafka.fetch_schedule import BrokerSchedule
from fastapi_athomic.transports.kafka.fetch_wire import Answer, Part
from fastapi_athomic.transports.kafka.transport import KafkaTransport
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.support.apps import Record, eventually, new_app, running, take
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka


@pytest.fixture
def topic() -> str:
    return f"t-{uuid4().hex[:12]}"


@pytest.fixture
async def transport(apache_kafka: Kafka) -> AsyncIterator[KafkaTransport]:
    transport = KafkaTransport(AthomicSettings(broker_url=f"kafka://{apache_kafka.bootstrap}"))
    await transport.start(10)
    yield transport
    await transport.stop(5)


class Listener:
    consumer: KafkaConsumer

    def __init__(self) -> None:
        self.assigned = asyncio.Event()

    def on_arrival(self) -> None: ...

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        for partition in partitions:
            await self.consumer.seek(partition, 0)
        self.assigned.set()

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None: ...


async def member(transport: KafkaTransport, topic: str, *more: str) -> KafkaConsumer:
    consumer = transport.consumer(
        ConsumerConfig(group_id=topic, client_id="c", topics=(topic, *more)), listener := Listener()
    )
    listener.consumer = consumer
    await consumer.start()
    async with asyncio.timeout(30):
        await listener.assigned.wait()
    return consumer


async def test_missing_topics_are_said_to_be_missing_and_can_be_created(transport: KafkaTransport, topic: str) -> None:
    (result,) = await transport.producer.send([OutgoingMessage(topic, b"k", b"v")], 5)
    assert isinstance(result, TopicNotFoundError)
    assert await transport.partition_counts([topic], 5) == {}
    await transport.create_topics({topic: -1, f"{topic}.5": 5}, 5)
    await transport.create_topics({topic: 7}, 5)  # stays as it is
    (result,) = await transport.producer.send([OutgoingMessage(topic, b"k", b"v")], 5)
    assert isinstance(result, PublishedMessage)
    assert await transport.partition_counts([topic, f"{topic}.5"], 5) == {topic: 3, f"{topic}.5": 5}


async def test_a_message_that_is_too_large_does_not_touch_its_neighbours(transport: KafkaTransport, topic: str) -> None:
    await transport.create_topics({topic: 1}, 5)
    messages = [OutgoingMessage(topic, b"k", value) for value in (b"first", b"x" * 2_000_000, b"last")]
    first, large, last = await transport.producer.send(messages, 10)
    assert isinstance(large, MessageTooLargeError)
    assert [first, last] == [(topic, 0, 0), (topic, 0, 1)]


async def test_a_batch_the_broker_refuses_does_not_poison_the_producer(
    apache_kafka: Kafka, transport: KafkaTransport, topic: str
) -> None:
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})
    small = NewTopic(topic, 1, 1, config={"max.message.bytes": "1000"})
    admin.create_topics([small])[topic].result(30)
    await transport.create_topics({f"{topic}.other": 1}, 5)
    sizes = (10, 900, 20, 5_000, 30, 700)
    results = await transport.producer.send([OutgoingMessage(topic, b"k", b"x" * size) for size in sizes], 20)
    assert [type(result) for result in results] == [
        MessageTooLargeError if size > 1000 else PublishedMessage for size in sizes
    ]
    assert [result.offset for result in results if isinstance(result, PublishedMessage)] == [0, 1, 2, 3, 4]
    (other,) = await transport.producer.send([OutgoingMessage(f"{topic}.other", b"k", b"v")], 5)
    (again,) = await transport.producer.send([OutgoingMessage(topic, b"k", b"v")], 5)
    assert (other, again) == ((f"{topic}.other", 0, 0), (topic, 0, 5))


async def test_commits_carry_their_note(transport: KafkaTransport, topic: str) -> None:
    await transport.create_topics({topic: 2}, 5)
    consumer = await member(transport, topic)
    place = TopicPartition(topic, 1)
    note = "a1:" + "x" * 4_000
    await consumer.commit({place: CommittedOffset(7, note)}, 5)
    places = [place, TopicPartition(topic, 0)]
    assert await consumer.committed(places, 5) == {place: CommittedOffset(7, note)}
    group = consumer._config.group_id
    assert await transport.committed(group, [*places, TopicPartition("nowhere", 0)], 5) == {
        place: CommittedOffset(7, note)
    }
    assert await transport.committed(f"{group}-unknown", places, 5) == {}
    await consumer.stop(5)
    assert await transport.committed(group, places, 5) == {place: CommittedOffset(7, note)}, "nobody is a member"


async def test_a_member_that_was_replaced_commits_nothing(transport: KafkaTransport, topic: str) -> None:
    await transport.create_topics({topic: 1}, 5)
    consumer = await member(transport, topic)
    client = consumer._member
    assert client is not None
    client._coordinator.generation -= 1  # as one that slept through a rebalance
    with pytest.raises(CommitFailedError):
        await consumer.commit({TopicPartition(topic, 0): CommittedOffset(1)}, 5)
    await consumer.stop(5)


@pytest.mark.parametrize("attempt", ["_ask_open", "_do_commit_offsets"])
async def test_p04_fault_03_a_commit_is_not_sent_again_as_a_member_of_the_next_generation(
    transport: KafkaTransport, topic: str, attempt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the partition may be another's, who has got further."""
    await transport.create_topics({topic: 1}, 5)
    consumer = await member(transport, topic)
    assert consumer._member is not None
    coordinator = consumer._member._coordinator
    generation, send = coordinator.generation, getattr(coordinator, attempt)

    async def unanswered(*arguments: object) -> None:
        monkeypatch.setattr(coordinator, attempt, send)
        coordinator.request_rejoin()
        await eventually(lambda: coordinator.generation > generation)
        raise RequestTimedOutError

    if attempt != "_ask_open":
        monkeypatch.setattr(coordinator, "commit_open", not_at_hand)
    monkeypatch.setattr(coordinator, attempt, unanswered)
    with pytest.raises(CommitFailedError):
        await consumer.commit({TopicPartition(topic, 0): CommittedOffset(1)}, 10)
    assert await consumer.committed([TopicPartition(topic, 0)], 5) == {}
    await consumer.stop(5)


async def not_at_hand(offsets: object) -> bool:
    """`GroupMembership.commit_open`, if no connection is open."""
    return False


async def test_p21_fault_15_a_deleted_topic_does_not_hold_up_the_commits_of_others(
    transport: KafkaTransport, topic: str
) -> None:
    await transport.create_topics({topic: 1}, 5)
    consumer = await member(transport, topic)
    place, gone = TopicPartition(topic, 0), TopicPartition(f"{topic}.gone", 0)
    with pytest.raises(TopicNotFoundError):
        await consumer.commit({place: CommittedOffset(1), gone: CommittedOffset(1)}, 30)
    assert await consumer.committed([place], 5) == {place: CommittedOffset(1)}
    await consumer.stop(5)


async def test_seek(transport: KafkaTransport, topic: str) -> None:
    await transport.create_topics({topic: 1}, 5)
    await transport.producer.send([OutgoingMessage(topic, b"k", b"%d" % n) for n in range(10)], 5)
    consumer = await member(transport, topic)
    place = TopicPartition(topic, 0)
    for offset, expected in ((7, b"7"), (-2, b"0")):
        await consumer.seek(place, offset)
        found = await take(consumer, [place], 1)
        assert found[place][0].value == expected
    await consumer.stop(5)


async def test_a_backlog_does_not_wait_for_empty_partitions(
    apache_kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request that waits at the broker for messages of the empty partition is not answered before the test ends."""
    forever = 60.0
    monkeypatch.setattr(fetch_schedule, "SHORT_WAIT", forever)
    monkeypatch.setattr(fetch_schedule, "TRICKLE_BYTES", 0)
    settings = AthomicSettings(
        broker_url=f"kafka://{apache_kafka.bootstrap}",
        kafka=KafkaSettings(fetch_max_wait=forever, max_partition_fetch_bytes=1000),
    )
    transport = KafkaTransport(settings)
    await transport.start(10)
    empty = f"{topic}-retry"
    await transport.create_topics({topic: 1, empty: 1}, 5)
    for _ in range(10):
        await transport.producer.send([OutgoingMessage(topic, None, b"m" * 100) for _ in range(20)], 30)
    asked: list[tuple[int, float]] = []
    ask = Lane.ask

    def noted(self: Lane, wait: float) -> None:
        asked.append((len(self.carried), wait))
        ask(self, wait)

    monkeypatch.setattr(Lane, "ask", noted)
    consumer = await member(transport, topic, empty)
    taken = 0
    async with asyncio.timeout(forever / 2):
        while taken < 200:
            found = await take(consumer, [TopicPartition(topic, 0)])
            taken += sum(map(len, found.values()))
    assert asked[0] == (2, forever), "answered at once: there is a backlog"
    assert asked[1] == (1, forever), "the empty one, which waits"
    assert len(asked) >= 11, "each batch was asked for beside it"
    assert all(wait < 1 for _, wait in asked[2:]), "so that what comes next need not wait either"
    await consumer.stop(5)
    await transport.stop(5)


async def test_header_names_that_are_not_utf8_pass_through_unharmed(apache_kafka: Kafka, topic: str) -> None:
    """Written by us with bytes that no Python client lets through, read and dead-lettered again."""
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    foreign, record = Foreign(apache_kafka.bootstrap), Record()
    await foreign.create_topic(topic, 1)

    @subscribe_to(topic, group_id=topic, retry=RetryPolicy(max_attempts=1))
    async def handle(message: str, raw: RawMessage) -> None:
        record.note((message, raw.headers))
        if message == "odd":
            raise RuntimeError("never")

    athomic = new_app(AthomicSettings(broker_url=f"kafka://{apache_kafka.bootstrap}"), handle)
    async with running(athomic):
        await athomic.publish(topic, "before")
        await athomic.publish(topic, "odd", headers={name: b"1"})
        await athomic.publish(topic, "after")
        await record.count(3)
        transport = athomic._transport
        assert isinstance(transport, KafkaTransport)
        letters = await member(transport, f"{topic}.{topic}.dlq")
        place = TopicPartition(f"{topic}.{topic}.dlq", 0)
        found = await take(letters, [place])
        await letters.stop(5)
    assert [message for message, _ in record.seen] == ["before", "odd", "after"]
    assert record.seen[1][1][0] == (name, b"1")
    assert found[place][0].headers[0] == (name, b"1")


async def test_p21_fault_06_what_was_taken_beside_an_odd_record_is_not_lost(
    transport: KafkaTransport, topic: str
) -> None:
    """aiokafka's parser fails on the odd one, in the middle of a `take` that has taken others already."""
    await transport.create_topics({topic: 2}, 5)
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    odd = OutgoingMessage(topic, None, b"odd", ((name, b"1"),), partition=1)
    sound = [OutgoingMessage(topic, None, b"%d" % number, partition=0) for number in range(5)]
    assert all(isinstance(result, PublishedMessage) for result in await transport.producer.send([*sound, odd], 10))
    consumer, places = await member(transport, topic), [TopicPartition(topic, number) for number in range(2)]
    buffer = consumer._running().ready
    await eventually(lambda: len(buffer) == 2)
    buffer.move_to_end(places[1])
    values = list[bytes | None]()
    async with asyncio.timeout(20):
        while len(values) < 6:
            for messages in (await take(consumer, places)).values():
                values += [message.value for message in messages]
    assert sorted(filter(None, values)) == [b"0", b"1", b"2", b"3", b"4", b"odd"]
    await consumer.stop(5)


@pytest.mark.parametrize(
    ("error", "cause"),
    [(TopicAuthorizationFailedError, "the right Read on topic"), (KafkaStorageError, "KafkaStorageError")],
)
async def test_p21_fault_06_an_error_of_one_partition_holds_it_alone_for_a_while(
    transport: KafkaTransport, topic: str, error: type[KafkaError], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await transport.create_topics({topic: 2}, 5)
    places = [TopicPartition(topic, number) for number in range(2)]
    hear, failures = BrokerSchedule._hear, [error.errno] * 2

    def failing(self: BrokerSchedule, lane: Lane, heard: Answer | BaseException) -> None:
        if failures and places[0] in lane.carried and isinstance(heard, Answer):
            others = [part for part in heard.parts if part.place != places[0]]
            heard = heard._replace(parts=[*others, Part(places[0], failures.pop(), -1, -1, [], b"")])
        hear(self, lane, heard)

    monkeypatch.setattr(BrokerSchedule, "_hear", failing)
    consumer = await member(transport, topic)
    await eventually(lambda: cause in consumer.held().get(places[0], ""))
    await transport.producer.send([OutgoingMessage(topic, None, b"m", partition=number) for number in range(2)], 10)
    found = dict[TopicPartition, int]()
    async with asyncio.timeout(20):
        while len(found) < 2:
            found |= {place: messages[0].offset for place, messages in (await take(consumer, places)).items()}
    assert found == dict.fromkeys(places, 0)
    consumer.poll(())
    assert consumer.held() == {}
    await consumer.stop(5)


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_p19_fault_06_compressed_batches(apache_kafka: Kafka, topic: str, compression: str) -> None:
    kafka = KafkaSettings(compression_type=compression)  # type: ignore[arg-type]
    record = Record()

    @subscribe_to(topic, group_id=topic)
    async def handle(message: bytes) -> None:
        record.note(message)

    settings = AthomicSettings(broker_url=f"kafka://{apache_kafka.bootstrap}", kafka=kafka)
    async with running(new_app(settings, handle)) as athomic:
        values = [b"%d" % number * 100 for number in range(50)]
        await athomic.publish_many(topic, values, key=lambda _: "k")
        assert await record.count(50) == values


async def test_a_missing_topic_is_asked_for_once_however_many_messages_go_there(
    transport: KafkaTransport, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    messages = [OutgoingMessage(topic, None, b"%d" % number) for number in range(50)]
    results = await transport.producer.send(messages, 10)
    assert {type(result) for result in results} == {TopicNotFoundError}
    assert sum(topic in record.getMessage() for record in caplog.records) < 5

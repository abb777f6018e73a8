"""What operators and large messages do to dead letters on Apache Kafka."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.produce import ProduceRequest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as ForeignPlace
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    KafkaSettings,
    MessageRefusedError,
    MessageTooLargeError,
    NotAcknowledgedError,
    PublishedMessage,
    RawMessage,
    RetryPolicy,
    TransportError,
    subscribe_to,
)
from fastapi_athomic.messages import OutgoingMessage, TopicPartition
from fastapi_athomic.transports.kafka.transport import KafkaTransport
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.delivery.brokers import Record as Written
from tests.support.apps import Record, eventually, new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka


@pytest.fixture
def topic() -> str:
    return f"letters-{uuid4().hex[:12]}"


@pytest.fixture
async def transport(apache_kafka: Kafka) -> AsyncIterator[KafkaTransport]:
    one_batch_an_answer = KafkaSettings(max_partition_fetch_bytes=1)
    settings = AthomicSettings(broker_url=f"kafka://{apache_kafka.bootstrap}", kafka=one_batch_an_answer)
    transport = KafkaTransport(settings)
    await transport.start(10)
    yield transport
    await transport.stop(5)


async def create(kafka: Kafka, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    spelled = {name.replace("_", "."): value for name, value in config.items()}
    await asyncio.to_thread(admin.create_topics([NewTopic(topic, 1, 1, config=spelled)])[topic].result, 30)


async def delete(kafka: Kafka, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    await asyncio.to_thread(admin.delete_topics([topic], operation_timeout=30)[topic].result, 30)


class Shop:
    """An app with a handler that fails while `broken`."""

    def __init__(self, kafka: Kafka, topic: str, **settings: Any) -> None:
        self.record, self.broken = Record(), True

        @subscribe_to(topic, group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=1))
        async def handle(message: RawMessage) -> None:
            self.record.note(message)
            if self.broken:
                raise RuntimeError("broken")

        self.athomic: Athomic = new_app(Foreign(kafka.bootstrap).settings(**settings), handle)

    @property
    def letters(self) -> Any:
        return self.athomic.dead_letters("h")


async def test_p18_fault_11_who_writes_to_a_topic_that_was_just_deleted_does_not_ask_for_it_without_end(
    apache_kafka: Kafka, transport: KafkaTransport, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """aiokafka asks again as soon as it is answered: more than a thousand times a second."""
    await create(apache_kafka, topic)
    await transport.producer.send([OutgoingMessage(topic, None, b"1")], 10)
    await delete(apache_kafka, topic)
    caplog.clear()
    caplog.set_level("INFO", "aiokafka")
    (result,) = await transport.producer.send([OutgoingMessage(topic, None, b"2")], 1)
    assert isinstance(result, NotAcknowledgedError)
    assert 0 < caplog.text.count("not found in cluster metadata") < 20
    await create(apache_kafka, topic)
    assert isinstance(await result.wait(10), PublishedMessage)


async def test_p07_fault_05_a_compacted_dlq_takes_letters_without_a_key(apache_kafka: Kafka, topic: str) -> None:
    foreign, shop, dlq = Foreign(apache_kafka.bootstrap), Shop(apache_kafka, topic), f"{topic}.g.dlq"
    await create(apache_kafka, topic)
    await create(apache_kafka, dlq, cleanup_policy="compact")
    await foreign.produce(topic, [Written(b"1"), Written(b"2", b"key"), Written(None, b"key"), Written(b"3")])
    async with running(shop.athomic):
        await shop.record.count(4)
        await shop.athomic.drain()
        found = await shop.letters.browse()
        assert [(letter.value, letter.key) for letter in found] == [
            (b"1", None),
            (b"2", b"key"),
            (None, b"key"),
            (b"3", None),
        ]
        shop.broken = False
        assert (await shop.letters.discard(reason="r", offset=0)).settled == 1, "markers have a key, too"
        assert (await shop.letters.redrive()).settled == 3
        await shop.record.count(7)
        assert await shop.letters.count() == 0
    assert [(message.value, message.key) for message in shop.record.seen[4:]] == [
        (b"2", b"key"),
        (None, b"key"),
        (b"3", None),
    ]
    keys = [message.key for message in await foreign.read(dlq)]
    assert None not in keys
    assert len(set(keys)) == len(keys) - 1, "of all that had none, each has one of its own"


async def test_p07_fault_05_five_megabytes_of_padding_in_a_packed_batch(apache_kafka: Kafka, topic: str) -> None:
    foreign, shop = Foreign(apache_kafka.bootstrap), Shop(apache_kafka, topic)
    await create(apache_kafka, topic)
    large = b" " * 5_000_000
    config = {"compression.type": "gzip", "message.max.bytes": 10_000_000, "log_level": 0}
    producer = Producer({"bootstrap.servers": apache_kafka.bootstrap, **config})
    for value in (large, b"next"):
        producer.produce(topic, value)
    assert producer.flush(30) == 0
    async with running(shop.athomic):
        await shop.record.count(2)
        await shop.athomic.drain()
        assert await shop.letters.count() == 2
        shop.broken = False
        assert (await shop.letters.redrive()).settled == 2
        await shop.record.count(4)
    assert [letter.value for letter in await foreign.read(f"{topic}.g.dlq")][:2] == [large, b"next"]
    assert {message.value for message in shop.record.seen[2:]} == {large, b"next"}


async def test_p20_fault_05_what_a_small_dlq_does_not_take_comes_from_the_source(
    apache_kafka: Kafka, topic: str
) -> None:
    shop, large = Shop(apache_kafka, topic), os.urandom(5_000)
    await create(apache_kafka, topic)
    await create(apache_kafka, f"{topic}.g.dlq", max_message_bytes="1500")
    await Foreign(apache_kafka.bootstrap).produce(topic, [Written(b"1"), Written(large, b"k"), Written(b"3")])
    async with running(shop.athomic):
        await shop.record.count(3)
        await shop.athomic.drain()
        found = await shop.letters.browse()
        assert [(letter.value, letter.omitted) for letter in found] == [(b"1", ()), (b"", ("value",)), (b"3", ())]
        shop.broken = False
        assert (await shop.letters.redrive()).settled == 3
        await shop.record.count(6)
    assert [(message.value, message.key) for message in shop.record.seen[3:]] == [
        (b"1", None),
        (large, b"k"),
        (b"3", None),
    ]


async def test_p20_fault_11_a_dlq_that_was_made_anew_has_other_letters_at_its_places(
    apache_kafka: Kafka, topic: str
) -> None:
    foreign, shop, dlq = Foreign(apache_kafka.bootstrap), Shop(apache_kafka, topic), f"{topic}.g.dlq"
    await create(apache_kafka, topic)
    async with running(shop.athomic):
        await foreign.produce(topic, [Written(b"1")])
        await shop.record.count(1)
        await shop.athomic.drain()
        shop.broken = False
        assert (await shop.letters.redrive()).settled == 1
        await shop.record.count(2)
        shop.broken = True
        await delete(apache_kafka, dlq)
        await create(apache_kafka, dlq)
        await foreign.produce(topic, [Written(b"2")])
        await shop.record.count(3)
        await shop.athomic.drain()
        shop.broken = False
        report = await shop.letters.redrive()
        assert (report.settled, report.resumed) == (1, 0)
        await shop.record.count(4)
    assert shop.record.seen[-1].value == b"2"


async def test_p20_fault_12_a_letter_whose_acknowledgement_is_late_is_written_once(
    mortal_kafka: KafkaBroker, topic: str
) -> None:
    shop = Shop(mortal_kafka, topic, publish_timeout=0.2)
    await create(mortal_kafka, topic)
    foreign = Foreign(mortal_kafka.bootstrap)
    async with running(shop.athomic):
        await foreign.produce(topic, [Written(b"0")])
        await eventually(lambda: shop.athomic.consumers()[0].counters.dead_lettered == 1)
        producer = shop.athomic._transport.producer
        tries = 0

        async def frozen(messages: Any, timeout: float) -> Any:
            nonlocal tries
            tries += 1
            if tries == 1:
                mortal_kafka.process.freeze()
            return await send(messages, timeout)

        send, producer.send = producer.send, frozen  # type: ignore[method-assign]
        await foreign.produce(topic, [Written(b"1")])
        blocked = shop.athomic._run.manager.consumers["h"].dlq_handler._write_delays  # type: ignore[union-attr]
        try:
            await eventually(lambda: "not acknowledged in time" in str(shop.athomic.health()))
            await eventually(lambda: max(blocked.values(), default=0) >= 0.8)  # it was waited for twice more
        finally:
            mortal_kafka.process.thaw()
        await eventually(lambda: shop.athomic.consumers()[0].counters.dead_lettered == 2)
        assert tries == 1, "it was sent once, and waited for"
        assert await shop.letters.count() == 2
    assert [letter.value for letter in await foreign.read(f"{topic}.g.dlq")] == [b"0", b"1"]


# --- what the transport brings for it


async def test_a_message_is_refused_alone_and_each_refusal_is_told_apart(
    apache_kafka: Kafka, transport: KafkaTransport, topic: str
) -> None:
    await create(apache_kafka, topic, cleanup_policy="compact", max_message_bytes="5000")
    messages = [OutgoingMessage(topic, key, value) for key, value in ((b"a", b"1"), (None, b"2"), (b"c", b"3"))]
    first, refused, last = await transport.producer.send([*messages], 20)
    assert isinstance(refused, MessageRefusedError)
    assert [first, last] == [(topic, 0, 0), (topic, 0, 1)]
    large = OutgoingMessage(topic, b"d", b"0" * 3_000_000)
    (result,) = await transport.producer.send([large], 20)
    assert isinstance(result, MessageTooLargeError)
    assert await transport.producer.send_alone(large, 20) == (topic, 0, 2)
    result = await transport.producer.send_alone(large._replace(value=os.urandom(8_000)), 20)
    assert isinstance(result, MessageTooLargeError)
    assert await transport.producer.send_alone(large._replace(value=None), 20) == (topic, 0, 3)
    (result,) = await transport.producer.send([OutgoingMessage(topic, b"e", b"x")], 20)
    assert result == (topic, 0, 4), "the producer is as good as before"


async def test_a_time_the_topic_does_not_take_is_said_to_be_wrong(
    apache_kafka: Kafka, transport: KafkaTransport, topic: str
) -> None:
    await create(apache_kafka, topic, message_timestamp_before_max_ms="60000")
    (result,) = await transport.producer.send([OutgoingMessage(topic, b"k", b"v", timestamp=1_000)], 20)
    assert isinstance(result, TransportError)
    assert "compare this machine's clock" in str(result)
    assert not isinstance(result, MessageRefusedError)


async def test_p20_fault_11_reading_does_not_end_at_control_records_or_at_what_was_deleted(
    apache_kafka: Kafka, transport: KafkaTransport, topic: str
) -> None:
    await create(apache_kafka, topic)
    config = {"bootstrap.servers": apache_kafka.bootstrap, "transactional.id": topic, "log_level": 0}
    producer = Producer(config)
    await asyncio.to_thread(producer.init_transactions, 30)
    for finish in (producer.commit_transaction, producer.abort_transaction, producer.commit_transaction):
        producer.begin_transaction()
        producer.produce(topic, b"x")
        producer.flush(30)
        await asyncio.to_thread(finish, 30)
    found, offset = [], 0
    while messages := await transport.read(TopicPartition(topic, 0), offset, 10):
        found += [message.offset for message in messages]
        offset = messages[-1].offset + 1
    assert found == [0, 2, 4], "a marker stands behind each"
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap, "log_level": 0})
    place = ForeignPlace(topic, 0, 3)
    await asyncio.to_thread(admin.delete_records([place])[place].result, 30)
    assert [message.offset for message in await transport.read(TopicPartition(topic, 0), 0, 10)] == [4]
    assert await transport.bounds(topic, 10) == {0: (3, 6)}
    assert await transport.read(TopicPartition(topic, 0), 6, 10) == []
    assert await transport.read(TopicPartition(topic, 0), 99, 10) == [], "of a topic that was longer once"


async def test_what_is_sent_alone_is_written_once_where_the_answer_is_lost(
    apache_kafka: Kafka, transport: KafkaTransport, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(apache_kafka, topic)
    send, lost = AIOKafkaClient.send, 0

    async def losing(self: AIOKafkaClient, node: int, request: object, **options: object) -> object:
        nonlocal lost
        answer = await send(self, node, request, **options)
        if isinstance(request, ProduceRequest) and lost < 2:
            lost += 1
            raise KafkaConnectionError("the answer is lost")
        return answer

    monkeypatch.setattr(AIOKafkaClient, "send", losing)
    neither_key_nor_value = OutgoingMessage(topic, None, None)
    assert await transport.producer.send([neither_key_nor_value], 20) == [(topic, 0, 0)]
    assert lost == 2
    assert await transport.producer.send_alone(OutgoingMessage(topic, None, b"x"), 20) == (topic, 0, 1)
    identity = transport.producer._single._identity
    assert identity is not None
    identity.note_written(TopicPartition(topic, 0))  # now the broker misses one, and knows us no more
    assert await transport.producer.send_alone(OutgoingMessage(topic, None, b"y"), 20) == (topic, 0, 2)
    assert [message.value for message in await transport.read(TopicPartition(topic, 0), 2, 10)] == [b"y"]


async def test_a_producer_whose_client_has_died_gets_another(
    apache_kafka: Kafka, transport: KafkaTransport, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(apache_kafka, topic)
    message = OutgoingMessage(topic, b"k", b"v")
    (client,) = transport.producer._clients._open.values()

    async def bug(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(client._sender, "_send_produce_req", bug)
    assert not isinstance((await transport.producer.send([message], 20))[0], PublishedMessage)
    assert not isinstance((await transport.producer.send([message], 20))[0], PublishedMessage)
    assert await transport.producer.send([message], 20) == [(topic, 0, 0)]

"""What operators do to the product's own topics on Apache Kafka, between a failure and its return."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic, TopicPartition

from fastapi_athomic import Athomic, AthomicSettings, RawMessage, RetryPolicy
from fastapi_athomic.failures import topic_watch
from fastapi_athomic.messages import TopicPartition as Place
from fastapi_athomic.transports.base import ConsumerConfig, TopicCounts
from fastapi_athomic.transports.kafka.consumer import KafkaConsumer
from fastapi_athomic.transports.kafka.transport import KafkaTransport
from tests.support.apps import Record, eventually, new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.mock_cluster import MockCluster

SECONDS = 30


class Shop:
    """An app whose handler notes the topic of what it gets and fails until `sound`, and its operators."""

    def __init__(self, bootstrap: str) -> None:
        self.group = self.topic = f"t-{uuid4().hex[:12]}"
        self.settings = AthomicSettings(broker_url=f"kafka://{bootstrap}", publish_timeout=3, restart_backoff=0.05)
        self.record, self.sound = Record(), False
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def app(self, topics: Any, group_id: str, **options: Any) -> Athomic:
        athomic = new_app(self.settings)
        self.add(athomic, topics, group_id, **options)
        return athomic

    def add(self, athomic: Athomic, topics: Any, group_id: str, **options: Any) -> None:
        async def handle(message: bytes, raw: RawMessage) -> None:
            self.record.note((group_id, raw.topic, raw.value))
            if not self.sound:
                raise RuntimeError("broken")

        defaults: Any = {"handler_id": "h", "retry": RetryPolicy(max_attempts=1)}
        athomic.subscribe_to(topics, group_id=group_id, **(defaults | options))(handle)

    async def create(self, topic: str, partitions: int) -> None:
        futures = self._admin.create_topics([NewTopic(topic, partitions, 1)], operation_timeout=SECONDS)
        await asyncio.to_thread(futures[topic].result, SECONDS)

    async def delete(self, topic: str) -> None:
        futures = self._admin.delete_topics([topic], operation_timeout=SECONDS)
        await asyncio.to_thread(futures[topic].result, SECONDS)
        while topic in await self.topics():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)

    async def purge(self, topic: str) -> None:
        places = [TopicPartition(topic, number, -1) for number in range((await self.topics())[topic])]
        await asyncio.gather(
            *(asyncio.to_thread(f.result, SECONDS) for f in self._admin.delete_records(places).values())
        )

    async def topics(self) -> dict[str, int]:
        """Those of this test, and how many partitions they have."""
        found = await asyncio.to_thread(self._admin.list_topics, timeout=SECONDS)
        return {name: len(topic.partitions) for name, topic in found.topics.items() if name.startswith(self.topic)}

    async def seen(self, *wanted: tuple[str, str, bytes]) -> None:
        await self.record.until(lambda seen: set(wanted) <= set(seen))

    async def letters(self, athomic: Athomic, *values: bytes) -> None:
        """Returns when the DLQ holds these."""
        async with asyncio.timeout(SECONDS):
            while [  # noqa: ASYNC110 - nobody tells
                letter.value for letter in await athomic.dead_letters("h").browse()
            ] != list(values):
                await asyncio.sleep(0.02)


@pytest.fixture
def shop(apache_kafka: KafkaBroker | ExternalKafka, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(topic_watch, "FOLLOW_SECONDS", 0.1)
    # what is sent to a topic that was just deleted stays with aiokafka, and is written when the topic is made anew
    monkeypatch.setattr(topic_watch, "COUNT_SECONDS", 0.0)
    return Shop(apache_kafka.bootstrap)


async def test_p20_fault_02_two_patterns_that_match_each_others_dead_letters_end(shop: Shop) -> None:
    topic, everything = shop.topic, re.compile(re.escape(shop.topic) + ".*")
    await shop.create(topic, 1)
    retry = RetryPolicy(max_attempts=1, retry_topics=(0.1,), allow_reordering=True)
    athomic = shop.app(everything, shop.group)
    shop.add(athomic, everything, "other", handler_id="other", retry=retry)
    async with running(athomic):
        await athomic.publish(topic, b"1")
        await shop.seen(("other", f"{topic}.other.retry.0.1s", b"1"))
        await athomic.drain()
    assert sorted(where for _, where, _ in shop.record.seen) == [topic, topic, f"{topic}.other.retry.0.1s"]
    made = {f"{topic}.{shop.group}.dlq", f"{topic}.other.dlq", f"{topic}.other.retry.0.1s"}
    assert set(await shop.topics()) == {topic, *made}


async def test_p20_fault_11_a_dlq_may_be_purged_deleted_and_shrunk(shop: Shop) -> None:
    topic, dlq = shop.topic, f"{shop.topic}.{shop.group}.dlq"
    await shop.create(topic, 3)
    async with running(shop.app(topic, shop.group)) as athomic:
        assert set(await shop.topics()) == {topic}, "none is made before it is needed"
        await athomic.publish(topic, b"1", partition=2)
        await shop.letters(athomic, b"1")
        assert await shop.topics() == {topic: 3, dlq: 3}
        await shop.purge(dlq)
        await athomic.publish(topic, b"2", partition=2)
        await shop.letters(athomic, b"2")
        await shop.delete(dlq)
        await athomic.publish(topic, b"3", partition=2)
        await shop.letters(athomic, b"3")
        await shop.delete(dlq)
        await shop.create(dlq, 1)
        await athomic.publish(topic, b"4", partition=2)
        await shop.letters(athomic, b"4")
        assert await shop.topics() == {topic: 3, dlq: 1}
        shop.sound = True
        assert (await athomic.dead_letters("h").redrive()).settled == 1
        await shop.seen((shop.group, f"{topic}.{shop.group}.redrive", b"4"))


async def test_p20_fault_11_retry_and_redrive_topics_come_and_go(shop: Shop) -> None:
    topic, redrive, again = shop.topic, f"{shop.topic}.{shop.group}.redrive", f"{shop.topic}.{shop.group}.retry.0.1s"
    await shop.create(topic, 1)
    retry = RetryPolicy(max_attempts=1, retry_topics=(0.1,), allow_reordering=True)
    async with running(shop.app(topic, shop.group, retry=retry)) as athomic:
        await athomic.publish(topic, b"1")
        await shop.seen((shop.group, topic, b"1"), (shop.group, again, b"1"))
        await shop.create(redrive, 2)
        await athomic.publish(redrive, b"2")
        await shop.seen((shop.group, redrive, b"2"), (shop.group, again, b"2"))
        await athomic.drain()
        await shop.delete(redrive)
        await shop.delete(again)
        await eventually(lambda: {place.topic for place in athomic.consumers()[0].assignment} == {topic})
        await athomic.publish(topic, b"3")
        await shop.seen((shop.group, again, b"3"))
        await shop.create(redrive, 1)
        await athomic.publish(redrive, b"4", partition=0)  # else the partitioner may choose one of before
        await shop.seen((shop.group, again, b"4"))
        await athomic.drain()
        health = athomic.health()
    assert health is not None
    assert health.status == "healthy"


async def test_p20_the_first_redrive_is_followed_by_all_who_run_already(shop: Shop) -> None:
    """The redrive is made by a process that consumes nothing; none of the others has seen the topic before."""
    topic, redrive = shop.topic, f"{shop.topic}.{shop.group}.redrive"
    await shop.create(topic, 4)
    values = [b"%d" % number for number in range(8)]
    latest: Any = {"auto_offset_reset": "latest"}  # says nothing of a redrive topic: that is read from its beginning
    workers = [shop.app(topic, shop.group, **latest) for _ in range(2)]
    shop.settings = shop.settings.model_copy(update={"role": "web"})
    web = shop.app(topic, shop.group, **latest)
    async with running(workers[0]), running(workers[1]), running(web):
        await eventually(lambda: [len(worker.consumers()[0].assignment) for worker in workers] == [2, 2])
        for number, value in enumerate(values):
            await web.publish(topic, value, partition=number % 4)
        await eventually(lambda: sum(worker.consumers()[0].counters.dead_lettered for worker in workers) == 8)
        assert set(await shop.topics()) == {topic, f"{topic}.{shop.group}.dlq"}
        shop.sound = True
        assert (await web.dead_letters("h").redrive()).settled == 8
        await shop.seen(*((shop.group, redrive, value) for value in values))
        assert (await shop.topics())[redrive] == 4
        for worker in workers:
            await eventually(partial(follows, worker, {topic, redrive}))
    seen = [value for _, where, value in shop.record.seen if where == redrive]
    assert sorted(seen) == values, "each once"


def follows(athomic: Athomic, topics: set[str]) -> bool:
    return {place.topic for place in athomic.consumers()[0].assignment} == topics


async def test_who_is_idle_asks_once_for_all_handlers(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, looks = list[Any](), list[Any]()
    count, look = KafkaTransport.partition_counts, KafkaConsumer.topics

    async def partition_counts(transport: KafkaTransport, topics: Any, timeout: float) -> TopicCounts:
        asked.append(topics)
        return await count(transport, topics, timeout)

    async def topics(consumer: KafkaConsumer, timeout: float) -> Any:
        looks.append(consumer)
        return await look(consumer, timeout)

    names = [f"{shop.topic}-{number}" for number in range(4)]
    for name in (*names, f"{names[0]}.{shop.group}-0.redrive"):
        await shop.create(name, 2)
    athomic = new_app(shop.settings)
    for number, name in enumerate(names):
        shop.add(athomic, name, f"{shop.group}-{number}", handler_id=f"h{number}")
    async with running(athomic):
        monkeypatch.setattr(KafkaTransport, "partition_counts", partition_counts)
        monkeypatch.setattr(KafkaConsumer, "topics", topics)
        await eventually(lambda: len(asked) >= 5)
        looks.clear()
        begun = len(asked)
        await eventually(lambda: len(asked) >= begun + 10)
        assert not looks, "nothing has changed for anybody"
        await shop.delete(names[2])
        await eventually(lambda: "topic_missing" in str(athomic.health()))
        await shop.create(names[2], 3)
        await eventually(lambda: len(athomic.consumers()[2].assignment) == 3)
        assert {consumer._config.handler_id for consumer in looks} == {"h2"}


async def test_p20_fault_11_a_topic_that_was_deleted_does_not_come_back_as_a_consumer_asks_for_it(
    mock_cluster: MockCluster,
) -> None:
    """Brokers make the topics that a client asks for, unless it says that they must not (`auto.create.topics.enable`,
    which is on by default; the mock cluster does so, too).
    """
    topic = f"t-{uuid4().hex[:12]}"
    transport = KafkaTransport(AthomicSettings(broker_url=f"kafka://{mock_cluster.bootstrap}"))
    await transport.start(SECONDS)
    client: Any = transport.consumer(ConsumerConfig(group_id=topic, client_id="c", topics=(topic,)), Bystander())
    await client.start()
    await client._member._client.force_metadata_update()
    assert await transport.partition_counts([topic], SECONDS) == {}
    await client.stop(SECONDS)
    await transport.stop(SECONDS)


class Bystander:
    """A `RebalanceListener`."""

    def on_arrival(self) -> None: ...

    async def on_assigned(self, partitions: frozenset[Place]) -> None: ...

    async def on_revoked(self, partitions: frozenset[Place]) -> None: ...


async def test_p20_fault_11_what_waits_under_delays_of_before_comes_back(shop: Shop) -> None:
    topic, before = shop.topic, f"{shop.topic}.{shop.group}.retry.0.5s"
    await shop.create(topic, 1)
    retry = RetryPolicy(max_attempts=1, retry_topics=(0.5,), allow_reordering=True)
    async with running(shop.app(topic, shop.group, retry=retry)) as athomic:
        await athomic.publish(topic, b"1")
        await eventually(lambda: athomic.consumers()[0].counters.deferred == 1)
    shop.sound = True
    async with running(shop.app(topic, shop.group)):
        await shop.seen((shop.group, before, b"1"))
    assert set(await shop.topics()) == {topic, before}

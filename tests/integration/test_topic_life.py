"""The life of topics, done to running consumers on Apache Kafka: what it means to them is in docs/topics.md."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewPartitions

from fastapi_athomic import Athomic, AthomicSettings, RawMessage, subscribe_to
from fastapi_athomic.consumption.notes import Stamp, encode_note
from fastapi_athomic.observation.status import HealthReport
from fastapi_athomic.transports.kafka.shared_client import SharedClient
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.delivery.brokers import Record as Written
from tests.support.apps import Gate, Record, eventually, new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

Kafka = KafkaBroker | ExternalKafka
SECONDS = 30.0


@pytest.fixture
def topic() -> str:
    return f"t-{uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics are looked at more often than every few seconds."""
    monkeypatch.setattr("fastapi_athomic.consumption.placement.TOPICS_SECONDS", 0.2)
    monkeypatch.setattr("fastapi_athomic.failures.topic_watch.FOLLOW_SECONDS", 0.2)


class Operator:
    """Somebody else who works on the cluster."""

    def __init__(self, bootstrap: str) -> None:
        self._config: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._admin = AdminClient(self._config)
        self.foreign = Foreign(bootstrap)

    async def _done(self, futures: dict[Any, Future[Any]]) -> list[Any]:
        return [await asyncio.to_thread(future.result, SECONDS) for future in futures.values()]

    async def delete(self, topic: str) -> None:
        await self._done(self._admin.delete_topics([topic], operation_timeout=SECONDS))

    async def create(self, topic: str, partitions: int = 1) -> None:
        """Also right after it was deleted: then the cluster may still have to forget the old one."""
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    return await self.foreign.create_topic(topic, partitions)
                except Exception as error:
                    if "TOPIC_ALREADY_EXISTS" not in str(error):
                        raise

    async def grow(self, topic: str, partitions: int) -> None:
        await self._done(self._admin.create_partitions([NewPartitions(topic, partitions)]))

    async def drop_before(self, topic: str, offset: int) -> None:
        await self._done(self._admin.delete_records([TopicPartition(topic, 0, offset)]))

    async def commit(self, group_id: str, topic: str, offset: int, metadata: str) -> None:
        """For a group that has no members."""
        place = TopicPartition(topic, 0, offset, metadata)
        wanted = ConsumerGroupTopicPartitions(group_id, [place])
        await self._done(self._admin.alter_consumer_group_offsets([wanted]))

    async def end(self, topic: str) -> int:
        """The high watermark, with which outside tools compare what a group has committed."""
        asked = {TopicPartition(topic, 0): OffsetSpec.latest()}  # type: ignore[no-untyped-call]
        answer = self._admin.list_offsets(asked, isolation_level=IsolationLevel.READ_UNCOMMITTED)
        (found,) = await self._done(answer)
        return int(found.offset)

    async def write(self, topic: str, *values: str, partition: int = 0) -> None:
        await self.foreign.produce(topic, [Written(value.encode(), partition=partition) for value in values])

    def transactional(self, name: str) -> Producer:
        producer = Producer({**self._config, "transactional.id": name, "transaction.timeout.ms": 60_000})
        producer.init_transactions(SECONDS)
        return producer


@pytest.fixture
def operator(apache_kafka: Kafka) -> Operator:
    return Operator(apache_kafka.bootstrap)


def settings(operator: Operator) -> AthomicSettings:
    return operator.foreign.settings(create_topics=False)


def reader(topic: str, record: Record, **options: Any) -> Callable[..., Any]:
    @subscribe_to(topic, group_id=topic, dlq=False, **options)
    async def handle(message: str) -> None:
        record.note(message)

    return handle


def place(athomic: Athomic, partition: int = 0) -> Any:
    (status,) = athomic.consumers()
    return next((found for found in status.assignment if found.partition == partition), None)


def health(athomic: Athomic) -> HealthReport:
    report = athomic.health()
    assert report is not None
    return report


async def nothing_is_left(athomic: Athomic, operator: Operator, topic: str) -> None:
    """Nor is for a tool that compares the group's commit with the end of the log."""
    async with asyncio.timeout(SECONDS):
        while await operator.foreign.committed(topic, topic) != {0: await operator.end(topic)}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await eventually(lambda: place(athomic).lag == 0)


async def test_p19_fault_03_an_open_transaction_is_no_lag_and_what_is_aborted_is_committed(
    operator: Operator, topic: str
) -> None:
    await operator.create(topic)
    await operator.write(topic, "before")
    producer, record = await asyncio.to_thread(operator.transactional, topic), Record()

    def begin(*values: str) -> None:
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, partition=0)
        assert producer.flush(SECONDS) == 0

    async with running(new_app(settings(operator), reader(topic, record))) as athomic:
        await record.count(1)
        await asyncio.to_thread(begin, "never", "never")
        async with asyncio.timeout(SECONDS / 2):  # also with an end that no reader gets to
            await athomic.drain()
        assert await operator.end(topic) == 3
        assert (place(athomic).lag, place(athomic).end_offset) == (0, 1)
        assert health(athomic).status == "healthy"

        await asyncio.to_thread(producer.abort_transaction, SECONDS)
        await nothing_is_left(athomic, operator, topic)
        await asyncio.to_thread(begin, "one", "two")
        await asyncio.to_thread(producer.commit_transaction, SECONDS)
        assert await record.count(3) == ["before", "one", "two"]
        await nothing_is_left(athomic, operator, topic)
        assert await operator.end(topic) == 7
        assert athomic.consumers()[0].restarts == 0


async def test_p19_fault_08_a_first_position_is_taken_once_and_new_partitions_are_read_from_their_beginning(
    operator: Operator, topic: str
) -> None:
    await operator.create(topic)
    await operator.write(topic, "long ago")
    record = Record()
    handle = reader(topic, record, auto_offset_reset="latest")
    async with running(new_app(settings(operator), handle)):
        pass  # stopped before the first message
    await operator.write(topic, "during the deploy")
    async with running(new_app(settings(operator), handle)):
        await record.count(1)
        await operator.grow(topic, 3)
        for partition in (1, 2):  # at once: nobody has heard of them yet
            await operator.write(topic, *[f"{partition}"] * 5, partition=partition)
        await record.count(11)
    assert record.seen[0] == "during the deploy"
    assert sorted(record.seen[1:]) == ["1"] * 5 + ["2"] * 5


async def test_p04_commits_that_a_mirror_has_copied_from_another_cluster_are_followed(
    operator: Operator, topic: str
) -> None:
    """With their metadata: the topic's id there is another, and it was not deleted for that."""
    await operator.create(topic)
    await operator.write(topic, *map(str, range(6)))
    record = Record()
    handle = reader(topic, record)
    async with running(new_app(settings(operator), handle)) as athomic:
        await record.count(6)
        await nothing_is_left(athomic, operator, topic)
    elsewhere = Stamp(b"the topic there!", 1, 1_700_000_000, b"cluster1")
    await operator.commit(topic, topic, 3, encode_note(0b10, elsewhere, 3))
    async with running(new_app(settings(operator), handle)):
        await record.count(9)
        await operator.write(topic, "6")
        await record.until(lambda seen: seen[-1] == "6")
    assert record.seen[6:] == ["3", "4", "5", "6"]


async def test_p19_fault_15_a_topic_that_is_deleted_is_named_and_comes_back(operator: Operator, topic: str) -> None:
    await operator.create(topic)
    await operator.write(topic, "old", "old")
    record = Record()
    async with running(new_app(settings(operator), reader(topic, record, auto_offset_reset="earliest"))) as athomic:
        await record.count(2)
        await operator.delete(topic)
        await eventually(lambda: f"topic {topic} does not exist" in str(health(athomic).consumers))
        await eventually(lambda: athomic.consumers()[0].assignment == [])
        assert health(athomic).status == "degraded"
        await operator.create(topic)
        await operator.write(topic, "new")
        assert await record.count(3) == ["old", "old", "new"]
        await eventually(lambda: health(athomic).status == "healthy")
        await nothing_is_left(athomic, operator, topic)
        assert athomic.consumers()[0].restarts == 0


@pytest.mark.parametrize("reset", ["earliest", "latest"])
async def test_p19_fault_15_nothing_of_a_topic_that_was_made_anew_is_lost_to_what_is_in_hand_of_the_old(
    operator: Operator, topic: str, reset: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All positions in the old topic are good ones in the new."""
    await operator.create(topic)
    record, gate = Record(), Gate()

    @subscribe_to(topic, group_id=topic, dlq=False, concurrency=2, ordering="none", auto_offset_reset=reset)  # type: ignore[arg-type]
    async def handle(message: str, raw: RawMessage) -> None:
        record.note(message)
        if message == "old":
            await gate.wait()

    async with running(new_app(settings(operator), handle)) as athomic:
        await operator.write(topic, "done", *["old"] * 5)
        await record.count(3)
        await operator.delete(topic)
        await operator.create(topic)
        await operator.write(topic, *map(str, range(20)))
        await eventually(lambda: f"topic {topic} was deleted and made anew" in caplog.text)
        gate.set()
        await record.until(lambda seen: {*map(str, range(20))} <= {*seen})
        await nothing_is_left(athomic, operator, topic)
        assert record.seen.count("old") == 2, "what was not begun is dropped"
        assert athomic.consumers()[0].restarts == 0


async def test_p19_fault_15_a_topic_that_comes_back_longer_than_the_old_one_is_read_from_its_beginning(
    operator: Operator, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a fetch has met the gap between the two: whoever asks for the metadata is answered when it is over."""
    back, update = asyncio.Event(), SharedClient._metadata_update
    back.set()

    async def late(client: SharedClient, *arguments: Any) -> bool:
        await back.wait()
        return await update(client, *arguments)

    monkeypatch.setattr(SharedClient, "_metadata_update", late)
    monkeypatch.setattr("fastapi_athomic.consumption.placement.TOPICS_SECONDS", 3600.0)
    monkeypatch.setattr("fastapi_athomic.failures.topic_watch.FOLLOW_SECONDS", 3600.0)
    record = Record()
    await operator.create(topic)
    old, new = ["old 0", "old 1"], [f"new {number}" for number in range(5)]
    async with running(new_app(settings(operator), reader(topic, record))):
        await operator.write(topic, *old)
        await record.count(2)
        back.clear()
        await operator.delete(topic)
        await operator.create(topic)
        await operator.write(topic, *new)
        back.set()
        await record.count(7)
    assert record.seen == [*old, *new]


async def test_p19_fault_15_what_retention_took_is_counted(
    operator: Operator, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    await operator.create(topic)
    record = Record()
    handle = reader(topic, record)
    async with running(new_app(settings(operator), handle)):
        pass
    await operator.write(topic, *map(str, range(10)))
    await operator.drop_before(topic, 6)
    async with running(new_app(settings(operator), handle)) as athomic:
        assert await record.count(4) == ["6", "7", "8", "9"]
        assert athomic.consumers()[0].counters.lost_to_retention == 6
        assert f"{topic}[0]: retention dropped offsets 0 to 5" in caplog.text
        await nothing_is_left(athomic, operator, topic)

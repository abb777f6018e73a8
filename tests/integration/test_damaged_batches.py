"""Batches that are damaged on the broker's disk: a byte is changed in the file while Apache Kafka runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, subscribe_to
from fastapi_athomic.messages import OutgoingMessage, PublishedMessage
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.transports.kafka import fetch_schedule
from fastapi_athomic.transports.kafka import unreadable as kafka_unreadable
from fastapi_athomic.transports.kafka.transport import KafkaTransport
from tests.support.apps import Record, eventually, new_app, running, sentences
from tests.support.causes import comes, goes, provokes
from tests.support.kafka_broker import KafkaBroker

pytestmark = pytest.mark.timeout(180)
DAMAGED = b"four"


class Log:
    """The file of a partition."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sound = path.read_bytes()

    def restore(self) -> None:
        """A broker that was killed looks through all files when it starts, and gives up on some that are damaged."""
        with self._path.open("r+b") as file:
            file.write(self._sound)

    def change(self, old: bytes, new: bytes) -> None:
        with self._path.open("r+b") as file:
            file.seek(file.read().index(old))
            file.write(new)

    def flip_second(self, at: int) -> None:
        """The lowest bit of one byte of the header of the second batch (base offset, its length, ...)."""
        with self._path.open("r+b") as file:
            data = file.read()
            at += 12 + int.from_bytes(data[8:12])
            file.seek(at)
            file.write(bytes([data[at] ^ 1]))


OpenLog = Callable[[str, int], Log]


@pytest.fixture
def log_of(mortal_kafka: KafkaBroker) -> Iterator[OpenLog]:
    """Opens the log of a partition; it is sound again after the test."""
    logs = list[Log]()

    def open_log(topic: str, partition: int) -> Log:
        logs.append(Log(mortal_kafka.data / f"{topic}-{partition}" / f"{0:020}.log"))
        return logs[-1]

    yield open_log
    for log in logs:
        log.restore()


async def written(broker: KafkaBroker, *partitions: Sequence[bytes]) -> str:
    """A topic with these messages, each in a batch of its own."""
    topic, transport = f"damaged-{uuid4().hex[:12]}", KafkaTransport(settings(broker))
    await transport.start(10)
    await transport.create_topics({topic: len(partitions)}, 10)
    for number, values in enumerate(partitions):
        for value in values:
            (result,) = await transport.producer.send([OutgoingMessage(topic, None, value, partition=number)], 10)
            assert isinstance(result, PublishedMessage)
    await transport.stop(5)
    return topic


@pytest.fixture
async def topic(mortal_kafka: KafkaBroker) -> str:
    first = (b"zero", b"one", b"two", b"three", DAMAGED, b"five", b"six")
    return await written(mortal_kafka, first, (b"beside", b"beside"))


def settings(broker: KafkaBroker) -> AthomicSettings:
    return AthomicSettings(broker_url=f"kafka://{broker.bootstrap}")


def app(broker: KafkaBroker, topic: str, record: Record) -> Athomic:
    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def handle(message: str) -> None:
        record.note(message)

    return new_app(settings(broker), handle)


def reasons(athomic: Athomic) -> list[str]:
    report = athomic.health()
    assert report is not None
    return sentences(report.consumers["h"])


async def until_held(athomic: Athomic, topic: str) -> None:
    await eventually(lambda: reasons(athomic))
    (reason,) = reasons(athomic)
    assert reason.startswith(f"{topic}[0] is held at offset 4: a batch has the wrong checksum")
    assert "the next batch begins at offset 5" in reason
    report = athomic.health()
    assert report is not None
    assert report.status == "degraded"


async def test_p21_fault_06_a_damaged_batch_holds_its_own_partition_until_it_is_sound(
    mortal_kafka: KafkaBroker, topic: str, log_of: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_unreadable, "LONGEST_PAUSE", 0.1)
    record, log = Record(), log_of(topic, 0)
    log.change(DAMAGED, b"FOUR")
    athomic = app(mortal_kafka, topic, record)
    async with running(athomic):
        await until_held(athomic, topic)
        for _ in range(3):
            await athomic.publish(topic, "beside", partition=1)
        await record.until(lambda seen: seen.count("beside") == 5)
        assert [value for value in record.seen if value != "beside"] == ["zero", "one", "two", "three"]
        log.change(b"FOUR", DAMAGED)
        await athomic.drain()
        assert [value for value in record.seen if value != "beside"][4:] == ["four", "five", "six"]
        assert reasons(athomic) == []
        (status,) = athomic.consumers()
        assert (status.restarts, status.counters.rebalances) == (0, 1)


@provokes(ReasonCode.PARTITION_UNREADABLE)
async def test_p13_a_damaged_batch_is_told_until_it_is_sound(
    mortal_kafka: KafkaBroker, topic: str, log_of: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_unreadable, "LONGEST_PAUSE", 0.1)
    log = log_of(topic, 0)
    log.change(DAMAGED, b"FOUR")
    async with running(app(mortal_kafka, topic, Record())) as athomic:
        reason = await comes(athomic, ReasonCode.PARTITION_UNREADABLE)
        assert reason.message.startswith(f"{topic}[0] is held at offset 4")
        log.change(b"FOUR", DAMAGED)
        await goes(athomic, ReasonCode.PARTITION_UNREADABLE)


async def test_p21_fault_06_seek_goes_past_a_damaged_batch(
    mortal_kafka: KafkaBroker, topic: str, log_of: OpenLog
) -> None:
    record = Record()
    log_of(topic, 0).change(DAMAGED, b"FOUR")
    athomic = app(mortal_kafka, topic, record)
    async with running(athomic):
        await until_held(athomic, topic)
        await athomic.seek("h", topic, 0, 5)
        await record.until(lambda seen: "six" in seen)
        await athomic.drain()
        assert reasons(athomic) == []
    async with running(app(mortal_kafka, topic, record)) as again:
        await again.publish(topic, "seven", partition=0)
        await record.until(lambda seen: "seven" in seen)
    expected = ["zero", "one", "two", "three", "five", "six", "seven"]
    assert [value for value in record.seen if value != "beside"] == expected


async def test_p21_fault_06_what_no_checksum_covers_is_noticed_too(
    mortal_kafka: KafkaBroker, log_of: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a batch begins, and how long it is: the one leads far beyond the end, the other nowhere."""
    monkeypatch.setattr(fetch_schedule, "EMPTY_ANSWERS", 1)
    topic, record = await written(mortal_kafka, *[(b"zero", b"one", b"two")] * 3), Record()
    log_of(topic, 0).flip_second(3)
    log_of(topic, 1).flip_second(8)
    athomic = app(mortal_kafka, topic, record)
    async with running(athomic):
        await eventually(lambda: len(reasons(athomic)) == 2)
        beyond, nothing = sorted(reasons(athomic))
        assert beyond.startswith(f"{topic}[0] is held at offset 1: a batch has offsets that it cannot have")
        assert nothing.startswith(f"{topic}[1] is held at offset 1: the broker gives nothing")
        await record.count(5)
        assert sorted(record.seen) == sorted(["zero", "zero", "zero", "one", "two"])

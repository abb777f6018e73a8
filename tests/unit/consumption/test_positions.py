"""From where partitions are read, on `memory://`; on Apache Kafka see tests/integration/test_topic_life.py."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, RetryPolicy, TransportError, subscribe_to
from fastapi_athomic.consumption.notes import NOTE_LIMIT, NOTE_SPAN, Stamp, decode_note, decode_stamp, encode_note
from fastapi_athomic.consumption.positions import BEGIN_TOGETHER_SECONDS, Lost, Start, StartingPoints
from fastapi_athomic.messages import OutgoingMessage, TopicPartition
from fastapi_athomic.settings import MemorySettings
from fastapi_athomic.transports.base import CommittedOffset, ConsumerConfig
from fastapi_athomic.transports.memory.broker import MemoryBroker
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from fastapi_athomic.transports.memory.transport import MemoryTransport
from tests.support.apps import Gate, Record, eventually, new_app, running, sentences

# --- what is taken


class Taker:
    """A member that takes the positions of what it is assigned, and nothing else."""

    def __init__(self, transport: MemoryTransport, reset: Any, pattern: str | None = None) -> None:
        self.points = StartingPoints(reset=reset, is_own=lambda topic: topic.endswith(".retry"), pattern=bool(pattern))
        self.told: asyncio.Queue[frozenset[TopicPartition]] = asyncio.Queue()
        config = ConsumerConfig(
            group_id="g",
            client_id="c",
            topics=() if pattern else ("t", "t.retry"),
            pattern=re.compile(pattern) if pattern else None,
        )
        self.consumer = transport.consumer(config, self)

    def on_arrival(self) -> None: ...

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self.told.put_nowait(partitions)

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None: ...

    async def take(self, *places: TopicPartition, lost: Lost | None = None) -> dict[TopicPartition, Start]:
        starts, _ = await self.points.take(self.consumer, dict.fromkeys(places, lost), 1, lambda: True)
        return starts

    async def offsets(self, *places: TopicPartition) -> list[int]:
        starts = await self.take(*places)
        return [starts[place].committed.offset for place in places]


class Broker(MemoryTransport):
    """With ten old messages in each partition that is made."""

    def put(self, topic: str, partitions: int) -> None:
        known = self.broker.partition_counts([topic]).get(topic, 0)
        if known:
            self.broker.create_partitions(topic, partitions)
        else:
            self.broker.create_topics({topic: partitions})
        places = [number for number in range(known, partitions) for _ in range(10)]
        self.broker.append([OutgoingMessage(topic, None, b"", partition=place) for place in places], MemorySettings())

    async def member(self, reset: Any = "latest", pattern: str | None = None) -> Taker:
        taker = Taker(self, reset, pattern)
        await taker.consumer.start()
        await taker.told.get()
        return taker


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = Broker(AthomicSettings())
    await broker.start(1)
    broker.put("t", 2)
    yield broker
    await broker.stop(1)


P0, P1, P2 = (TopicPartition("t", number) for number in range(3))


@pytest.mark.parametrize(("reset", "offset"), [("earliest", 0), ("latest", 10)])
async def test_p20_fault_08_a_first_position_is_committed_and_the_option_means_nothing_afterwards(
    broker: Broker, reset: str, offset: int
) -> None:
    taker = await broker.member(reset)
    assert await taker.offsets(P0) == [offset]
    assert broker.broker.committed("g")[P0].offset == offset
    other = await broker.member("earliest" if reset == "latest" else "latest")
    assert await other.offsets(P0) == [offset]


async def test_p20_fault_08_who_begins_together_does_not_take_the_others_commits_for_a_proof(broker: Broker) -> None:
    one, other = await broker.member(), await broker.member()
    assert await one.offsets(P0) == [10]
    assert await other.offsets(P1) == [10], "it was there when the group began"
    broker.put("t", 3)
    third = await broker.member()
    assert await third.offsets(P2) == [0], "it came later"
    assert decode_stamp(broker.broker.committed("g")[P2].metadata).partitions == 2


async def test_p20_fault_08_the_own_topics_are_read_from_their_beginning(broker: Broker) -> None:
    broker.put("t.retry", 1)
    taker = await broker.member()
    assert await taker.offsets(P0, TopicPartition("t.retry", 0)) == [10, 0]


async def test_p20_fault_08_a_group_from_before_begins_where_the_option_says(broker: Broker) -> None:
    """Its commits say nothing of when it began."""
    taker = await broker.member()
    await taker.consumer.commit({P0: CommittedOffset(3)}, 1)
    assert await taker.offsets(P0, P1) == [3, 10]


async def test_p20_fault_08_an_operators_commit_is_followed_and_what_is_added_from_then_on_came_later(
    broker: Broker,
) -> None:
    """`kafka-consumer-groups --reset-offsets` leaves no metadata, nor did versions before this one leave a stamp."""
    taker = await broker.member()
    assert await taker.offsets(P0, P1) == [10, 10]
    await taker.consumer.commit({P0: CommittedOffset(3, encode_note(0b100)), P1: CommittedOffset(4)}, 1)
    other = await broker.member()
    starts = await other.take(P0, P1)
    assert [(start.committed.offset, set(start.skip)) for start in starts.values()] == [(3, {5}), (4, set())]
    kept = broker.broker.committed("g")[P0]
    assert (kept.offset, decode_stamp(kept.metadata).partitions) == (3, 2)
    assert decode_note(3, kept.metadata) == {5}
    broker.put("t", 3)  # before anything was handled
    assert await other.offsets(P2) == [0]
    third = await broker.member()
    assert await third.offsets(P2) == [0]


async def test_p04_metadata_that_was_copied_to_another_offset_says_nothing(broker: Broker) -> None:
    """Of a tool that moves a group and keeps what else the commit says: what was done is counted from another place."""
    taker = await broker.member("earliest")
    (start,) = (await taker.take(P0)).values()
    written = CommittedOffset(4, encode_note(0b110, start.stamp, 4))
    assert decode_note(4, written.metadata) == {5, 6}
    for offset, skip in [(4, {5, 6}), (2, set()), (9, set())]:
        await taker.consumer.commit({P0: CommittedOffset(offset, written.metadata)}, 1)
        (start,) = (await taker.take(P0)).values()
        assert (start.cause, start.committed.offset, set(start.skip)) == ("committed", offset, skip)


async def test_p20_fault_08_a_topic_that_comes_to_match_a_pattern_is_read_from_its_beginning(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.put("t2", 1)
    one, other = await broker.member(pattern="t.*"), await broker.member(pattern="t.*")
    assert await one.offsets(P0, P1) == [10, 10]
    assert await other.offsets(TopicPartition("t2", 0)) == [10], "both began just now"
    broker.put("t3", 1)
    assert await one.offsets(TopicPartition("t3", 0)) == [0], "it has seen what there was"
    broker.put("t4", 1)
    monkeypatch.setattr("fastapi_athomic.consumption.positions.BEGIN_TOGETHER_SECONDS", -1.0)
    assert BEGIN_TOGETHER_SECONDS > 0
    later = await broker.member(pattern="t.*")
    assert await later.offsets(TopicPartition("t4", 0)) == [0], "the group is older"


async def test_p19_fault_15_a_commit_for_a_topic_that_was_deleted_is_not_followed(broker: Broker) -> None:
    taker = await broker.member()
    assert await taker.offsets(P0, P1) == [10, 10]
    old = broker.broker.committed("g")[P0]
    broker.broker.delete_topics(["t"])
    broker.put("t", 2)
    await taker.told.get()
    await eventually(lambda: taker.consumer.assignment() == {P0, P1})
    await taker.consumer.commit({P0: old}, 1)  # was on its way all the while
    stranger, newcomer = await broker.member(), await broker.member()
    (start,) = (await stranger.take(P0)).values()
    assert (start.cause, start.committed.offset) == ("recreated", 0)
    assert await newcomer.offsets(P1) == [0], "the group is older than the whole topic"


async def test_p19_fault_15_positions_that_lead_nowhere(broker: Broker) -> None:
    taker = await broker.member()
    (begun,) = (await taker.take(P0)).values()
    broker.broker.delete_messages(P0, 4)
    (dropped,) = (await taker.take(P0, lost=Lost(1, begun.stamp.topic_id))).values()
    assert (dropped.cause, dropped.committed.offset, dropped.dropped, dropped.goes_on) == ("retention", 4, 3, True)
    assert broker.broker.committed("g")[P0].offset == 10, "what is in hand is not done"
    (fine,) = (await taker.take(P0, lost=Lost(7, begun.stamp.topic_id))).values()
    assert (fine.committed.offset, fine.goes_on) == (7, True)
    (beyond,) = (await taker.take(P0, lost=Lost(99, begun.stamp.topic_id))).values()
    assert (beyond.cause, beyond.committed.offset, beyond.goes_on) == ("truncated", 4, False)
    (another,) = (await taker.take(P0, lost=Lost(1, b"another topic   "))).values()
    assert (another.cause, another.committed.offset) == ("recreated", 4)


async def test_p04_a_first_position_is_not_committed_for_what_was_taken_away_meanwhile(broker: Broker) -> None:
    taker = await broker.member()
    starts, _ = await taker.points.take(taker.consumer, {P0: None}, 1, lambda: False)
    assert starts == {}
    assert broker.broker.committed("g") == {}


def test_a_stamp_is_kept_where_the_note_is_too_long() -> None:
    stamp = Stamp(b"0123456789abcdef", 7, 1_700_000_000, b"cluster1")
    long = encode_note(random.Random(7).getrandbits(10 * NOTE_SPAN), stamp)
    assert len(long) <= NOTE_LIMIT
    assert decode_stamp(long) == decode_stamp(encode_note(5, stamp)) == stamp
    assert decode_stamp("a1:" + "?") == decode_stamp("") == decode_stamp(encode_note(5)) == Stamp()


# --- what it means to an app


class World:
    """An app and its broker, on which others work."""

    def __init__(self, *, topic: str = "t", **settings: Any) -> None:
        self.settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", **settings)
        self.transport = MemoryTransport(self.settings)
        self.broker: MemoryBroker = self.transport.broker
        self.record = Record()

    def put(self, *values: str, topic: str = "t", partition: int = 0) -> None:
        messages = [OutgoingMessage(topic, None, value.encode(), partition=partition) for value in values]
        for result in self.broker.append(messages, self.settings.memory):
            assert not isinstance(result, Exception), result

    def app(self, handle: Callable[..., Any] | None = None, topic: Any = "t", **options: Any) -> Athomic:
        async def note(message: str) -> None:
            self.record.note(message)

        function = handle or note
        chosen: dict[str, Any] = {"dlq": False} | options
        return new_app(self.settings, subscribe_to(topic, group_id="g", handler_id="h", **chosen)(function))

    def committed(self, topic: str = "t") -> dict[int, int]:
        found = self.broker.committed("g")
        return {place.partition: offset.offset for place, offset in found.items() if place.topic == topic}


def world(**settings: Any) -> World:
    made = World(**settings)
    made.broker.create_topics({"t": 1})
    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics are looked at more often than every few seconds."""
    monkeypatch.setattr("fastapi_athomic.consumption.placement.TOPICS_SECONDS", 0.05, raising=False)
    monkeypatch.setattr("fastapi_athomic.failures.topic_watch.FOLLOW_SECONDS", 0.05)


def reasons(athomic: Athomic) -> str:
    report = athomic.health()
    assert report is not None
    return f"{report.status}: {[sentences(health) for health in report.consumers.values()]}"


async def test_p20_fault_08_what_comes_during_a_deploy_is_read_though_nothing_was_handled_before() -> None:
    made = world()
    made.put("long ago")
    async with running(made.app(auto_offset_reset="latest")):
        pass
    made.put("during", "the", "deploy")
    async with running(made.app(auto_offset_reset="latest")) as athomic:
        await made.record.count(3)
        await athomic.drain()
    assert made.record.seen == ["during", "the", "deploy"]


async def test_p20_fault_08_a_message_that_waits_in_a_retry_topic_is_not_skipped_at_the_next_start() -> None:
    made = world()
    options: Any = {"auto_offset_reset": "latest", "ordering": "none"}
    options["retry"] = RetryPolicy(max_attempts=1, retry_topics=(0.2,))

    async def fail(message: str) -> None:
        made.record.note(message)
        raise RuntimeError

    async with running(made.app(fail, **options)) as athomic:
        made.put("fails once")
        await made.record.count(1)
        await eventually(lambda: athomic.consumers()[0].counters.deferred == 1)
    async with running(made.app(**options)):
        assert await made.record.count(2) == ["fails once"] * 2


async def test_p20_fault_08_what_was_redriven_while_the_app_was_down_is_read() -> None:
    made = world()
    async with running(made.app(auto_offset_reset="latest", dlq=True)):
        pass
    if not made.broker.partition_counts(["t.g.redrive"]):
        made.broker.create_topics({"t.g.redrive": 1})
    made.put("sent back", topic="t.g.redrive")
    async with running(made.app(auto_offset_reset="latest", dlq=True)):
        assert await made.record.count(1) == ["sent back"]


async def test_p19_fault_08_partitions_that_are_added_are_read_from_their_beginning() -> None:
    made = world()
    made.put("long ago")
    handle = made.app(auto_offset_reset="latest")
    async with running(handle):
        pass
    made.broker.create_partitions("t", 2)
    made.put("early", partition=1)
    async with running(made.app(auto_offset_reset="latest")):
        await made.record.count(1)
        made.broker.create_partitions("t", 3)
        made.put("earlier still", partition=2)
        assert await made.record.count(2) == ["early", "earlier still"]


async def test_p01_fault_08_nothing_is_fetched_before_the_first_position_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, refusals, commit = world(), Record(), MemoryConsumer.commit

    async def refused(consumer: MemoryConsumer, offsets: Any, timeout: float) -> None:
        refusals.note(offsets)
        raise TransportError("refused")

    monkeypatch.setattr("fastapi_athomic.consumption.session.POLL_SECONDS", 0.01)
    monkeypatch.setattr("fastapi_athomic.consumption.placement.RETRY_SECONDS", 0.01)
    monkeypatch.setattr(MemoryConsumer, "commit", refused)
    async with running(made.app()) as athomic:
        await refusals.count(2)
        made.put("waits")
        assert "degraded: [['cannot begin to read t[0]: refused']]" in reasons(athomic)
        assert made.record.seen == []
        monkeypatch.setattr(MemoryConsumer, "commit", commit)
        assert await made.record.count(1) == ["waits"]
        await eventually(lambda: "cannot begin" not in reasons(athomic))


async def test_p13_fault_14_lag_counts_from_the_lowest_unfinished_message_also_in_a_new_group() -> None:
    made, begun, gate = world(), Record(), Gate()
    made.broker.append([OutgoingMessage("t", None, b"x", partition=0, timestamp=1_000)] * 40, made.settings.memory)

    async def stuck(message: str) -> None:
        begun.note(message)
        await gate.wait()

    async with running(made.app(stuck, ordering="none", concurrency=40)) as athomic:
        await begun.count(40)
        (place,) = athomic.consumers()[0].assignment
        assert (place.lag, place.in_flight, place.committed) == (40, 40, 0)
        assert place.lag_seconds is not None
        assert place.lag_seconds > 1_000_000_000, "as old as the message says"
        gate.set()
        await athomic.drain()
        (place,) = athomic.consumers()[0].assignment
        assert (place.lag, place.lag_seconds, place.committed) == (0, 0.0, 40)


async def test_p13_fault_15_a_topic_that_is_deleted_is_named_beside_healthy_neighbours_and_comes_back() -> None:
    made = world()
    made.broker.create_topics({"u": 1})
    async with running(made.app(topic=["t", "u"])) as athomic:
        made.broker.delete_topics(["t"])
        await eventually(lambda: "degraded: [['topic t does not exist" in reasons(athomic))
        made.put("beside", topic="u")
        await made.record.count(1)
        made.broker.create_topics({"t": 1})
        made.put("back")
        assert await made.record.count(2) == ["beside", "back"]
        await eventually(lambda: "does not exist" not in reasons(athomic))
        assert athomic.consumers()[0].restarts == 0


async def test_p13_fault_15_health_says_that_nothing_matches_a_pattern() -> None:
    made = world()
    async with running(made.app(topic=re.compile("u.*"))) as athomic:
        await eventually(lambda: "no topic matches the pattern u.*" in reasons(athomic))
        made.broker.create_topics({"u1": 1})
        await eventually(lambda: "no topic" not in reasons(athomic))


@pytest.mark.parametrize("reset", ["earliest", "latest"])
async def test_p19_fault_15_of_a_topic_that_was_made_anew_nothing_is_lost(
    reset: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, gate = world(), Gate()

    async def handle(message: str) -> None:
        made.record.note(message)
        if message == "old":
            await gate.wait()

    async with running(made.app(handle, auto_offset_reset=reset)) as athomic:
        made.put("done", "old", "old")
        await made.record.count(2)
        made.broker.delete_topics(["t"])
        made.broker.create_topics({"t": 1})
        made.put(*map(str, range(10)))
        gate.set()
        await made.record.until(lambda seen: {*map(str, range(10))} <= {*seen})
        await athomic.drain()
        assert made.record.seen.count("old") == 1
        assert made.committed() == {0: 10}
        assert "t was deleted and made anew" in caplog.text


async def test_p22_fault_15_what_retention_dropped_unread_is_told_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = world()
    async with running(made.app()) as athomic:
        consumer = athomic.manager().consumers["h"]  # type: ignore[union-attr]
        consumer.pause()
        made.put(*map(str, range(10)))
        made.broker.delete_messages(TopicPartition("t", 0), 7)
        consumer.resume()
        assert await made.record.count(3) == ["7", "8", "9"]
        assert athomic.consumers()[0].counters.lost_to_retention == 7
        assert "t[0]: retention dropped offsets 0 to 6" in caplog.text
        await athomic.drain()
        assert made.committed() == {0: 10}


async def test_first_positions_of_all_partitions_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fastapi_athomic.consumption.positions")

    @subscribe_to(["t", "u"], group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", memory=MemorySettings(partitions=3))
    async with running(new_app(settings, handle)):
        pass
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("h: nothing is committed yet, reading begins at: ")
    assert "t[0, 1, 2] from offset 0" in line
    assert "u[0, 1, 2] from offset 0" in line

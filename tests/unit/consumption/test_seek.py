"""Going on at another offset, on `memory://`; past a damaged batch, tests/integration/test_damaged_batches.py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, CommitFailedError, RetryPolicy, TransportError, subscribe_to
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.transports.base import CommittedOffset
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from fastapi_athomic.transports.memory.transport import broker_named
from tests.support.apps import Gate, Record, eventually, new_app, running

DOCS = Path(__file__).parents[3] / "docs" / "damaged-batches.md"
PLACE = TopicPartition("t", 0)


class App:
    def __init__(self, isolation: Any = "loop") -> None:
        self.record, self.gate = Record(), Gate()
        self.gate.set()

        @subscribe_to("t", group_id="g", handler_id="h")
        async def handle(number: int) -> None:
            self.record.note(number)
            await self.gate.wait()

        settings = AthomicSettings(
            broker_url=f"memory://{uuid4().hex}",
            isolation=isolation,
            memory={"partitions": 1},  # type: ignore[arg-type]
        )
        self.athomic: Athomic = new_app(settings, handle)

    async def seek(self, offset: int, partition: int = 0) -> None:
        await self.athomic.seek("h", "t", partition, offset)

    def committed(self) -> int | None:
        (status,) = self.athomic.consumers()
        (place,) = [place for place in status.assignment if place.topic == "t"]
        return place.committed


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_p21_fault_06_seek_goes_back_and_ahead(isolation: Any) -> None:
    app = App(isolation)
    async with running(app.athomic):
        await app.athomic.publish_many("t", range(5))
        await app.athomic.drain()
        await app.seek(3)
        await app.record.count(7)
        await app.athomic.drain()
        app.gate.clear()
        await app.athomic.publish_many("t", range(5, 10))
        await app.record.count(8)
        session: Any = app.athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        seeking = asyncio.create_task(app.seek(8))
        await eventually(lambda: not session.states[PLACE].open)
        assert not seeking.done(), "it waits for what runs"
        app.gate.set()
        await seeking
        await app.record.until(lambda seen: 9 in seen)
        await app.athomic.drain()
        assert app.committed() == 10
        assert app.athomic.health().status == "healthy"  # type: ignore[union-attr]
    assert app.record.seen == [0, 1, 2, 3, 4, 3, 4, 5, 8, 9]


async def test_fault_06_a_seek_that_cannot_be_is_refused_with_a_sentence() -> None:
    app = App()
    async with running(app.athomic):
        await app.athomic.publish_many("t", range(5))
        await app.athomic.drain()
        with pytest.raises(TransportError, match=r"t\[0\] cannot go on at offset 6: its offsets are from 0 to 5"):
            await app.seek(6)
        with pytest.raises(TransportError, match="there is no such partition"):
            await app.seek(0, partition=7)
        service = app.athomic.manager().consumers["h"]  # type: ignore[union-attr]
        with pytest.raises(TransportError, match=r"other\[0\] is not assigned to this process \(assigned are: t\[0\]"):
            await service.seek(TopicPartition("other", 0), 0)
        await app.athomic.publish("t", 5)
        await app.record.count(6)
    assert app.record.seen == [0, 1, 2, 3, 4, 5]


async def test_fault_06_a_seek_whose_commit_is_refused_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App()

    async def refuse(*_: object) -> None:
        raise CommitFailedError

    async with running(app.athomic):
        app.gate.clear()
        await app.athomic.publish_many("t", range(5))
        await app.record.count(1)
        with monkeypatch.context() as patched:
            patched.setattr(MemoryConsumer, "commit", refuse)
            seeking = asyncio.create_task(app.seek(0))
            app.gate.set()
            with pytest.raises(CommitFailedError):
                await seeking
        await app.athomic.drain()
        assert app.committed() == 5
    assert app.record.seen == [0, 1, 2, 3, 4]


async def test_p21_fault_06_who_resumes_while_a_seek_waits_starts_nothing_before_it() -> None:
    app = App()
    async with running(app.athomic):
        app.gate.clear()
        await app.athomic.publish_many("t", range(3))
        await app.record.count(1)
        service = app.athomic.manager().consumers["h"]  # type: ignore[union-attr]
        seeking = asyncio.create_task(app.seek(2))
        state = service.life.session.states[PLACE]  # type: ignore[union-attr]
        await eventually(lambda: not state.open)
        service.pause()
        service.resume()
        app.gate.set()
        await seeking
        await app.athomic.drain()
    assert app.record.seen == [0, 2]


async def test_p04_who_resumes_while_partitions_are_given_up_starts_nothing_on_them() -> None:
    """Else what fails is tried again there until the handler is cut off, and repeats at the next member."""
    record, gate = Record(), Gate()

    @subscribe_to("t", group_id="g", handler_id="h", batch_size=1, retry=RetryPolicy(max_attempts=3, delay=0))
    async def handle(numbers: list[int]) -> None:
        record.note(numbers[0])
        if len(record.seen) == 1:
            await gate.wait()
            raise RuntimeError
        await asyncio.sleep(0)

    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", memory={"partitions": 1})  # type: ignore[arg-type]
    async with running(new_app(settings, handle)) as athomic:
        await athomic.publish("t", 7)
        await record.count(1)
        service = athomic.manager().consumers["h"]  # type: ignore[union-attr]
        state = service.life.session.states[PLACE]  # type: ignore[union-attr]
        broker_named(settings.broker_address).rebalance("g")
        await eventually(lambda: not state.open)
        service.pause()
        service.resume()
        assert not state.open
        gate.set()
        await athomic.drain()
        assert record.seen == [7, 7]
        assert service.counters.abandoned == 0


def test_the_documented_way_runs() -> None:
    (block,) = re.findall(r"^ *```python\n(.*?)^ *```$", DOCS.read_text(), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile("\n".join(line[3:] for line in block.split("\n")), DOCS.name, "exec"), names)
    assert [route.path for route in names["router"].routes] == ["/orders/past-the-damage"]


async def test_a_seek_that_does_not_reach_the_client_at_first_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    app, seek, refused = App(), MemoryConsumer.seek, asyncio.Event()

    async def refuse_once(consumer: MemoryConsumer, partition: TopicPartition, offset: int) -> None:
        if not refused.is_set():
            refused.set()
            raise TransportError("not now")
        await seek(consumer, partition, offset)

    async with running(app.athomic):
        await app.athomic.publish_many("t", range(3))
        await app.athomic.drain()
        monkeypatch.setattr(MemoryConsumer, "seek", refuse_once)
        await app.seek(1)
        assert refused.is_set()
        await app.record.count(5)
        await app.athomic.drain()
        assert app.committed() == 3
        assert app.athomic.consumers()[0].restarts == 0
    assert app.record.seen == [0, 1, 2, 1, 2]


async def test_a_seek_during_which_the_group_takes_the_partition_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    app, commit = App(), MemoryConsumer.commit

    async with running(app.athomic):
        await app.athomic.publish_many("t", range(3))
        await app.athomic.drain()
        service = app.athomic.manager().consumers["h"]  # type: ignore[union-attr]
        membership: Any = service.life.session._membership  # type: ignore[union-attr]
        revoking: list[asyncio.Task[None]] = []

        async def commit_as_it_is_taken(consumer: MemoryConsumer, *arguments: Any) -> None:
            await commit(consumer, *arguments)
            if not revoking:
                revoking.append(asyncio.create_task(membership.on_revoked(frozenset({PLACE}))))
                await eventually(lambda: membership.draining)

        monkeypatch.setattr(MemoryConsumer, "commit", commit_as_it_is_taken)
        with pytest.raises(TransportError, match=r"t\[0\] was taken from this process meanwhile"):
            await app.seek(0)
        await revoking[0]
        assert PLACE not in service.life.session.states  # type: ignore[union-attr]
        await membership.on_assigned(frozenset({PLACE}))
        await app.athomic.publish("t", 3)
        await app.record.until(lambda seen: 3 in seen)


async def test_a_seek_that_a_rebalance_overtakes_commits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    app, commit = App(), MemoryConsumer.commit
    committed: list[int] = []

    async def noted(
        consumer: MemoryConsumer, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float
    ) -> None:
        committed.extend(offset.offset for place, offset in offsets.items() if place == PLACE)
        await commit(consumer, offsets, timeout)

    async with running(app.athomic):
        await app.athomic.publish_many("t", range(3))
        await app.athomic.drain()
        monkeypatch.setattr(MemoryConsumer, "commit", noted)
        app.gate.clear()
        await app.athomic.publish("t", 3)
        await app.record.count(4)
        service = app.athomic.manager().consumers["h"]  # type: ignore[union-attr]
        membership: Any = service.life.session._membership  # type: ignore[union-attr]
        seeking = asyncio.create_task(app.seek(0))
        await eventually(lambda: not service.life.session.states[PLACE].open)  # type: ignore[union-attr]
        revoking = asyncio.create_task(membership.on_revoked(frozenset({PLACE})))
        await eventually(lambda: membership.draining)
        with pytest.raises(TransportError, match=r"t\[0\] is being taken over or given up"):
            await app.seek(1)
        app.gate.set()
        with pytest.raises(TransportError, match=r"t\[0\] was taken from this process meanwhile"):
            await seeking
        await revoking
        assert committed == [4]
        await membership.on_assigned(frozenset({PLACE}))
        await app.athomic.publish("t", 4)
        await app.record.until(lambda seen: 4 in seen)
    assert app.record.seen == [0, 1, 2, 3, 4]


async def test_p20_a_seek_leaves_what_is_known_of_other_topics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a topic made anew, whose rebalance still waits, is read from its end: what it has is lost."""
    app, asked = App(), Record()

    async def committed(*_: object) -> dict[TopicPartition, CommittedOffset]:
        asked.note("committed")
        return {}

    async with running(app.athomic):
        await app.athomic.publish_many("t", range(3))
        await app.athomic.drain()
        starting_points: Any = app.athomic.manager().consumers["h"].life.session._parts.starting_points  # type: ignore[union-attr]
        known = dict(starting_points._seen)
        starting_points._seen.clear()
        monkeypatch.setattr(MemoryConsumer, "committed", committed)
        await app.seek(1)
        assert asked.seen == []
        assert starting_points._seen == {}
        starting_points._seen |= known
        await app.record.count(5)
    assert app.record.seen == [0, 1, 2, 1, 2]

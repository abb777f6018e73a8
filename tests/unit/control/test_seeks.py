"""A seek skips and repeats exactly what its plan says; what cannot be is refused, and nothing has changed then."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastapi_athomic import (
    ConfigurationError,
    ControlRefusedError,
    PartitionNotFoundError,
    SourceNotFoundError,
    TopicNotFoundError,
    TransportError,
)
from fastapi_athomic.consumption.notes import bitmap, encode_note
from fastapi_athomic.messages import OutgoingMessage, TopicPartition
from fastapi_athomic.transports.base import CommittedOffset
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from tests.support.apps import eventually, owned, running

from .steered import KINDS, Steered, Step

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def numbers(app: Steered, order: str = "a") -> list[int]:
    return app.by_order().get(order, [])


@pytest.mark.parametrize(("kind", "isolation"), [(kind, "loop") for kind in KINDS] + [("key", "thread")])
@pytest.mark.parametrize("offset", [0, 3, 6, 10])
async def test_p08_a_seek_under_way_does_what_its_plan_says(kind: str, isolation: str, offset: int) -> None:
    """5 of 10 messages are handled when it goes back or ahead, while calls run."""
    app = Steered(kind, isolation=isolation, concurrency=1)
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 6), partition=0)
        await athomic.drain()
        await athomic.pause("h")
        await app.publish("a", range(6, 11), partition=0)
        plan = await athomic.plan_seek("h", "t", partition=0, to=offset)
        again = await athomic.plan_seek("h", "t", partition=0, to=offset)
        assert plan == again, "a plan changes nothing"
        assert (plan.done, plan.problems) == (False, [])
        done = await athomic.seek("h", "t", 0, offset)
        assert done.done
        assert (done.skipped, done.repeated, done.exact) == (plan.skipped, plan.repeated, plan.exact)
        await athomic.resume("h")
        await athomic.drain()
    (part,) = plan.partitions
    assert (part.from_offset, part.to_offset, part.skipped, part.repeated) == (
        5,
        offset,
        max(0, offset - 5),
        max(0, 5 - offset),
    )
    if kind == "ordered":
        assert plan.exact is (offset >= 5)
        assert "an ordered consumer skips what its state store knows as handled" in plan.notes[0]
        assert numbers(app) == [1, 2, 3, 4, 5] + ([] if offset > 5 else [6, 7, 8, 9, 10])
    else:
        assert plan.exact
        assert numbers(app) == [1, 2, 3, 4, 5, *range(offset + 1, 11)]


async def test_messages_that_were_handled_out_of_order_are_counted() -> None:
    """Of five messages the first runs; the other four are handled, but the position stands at the first."""
    app = Steered("none", concurrency=2, drain_timeout=0.2)
    async with running(app.athomic) as athomic:
        app.gate.clear()
        await app.publish("a", range(1, 2), partition=0)
        await app.record.count(1)
        first, app.gate = app.gate, type(app.gate)()
        app.gate.set()
        await app.publish("a", range(2, 6), partition=0)
        await app.record.count(5)
        await eventually(lambda: app.active == 1)
        assert await counts(athomic, 0) == (0, 4)
        assert await counts(athomic, 3) == (1, 2)
        assert await counts(athomic, 5) == (1, 0)
        plan = await athomic.seek("h", "t", 0, 3)
        assert (plan.skipped, plan.repeated) == (1, 2)
        first.set()
        await app.record.count(7)
        await athomic.drain()
    assert sorted(numbers(app)) == [1, 2, 3, 4, 4, 5, 5]


async def counts(athomic: Any, to: int) -> tuple[int, int]:
    plan = await athomic.plan_seek("h", "t", partition=0, to=to)
    assert plan.exact
    return plan.skipped, plan.repeated


async def write(app: Steered, partition: int, times: list[datetime]) -> None:
    """Messages of these times, with the numbers from 1 on."""
    sent = [
        OutgoingMessage(
            topic="t",
            key=None,
            value=Step(order=str(partition), number=number).model_dump_json().encode(),
            partition=partition,
            timestamp=int(time.timestamp() * 1000),
        )
        for number, time in enumerate(times, 1)
    ]
    await app.athomic._transport.producer.send(sent, 5)


async def test_a_seek_by_time_goes_to_the_first_message_of_that_time_in_all_partitions() -> None:
    app = Steered(concurrency=1)
    minutes = [NOON + timedelta(minutes=n) for n in range(6)]
    async with running(app.athomic) as athomic:
        await write(app, 0, minutes)
        await write(app, 1, minutes[:2])
        await athomic.drain()
        plan = await athomic.plan_seek("h", "t", to=minutes[3] - timedelta(seconds=30))
        assert [(p.partition, p.from_offset, p.to_offset, p.skipped, p.repeated) for p in plan.partitions] == [
            (0, 6, 3, 0, 3),
            (1, 2, 2, 0, 0),
            (2, 0, 0, 0, 0),
        ]
        assert (plan.skipped, plan.repeated, plan.exact) == (0, 3, True)
        app.record.seen.clear()
        assert (await athomic.seek("h", "t", to=minutes[3])).repeated == 3
        await athomic.drain()
        assert app.by_order() == {"0": [4, 5, 6]}
        app.record.seen.clear()
        assert (await athomic.seek("h", "t", to="beginning")).repeated == 8
        await athomic.drain()
        assert app.by_order() == {"0": [1, 2, 3, 4, 5, 6], "1": [1, 2]}
        await athomic.pause("h")
        await write(app, 2, minutes)
        plan = await athomic.seek("h", "t", to="end")
        assert (plan.skipped, plan.repeated) == (6, 0)
        assert plan.notes == ["h is paused: it goes on there when it is resumed"]
        await athomic.resume("h")
        await athomic.drain()
    assert "2" not in app.by_order()


async def test_a_range_that_is_too_long_to_count_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.control.seeks.MOST_COUNTED", 4)
    app = Steered()
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 6), partition=0)
        await athomic.drain()
        plan = await athomic.plan_seek("h", "t", partition=0, to=1)
        assert (plan.repeated, plan.exact) == (4, True)
        plan = await athomic.plan_seek("h", "t", partition=0, to=0)
        assert (plan.repeated, plan.exact) == (5, False)


async def test_partitions_of_other_members_are_in_the_way_unless_it_is_forced() -> None:
    app = Steered()
    second = app.again()
    app.athomic._shared = second._shared = None
    async with running(app.athomic) as athomic, running(second):
        await eventually(lambda: len(owned(second, "t")) == 1 and len(owned(athomic, "t")) == 2)
        (away,) = owned(second, "t")
        here = sorted(owned(athomic, "t"))
        for number in range(3):
            await app.publish(str(number), range(1, 4), partition=number)
        await athomic.drain()
        await second.drain()
        said = (
            f"t[{away}] is not assigned to this process (assigned are: t[{here[0]}], t[{here[1]}]): another member of "
            "the group g has it, and only that one can seek there"
        )
        plan = await athomic.plan_seek("h", "t", to="beginning")
        assert plan.problems == [said]
        assert [(p.from_offset, p.repeated, p.exact) for p in plan.partitions] == [
            (3, 3, number != away) for number in range(3)
        ]
        with pytest.raises(ControlRefusedError, match="only that one can seek there") as refused:
            await athomic.seek("h", "t", to="beginning")
        assert refused.value.problems == (said,)
        with pytest.raises(ControlRefusedError, match="only that one can seek there"):
            await athomic.seek("h", "t", away, 0, force=True)
        assert len(app.record.seen) == 9
        plan = await athomic.seek("h", "t", to="beginning", force=True)
        assert [part.done for part in plan.partitions] == [number != away for number in range(3)]
        assert not plan.done
        await athomic.drain()
        await second.drain()
    assert {order: len(seen) for order, seen in app.by_order().items()} == {
        str(number): 3 if number == away else 6 for number in range(3)
    }


async def test_a_seek_of_which_a_part_fails_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Steered()
    commit = MemoryConsumer.commit

    async def refuse(self: MemoryConsumer, offsets: Any, timeout: float) -> None:
        if any(place.partition == 1 for place in offsets):
            raise TransportError("no")
        await commit(self, offsets, timeout)

    async with running(app.athomic) as athomic:
        for number in range(3):
            await app.publish(str(number), range(1, 3), partition=number)
        await athomic.drain()
        with monkeypatch.context() as patched:
            patched.setattr(MemoryConsumer, "commit", refuse)
            plan = await athomic.seek("h", "t", to="beginning")
        assert [(part.done, part.problems) for part in plan.partitions] == [
            (True, []),
            (False, ["t[1]: no"]),
            (True, []),
        ]
        assert (plan.done, plan.problems) == (False, ["t[1]: no"])
        await athomic.drain()
    assert app.by_order() == {"0": [1, 2, 1, 2], "1": [1, 2], "2": [1, 2, 1, 2]}


async def test_what_a_seek_cannot_mean_is_refused_with_a_sentence() -> None:
    app = Steered()
    async with running(app.athomic) as athomic:
        await athomic._transport.create_topics({"u": 1}, 5)
        wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
            (ConfigurationError, "seek needs either an offset or `to`", {}),
            (ConfigurationError, "seek needs either an offset or `to`", {"partition": 0, "offset": 1, "to": 2}),
            (ConfigurationError, "an offset says nothing about all partitions", {"to": 3}),
            (ConfigurationError, "the time 2026-01-31T12:00:00 needs a time zone", {"to": NOON.replace(tzinfo=None)}),
            (ConfigurationError, "not 'start'", {"to": "start"}),
            (ConfigurationError, "not 'begining': did you mean 'beginning'", {"to": "begining"}),
            (ConfigurationError, "not True", {"partition": 0, "to": True}),
            (ConfigurationError, "not 1.5", {"partition": 0, "to": 1.5}),
            (ConfigurationError, "partition must be a whole number", {"partition": -1, "offset": 0}),
            (PartitionNotFoundError, r"t\[9\]: there is no such partition", {"partition": 9, "offset": 0}),
            (ControlRefusedError, r"t\[0\] cannot go on at offset 6: its offsets", {"partition": 0, "offset": 6}),
            (ControlRefusedError, r"t\[0\] cannot go on at offset -1", {"partition": 0, "offset": -1, "force": True}),
        ]
        for error, said, options in wrong:
            with pytest.raises(error, match=said):
                await athomic.seek("h", "t", **options)
        with pytest.raises(TopicNotFoundError):
            await athomic.seek("h", "nowhere", 0, 0)
        with pytest.raises(SourceNotFoundError, match="h does not consume the topic 'u'"):
            await athomic.plan_seek("h", "u", to="end")
        service: Any = athomic.manager().consumers["h"]  # type: ignore[union-attr]
        await service.stop(5)
        with pytest.raises(ControlRefusedError, match=r"h has no partitions at the moment \(stopped\)"):
            await athomic.seek("h", "t", 0, 0)
        plan = await athomic.plan_seek("h", "t", partition=0, to=0)
        assert (plan.partitions[0].from_offset, plan.skipped, plan.repeated, plan.exact) == (0, 0, 0, False)


@pytest.mark.parametrize("role", ["web", "worker"])
async def test_who_has_no_partitions_knows_from_the_broker_what_a_seek_would_skip_and_repeat(role: str) -> None:
    """By what the group has committed, with what is done above that."""
    app = Steered("none", memory={"partitions": 1})
    other = app.again(role=role)
    async with running(app.athomic) as athomic, other.app.router.lifespan_context(other.app):
        await app.publish("a", range(1, 11))
        await athomic.drain()
        await eventually(lambda: len(owned(athomic, "t")) + len(owned(other, "t")) == 1)
        asked = other if owned(athomic, "t") else athomic
        broker: Any = athomic._transport.broker  # type: ignore[attr-defined]
        for note, done in (("", 0), (encode_note(bitmap([1, 3])), 2)):
            broker._groups["g"].committed[TopicPartition("t", 0)] = CommittedOffset(4, note)
            plan = await asked.plan_seek("h", "t", to="beginning")
            assert (plan.partitions[0].from_offset, plan.skipped, plan.repeated) == (4, 0, 4 + done)
            plan = await asked.plan_seek("h", "t", to="end")
            assert (plan.skipped, plan.repeated) == (6 - done, 0)
            assert not plan.exact, "whoever has it goes on meanwhile"
        broker.disconnect()
        with pytest.raises(TransportError):
            await asked.plan_seek("h", "t", to="end")
        broker.reconnect()


async def test_a_seek_during_a_rebalance_happens_or_is_refused_but_loses_nothing() -> None:
    app = Steered()
    second = app.again()
    app.athomic._shared = second._shared = None
    async with running(app.athomic) as athomic:
        for number in range(3):
            await app.publish(str(number), range(1, 4), partition=number)
        await athomic.drain()
        async with running(second):

            async def seek() -> int:
                done = 0
                while done < 5:
                    await asyncio.sleep(0)
                    try:
                        plan = await athomic.seek("h", "t", to="beginning", force=True)
                    except TransportError:
                        continue
                    done += sum(part.done for part in plan.partitions)
                return done

            seeking = asyncio.create_task(seek())
            for _ in range(3):
                athomic._transport.broker.rebalance("g")  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            assert await seeking
        await athomic.wait_until_ready()
        await eventually(lambda: owned(athomic, "t") == {0, 1, 2})
        await athomic.drain()
        assert (await athomic.plan_seek("h", "t", to="end")).skipped == 0
    assert {order: max(seen) for order, seen in app.by_order().items()} == {"0": 3, "1": 3, "2": 3}


async def test_of_two_seeks_at_once_in_a_partition_the_second_is_refused() -> None:
    app = Steered(concurrency=1)
    async with running(app.athomic) as athomic:
        app.gate.clear()
        await app.publish("a", range(1, 11), partition=0)
        await app.record.until(lambda seen: ("a", 1) in seen)
        first = asyncio.create_task(athomic.seek("h", "t", 0, 8))
        await eventually(lambda: athomic._running().manager.consumers["h"].life.session._placement._sought)  # type: ignore[union-attr]
        with pytest.raises(ControlRefusedError, match=r"another seek is under way in t\[0\]"):
            await athomic.seek("h", "t", 0, 3)
        app.gate.set()
        assert (await first).done
        await athomic.drain()
        assert (await athomic.seek("h", "t", 0, 9)).repeated == 1
        await athomic.drain()
    assert numbers(app) == [1, 9, 10, 10]


async def test_a_partition_that_comes_or_goes_is_not_said_to_be_of_another_member() -> None:
    app = Steered()
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 3), partition=0)
        await athomic.drain()
        session = athomic._running().manager.consumers["h"].life.session
        assert session is not None
        session._assignment.leave(session.states.values())
        with pytest.raises(ControlRefusedError, match=r"t\[0\] is being taken over or given up by this process"):
            await athomic.seek("h", "t", 0, 0)

"""What a member does when its process was frozen, on `memory://`.

Whether that is enough, tests/chaos tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from fastapi_athomic import AthomicSettings, CommitFailedError, TransportError, ordered_consumer, subscribe_to
from fastapi_athomic.loop.fairness import LoopShare
from fastapi_athomic.observation.reasons import ReasonCode
from fastapi_athomic.transports.base import Confirmation
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from tests.support.apps import Gate, Record, eventually, new_app, running
from tests.support.clock import SESSION, set_clock


@pytest.mark.parametrize("ordering", ["partition", "key"])
async def test_p4_who_was_away_asks_whether_it_still_belongs_before_it_goes_on(
    ordering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, gate, ahead = Record(), Gate(), [0.0]
    set_clock(monkeypatch, lambda: monotonic() + ahead[0], *SESSION, "consumption.lanes")

    @subscribe_to("t", group_id="g", handler_id="h", ordering=ordering)
    async def handle(number: int) -> None:
        if number == 0:
            await gate.wait()
            ahead[0] = 10_000.0  # as if the whole process were frozen
        record.note(number)

    settings = AthomicSettings(
        broker_url=f"memory://{uuid4().hex}",
        stall_timeout=20_000.0,
        memory={"partitions": 1},  # type: ignore[arg-type]
    )
    athomic = new_app(settings, handle)
    async with running(athomic):
        session: Any = athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        confirm = session._membership.confirm

        async def confirm_membership() -> None:
            record.note("confirmed")
            await confirm()

        monkeypatch.setattr(session._membership, "confirm", confirm_membership)
        await athomic.publish_many("t", list(range(5)), key=str)
        session._assignment.away_limit = 5_000.0
        session._assignment.note_poll(monotonic())
        gate.set()
        await record.count(6)
        await athomic.drain()
    assert record.seen == [0, "confirmed", 1, 2, 3, 4]


class Numbered(BaseModel):
    key: str
    number: int


def decorate(kind: str, handle: Callable[[int], None]) -> Callable[..., Any]:
    """A handler of one of the strategies."""
    options: Any = {"group_id": "g", "handler_id": "h"}
    if kind == "ordered":

        @ordered_consumer("t", **options, aggregate_key_field="key", sequence_id_field="number")
        async def ordered(message: Numbered) -> None:
            handle(message.number)

        return ordered
    if kind == "batch":

        @subscribe_to("t", **options, ordering="partition", batch_size=1)
        async def batch(messages: list[Numbered]) -> None:
            handle(messages[0].number)

        return batch

    @subscribe_to("t", **options, ordering="partition")
    async def single(message: Numbered) -> None:
        handle(message.number)

    return single


@pytest.mark.parametrize("kind", ["single", "batch", "ordered"])
@pytest.mark.parametrize("frozen_in", ["handler", "pause"])
async def test_p05_a_worker_that_goes_on_before_the_poll_loop_asks_too(
    kind: str, frozen_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is frozen in a handler, while others have begun a slice; or while the worker gives way to others."""
    record, ahead = Record(), [0.0]
    set_clock(monkeypatch, lambda: monotonic() + ahead[0], "consumption", "sequencing")

    def handle(number: int) -> None:
        if number == 1 and frozen_in == "handler":
            ahead[0], share().deadline = 6.0, float("inf")
        record.note(number)

    def session() -> Any:
        return athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]

    def share() -> Any:
        return session()._parts.share

    async def give_way(_: LoopShare) -> None:
        if frozen_in == "pause" and record.seen:
            ahead[0] = 6.0

    settings = AthomicSettings(
        broker_url=f"memory://{uuid4().hex}",
        stall_timeout=100.0,
        memory={"partitions": 1},  # type: ignore[arg-type]
    )
    athomic = new_app(settings, decorate(kind, handle))
    async with running(athomic):
        confirm = session()._membership.confirm

        async def confirm_membership() -> None:
            record.note("confirmed")
            await confirm()

        monkeypatch.setattr(session()._membership, "confirm", confirm_membership)
        monkeypatch.setattr(LoopShare, "turned", lambda *_: False)
        monkeypatch.setattr(LoopShare, "give_way", give_way)
        session()._assignment.away_limit = 5.0
        session()._assignment.note_poll(monotonic())
        await athomic.publish_many(
            "t", [Numbered(key="k", number=number) for number in range(1, 5)], key=lambda message: message.key
        )
        await record.count(5)
    assert record.seen == [1, "confirmed", 2, 3, 4]


def confirmation(at: float | None) -> Confirmation | None:
    return None if at is None else Confirmation(at, at + 5.0)


@pytest.mark.parametrize("kind", ["single", "batch", "ordered"])
async def test_p05_who_hears_nothing_of_the_broker_begins_nothing_new(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process runs, and polls, but by now the group may have given its partitions to others."""
    record, ahead, heard = Record(), [0.0], [monotonic()]

    def clock() -> float:
        return monotonic() + ahead[0]

    set_clock(monkeypatch, clock, "consumption", "sequencing")
    monkeypatch.setattr(MemoryConsumer, "confirmation", lambda _: confirmation(heard[0]))

    def handle(number: int) -> None:
        record.note(number)
        if number == 1:
            ahead[0] = 6.0

    async def confirm() -> None:
        record.note("asked by a commit, which nobody would answer")

    settings = AthomicSettings(
        broker_url=f"memory://{uuid4().hex}",
        stall_timeout=100.0,
        memory={"partitions": 1},  # type: ignore[arg-type]
    )
    athomic = new_app(settings, decorate(kind, handle))
    async with running(athomic):
        session: Any = athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        monkeypatch.setattr(session._membership, "confirm", confirm)
        session._assignment.away_limit = 1e9
        session._assignment.note_poll(clock())
        await athomic.publish_many(
            "t", [Numbered(key="k", number=number) for number in range(1, 5)], key=lambda message: message.key
        )
        await eventually(lambda: session._assignment.cut_off)
        (reason,) = athomic.consumers()[0].health.reasons
        assert reason.code == ReasonCode.MEMBERSHIP_IN_DOUBT
        assert reason.message.startswith("the coordinator of its group has not answered for 6 s")
        polled = session.polled_at
        await eventually(lambda: session.polled_at > polled)
        assert record.seen == [1]
        heard[0] = clock()
        await record.count(4)
        await eventually(lambda: not athomic.consumers()[0].health.reasons)
    assert record.seen == [1, 2, 3, 4]


async def test_who_has_no_partitions_or_hears_of_the_broker_between_two_polls_is_not_in_doubt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record, heard = Record(), list[float | None]([None])
    monkeypatch.setattr(MemoryConsumer, "confirmation", lambda _: confirmation(heard[0]))

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(number: int) -> None:
        record.note(number)

    async with running(athomic := new_app(AthomicSettings(broker_url=f"memory://{uuid4().hex}"), handle)):
        assignment: Any = athomic.manager().consumers["h"].life.session._assignment  # type: ignore[union-attr]
        now = monotonic()
        assignment.note_poll(now)
        assert not assignment.suspect(now + 1e6), "no partitions"
        heard[0] = now
        assignment.note_poll(now)
        heard[0] = now + 4.0  # since then
        assert not assignment.suspect(now + 6.0)
        assert assignment.trusted_until == now + 9.0
        assert assignment.suspect(now + 9.1)
        assert assignment.cut_off
        assert not assignment.trust_again(now + 9.2)
        heard[0] = now + 9.15
        assignment.note_poll(now + 9.3)
        assert assignment.trust_again(now + 9.3)
        assert (assignment.doubtful, assignment.cut_off, assignment.doubted_at) == (False, False, None)
        assert caplog.messages[-1] == "h: the coordinator of its group answers again: handlers go on"
        assert assignment.suspect(now + 20.15)
        heard[0] = None  # the group has taken them
        assignment.note_poll(now + 20.2)
        assert assignment.trust_again(now + 20.2)
        assert not assignment.doubtful
        assert caplog.messages[-1].startswith("h: the coordinator of its group has not answered for 11.0 s")


async def test_a_doubt_that_no_commit_can_lift_waits_until_the_broker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once, and not again and again: the answer to a heartbeat tells as much."""

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(number: int) -> None: ...

    async def unanswered(*_: object) -> None:
        raise TransportError("no answer")

    async with running(athomic := new_app(AthomicSettings(broker_url=f"memory://{uuid4().hex}"), handle)):
        await athomic.publish("t", 0)
        await athomic.drain()
        session: Any = athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        now, heard = monotonic(), [0.0]
        heard[0] = now - 30.0
        with monkeypatch.context() as patched:
            patched.setattr(MemoryConsumer, "confirmation", lambda _: confirmation(heard[0]))
            patched.setattr(MemoryConsumer, "commit", unanswered)
            session._assignment.hold("doubt")
            await session._membership.confirm()
            assert (session._assignment.cut_off, session._assignment.doubted_at) == (True, now - 30.0)
            heard[0] = monotonic()
            await eventually(lambda: not session._assignment.doubtful)


async def test_a_rebalance_while_the_membership_is_in_doubt_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that would have told is refused then: of a member that has new partitions already."""
    record = Record()

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(number: int) -> None:
        record.note(number)

    settings = AthomicSettings(
        broker_url=f"memory://{uuid4().hex}",
        memory={"partitions": 1},  # type: ignore[arg-type]
    )
    athomic = new_app(settings, handle)
    async with running(athomic):
        await athomic.publish("t", 0)
        await athomic.drain()
        session: Any = athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        partitions = frozenset(session.states)

        async def refuse_after_a_rebalance(*_: object) -> None:
            monkeypatch.undo()
            await session._membership.on_revoked(partitions)
            await session._membership.on_assigned(partitions)
            raise CommitFailedError

        monkeypatch.setattr(MemoryConsumer, "commit", refuse_after_a_rebalance)
        session._assignment.hold("doubt")
        await session._membership.confirm()
        assert frozenset(session.states) == partitions
        assert not session._assignment.doubtful
        await athomic.publish("t", 1)
        await record.until(lambda seen: 1 in seen)
        assert athomic.consumers()[0].restarts == 0


async def test_p13_who_hears_of_its_eviction_by_a_heartbeat_says_so_until_it_is_in_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the transport it is a rebalance like any other; only the last commit is refused."""
    record, gate, begun = Record(), Gate(), Record()

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(number: int) -> None:
        begun.note(number)
        await gate.wait()
        record.note(number)

    settings = AthomicSettings(
        broker_url=f"memory://{uuid4().hex}",
        memory={"partitions": 1},  # type: ignore[arg-type]
    )
    athomic = new_app(settings, handle)
    async with running(athomic):
        session: Any = athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        partitions = frozenset(session.states)

        async def refuse(*_: object) -> None:
            raise CommitFailedError

        await athomic.publish("t", 0)
        await begun.count(1)
        with monkeypatch.context() as patched:
            patched.setattr(MemoryConsumer, "commit", refuse)
            revoking = asyncio.create_task(session._membership.on_revoked(partitions))
            gate.set()
            await revoking
        assert [reason.code for reason in athomic.consumers()[0].health.reasons] == [ReasonCode.MEMBERSHIP_LOST]
        await session._membership.on_assigned(partitions)
        assert athomic.consumers()[0].health.reasons == []
        await record.count(2)  # it was not committed, so it comes again

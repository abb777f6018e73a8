"""While messages trickle, a few are taken in where they arrive. The poll loop does the rest."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, subscribe_to
from fastapi_athomic.bell import Bell
from fastapi_athomic.consumption import intake as intake_module
from fastapi_athomic.consumption import session as session_module
from fastapi_athomic.consumption.intake import FEW
from fastapi_athomic.consumption.session import ConsumerSession
from fastapi_athomic.messages import OutgoingMessage
from fastapi_athomic.operation_settings import HealthSettings
from fastapi_athomic.settings import MemorySettings
from tests.support.apps import Gate, Record, eventually, new_app, running
from tests.support.causes import broker_of, session_of
from tests.support.clock import SESSION, set_clock

SOON = 30.0
"""Seconds: no test waits for that."""
SPOKEN_FOR: ContextVar[str] = ContextVar("spoken_for", default="nobody")


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll loop looks only when it is called, once it knows that messages trickle."""
    monkeypatch.setattr(session_module, "POLL_SECONDS", 60.0)
    monkeypatch.setattr(session_module, "POSITIONS_SECONDS", 60.0)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "POSITIONS_SECONDS", SOON)


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each round of a poll loop."""
    polls: list[None] = []
    poll = ConsumerSession._poll

    async def counted(session: ConsumerSession) -> int:
        polls.append(None)
        return await poll(session)

    monkeypatch.setattr(ConsumerSession, "_poll", counted)
    return polls


def app_of(
    handle: Callable[[Any], Any],
    partitions: int = 1,
    max_poll_messages: int = 125,
    max_buffered_messages: int | None = None,
    **options: Any,
) -> Athomic:
    async def handler(message: int) -> None:
        await handle(message)

    settings = AthomicSettings(
        broker_url=f"memory://{uuid4().hex}",
        memory=MemorySettings(partitions=partitions),
        max_poll_messages=max_poll_messages,
        max_buffered_messages=max_buffered_messages,
        restart_backoff=0.01,
        stall_timeout=600.0,
        health=HealthSettings(poll_late=600.0),
    )
    return new_app(settings, subscribe_to("t", group_id="g", handler_id="h", **options)(handler))


async def begin(athomic: Athomic, record: Record) -> None:
    """Two messages, after which the poll loop knows that they trickle."""
    for number in (-2, -1):
        await athomic.publish("t", number)
        await record.until(lambda seen, number=number: number in seen)  # type: ignore[misc]
        await eventually(lambda: session_of(athomic)._bell.waited_for)
    record.seen.clear()


def at_once(athomic: Athomic, *messages: tuple[int, int]) -> None:
    """Puts messages into partitions, so that the consumer hears of the first when all are there, as of one answer."""
    written = [OutgoingMessage("t", None, b"%d" % number, (), partition=partition) for number, partition in messages]
    client = session_of(athomic).client()
    arrived, client._member._arrived = client._member._arrived, lambda: None
    broker_of(athomic).append(written, athomic.settings.memory)
    client._member._arrived = arrived
    client._note_arrival()


def fails_once(athomic: Athomic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strategy of the session that runs now does not take the first messages that it gets."""
    strategy, failed = session_of(athomic)._strategy, list[None]()
    accept = strategy.accept

    def fails(*arguments: Any) -> None:
        if not failed:
            failed.append(None)
            raise RuntimeError("a fault")
        accept(*arguments)

    monkeypatch.setattr(strategy, "accept", fails)


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
def noting(record: Record) -> Callable[[int], Any]:
    async def note(number: int) -> None:
        record.note(number)

    return note


async def test_a_few_messages_do_not_wake_the_poll_loop(
    record: Record, noting: Callable[[int], Any], polls: list[None]
) -> None:
    async with running(athomic := app_of(noting)):
        await begin(athomic, record)
        polls.clear()
        for number in range(FEW):
            await athomic.publish("t", number)
            await record.count(number + 1)
        assert polls == []
        assert record.seen == list(range(FEW))
        assert athomic.consumers()[0].counters.received == FEW + 2
        session_of(athomic)._bell.ring()
        await athomic.drain()


@pytest.mark.parametrize(("count", "calls"), [(FEW - 1, 0), (FEW, 1)])
async def test_as_many_as_may_be_taken_at_once_do(
    record: Record, noting: Callable[[int], Any], count: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be more."""
    async with running(athomic := app_of(noting)):
        await begin(athomic, record)
        rung = list[Bell]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Bell, "ring", lambda bell: rung.append(bell))
            at_once(athomic, *((number, 0) for number in range(count)))
        assert len(rung) == calls
        await record.count(count)
        await athomic.drain()


async def test_what_is_started_where_a_message_arrives_knows_nothing_of_who_sent_it(record: Record) -> None:
    """On `memory://` that is in the midst of `publish`. Workers live on, and with them what they were started with."""
    gate = Gate()

    async def handle(number: int) -> None:
        record.note((number, SPOKEN_FOR.get()))
        if number >= 0:
            await gate.wait()

    async with running(athomic := app_of(handle, ordering="none", concurrency=3)):
        for number in (-2, -1):
            await athomic.publish("t", number)
            await record.count(number + 3)
            await eventually(lambda: session_of(athomic)._bell.waited_for)
        SPOKEN_FOR.set("a request")
        for number in range(3):
            await athomic.publish("t", number)
            await record.count(number + 3)
        gate.set()
        await athomic.drain()
    assert {spoken_for for _, spoken_for in record.seen} == {"nobody"}


async def test_a_paused_consumer_takes_nothing_in(record: Record, noting: Callable[[int], Any]) -> None:
    async with running(athomic := app_of(noting)):
        await begin(athomic, record)
        consumer = athomic.manager().consumers["h"]  # type: ignore[union-attr]
        consumer.pause()
        received = athomic.consumers()[0].counters.received
        await athomic.publish("t", 1)
        await eventually(lambda: session_of(athomic)._bell.waited_for)
        assert athomic.consumers()[0].counters.received == received
        consumer.resume()
        await record.count(1)
        await athomic.drain()


async def test_p4_who_was_away_asks_whether_it_still_belongs_before_it_takes_anything_in(
    record: Record, noting: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was frozen, and the message comes before the poll loop looks."""
    ahead = [0.0]
    set_clock(monkeypatch, lambda: monotonic() + ahead[0], *SESSION)
    async with running(athomic := app_of(noting)):
        await begin(athomic, record)
        session = session_of(athomic)
        confirm = session._membership.confirm

        async def confirm_membership() -> None:
            record.note("confirmed")
            await confirm()

        monkeypatch.setattr(session._membership, "confirm", confirm_membership)
        session._assignment.away_limit = 5.0
        session._assignment.note_poll(monotonic())
        ahead[0] = 6.0
        await athomic.publish("t", 1)
        await record.count(2)
        await athomic.drain()
    assert record.seen == ["confirmed", 1]


@pytest.mark.parametrize("partitions", [(0, 0), (0, 1)], ids=["the next one", "another partition's"])
async def test_a_fault_breaks_the_consumer_and_nothing_is_lost_or_out_of_order(
    record: Record, noting: Callable[[int], Any], partitions: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it break who brought the messages. Of the second one no partition has heard when the first one fails."""
    monkeypatch.setattr(intake_module, "FEW", 1 if partitions == (0, 0) else 10)
    async with running(athomic := app_of(noting, partitions=2)):
        await begin(athomic, record)
        fails_once(athomic, monkeypatch)
        at_once(athomic, (1, partitions[0]), (2, partitions[1]))
        await record.count(2)
        await athomic.drain()
        assert athomic.consumers()[0].restarts == 1
        assert athomic.consumers()[0].last_restart_reason == "RuntimeError"
    assert record.seen == [1, 2] if partitions == (0, 0) else sorted(record.seen) == [1, 2]


async def test_no_more_is_taken_in_than_may_be_buffered(record: Record) -> None:
    gate = Gate()

    async def handle(number: int) -> None:
        record.note(number)
        if number >= 0:
            await gate.wait()

    async with running(athomic := app_of(handle, max_poll_messages=2, max_buffered_messages=4)):
        await begin(athomic, record)
        at_once(athomic, *((number, 0) for number in range(9)))
        await record.count(1)
        await eventually(lambda: session_of(athomic)._bell.waited_for)
        (state,) = session_of(athomic).states.values()
        assert 2 <= state.buffered <= 4
        gate.set()
        await record.count(9)
        await athomic.drain()
    assert record.seen == list(range(9))


async def test_what_a_partition_has_no_room_for_is_left_where_another_has(record: Record) -> None:
    """The partition whose handler hangs is full; messages of both arrive together."""
    gate = Gate()

    async def handle(number: int) -> None:
        record.note(number)
        if number < 100 and number >= 0:
            await gate.wait()

    options: dict[str, Any] = {"max_poll_messages": 1, "max_buffered_messages": 2, "partitions": 2}
    async with running(athomic := app_of(handle, ordering="partition", concurrency=2, **options)):
        await begin(athomic, record)
        for number in range(6):
            at_once(athomic, (number, 0), (100 + number, 1))
            await record.until(lambda seen, number=number: 100 + number in seen)  # type: ignore[misc]
        states = {place.partition: state for place, state in session_of(athomic).states.items()}
        assert states[0].buffered == 2
        gate.set()
        await record.count(12)
        await athomic.drain()
    assert [number for number in record.seen if number < 100] == list(range(6))


@pytest.mark.parametrize("why", ["closing", "doubt", "unplaced", "the poll loop is at work"])
async def test_nothing_is_taken_in_while_it_must_not_be(
    record: Record, noting: Callable[[int], Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll loop is called instead, once."""
    async with running(athomic := app_of(noting)):
        await begin(athomic, record)
        session = session_of(athomic)
        bell, rung = session._bell, list[None]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Bell, "ring", lambda _: rung.append(None))
            if why == "closing":
                patch.setattr(session._assignment, "closing", True)
            elif why == "doubt":
                patch.setattr(session._assignment, "_holds", {"doubt"})
            elif why == "unplaced":
                patch.setattr(session._placement, "unplaced", dict.fromkeys(session.states))
            else:
                patch.setattr(bell, "_rung", True)
            at_once(athomic, (1, 0))
            assert rung
            assert athomic.consumers()[0].counters.received == 2
        bell.ring()
        await record.count(1)
        await athomic.drain()


async def test_who_is_called_while_messages_are_taken_in_does_not_take_in_more(
    record: Record, noting: Callable[[int], Any]
) -> None:
    """A client that gives out few at once calls while it is asked: then there is more than is taken in aside."""
    async with running(athomic := app_of(noting)):
        await begin(athomic, record)
        intake, client, depth = session_of(athomic)._intake, session_of(athomic).client(), list[int]()
        take = client.take

        def one_by_one(places: Any, limit: int) -> Any:
            depth.append(intake._taking)
            found = take(places, 1)
            if client.ready():
                client._listener.on_arrival()
            return found

        client.take = one_by_one
        at_once(athomic, *((number, 0) for number in range(5)))
        assert depth == [True]
        await record.count(5)
        await athomic.drain()
        assert athomic.consumers()[0].restarts == 0
    assert record.seen == list(range(5))


async def look(athomic: Athomic) -> None:
    """The poll loop looks, and waits again."""
    session_of(athomic)._bell.ring()
    await eventually(lambda: session_of(athomic)._bell.waited_for)


def rests(athomic: Athomic) -> bool:
    """The poll loop has nothing to look at soon."""
    return not session_of(athomic)._patience(monotonic()) <= SOON


async def test_few_messages_give_the_poll_loop_nothing_to_do_however_seldom_they_come(
    record: Record, noting: Callable[[int], Any], polls: list[None], soon: None
) -> None:
    async with running(athomic := app_of(noting)):
        await begin(athomic, record)
        await look(athomic)
        await look(athomic)
        polls.clear()
        await athomic.publish("t", 1)
        await record.count(1)
        assert rests(athomic)
        assert polls == []
        await athomic.drain()


async def test_small_rounds_of_the_poll_loop_compare_positions_as_seldom_as_large_ones(
    record: Record, noting: Callable[[int], Any], polls: list[None], soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a small `max_poll_messages` each round is one."""
    compared: list[None] = []
    compare = ConsumerSession._note_positions

    def counted(session: ConsumerSession, *args: Any) -> bool:
        compared.append(None)
        return compare(session, *args)

    monkeypatch.setattr(ConsumerSession, "_note_positions", counted)
    async with running(athomic := app_of(noting, max_poll_messages=2)):
        await begin(athomic, record)
        await look(athomic)
        polls.clear()
        compared.clear()
        at_once(athomic, *((number, 0) for number in range(3 * FEW)))
        await record.count(3 * FEW)
        await eventually(lambda: session_of(athomic)._bell.waited_for)
        assert len(polls) >= 3 * FEW / 2
        assert len(compared) <= 1, "once there was nothing more"
        await athomic.drain()


async def test_after_many_messages_the_poll_loop_looks_at_positions_soon_and_then_rests(
    record: Record, noting: Callable[[int], Any], soon: None
) -> None:
    """Who looked as often for ever would use CPU while nothing comes."""
    async with running(athomic := app_of(noting)):
        await begin(athomic, record)
        at_once(athomic, *((number, 0) for number in range(3 * FEW)))
        await record.count(3 * FEW)
        await eventually(lambda: session_of(athomic)._bell.waited_for)
        assert not rests(athomic)
        assert not session_of(athomic)._intake.trickles
        await look(athomic)
        assert rests(athomic)
        await athomic.drain()


async def test_p1_offsets_without_a_message_behind_the_last_one_are_committed_soon_after_it(
    record: Record, polls: list[None], soon: None
) -> None:
    """Such as the end of a transaction. While the handler takes long, the poll loop rests again."""
    gate = Gate()

    async def handle(number: int) -> None:
        record.note(number)
        if number >= 0:
            await gate.wait()

    async with running(athomic := app_of(handle, ordering="none", concurrency=3)):
        await begin(athomic, record)
        await look(athomic)
        client = session_of(athomic).client()
        position = client.position
        client.position = lambda place: position(place) + 1
        polls.clear()
        await athomic.publish("t", 1)
        await eventually(lambda: session_of(athomic)._bell.waited_for)
        assert (len(polls), rests(athomic)) == (1, False)
        await athomic.publish("t", 2)
        await record.count(2)
        assert len(polls) == 1, "it looks soon anyway"
        await look(athomic)
        assert not rests(athomic), "another one has come"
        await look(athomic)
        assert rests(athomic)
        gate.set()
        await athomic.publish("t", 3)
        (state,) = session_of(athomic).states.values()
        await eventually(lambda: not state.buffered)
        await look(athomic)
        await eventually(lambda: state.committed == 6)
        client.position = position

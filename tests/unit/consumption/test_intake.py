"""While messages trickle, a few are taken in where they arrive. The poll loop does the rest."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, subscribe_to
from fastapi_athomic.consumption import intake as intake_module
from fastapi_athomic.consumption import session as session_module
from fastapi_athomic.consumption.intake import FEW
from fastapi_athomic.consumption.session import ConsumerSession
from tests.support.apps import Gate, Record, eventually, new_app, running
from tests.support.causes import session_of
from tests.support.clock import SESSION, set_clock

SPOKEN_FOR: ContextVar[str] = ContextVar("spoken_for", default="nobody")


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll loop looks only when it is called, once it knows that messages trickle."""
    monkeypatch.setattr(session_module, "POLL_SECONDS", 60.0)
    monkeypatch.setattr(session_module, "POSITIONS_SECONDS", 60.0)


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


def app_of(handle: Callable[[Any], Any], **options: Any) -> Athomic:
    async def handler(message: int) -> None:
        await handle(message)

    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", memory={"partitions": 1})  # type: ignore[arg-type]
    return new_app(settings, subscribe_to("t", group_id="g", handler_id="h", **options)(handler))


async def begin(athomic: Athomic, record: Record) -> None:
    """Two messages, after which the poll loop knows that they trickle."""
    for number in (-2, -1):
        await athomic.publish("t", number)
        await record.until(lambda seen, number=number: number in seen)  # type: ignore[misc]
        await eventually(lambda: session_of(athomic)._bell.waited_for)
    record.seen.clear()


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


async def test_as_many_as_may_be_taken_at_once_do(
    record: Record, noting: Callable[[int], Any], polls: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be more."""
    monkeypatch.setattr(intake_module, "FEW", 1)
    async with running(athomic := app_of(noting)):
        await begin(athomic, record)
        polls.clear()
        await athomic.publish("t", 1)
        await record.count(1)
        await eventually(lambda: polls)
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


async def test_a_fault_breaks_the_consumer_and_not_who_brought_the_message(
    record: Record, noting: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost: the session that is built next reads from what was committed."""
    async with running(athomic := app_of(noting)):
        await begin(athomic, record)

        def fails(*_: Any) -> None:
            raise RuntimeError("a fault")

        monkeypatch.setattr(session_of(athomic)._strategy, "accept", fails)
        await athomic.publish("t", 1)
        await record.count(1)
        assert athomic.consumers()[0].restarts == 1
        assert athomic.consumers()[0].last_restart_reason == "RuntimeError"
        await athomic.drain()
    assert record.seen == [1]

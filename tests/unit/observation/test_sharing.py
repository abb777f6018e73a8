"""Processes tell each other their statuses: when, what, and what becomes of those that end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, StateStoreError, subscribe_to
from fastapi_athomic.observation.sharing import (
    COMPLAINT_SECONDS,
    IDLE,
    KEPT,
    NO_STORE,
    NOBODY,
    SWITCHED_OFF,
    StatusSharing,
    section_of,
)
from fastapi_athomic.observation.status import ConsumerStatus, LastError, PauseStatus, StatusScope
from fastapi_athomic.operation_settings import SharingSettings
from fastapi_athomic.stores.shared_memory import MemorySharedState
from tests.support.apps import SECONDS, Gate, Record, new_app, running

from .test_group_status import NOW, part, partition

INTERVAL = 5.0
GROUPS = {"h": "g"}
KAFKA = "kafka://127.0.0.1:9092"


class Shared(MemorySharedState):
    """Counts what is written, and can be away or silent."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock, has_others=True)
        self.writes = 0
        self.away = self.silent = False

    async def put(self, section: str, name: str, document: bytes, *, ttl: float | None = None) -> None:
        if self.away:
            raise StateStoreError("the state store cannot be reached: ConnectionError")
        self.writes += 1
        await super().put(section, name, document, ttl=ttl)

    async def all(self, section: str) -> Mapping[str, bytes]:
        if self.away:
            raise StateStoreError("the state store cannot be reached: ConnectionError")
        if self.silent:
            await asyncio.Event().wait()
        return await super().all(section)


class Desk:
    """Processes with one store, on a clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.shared = Shared(lambda: self.now)

    def process(self, name: str, **fields: Any) -> Process:
        return Process(self, name, fields)


class Process:
    """What one process says of its consumer; `fields` may be changed."""

    def __init__(self, desk: Desk, name: str, fields: dict[str, Any]) -> None:
        self.name, self.desk, self.fields = name, desk, fields
        self.consumes = True
        settings = AthomicSettings(instance_id=name, sharing=SharingSettings(interval=INTERVAL))
        self.sharing = StatusSharing(desk.shared, settings, self.statuses, lambda: desk.now)

    def statuses(self) -> list[ConsumerStatus]:
        return [part(self.name, **self.fields)] if self.consumes else []

    async def tick(self) -> None:
        self.sharing.tick()
        if self.sharing._telling is not None:
            await asyncio.wait([self.sharing._telling])

    async def live(self, seconds: float) -> None:
        """So many seconds with eight ticks in each."""
        for _ in range(round(seconds * 8)):
            self.desk.now += 0.125
            await self.tick()

    async def ask(self) -> ConsumerStatus:
        (status,) = await self.sharing.of_all(GROUPS)
        return status


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_an_answer_has_what_the_others_have_told_and_its_own_part(desk: Desk) -> None:
    ann = desk.process("ann", assignment=[partition(0, "ann")])
    bob = desk.process("bob", assignment=[partition(1, "bob")])
    await ann.tick()
    await bob.tick()
    for asked in (ann, bob):
        status = await asked.ask()
        assert status.process.instance_id == asked.name
        assert (status.scope, status.scope_note) == (StatusScope.GROUP, None)
        assert {member.instance_id for member in status.members} == {"ann", "bob"}
        assert [each.member for each in status.assignment] == ["ann", "bob"]


async def test_who_asks_is_shown_as_it_is_now(desk: Desk) -> None:
    ann = desk.process("ann", restarts=1)
    await ann.tick()
    ann.fields["restarts"] = 7
    assert (await ann.ask()).restarts == 7


async def test_what_is_new_is_told_every_few_seconds_and_what_is_not_a_third_as_often(desk: Desk) -> None:
    ann = desk.process("ann")
    await ann.tick()
    assert desk.shared.writes == 1
    for number in range(10):
        ann.fields["counters"] = {"received": number + 1}
        await ann.live(INTERVAL)
    busy = desk.shared.writes
    assert busy == 11
    await ann.live(INTERVAL * IDLE * 4)
    assert desk.shared.writes == busy + 4, "an idle process tells nothing but that it lives"


async def test_what_stands_still_while_the_topic_grows_is_new(desk: Desk) -> None:
    ann = desk.process("ann", assignment=[partition(0, "ann")])
    await ann.tick()
    ann.fields["assignment"] = [partition(0, "ann", lag=5)]
    await ann.live(INTERVAL)
    assert desk.shared.writes == 2


async def test_a_process_that_crashed_vanishes_and_an_idle_one_does_not(desk: Desk) -> None:
    ann, bob = desk.process("ann"), desk.process("bob")
    await bob.tick()
    for _ in range(20):
        await ann.live(INTERVAL * KEPT * IDLE / 10)
    assert [member.instance_id for member in (await ann.ask()).members] == ["ann"]
    assert [member.instance_id for member in (await bob.ask()).members] == ["bob", "ann"]


async def test_a_process_that_ends_takes_back_what_it_told(desk: Desk) -> None:
    ann, bob = desk.process("ann"), desk.process("bob")
    await bob.tick()
    await bob.sharing.leave()
    assert await desk.shared.all(section_of("g")) == {}
    assert [member.instance_id for member in (await ann.ask()).members] == ["ann"]
    await bob.live(INTERVAL * IDLE)
    assert await desk.shared.all(section_of("g")) == {}, "nothing is told after the end"


async def test_a_process_without_the_consumer_answers_for_those_that_have_it(desk: Desk) -> None:
    web, ann = desk.process("web", state="elsewhere"), desk.process("ann", assignment=[partition(0, "ann")])
    await web.live(INTERVAL)
    status = await web.ask()
    assert (status.members, status.scope_note) == ([], NOBODY)
    await ann.tick()
    status = await web.ask()
    assert status.process.instance_id == "web"
    assert [member.instance_id for member in status.members] == ["ann"]
    assert status.state == "running"
    web.consumes = False  # it has not even been told to look at it
    assert [member.instance_id for member in (await web.ask()).members] == ["ann"]
    assert await web.sharing.of_all({"another": "g"}) == [], "those of handlers that the app does not have"


async def test_one_consumer_can_be_asked_for(desk: Desk) -> None:
    ann = desk.process("ann")
    groups = GROUPS | {"other": "g2"}
    assert [status.id for status in await ann.sharing.of_all(groups, "h")] == ["h"]
    assert await ann.sharing.of_all(groups, "other") == []


async def test_while_the_store_is_away_each_process_speaks_for_itself(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = desk.process("ann"), desk.process("bob")
    desk.shared.away = True
    monkeypatch.setattr("fastapi_athomic.complaints.monotonic", lambda: desk.now)
    for _ in range(round(COMPLAINT_SECONDS / INTERVAL) + 1):
        await bob.live(INTERVAL)
    told = [record.message for record in caplog.records if "cannot be told" in record.message]
    why = "other processes cannot be told the status of this one: the state store cannot be reached: ConnectionError"
    assert told == [why, f"{why} (59 more times since this was logged)"]
    status = await ann.ask()
    assert status.scope is StatusScope.PROCESS
    assert status.scope_note == "other processes cannot be asked: the state store cannot be reached: ConnectionError"
    desk.shared.away = False
    await bob.live(INTERVAL)
    assert len((await ann.ask()).members) == 2, "what could not be told is told again, though it is not new"


async def test_a_fault_of_ours_is_logged_once_and_the_next_look_is_made(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob, faults = desk.process("ann"), desk.process("bob"), iter([True, True])
    statuses = bob.statuses

    def broken() -> list[ConsumerStatus]:
        if next(faults, False):
            raise ZeroDivisionError
        return statuses()

    monkeypatch.setattr(bob.sharing, "_statuses", broken)
    await bob.live(INTERVAL * 3)
    told = [record.message for record in caplog.records]
    assert told == ["the status of this process cannot be told: ZeroDivisionError"]
    assert len((await ann.ask()).members) == 2


async def test_a_store_that_does_not_answer_is_not_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.observation.sharing.READ_SECONDS", 0.01)
    desk.shared.silent = True
    status = await desk.process("ann").ask()
    assert status.scope is StatusScope.PROCESS
    assert status.scope_note == "other processes cannot be asked: the state store has not answered within 0.01 s"


@pytest.mark.parametrize("document", [b"{}", b'{"format": 2, "consumers": []}', b"\xff"])
async def test_who_cannot_be_understood_is_named(desk: Desk, document: bytes, caplog: pytest.LogCaptureFixture) -> None:
    ann = desk.process("ann")
    await desk.shared.put(section_of("g"), "host:1/abc", document)
    for _ in range(3):
        status = await ann.ask()
    assert [member.instance_id for member in status.members] == ["ann"]
    assert status.scope_note == "left out, as they are of another version: host:1"
    assert len([record for record in caplog.records if "host:1/abc is left out" in record.message]) == 1


@pytest.mark.parametrize("name", ["seen_at", "last_message_at", "since", "at"])
async def test_times_without_a_zone_are_not_understood(desk: Desk, name: str) -> None:
    """They cannot be compared with others."""
    pause = PauseStatus(since=NOW, actor="ann")
    error = LastError(type="E", message=None, stage="handler", topic="t", partition=0, offset=1, at=NOW, count=1)
    fields = {"pauses": [pause], "last_errors": [error], "last_message_at": NOW}
    ann, bob = desk.process("ann", **fields), desk.process("bob", **fields)
    await bob.tick()
    ((told, document),) = (await desk.shared.all(section_of("g"))).items()
    wrong, changed = re.subn(rf'("{name}":"[^"]*)Z"', r'\1"', document.decode())
    assert changed
    await desk.shared.put(section_of("g"), told, wrong.encode())
    assert (await ann.ask()).scope_note == "left out, as they are of another version: bob"


async def test_without_a_store_each_process_says_that_it_speaks_for_itself() -> None:
    def alone(settings: AthomicSettings, shared: MemorySharedState | None) -> StatusSharing:
        return StatusSharing(shared, settings, lambda: [part("ann")])

    shared = MemorySharedState(has_others=True)
    off = SharingSettings(enabled=False)
    for sharing, note in (
        (alone(AthomicSettings(broker_url=KAFKA), None), NO_STORE),
        (alone(AthomicSettings(broker_url=KAFKA), MemorySharedState()), NO_STORE),
        (alone(AthomicSettings(broker_url=KAFKA, sharing=off), shared), SWITCHED_OFF),
        (alone(AthomicSettings(), MemorySharedState()), None),
    ):
        sharing.tick()
        await sharing.leave()
        (status,) = await sharing.of_all(GROUPS)
        assert (status.scope, status.scope_note) == (StatusScope.PROCESS, note)
    assert await shared.all(section_of("g")) == {}


# --- in apps


def member(broker: str, name: str, begun: Record, gate: Gate, **options: Any) -> Athomic:
    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(number: int) -> None:
        begun.note((name, number))
        await gate.wait()

    settings = AthomicSettings(
        broker_url=f"memory://{broker}",
        instance_id=name,
        sharing=SharingSettings(interval=0.02),
        **options,
    )
    return new_app(settings, handle)


async def answer(athomic: Athomic, holds: Callable[[ConsumerStatus], object]) -> ConsumerStatus:
    """The answer over all, as soon as `holds` is true of it."""
    async with asyncio.timeout(SECONDS):
        while True:
            (status,) = await athomic.group_status()
            if holds(status):
                return status
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_apps_on_one_broker_in_memory_answer_for_each_other(isolation: str) -> None:
    broker, begun, gate = uuid4().hex, Record(), Gate()
    first, second = (member(broker, name, begun, gate, isolation=isolation) for name in ("first", "second"))
    async with running(first):
        async with running(second):
            gate.set()
            for number in range(40):
                await first.publish("t", number, key=str(number))
            await begun.count(40)
            await first.drain()
            await second.drain()
            done = (4, 40, 0)
            status = await answer(
                second,
                lambda status: (len(status.assignment), status.counters.processed, status.lag) == done,
            )
            assert {each.member for each in status.assignment} == {"first", "second"}
            assert [each.partition for each in status.assignment] == [0, 1, 2, 3]
            assert status.rates.seconds > 0
        status = await answer(first, lambda status: len(status.members) == 1)
        assert status.scope is StatusScope.GROUP


async def test_while_a_message_runs_the_one_behind_it_waits_in_the_queue() -> None:
    begun, gate = Record(), Gate()
    async with running(member("", "only", begun, gate)) as athomic:
        (idle,) = await athomic.group_status()
        assert (idle.oldest_in_queue_seconds, idle.oldest_in_handler_seconds) == (None, None)
        await athomic.publish("t", 1, key="k")
        await begun.count(1)
        (alone,) = await athomic.group_status()
        assert alone.oldest_in_queue_seconds is None
        assert alone.oldest_in_handler_seconds is not None
        await athomic.publish("t", 2, key="k")
        status = await answer(athomic, lambda status: status.oldest_in_queue_seconds is not None)
        assert status.oldest_in_handler_seconds is not None
        assert status.oldest_in_queue_seconds is not None
        assert status.oldest_in_queue_seconds <= status.oldest_in_handler_seconds, "it came later"
        assert status.lag == 2
        gate.set()
        await athomic.drain()


async def test_while_it_does_not_run_there_is_nothing() -> None:
    assert await member("", "only", Record(), Gate()).group_status() == []

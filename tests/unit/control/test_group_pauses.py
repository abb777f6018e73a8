"""Pauses that others set: members of the group, and this service before its restart."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from fastapi_athomic import Actor, Athomic, StateStoreError
from fastapi_athomic.control import group_pauses
from fastapi_athomic.control.group_pauses import SECTION
from fastapi_athomic.operation_settings import ControlSettings
from fastapi_athomic.stores.shared_memory import MemorySharedState
from tests.support.apps import SECONDS, eventually, owned, running

from .steered import Steered

ANN = Actor(name="ann", reason="reindexing")


class Store(MemorySharedState):
    """May be away, or slow to answer."""

    def __init__(self) -> None:
        super().__init__(has_others=True)
        self.away = self.silent = False
        self.reads = 0
        self.after_read: Callable[[], Awaitable[None]] | None = None

    async def _reach(self) -> None:
        if self.silent:
            await asyncio.Event().wait()
        if self.away:
            raise StateStoreError("the store is away")

    async def put(self, section: str, name: str, document: bytes, *, ttl: float | None = None) -> None:
        await self._reach()
        await super().put(section, name, document, ttl=ttl)

    async def remove(self, section: str, name: str) -> None:
        await self._reach()
        await super().remove(section, name)

    async def all(self, section: str) -> Mapping[str, bytes]:
        self.reads += section == SECTION
        await self._reach()
        found = await super().all(section)
        if self.after_read is not None:
            after_read, self.after_read = self.after_read, None
            await after_read()
        return found


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_pauses, "LOOK_SECONDS", 0.02)


def sharing(*apps: Athomic) -> Store:
    store = Store()
    for app in apps:
        app._shared = store
    return store


def scopes(athomic: Athomic) -> list[tuple[str | None, int | None, str]]:
    return [(pause.topic, pause.partition, pause.actor) for pause in athomic.consumers()[0].pauses]


def note(athomic: Athomic) -> str | None:
    assert athomic.consumers()[0].pauses_note == athomic.pauses_note
    return athomic.pauses_note


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_pauses_survive_a_restart_of_the_app(isolation: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastapi_athomic.control")
    app = Steered(isolation=isolation)
    sharing(app.athomic)
    async with running(app.athomic) as athomic:
        await athomic.pause("h", topic="t", partition=1, actor=ANN)
        await athomic.pause("h", topic="t", partition=2)
        (pause, _) = athomic.consumers()[0].pauses
        await athomic.resume("h", topic="t", partition=2)
    async with running(app.athomic) as athomic:
        assert athomic.consumers()[0].pauses == [pause]
        await app.publish("a", range(1, 4), partition=1)
        await app.publish("b", range(1, 4), partition=2)
        await app.record.until(lambda seen: ("b", 3) in seen)
        assert "a" not in app.by_order()
        await athomic.resume("h")
        await athomic.drain()
    async with running(app.athomic) as athomic:
        assert scopes(athomic) == []
    assert app.by_order() == {"a": [1, 2, 3], "b": [1, 2, 3]}
    assert "taken over from the group: h: t[1] is paused by ann (reindexing)" in caplog.text


async def test_pauses_hold_for_all_members_of_the_group(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastapi_athomic.control")
    app = Steered(control=ControlSettings(enabled=True, allow_anonymous=True))
    second = app.again()
    sharing(app.athomic, second)
    async with running(app.athomic) as athomic, running(second):
        await eventually(lambda: owned(second, "t") and len(owned(athomic, "t") | owned(second, "t")) == 3)
        (away, *_) = owned(second, "t")
        await athomic.pause("h", topic="t", partition=away, actor=ANN)
        await eventually(lambda: scopes(second) == [("t", away, "ann")])
        await app.publish("a", range(1, 4), partition=away)
        await app.publish("b", range(1, 4), partition=(away + 1) % 3)
        await app.record.until(lambda seen: ("b", 3) in seen)
        assert "a" not in app.by_order()
        await athomic.pause("h", topic="t", partition=away)
        await eventually(lambda: scopes(second) == [("t", away, "app")])
        await second.resume("h")
        await eventually(lambda: scopes(athomic) == [])
        await second.drain()
        await athomic.drain()
    assert app.by_order() == {"a": [1, 2, 3], "b": [1, 2, 3]}
    assert f"over, as the group says: h: t[{away}] is paused by app" in caplog.text


async def test_who_resumes_also_ends_what_others_have_just_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_pauses, "LOOK_SECONDS", 600)
    app = Steered()
    second = app.again()
    sharing(app.athomic, second)
    async with running(app.athomic) as athomic, running(second):
        await second.pause("h", topic="t", actor=ANN)
        assert await athomic.resume("h") == []
        await athomic.pause("h", topic="t", partition=0)
        assert await second.resume("h", topic="t") == [], "it is of no effect there, and over for the group"
        third = app.again()
        third._shared = athomic._shared
        async with running(third):
            assert scopes(third) == []


async def test_a_pause_with_a_limit_ends_for_all_and_over_restarts() -> None:
    app = Steered()
    second = app.again()
    sharing(app.athomic, second)
    async with running(app.athomic) as athomic:
        await athomic.pause("h", seconds=0.5)
        async with running(second):
            assert scopes(second) == [(None, None, "app")]
            await eventually(lambda: scopes(second) == [] == scopes(athomic))


async def test_a_store_that_is_away_holds_up_nobody_and_hears_of_pauses_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Steered(request_timeout=0.3)
    second = app.again()
    store = sharing(app.athomic, second)
    await store.put(SECTION, "from a later version", b"{}")
    async with running(app.athomic) as athomic:
        await athomic.pause("h", topic="t", actor=ANN)
        assert note(athomic) is None
        store.away = True
        await athomic.pause("h")
        assert note(athomic) == "the state store is away: other members of the group hear of it when it is back"
        await athomic.resume("h", topic="t")
        assert scopes(athomic) == [(None, None, "app")]
        assert (
            "pauses are not shared with the other members of the group at the moment: the store is away" in caplog.text
        )
        store.away, store.silent = False, True
        async with running(second):  # starts after `request_timeout` without knowing
            assert scopes(second) == []
            store.silent = False
            await eventually(lambda: scopes(second) == [(None, None, "app")])
        assert "pauses are shared with the other members of the group again" in caplog.text
        await eventually(lambda: note(athomic) is None)
        assert scopes(athomic) == [(None, None, "app")], "what was resumed while the store was away does not come back"


async def test_what_is_paused_while_the_store_answers_is_newer_than_its_answer() -> None:
    app = Steered()
    store = sharing(app.athomic)
    async with running(app.athomic) as athomic:
        await athomic.pause("h", topic="t")
        pausing: list[asyncio.Task[Any]] = []

        async def pause() -> None:
            pausing.append(asyncio.create_task(athomic.pause("h", topic="t", actor=ANN)))
            await eventually(lambda: scopes(athomic) == [("t", None, "ann")])
            store.away = True  # so that it cannot be written

        store.after_read = pause
        await eventually(lambda: pausing and pausing[0].done())
        assert scopes(athomic) == [("t", None, "ann")]
        store.away = False
        reads = store.reads
        await eventually(lambda: store.reads > reads + 1)
        assert scopes(athomic) == [("t", None, "ann")]
        await athomic.resume("h")


async def test_a_pause_of_the_settings_is_not_ended_by_the_group() -> None:
    app = Steered(handler_tuning={"h": {"paused": True}})
    store = sharing(app.athomic)
    async with running(app.athomic) as athomic:
        await athomic.pause("h", topic="t")
        await athomic.resume("h", topic="t")
        reads = store.reads
        await eventually(lambda: store.reads > reads + 2)
        assert scopes(athomic) == [(None, None, "settings")]


async def test_an_app_without_pauses_looks_once() -> None:
    app = Steered()
    store = sharing(app.athomic)
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 30))
        await athomic.drain()
        assert store.reads == 1
        looking: Any = athomic._run.desk._group_pauses._looking  # type: ignore[union-attr]
        assert not looking.done()
        await athomic.pause("h")
        await eventually(lambda: store.reads > 3)
    assert looking.done()


def document(**changes: Any) -> bytes:
    pause = {"since": "2026-01-01T00:00:00Z", "actor": "ann"}
    return json.dumps(pause | changes).encode()


WHOLE = json.dumps(["g", "h", None, None])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("5", document()),
        ("null", document()),
        ("[" * 100_000, document()),
        ("", document()),
        (WHOLE, b"\xff"),
        (WHOLE, b"[" * 100_000),
        (WHOLE, document(since="2026-01-01T00:00:00")),
        (WHOLE, document(until="2226-01-01T00:00:00")),
        (WHOLE, document(topic="t")),
    ],
)
async def test_whatever_is_in_the_store_the_app_starts_and_hears_of_pauses(name: str, found: bytes) -> None:
    app = Steered()
    store = sharing(app.athomic)
    await store.put(SECTION, name, found)
    await store.put(SECTION, json.dumps(["g", "h", "t", None]), document(topic="t", actor="bob"))
    async with running(app.athomic) as athomic:
        assert scopes(athomic) == [("t", None, "bob")]
        await store.put(SECTION, json.dumps(["g", "h", "t", 1]), document(topic="t", partition=1))
        await eventually(lambda: ("t", 1, "ann") in scopes(athomic))


async def test_a_fault_while_pauses_are_read_stops_neither_the_start_nor_the_looking(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Steered()
    store = sharing(app.athomic)

    async def fail() -> None:
        raise ZeroDivisionError("a bug")

    store.after_read = fail
    await store.put(SECTION, WHOLE, document())
    async with running(app.athomic) as athomic:
        await eventually(lambda: scopes(athomic) == [(None, None, "ann")])
    assert "pauses of the group could not be read" in caplog.text


async def test_a_fault_in_what_others_ask_for_does_not_stop_the_looking(caplog: pytest.LogCaptureFixture) -> None:
    app = Steered(control=ControlSettings(enabled=True, allow_anonymous=True))
    store = sharing(app.athomic)

    async def fail() -> None:
        raise ZeroDivisionError("a bug")

    async with running(app.athomic) as athomic:
        athomic._run.desk._group_pauses._look_too = fail  # type: ignore[union-attr]
        await eventually(lambda: "what other members ask for could not be done" in caplog.text)
        await store.put(SECTION, WHOLE, document())
        await eventually(lambda: scopes(athomic) == [(None, None, "ann")])


async def test_a_store_that_has_lost_everything_ends_no_pause(caplog: pytest.LogCaptureFixture) -> None:
    app = Steered()
    second = app.again()
    store = sharing(app.athomic, second)
    async with running(app.athomic) as athomic:
        await athomic.pause("h", actor=ANN)
        await athomic.pause("h", topic="t", partition=0)
        await athomic.resume("h", topic="t", partition=0)
        async with running(second):
            assert scopes(second) == [(None, None, "ann")]
            store._sections.clear()
            await eventually(lambda: WHOLE in store._sections.get(SECTION, {}))
            reads = store.reads
            await eventually(lambda: store.reads > reads + 4)
            assert scopes(athomic) == scopes(second) == [(None, None, "ann")]
            store.away = True
            await athomic.resume("h")
            store._sections.clear()
            store.away = False
            await eventually(lambda: scopes(second) == [])
            reads = store.reads
            await eventually(lambda: store.reads > reads + 4)
            assert scopes(athomic) == scopes(second) == [], "what was ended meanwhile does not come back"
    assert "the state store has lost pauses of the group: they are written anew" in caplog.text


async def test_who_steers_waits_for_a_silent_store_less_long_than_who_looks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(group_pauses, "ACTION_SECONDS", 0.01)
    app = Steered(request_timeout=600.0)
    store = sharing(app.athomic)
    async with running(app.athomic) as athomic:
        store.silent = True
        async with asyncio.timeout(SECONDS):
            await athomic.pause("h", actor=ANN)
            assert await athomic.resume("h") == []
        assert note(athomic)
    assert "at the moment: the state store does not answer" in caplog.text

"""What `Steering` promises for each action: scopes, limits, events, errors. Load: test_under_load.py."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI

from fastapi_athomic import (
    Actor,
    AthomicSettings,
    CircuitBreaker,
    ConfigurationError,
    ControlEvent,
    ControlRefusedError,
    HandlerNotFoundError,
    PartitionNotFoundError,
    PublishError,
    RetryPolicy,
    SourceNotFoundError,
    TransportError,
    include_athomic,
    subscribe_to,
)
from fastapi_athomic.control.seeks import Seeks
from fastapi_athomic.failures.settling import Settling
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.settings import HandlerTuning
from tests.support.apps import Gate, eventually, new_app, owned, running

from .steered import Steered, Step

ANN = Actor(name="ann", reason="re\nindexing")


def scopes(pauses: Any) -> list[tuple[str | None, int | None, str]]:
    return [(pause.topic, pause.partition, pause.actor) for pause in pauses]


# --- pauses


async def test_pauses_of_several_scopes_are_independent() -> None:
    app = Steered()
    async with running(app.athomic) as athomic:

        def paused() -> list[bool]:
            return [place.paused for place in athomic.consumers()[0].assignment]

        await athomic.pause("h", topic="t", partition=1, actor=ANN)
        await athomic.pause("h", topic="t")
        assert scopes(await athomic.pause("h")) == [("t", 1, "ann"), ("t", None, "app"), (None, None, "app")]
        assert paused() == [True] * 3
        assert scopes(await athomic.resume("h", topic="t", partition=1)) == [("t", None, "app"), (None, None, "app")]
        await athomic.pause("h", topic="t", partition=1, actor=ANN)
        assert scopes(await athomic.resume("h", topic="t")) == [(None, None, "app")], "and its partitions'"
        await athomic.pause("h", topic="t", partition=1, actor=ANN)
        assert athomic.consumers()[0].paused
        assert await athomic.resume("h") == []
        assert paused() == [False] * 3
        assert await athomic.resume("h") == [], "nothing to do"


async def test_the_same_scope_again_replaces_the_pause_with_its_limit() -> None:
    app = Steered()
    async with running(app.athomic) as athomic:
        await athomic.pause("h", seconds=600, actor=ANN)
        (pause,) = athomic.consumers()[0].pauses
        assert pause.until is not None
        assert (pause.until - pause.since).total_seconds() == pytest.approx(600, abs=5)
        assert (pause.actor, pause.reason) == ("ann", "re\nindexing")
        (pause,) = await athomic.pause("h")
        assert (pause.until, pause.actor, pause.reason) == (None, "app", None)


async def test_a_pause_with_a_limit_ends_by_itself_and_the_others_stay(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastapi_athomic")
    app = Steered()
    async with running(app.athomic) as athomic:
        await athomic.pause("h", topic="t", partition=1)
        await athomic.pause("h", seconds=0.2, actor=ANN)
        await athomic.pause("h", topic="t", partition=2, seconds=600)
        await app.publish("a", range(1, 4), partition=0)
        assert app.record.seen == []
        await app.record.count(3)
        assert scopes(athomic.consumers()[0].pauses) == [("t", 1, "app"), ("t", 2, "app")]
    assert "a pause is over, as its time is: h is paused by ann (re indexing), until " in caplog.text


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_who_is_paused_while_it_starts_begins_nothing(isolation: str) -> None:
    app = Steered(isolation=isolation)
    app.athomic._transport.broker.disconnect()  # type: ignore[attr-defined]
    async with app.athomic.app.router.lifespan_context(app.athomic.app):
        assert app.athomic.consumers()[0].state == "new"
        await app.athomic.pause("h", topic="t", partition=0)
        await app.athomic.restart("h")  # nothing to do
        assert (await app.athomic.set_concurrency("h", 1)).in_force == {"concurrency": 1}
        app.athomic._transport.broker.reconnect()  # type: ignore[attr-defined]
        await app.athomic.wait_until_ready()
        app.gate.clear()
        await app.publish("a", range(1, 4), partition=0)
        await app.publish("b", range(1, 4), partition=1)
        await app.publish("c", range(1, 4), partition=2)
        await app.record.count(1)
        assert app.record.seen in ([("b", 1)], [("c", 1)]), "one call at once, none of partition 0"
        app.gate.set()
        await app.record.until(lambda seen: {("b", 3), ("c", 3)} <= set(seen))
        assert "a" not in app.by_order()
        await app.athomic.resume("h")
        await app.athomic.drain()
    assert (app.most, app.by_order()["a"]) == (1, [1, 2, 3])


async def test_pauses_survive_rebalances_and_hold_for_partitions_that_come_later() -> None:
    app = Steered()
    second = app.again()
    async with running(app.athomic) as athomic:
        async with running(second):
            await eventually(lambda: len(owned(second, "t")) + len(owned(athomic, "t")) == 3)
            away = min(owned(second, "t"))
            await athomic.pause("h", topic="t", partition=away)
        await eventually(lambda: owned(athomic, "t") == {0, 1, 2})
        await app.publish("a", range(1, 4), partition=away)
        await app.publish("b", range(1, 4), partition=(away + 1) % 3)
        await app.record.until(lambda seen: ("b", 3) in seen)
        assert "a" not in app.by_order()
        assert [place.paused for place in athomic.consumers()[0].assignment] == [n == away for n in range(3)]
        await athomic.resume("h", topic="t", partition=away)
        await athomic.drain()
    assert app.by_order() == {"a": [1, 2, 3], "b": [1, 2, 3]}


async def test_a_pause_from_the_settings_is_one_as_any_other() -> None:
    app = Steered(handler_tuning={"h": HandlerTuning(paused=True)})
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 3))
        assert scopes(athomic.consumers()[0].pauses) == [(None, None, "settings")]
        with pytest.raises(TimeoutError, match=r"h is paused by settings: resume it; h: 2 messages left in t\[\d\]$"):
            await athomic.drain(0.3)
        await athomic.resume("h")
        await athomic.drain()
    assert app.by_order() == {"a": [1, 2]}


async def test_drain_names_the_pause_of_a_partition() -> None:
    app = Steered()
    async with running(app.athomic) as athomic:
        await athomic.pause("h", topic="t", partition=2, actor=ANN)
        await app.publish("a", range(1, 3), partition=2)
        with pytest.raises(TimeoutError, match=r": h: t\[2\] is paused by ann \(re indexing\): resume it; h: 2 mess"):
            await athomic.drain(0.3)
        await athomic.resume("h")
        await athomic.drain()


async def test_a_partition_that_there_is_not_cannot_be_paused() -> None:
    app = Steered()
    async with running(app.athomic) as athomic:
        with pytest.raises(
            PartitionNotFoundError, match=r"t\[9\]: there is no such partition, the topic has 3, from 0"
        ):
            await athomic.pause("h", topic="t", partition=9)
        assert athomic.consumers()[0].pauses == []
        athomic._transport.broker.disconnect()  # type: ignore[attr-defined]
        assert len(await athomic.pause("h", topic="t", partition=9)) == 1, "nobody can say"


# --- the role web

ROLE = "this process has the role web and consumes nothing"


async def test_where_others_consume_nothing_is_done_that_they_would_not_hear_of() -> None:
    app = Steered(role="web")
    async with app.athomic.app.router.lifespan_context(app.athomic.app):
        athomic = app.athomic
        assert len(await athomic.pause("h")) == 1, "they share what the broker in memory keeps"
        assert await athomic.resume("h") == []
        shared: Any = athomic._shared
        shared.has_others = False
        for action in (
            athomic.pause("h"),
            athomic.resume("h"),
            athomic.restart("h"),
            athomic.set_concurrency("h", 4),
            athomic.set_rate("h", 4),
            athomic.set_breaker("h", "open"),
        ):
            with pytest.raises(ControlRefusedError, match=f"h cannot be steered here: {ROLE}"):
                await action
        assert athomic.consumers()[0].concurrency == 3
        await athomic._run.drain()  # type: ignore[union-attr]  # as at SIGTERM
        (status,) = athomic.consumers()
        assert (status.state, status.health.status) == ("elsewhere", "healthy"), "those who consume have not stopped"


# --- restart


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_a_restart_lets_what_runs_finish_and_repeats_nothing(isolation: str) -> None:
    app = Steered(isolation=isolation)
    async with running(app.athomic) as athomic:
        app.gate.clear()
        await app.publish("a", range(1, 6), partition=0)
        await app.record.count(1)
        before: Any = athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        both = [asyncio.create_task(athomic.restart("h", actor=ANN)) for _ in range(2)]
        await eventually(lambda: not before.states[TopicPartition("t", 0)].open)
        assert not any(each.done() for each in both), "it waits for what runs"
        app.gate.set()
        await asyncio.gather(*both)
        assert athomic.manager().consumers["h"].life.session is not before  # type: ignore[union-attr]
        await athomic.wait_until_ready()
        await athomic.drain()
        (status,) = athomic.consumers()
        assert (status.state, status.restarts, status.last_restart_reason) == ("running", 0, None)
    assert app.by_order() == {"a": [1, 2, 3, 4, 5]}


async def test_a_restart_ends_a_back_off_and_is_refused_once_it_stops() -> None:
    app = Steered(restart_backoff=600.0, restart_backoff_max=600.0)
    async with running(app.athomic) as athomic:
        service: Any = athomic.manager().consumers["h"]  # type: ignore[union-attr]
        service.life.session._strategy.pool.failure = RuntimeError("broken")
        await app.publish("a", range(1, 2))
        await eventually(lambda: service.state == "backing_off")
        await athomic.restart("h")
        await eventually(lambda: service.ready)
        await athomic.drain()
        events: list[ControlEvent] = []
        athomic.on_control(events.append)
        await service.stop(5)
        with pytest.raises(ControlRefusedError, match="h cannot be restarted: it is stopping, or has stopped"):
            await athomic.restart("h", actor=ANN)
        assert [(event.done, event.details) for event in events] == [
            (False, {"error": "h cannot be restarted: it is stopping, or has stopped"})
        ]
        assert await athomic.pause("h", seconds=600), "it is kept, and harms nobody"


async def test_who_is_stopped_while_it_is_restarted_hears_of_it() -> None:
    app = Steered()
    async with running(app.athomic) as athomic:
        app.gate.clear()
        await app.publish("a", range(1, 2))
        await app.record.count(1)
        service: Any = athomic.manager().consumers["h"]  # type: ignore[union-attr]
        restarting = asyncio.create_task(athomic.restart("h"))
        await eventually(lambda: service.life._restart.is_set())
        stopping = asyncio.create_task(service.stop(20))
        await eventually(lambda: service.life._stop.is_set())
        app.gate.set()
        with pytest.raises(ControlRefusedError, match="h was stopped before it began anew"):
            await restarting
        await stopping


# --- concurrency


@pytest.mark.parametrize("kind", ["partition", "key", "none", "batch", "ordered"])
async def test_concurrency_grows_and_shrinks_while_calls_run(kind: str) -> None:
    app = Steered(kind, concurrency=2, memory={"partitions": 5})
    async with running(app.athomic) as athomic:
        app.gate.clear()
        for n, order in enumerate("abcde"):
            await app.publish(order, range(1, 13), partition=n)
        await eventually(lambda: app.active == 2)
        assert (await athomic.set_concurrency("h", 5, actor=ANN)).in_force == {"concurrency": 5}
        await eventually(lambda: app.active == 5)
        assert (await athomic.set_concurrency("h", 1)).in_force == {"concurrency": 1}
        assert athomic.consumers()[0].concurrency == 1
        assert app.active == 5, "what runs goes on"
        app.gate.set()
        gate, app.gate = app.gate, Gate()
        await eventually(lambda: app.active == 1)
        app.most = 0
        app.gate.set()
        await athomic.drain()
        assert gate is not app.gate
        assert app.most == 1
        assert (await athomic.set_concurrency("h", None)).in_force == {"concurrency": 2}
        found = {order: sorted(seen) if kind == "none" else seen for order, seen in app.by_order().items()}
        assert found == {order: list(range(1, 13)) for order in "abcde"}


async def test_sync_handlers_get_as_many_threads() -> None:
    go_on, running_now, most = threading.Event(), 0, 0
    lock = threading.Lock()

    @subscribe_to("t", group_id="g", handler_id="h", ordering="none")
    def handle(number: int) -> None:
        nonlocal running_now, most
        with lock:
            running_now += 1
            most = max(most, running_now)
        go_on.wait(30)
        with lock:
            running_now -= 1

    async with running(new_app(AthomicSettings(), handle)) as athomic:
        await athomic.publish_many("t", range(10))
        await eventually(lambda: running_now == 1)
        await athomic.set_concurrency("h", 4)
        await eventually(lambda: running_now == 4)
        await athomic.set_concurrency("h", 2)
        go_on.set()
        await athomic.drain()
    assert most == 4


async def test_more_is_read_ahead_for_more_concurrency() -> None:
    app = Steered("key", concurrency=1, max_poll_messages=100)
    async with running(app.athomic) as athomic:

        def in_hand() -> int:
            return sum(place.in_flight for place in athomic.consumers()[0].assignment)

        app.gate.clear()
        await athomic.publish_many(
            "t", [Step(order="a", number=n) for n in range(1, 3001)], key=lambda step: str(step.number)
        )
        await eventually(lambda: in_hand() > 1000)
        session: Any = athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        polled = session.polled_at
        await eventually(lambda: session.polled_at > polled)
        assert all(place.in_flight <= 500 for place in athomic.consumers()[0].assignment)
        await athomic.set_concurrency("h", 3000)
        await eventually(lambda: in_hand() == 3000)
        app.gate.set()
        await athomic.drain()


async def test_concurrency_holds_for_later_sessions() -> None:
    app = Steered(concurrency=3)
    async with running(app.athomic) as athomic:
        await athomic.set_concurrency("h", 1)
        await athomic.restart("h")
        await athomic.wait_until_ready()
        await asyncio.gather(*(app.publish(order, range(1, 9), partition=n) for n, order in enumerate("abc")))
        await athomic.drain()
        assert app.most == 1
        assert athomic.consumers()[0].concurrency == 1


# --- who hears of it


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_each_action_is_an_event_and_a_line_of_the_log(isolation: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastapi_athomic.control")
    app = Steered(isolation=isolation)
    events: list[ControlEvent] = []
    loops = set()

    @app.athomic.on_control
    def broken(event: ControlEvent) -> None:
        raise RuntimeError("no")

    @app.athomic.on_control
    async def listen(event: ControlEvent) -> None:
        loops.add(asyncio.get_running_loop())
        events.append(event)

    async with running(app.athomic) as athomic:
        await app.publish("secret", range(1, 3), partition=1)
        await athomic.drain()
        await athomic.pause("h", topic="t", partition=1, seconds=60, actor=ANN)
        await athomic.resume("h", actor=Actor(name="bob"))
        await athomic.set_concurrency("h", None)
        await athomic.seek("h", "t", 1, 0, actor=ANN)
        await athomic.restart("h")
        await athomic.wait_until_ready()
        await athomic.drain()
    assert loops == {asyncio.get_running_loop()}
    assert [
        (event.action, event.consumer, event.actor, event.reason, event.details, event.done) for event in events
    ] == [
        ("pause", "h", "ann", "re\nindexing", {"topic": "t", "partition": 1, "seconds": 60}, True),
        ("resume", "h", "bob", None, {}, True),
        ("concurrency", "h", "app", None, {}, True),
        (
            "seek",
            "h",
            "ann",
            "re\nindexing",
            {"topic": "t", "partition": 1, "to": 0, "offsets": {"1": 0}, "skipped": 0, "repeated": 2},
            True,
        ),
        ("restart", "h", "app", None, {}, True),
    ]
    assert {event.process.pid for event in events} == {os.getpid()}
    lines = [record.getMessage() for record in caplog.records if record.name == "fastapi_athomic.control.steering"]
    assert [line for line in lines if "listener" not in line] == [
        "h: pause (topic t, partition 1, seconds 60), by ann: re indexing",
        "h: resume, by bob",
        "h: concurrency, by app",
        "h: seek (topic t, partition 1, to 0, offsets {'1': 0}, skipped 0, repeated 2), by ann: re indexing",
        "h: restart, by app",
    ]
    assert lines.count("a listener of `on_control` failed") == 5
    assert "secret" not in caplog.text


async def test_who_settles_dead_letters_is_told_from_wherever_it_is_done() -> None:
    @subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def fail(message: str) -> None:
        raise RuntimeError("no")

    app = new_app(AthomicSettings(broker_url=f"memory://{uuid4().hex}", max_redrives=1), fail)
    events: list[ControlEvent] = []
    app.on_control(events.append)
    async with running(app) as athomic:
        for number in range(3):
            await athomic.publish("t", f"secret {number}", partition=0)
        await athomic.drain()
        letters = athomic.dead_letters("h")
        await letters.redrive(dry_run=True, actor=ANN)
        await letters.discard(reason="old", dry_run=True)
        assert events == []
        await letters.redrive(limit=1, actor=ANN)
        await letters.discard(reason="old", partition=0, offset=1)
        async with athomic.offline() as offline:
            await offline("h").discard(reason="old", partition=0, offset=2, actor=Actor(name="bob", reason="told so"))
    done = {"selected": 1, "settled": 1}
    assert [(event.action, event.actor, event.reason, event.details, event.done) for event in events] == [
        ("redrive", "ann", ANN.reason, {"limit": 1} | done, True),
        ("discard", "app", "old", {"partition": 0, "offset": 1} | done, True),
        ("discard", "bob", "told so", {"partition": 0, "offset": 2} | done, True),
    ]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TransportError("no leader"), "no leader"),
        (KeyError("secret"), "KeyError"),
        (asyncio.CancelledError(), "cancelled while it was being done: a part of it may be done"),
    ],
)
async def test_what_broke_off_is_told_too(
    error: BaseException, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A part of it may be done, and whoever asked is perhaps gone."""
    caplog.set_level(logging.INFO, "fastapi_athomic.control")

    async def fail(*_: object, **__: object) -> None:
        raise error

    app = Steered()
    events: list[ControlEvent] = []
    app.athomic.on_control(events.append)
    async with running(app.athomic) as athomic:
        monkeypatch.setattr(Settling, "redrive", fail)
        monkeypatch.setattr(Seeks, "seek", fail)
        with pytest.raises(type(error)):
            await athomic.dead_letters("h").redrive(limit=1, actor=ANN)
        with pytest.raises(type(error)):
            await athomic.seek("h", "t", 0, 7, actor=ANN)
    assert [(event.action, event.actor, event.details, event.done) for event in events] == [
        ("redrive", "ann", {"limit": 1, "error": why}, False),
        ("seek", "ann", {"topic": "t", "partition": 0, "to": 7, "error": why}, False),
    ]
    assert f"h: redrive (limit 1, error {why}) was refused or failed, by ann" in caplog.text
    assert "secret" not in caplog.text


# --- what is refused


async def test_wrong_arguments_are_refused_with_a_sentence_and_change_nothing() -> None:
    app = Steered()
    events: list[ControlEvent] = []
    app.athomic.on_control(events.append)
    with pytest.raises(PublishError, match="the app is not running its consumers"):
        await app.athomic.pause("h")
    async with running(app.athomic) as athomic:
        wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
            (ConfigurationError, "a partition is named without its topic", {"partition": 1}),
            (SourceNotFoundError, "h does not consume the topic 'tt': did you mean 't'", {"topic": "tt"}),
            (SourceNotFoundError, "it consumes: t, and its own retry and redrive topics", {"topic": "orders"}),
            (SourceNotFoundError, "h does not consume the topic 7", {"topic": 7}),
            (ConfigurationError, "partition must be a whole number of 0 or more, or None, not -1", {"partition": -1}),
            (ConfigurationError, "partition must be .*, not True", {"partition": True}),
            (ConfigurationError, "seconds must be a number of seconds above 0, .* or None, not 0", {"seconds": 0}),
            (ConfigurationError, "seconds must be", {"seconds": float("nan")}),
            (ConfigurationError, "seconds must be", {"seconds": 1e12}),
        ]
        for error, said, options in wrong:
            given = {"topic": "t", **options} if "partition" in options and said.startswith("partition") else options
            with pytest.raises(error, match=said):
                await athomic.pause("h", **given)
        with pytest.raises(ConfigurationError, match="a partition is named without its topic"):
            await athomic.resume("h", partition=1)
        for value in (0, -1, 1.5, True, "2"):
            with pytest.raises(ConfigurationError, match="concurrency must be a whole number of 1 or more, or None"):
                await athomic.set_concurrency("h", value)  # type: ignore[arg-type]
        for act in (athomic.pause, athomic.resume, athomic.restart):
            with pytest.raises(HandlerNotFoundError, match="there is no handler hh: did you mean 'h'"):
                await act("hh")
        with pytest.raises(HandlerNotFoundError):
            await athomic.set_concurrency("H", 1)
        (status,) = athomic.consumers()
        assert (status.pauses, status.concurrency, events) == ([], 3, [])


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_the_app_closes_what_listeners_use_when_they_have_heard(isolation: str) -> None:
    begun, steps = threading.Event(), list[str]()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        steps.append("closed")

    @subscribe_to("t", group_id="g", handler_id="h", breaker=CircuitBreaker(exceptions=(OSError,), failures=1))
    async def handle(message: str) -> None:
        raise OSError

    settings = AthomicSettings(isolation=isolation)  # type: ignore[arg-type]
    athomic = include_athomic(FastAPI(lifespan=lifespan), settings, handlers=[handle])

    @athomic.on_control
    async def listen(event: ControlEvent) -> None:
        begun.set()
        written = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, written.set)  # as if it was written to a database
        await written.wait()
        steps.append("told")

    async with running(athomic):
        await athomic.publish("t", "x")
        await eventually(begun.is_set)
    assert steps == ["told", "closed"]

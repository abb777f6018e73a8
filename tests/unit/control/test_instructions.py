"""Restarts, and settings that change, in all processes of a group, whichever is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from fastapi_athomic import Actor, Athomic, ControlEvent, ControlRefusedError, StateStoreError, SteeringResult
from fastapi_athomic.consumption.service import ConsumerService
from fastapi_athomic.control import group_pauses, instructions
from fastapi_athomic.control.instructions import ANSWERS, INSTRUCTIONS
from fastapi_athomic.observation.sharing import ELSEWHERE
from fastapi_athomic.operation_settings import ControlSettings, SharingSettings
from tests.support.apps import SECONDS, eventually, running

from .steered import Steered
from .test_group_pauses import Store, sharing

ENABLED = ControlSettings(enabled=True, allow_anonymous=True)
ANN, BOB = Actor(name="ann", reason="the bank asked for less"), Actor(name="bob")


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_pauses, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(instructions, "ANSWER_PAUSE", 0.01)


class Group:
    """A web process and workers a, b, ... that share a store; each knows of all."""

    def __init__(self, app: Steered, workers: dict[str, Athomic], store: Store) -> None:
        self.app, self.workers, self.store = app, workers, store
        self.web = app.athomic
        self.events: list[ControlEvent] = []
        self.web.on_control(self.events.append)

    def service(self, name: str) -> ConsumerService:
        return self.workers[name].manager().consumers["h"]  # type: ignore[union-attr]

    def concurrency(self) -> dict[str, int]:
        return {name: self.service(name).controls.concurrency for name in self.workers}

    def seen(self) -> dict[str, Any]:
        return {name: self.service(name).controls.limits.breaker.state.value for name in self.workers}


@asynccontextmanager
async def group(*names: str, **settings: Any) -> AsyncIterator[Group]:
    """The web process, and these workers."""
    own = {"control": ENABLED, "sharing": SharingSettings(interval=0.05), **settings}
    app = Steered(role="web", instance_id="web", **own)
    workers = {name: app.again(role="worker", instance_id=name) for name in names}
    store = sharing(app.athomic, *workers.values())
    async with AsyncExitStack() as stack:
        for athomic in (app.athomic, *workers.values()):
            await stack.enter_async_context(running(athomic))
        await known(app.athomic, set(names))
        yield Group(app, workers, store)


async def known(athomic: Athomic, names: set[str]) -> None:
    """Returns when the process knows of exactly these."""
    async with asyncio.timeout(SECONDS):
        while {each.instance_id for each in (await athomic.group_status("h"))[0].members} != names:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def outcomes(result: SteeringResult) -> dict[str, str]:
    return {each.instance_id: each.outcome.value for each in result.processes}


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_a_web_process_sets_what_holds_in_all_workers(isolation: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastapi_athomic.control")
    async with group("a", "b", isolation=isolation) as all_of:
        result = await all_of.web.set_concurrency("h", 7, actor=ANN)
        assert (result.done, outcomes(result)) == (True, {"a": "applied", "b": "applied"})
        assert [each.in_force for each in result.processes] == [{"concurrency": 7}] * 2
        assert all_of.concurrency() == {"a": 7, "b": 7}
        result = await all_of.web.set_rate("h", 1e6, burst=5)
        assert [each.in_force for each in result.processes] == [{"messages_per_second": 1e6, "burst": 5}] * 2
        for state, became in (("open", "open"), ("auto", "closed"), ("open", "open"), ("closed", "closed")):
            result = await all_of.web.set_breaker("h", state)  # type: ignore[arg-type]
            assert result.done
            assert all_of.seen() == {"a": became, "b": became}
        assert (await all_of.web.set_concurrency("h", None)).in_force == {"concurrency": 3}
        assert all_of.web.consumers()[0].concurrency == 3, "nothing of it concerns the one that was asked"
    first = all_of.events[0]
    assert (first.action, first.actor, first.done) == ("concurrency", "ann", True)
    assert first.details == {"value": 7, "applied": ["a", "b"]}
    assert "taken over from the group: h: concurrency (value 7), by ann: the bank asked for less" in caplog.text


async def test_a_worker_that_is_asked_tells_the_others_and_each_does_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with group("a", "b") as all_of:
        done: list[tuple[str, int | None]] = []
        for name in all_of.workers:
            count_calls(monkeypatch, all_of.service(name), name, done)
        result = await all_of.workers["a"].set_concurrency("h", 2)
        assert (result.done, outcomes(result)) == (True, {"a": "applied", "b": "applied"})
        reads = all_of.store.reads
        await eventually(lambda: all_of.store.reads > reads + 12)  # all have looked again, several times
        assert sorted(done) == [("a", 2), ("b", 2)]


def count_calls(
    monkeypatch: pytest.MonkeyPatch, service: ConsumerService, name: str, done: list[tuple[str, int | None]]
) -> None:
    set_concurrency = service.set_concurrency

    def noted(value: int | None) -> int:
        done.append((name, value))
        return set_concurrency(value)

    monkeypatch.setattr(service, "set_concurrency", noted)


async def test_what_was_set_holds_for_a_process_that_starts_later_until_it_is_set_back() -> None:
    async with group("a") as all_of:
        await all_of.web.set_concurrency("h", 7, actor=ANN)
        await all_of.web.set_rate("h", 5)
        await all_of.web.set_breaker("h", "open")
        all_of.store._clock = lambda: monotonic() + 86_400  # a day later
        later = all_of.app.again(role="worker", instance_id="later")
        later._shared = all_of.store
        async with running(later) as athomic:
            controls = athomic.manager().consumers["h"].controls  # type: ignore[union-attr]
            (status,) = athomic.consumers()
            assert status.concurrency == 7
            assert status.rate_limit is not None
            assert status.rate_limit.messages_per_second == 5
            assert status.breaker is not None
            assert (status.breaker.state, status.breaker.forced) == ("open", True)
            await known(all_of.web, {"a", "later"})
            assert (await all_of.web.set_rate("h", None)).done
            assert (await all_of.web.set_breaker("h", "closed")).done
            assert (await all_of.web.set_concurrency("h", None)).done
            assert (controls.limits.bucket.limit, controls.concurrency) == (None, 3)
        async with running(later) as athomic:
            (status,) = athomic.consumers()
            assert (status.concurrency, status.rate_limit, status.breaker) == (3, None, None)


async def test_all_workers_restart_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with group("a", "b", "c") as all_of:
        at_once: list[int] = []
        restarting = set[str]()
        for name in all_of.workers:
            note_restarts(monkeypatch, all_of.service(name), name, restarting, at_once)
        sessions = [all_of.service(name).life.session for name in all_of.workers]
        result = await all_of.web.restart("h", actor=ANN)
        assert (result.done, outcomes(result)) == (True, dict.fromkeys("abc", "applied"))
        assert at_once == [1, 1, 1]
        assert all(all_of.service(name).ready for name in all_of.workers)
        assert not {*sessions} & {all_of.service(name).life.session for name in all_of.workers}
        later = all_of.app.again(role="worker", instance_id="later")
        later._shared = all_of.store
        async with running(later) as athomic:
            service = athomic.manager().consumers["h"]  # type: ignore[union-attr]
            session, reads = service.life.session, all_of.store.reads
            await eventually(lambda: all_of.store.reads > reads + 12)
            assert service.life.session is session, "what was restarted before it came is no matter of it"
            assert not [each for each in await all_of.store.all(ANSWERS) if "later" in each]


def note_restarts(
    monkeypatch: pytest.MonkeyPatch, service: ConsumerService, name: str, restarting: set[str], at_once: list[int]
) -> None:
    restart, ready = service.restart, service.life._note_ready

    async def noted() -> None:
        restarting.add(name)
        at_once.append(len(restarting))
        await restart()

    def note_ready() -> None:
        ready()
        restarting.discard(name)

    monkeypatch.setattr(service, "restart", noted)
    monkeypatch.setattr(service.life, "_note_ready", note_ready)


async def test_one_that_does_not_answer_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(instructions, "STAGGER_SECONDS", 0.05)
    async with group("a", "b", "c") as all_of:
        make_old(all_of, "b")
        result = await all_of.web.set_concurrency("h", 7)
        assert (result.done, outcomes(result)) == (False, {"a": "applied", "b": "no_answer", "c": "applied"})
        assert "did not answer within 0.3 s" in str(result.processes[1].detail)
        assert "older version of this package" in str(result.processes[1].detail)
        assert all_of.concurrency() == {"a": 7, "b": 3, "c": 7}
        result = await all_of.web.restart("h")
        assert (result.done, outcomes(result)) == (False, {"a": "applied", "b": "no_answer", "c": "applied"})
        assert all_of.events[-1].details == {"applied": ["a", "c"], "no_answer": ["b"]}


def make_old(all_of: Group, name: str) -> None:
    """The process looks for what an older version of the package looks for."""
    desk = all_of.workers[name]._run.desk  # type: ignore[union-attr]

    async def look() -> None: ...

    desk._instructions.look = look  # type: ignore[method-assign]


async def test_where_nobody_answers_a_restart_is_refused_and_a_setting_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instructions, "SILENT_SECONDS", 0.2)
    async with group("a") as all_of:
        make_old(all_of, "a")
        with pytest.raises(ControlRefusedError, match=r"^a: it did not answer within 0\.2 s"):
            await all_of.web.restart("h")
        assert [event.done for event in all_of.events] == [False]
        result = await all_of.web.set_concurrency("h", 2)
        assert (result.done, result.note) == (False, "a process that starts later takes it over")
        assert {each.action for each in map(instructions._understood, await documents(all_of.store)) if each} == {
            "concurrency"
        }
    async with group() as all_of:
        with pytest.raises(ControlRefusedError, match="no process that consumes it has answered within"):
            await all_of.web.restart("h")
        result = await all_of.web.set_concurrency("h", 2)
        assert (result.done, result.processes) == (False, [])
        assert str(result.note).startswith("no process that consumes has told its status lately")


async def documents(store: Store) -> list[bytes]:
    return [*(await store.all(INSTRUCTIONS)).values()]


async def test_one_that_ends_meanwhile_is_told_apart_from_one_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "SILENT_SECONDS", 0.5)
    async with group("a", "b") as all_of:
        make_old(all_of, "b")
        asking = asyncio.create_task(all_of.web.set_concurrency("h", 7))
        await eventually(lambda: all_of.concurrency()["a"] == 7)
        await all_of.workers["b"]._run._sharing.leave()  # type: ignore[union-attr]
        result = await asking
        assert (result.done, outcomes(result)) == (True, {"a": "applied", "b": "gone"})


async def test_what_a_process_refuses_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async with group("a", "b") as all_of:
        refuse(monkeypatch, all_of.service("a"))
        result = await all_of.web.restart("h")
        assert (result.done, outcomes(result)) == (False, {"a": "refused", "b": "applied"})
        assert result.processes[0].detail == "h cannot be restarted: it stops"


async def test_whoever_asked_for_a_restart_is_answered_before_it_is_done_where_it_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instructions, "MOST_SECONDS", 0.3)
    async with group("a", "b") as all_of:
        hold = asyncio.Event()
        hang(monkeypatch, all_of.service("a"), hold)
        session = all_of.service("b").life.session
        result = await all_of.web.restart("h")
        assert (result.done, outcomes(result)) == (False, {"a": "unfinished", "b": "unfinished"})
        assert result.processes[1].detail == "it has begun, or waits for its turn: look at its status"
        assert all_of.service("b").life.session is session
        hold.set()
        await eventually(lambda: all_of.service("b").life.session is not session)


def hang(monkeypatch: pytest.MonkeyPatch, service: ConsumerService, until: asyncio.Event) -> None:
    restart = service.restart

    async def later() -> None:
        await until.wait()
        await restart()

    monkeypatch.setattr(service, "restart", later)


async def test_one_that_ends_in_the_middle_of_its_restart_is_gone_and_the_next_one_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instructions, "SILENT_SECONDS", 0.1)
    async with group("a", "b") as all_of:
        for athomic in (all_of.web, all_of.workers["b"]):
            athomic._run.desk._instructions._patience = 0.5  # type: ignore[union-attr]
        hold, session = asyncio.Event(), all_of.service("b").life.session
        hang(monkeypatch, all_of.service("a"), hold)
        asking = asyncio.create_task(all_of.web.restart("h"))
        await eventually(lambda: bool(all_of.workers["a"]._run.desk._instructions._doing))  # type: ignore[union-attr]
        await all_of.workers["a"]._run._sharing.leave()  # type: ignore[union-attr]
        result = await asking
        assert outcomes(result)["a"] == "gone"
        assert outcomes(result)["b"] in ("applied", "unfinished"), "it waits for as long as whoever asked"
        await eventually(lambda: all_of.service("b").life.session is not session)
        hold.set()


async def test_an_answer_that_the_store_has_forgotten_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many processes, where each takes long."""
    async with group("a", "b") as all_of:
        hold = asyncio.Event()
        hang(monkeypatch, all_of.service("b"), hold)
        asking = asyncio.create_task(all_of.web.restart("h"))
        async with asyncio.timeout(SECONDS):
            while len(done := await finished(all_of.store)) < 1:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        reads = all_of.store.reads
        await eventually(lambda: all_of.store.reads > reads + 12)  # all have seen it
        for name in done:
            await all_of.store.remove(ANSWERS, name)
        hold.set()
        result = await asking
        assert (result.done, outcomes(result)) == (True, {"a": "applied", "b": "applied"})


async def finished(store: Store) -> list[str]:
    """The names of the answers that say what became of it."""
    documents = await store.all(ANSWERS)
    return [name for name, document in documents.items() if instructions.Answer.model_validate_json(document).result]


async def test_one_that_gets_no_partitions_again_does_not_keep_the_next_one_from_its_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instructions, "REJOIN_SECONDS", 0.1)
    async with group("a", "b") as all_of:
        monkeypatch.setattr(ConsumerService, "ready", property(lambda service: service is not all_of.service("a")))
        result = await all_of.web.restart("h")
        assert (result.done, outcomes(result)) == (True, {"a": "applied", "b": "applied"})


async def test_the_store_forgets_restarts_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "KEPT_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(instructions, "SILENT_SECONDS", 1.0)
    async with group("a") as all_of:
        assert (await all_of.web.restart("h")).done
        assert len(await all_of.store.all(ANSWERS)) == 1
        for section in (ANSWERS, INSTRUCTIONS):
            async with asyncio.timeout(SECONDS):
                while await all_of.store.all(section):  # noqa: ASYNC110 - there is no event
                    await asyncio.sleep(0.02)


def refuse(monkeypatch: pytest.MonkeyPatch, service: ConsumerService) -> None:
    async def restart() -> None:
        raise ControlRefusedError("h cannot be restarted: it stops")

    monkeypatch.setattr(service, "restart", restart)


async def test_of_two_operators_the_later_one_is_obeyed_and_the_earlier_one_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instructions, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(group_pauses, "LOOK_SECONDS", 0.2)
    async with group("a") as all_of:
        first = asyncio.create_task(all_of.web.set_concurrency("h", 7, actor=ANN))
        await written(all_of.store, b"ann")
        second = await all_of.web.set_concurrency("h", 2, actor=BOB)
        assert second.done
        assert all_of.concurrency() == {"a": 2}
        told = await first
        if outcomes(told) != {"a": "applied"}:  # it had looked in between
            assert (told.done, outcomes(told)) == (False, {"a": "refused"})
            assert told.processes[0].detail == "somebody has set something else meanwhile"


async def written(store: Store, actor: bytes) -> None:
    while not any(actor in document for document in await documents(store)):  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0)


async def test_without_the_store_only_the_process_that_is_asked_does_it() -> None:
    async with group("a", "b") as all_of:
        all_of.store.away = True
        with pytest.raises(StateStoreError, match="the store is away"):
            await all_of.web.set_concurrency("h", 7)
        result = await all_of.workers["a"].set_concurrency("h", 7)
        assert (result.done, outcomes(result)) == (False, {"a": "applied"})
        assert result.note == "other processes do not hear of it: the store is away"
        assert all_of.concurrency() == {"a": 7, "b": 3}
        all_of.store.away = False
        reads = all_of.store.reads
        await eventually(lambda: all_of.store.reads > reads + 12)
        assert all_of.concurrency() == {"a": 7, "b": 3}, "nothing comes later"
        assert (await all_of.web.set_concurrency("h", 5)).done


async def test_a_store_that_is_away_at_the_start_is_asked_when_it_is_back() -> None:
    async with group("a") as all_of:
        await all_of.web.set_concurrency("h", 7)
        later = all_of.app.again(role="worker", instance_id="later")
        later._shared = all_of.store
        all_of.store.away = True
        async with running(later) as athomic:
            assert athomic.consumers()[0].concurrency == 3
            all_of.store.away = False
            await eventually(lambda: athomic.consumers()[0].concurrency == 7)


async def test_without_control_a_process_speaks_for_itself() -> None:
    async with group("a", "b", control=ControlSettings()) as all_of:
        result = await all_of.workers["a"].set_concurrency("h", 7)
        assert (result.done, outcomes(result)) == (True, {"a": "applied"})
        assert result.note == "other processes are not told: control.enabled is not set"
        assert all_of.concurrency() == {"a": 7, "b": 3}


async def test_what_others_leave_in_the_store_disturbs_nobody() -> None:
    async with group("a") as all_of:
        head = b'{"id": "%s", "group_id": "%s", "handler_id": "%s", "action": "%s", "values": %s, '
        other = head + b'"actor": "x", "reason": null}'
        left = {
            "1": other % (b"1", b"other", b"h", b"concurrency", b'{"value": 9}'),
            "2": other % (b"2", b"g", b"x", b"concurrency", b'{"value": 9}'),
            "3": other % (b"3", b"g", b"h", b"turn_around", b"{}"),
            "4": b"\xff",
            "5": other % (b"5", b"g", b"h", b"concurrency", b'{"value": "many"}'),
            "6": other % (b"6", b"g", b"h", b"breaker", b"{}"),
            "7": other % (b"7", b"g", b"h", b"seek", b"{}"),
            "8": other % (b"8", b"g", b"h", b"rate", b'{"messages_per_second": 1%s}' % (b"0" * 400)),
            "9": other.replace(b'"id": "%s", ', b"") % (b"g", b"h", b"concurrency", b"{}"),
            "11": other % (b"11", b"g", b"h", b"rate", b'{"messages_per_second": 1, "burst": 1%s}' % (b"0" * 400)),
            "12": other % (b"12", b"g", b"h", b"concurrency", b'{"value": 1%s}' % (b"0" * 400)),
            "10": b"[" * 100_000,
        }
        for name, document in left.items():
            await all_of.store.put(INSTRUCTIONS, name, document)
        await all_of.store.put(ANSWERS, "x", b"{}")
        result = await all_of.web.set_concurrency("h", 4)
        assert (result.done, outcomes(result)) == (True, {"a": "applied"})
        assert all_of.concurrency() == {"a": 4}
        assert all_of.seen() == {"a": "closed"}
        assert (await all_of.web.set_rate("h", 5)).done
        reads, told = all_of.store.reads, len(await all_of.store.all(ANSWERS))
        await eventually(lambda: all_of.store.reads > reads + 12)
        assert len(await all_of.store.all(ANSWERS)) == told, "each is looked at once"


def test_the_state_of_those_who_consume_elsewhere_is_the_service_s_own() -> None:
    from fastapi_athomic.consumption.states import ServiceState

    assert ServiceState.ELSEWHERE.value == ELSEWHERE

"""Seeks in partitions of other members of the group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastapi_athomic import Athomic, ControlRefusedError, TransportError
from fastapi_athomic.control import group_pauses, handovers
from fastapi_athomic.control.handovers import ANSWERS, REQUESTS, Answer
from fastapi_athomic.operation_settings import ControlSettings
from tests.support.apps import eventually, owned, running

from .steered import Steered
from .test_group_pauses import Store, sharing

ENABLED = ControlSettings(enabled=True, allow_anonymous=True)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_pauses, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(handovers, "ANSWER_PAUSE", 0.01)


class Two:
    """A group of two members, which have handled three messages of each partition; one has partition `away`."""

    def __init__(self, first: Athomic, second: Athomic, store: Store) -> None:
        self.first, self.second, self.store = first, second, store
        (self.away,) = owned(second, "t")

    async def drain(self) -> None:
        await self.first.drain()
        await self.second.drain()


@asynccontextmanager
async def two(app: Steered) -> AsyncIterator[Two]:
    second = app.again()
    store = sharing(app.athomic, second)
    async with running(app.athomic) as first, running(second):
        await eventually(lambda: len(owned(second, "t")) == 1 and len(owned(first, "t")) == 2)
        group = Two(first, second, store)
        for number in range(3):
            await app.publish(str(number), range(1, 4), partition=number)
        await group.drain()
        yield group


@pytest.mark.parametrize("isolation", ["loop", "thread"])
async def test_a_forced_seek_goes_to_the_members_that_have_the_partitions(isolation: Any) -> None:
    app = Steered(control=ENABLED, isolation=isolation)
    async with two(app) as group:
        plan = await group.first.plan_seek("h", "t", to="beginning")
        assert [problem.endswith("with force the member that has it is asked to") for problem in plan.problems] == [
            True
        ]
        with pytest.raises(ControlRefusedError, match="with force the member"):
            await group.first.seek("h", "t", to="beginning")
        plan = await group.first.seek("h", "t", to="beginning", force=True)
        assert (plan.done, plan.problems, plan.repeated, plan.skipped, plan.exact) == (True, [], 9, 0, True)
        await group.drain()
        plan = await group.first.seek("h", "t", group.away, 2, force=True)
        assert (plan.done, plan.repeated) == (True, 1)
        await group.drain()
        assert await group.store.all(REQUESTS) == {}
    assert {order: len(seen) for order, seen in app.by_order().items()} == {
        str(number): 7 if number == group.away else 6 for number in range(3)
    }


async def test_what_the_other_member_cannot_do_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Steered(control=ENABLED)
    async with two(app) as group:
        service: Any = group.second.manager().consumers["h"]  # type: ignore[union-attr]

        async def refuse(place: object, offset: int) -> None:
            raise TransportError("no commit today")

        monkeypatch.setattr(service, "seek", refuse)
        with pytest.raises(ControlRefusedError, match="no commit today"):
            await group.first.seek("h", "t", group.away, 0, force=True)
        plan = await group.first.seek("h", "t", to="beginning", force=True)
        assert (plan.done, plan.problems) == (False, [f"t[{group.away}]: no commit today"])
        assert [part.done for part in plan.partitions] == [number != group.away for number in range(3)]
        await group.drain()


async def test_a_member_that_does_not_look_is_waited_for_in_vain_and_does_nothing_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handovers, "BEGIN_SECONDS", 0.3)
    app = Steered()
    async with two(app) as group:
        with pytest.raises(ControlRefusedError, match=r"no member of the group took it over within 0\.3 s: is control"):
            await group.first.seek("h", "t", group.away, 0, force=True)
        assert await group.store.all(REQUESTS) == {}
        group.store.away = True
        with pytest.raises(ControlRefusedError, match=r"could not be handed over .*: the store is away"):
            await group.first.seek("h", "t", group.away, 0, force=True)
        group.store.away = False
    assert len(app.record.seen) == 9


async def test_one_that_has_begun_and_says_no_more_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handovers, "BEGIN_SECONDS", 0.2)
    app = Steered(drain_timeout=0.1, request_timeout=0.1)
    async with two(app) as group:
        seeking = asyncio.create_task(group.first.seek("h", "t", group.away, 0, force=True))

        async def request() -> str:
            while not (found := await group.store.all(REQUESTS)):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0)
            return next(iter(found))

        await group.store.put(ANSWERS, await request(), Answer().model_dump_json().encode())
        with pytest.raises(ControlRefusedError, match="has begun, and did not say in time what became of it"):
            await seeking


async def test_an_answer_that_is_not_understood_is_told_of() -> None:
    async with two(Steered()) as group:
        seeking = asyncio.create_task(group.first.seek("h", "t", group.away, 0, force=True))
        while not (found := await group.store.all(REQUESTS)):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0)
        await group.store.put(ANSWERS, next(iter(found)), b'{"result": "done"}')
        with pytest.raises(ControlRefusedError, match="is of another version of this package: look where it goes on"):
            await seeking


async def test_requests_of_others_and_of_later_versions_are_left_alone() -> None:
    app = Steered(control=ENABLED)
    async with two(app) as group:
        request = b'{"group_id": "%s", "handler_id": "%s", "topic": "t", "partition": 0, "to": 0}'
        left = {
            "1": request % (b"other", b"h"),
            "2": request % (b"g", b"x"),
            "3": b"{}",
            "4": (request % (b"g", b"h")).replace(b'"to": 0', b'"to": -1'),
            "5": (request % (b"g", b"h")).replace(b'"to": 0', b'"to": 1%s' % (b"0" * 30)),
        }
        for name, document in left.items():
            await group.store.put(REQUESTS, name, document)
        reads = group.store.reads
        await eventually(lambda: group.store.reads > reads + 4)
        assert set(await group.store.all(REQUESTS)) == {*left}
        assert await group.store.all(ANSWERS) == {}
    assert len(app.record.seen) == 9

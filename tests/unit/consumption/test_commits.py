"""When a session commits, on `memory://`."""

from __future__ import annotations

import asyncio
from time import monotonic
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import AthomicSettings, subscribe_to
from fastapi_athomic.consumption import commits
from fastapi_athomic.consumption.commits import BUSY_PAUSE, COMMIT_PAUSE, SOON, Committer
from fastapi_athomic.consumption.partitions import WorkDone
from fastapi_athomic.consumption.session import ConsumerSession
from fastapi_athomic.loop.load import ThreadLoad
from fastapi_athomic.transports.memory.consumer import MemoryConsumer
from tests.support.apps import Gate, Record, eventually, new_app, running
from tests.support.clock import SESSION, set_clock

NEVER_LATE: dict[str, Any] = {"stall_timeout": 36_000, "health": {"poll_late": 36_000}}
"""So that polls can be far apart."""
ANSWER = SOON
"""Seconds that a commit takes."""


@pytest.fixture(autouse=True)
def _no_other_consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the tests of the second before would count: the more there are, the seldomer each commits."""
    monkeypatch.setattr(commits, "_thread", commits._Thread())


@pytest.mark.parametrize(
    ("load", "interval", "count", "first", "then"),
    [
        (0.5, 20 * SOON, 1_000, [SOON], [99 * SOON]),
        (0.5, 20 * SOON, 1, [], [COMMIT_PAUSE]),
        (0.5, 0.0, 1_000, [SOON], [SOON, SOON]),
        (0.9, BUSY_PAUSE, 1, [BUSY_PAUSE], [BUSY_PAUSE]),
        (0.9, 20 * SOON, 1_000, [BUSY_PAUSE], [BUSY_PAUSE]),
        (0.9, 0.0, 1, [3 * SOON], [3 * SOON]),
    ],
    ids=[
        "the interval",
        "so many are done",
        "at once",
        "no time to spare",
        "few, and no time",
        "at once, without time to spare",
    ],
)
async def test_commits_come_soon_and_are_rarer_where_they_take_time_from_handlers(
    load: float, interval: float, count: int, first: list[float], then: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, slept, clock, published = Record(), list[float](), [monotonic()], 0
    commit, before = MemoryConsumer.commit, list[list[float]]()

    async def noted(consumer: MemoryConsumer, offsets: Any, timeout: float) -> None:
        before.append(slept.copy())
        slept.clear()
        clock[0] += ANSWER
        await commit(consumer, offsets, timeout)

    async def sleep(seconds: float) -> None:
        clock[0] += seconds
        if seconds > SOON / 2:  # less: to let others in, or what rounding has left
            slept.append(seconds)
            await record.count(published)
        else:
            await asyncio.sleep(0)

    async def wait(work_done: WorkDone, enough: int, seconds: float | None = None) -> None:
        await wait_for(work_done, 1)
        if work_done.count < enough:
            assert seconds is not None
            await sleep(seconds)

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(number: int) -> None:
        record.note(number)

    wait_for = WorkDone.wait
    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", commit_interval=interval, commit_count=count)
    athomic = new_app(settings, handle)
    monkeypatch.setattr(ThreadLoad, "share", lambda _: load)
    async with running(athomic):
        monkeypatch.setattr(MemoryConsumer, "commit", noted)
        monkeypatch.setattr(WorkDone, "wait", wait)
        set_clock(monkeypatch, lambda: clock[0], *SESSION)
        monkeypatch.setattr(
            "fastapi_athomic.consumption.commits.asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep})
        )
        for published in (1, 2):
            await athomic.publish("t", published)
            await athomic.drain()
    assert before[0] == pytest.approx(first)
    assert before[1] == pytest.approx(then)


@pytest.mark.parametrize(
    "options", [{}, {"ordering": "key"}, {"ordering": "none"}, {"batch_size": 2, "batch_linger_ms": 1}]
)
async def test_p5_a_commit_comes_when_something_is_done(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not some time after it was received: nobody but the handler knows how long that takes."""
    record, gate, commit = Record(), Gate(), MemoryConsumer.commit

    async def noted(consumer: MemoryConsumer, offsets: Any, timeout: float) -> None:
        await commit(consumer, offsets, timeout)
        record.note("committed")

    async def handle(number: int) -> None:
        record.note("begun")
        await gate.wait()

    async def handle_batch(numbers: list[int]) -> None:
        await handle(numbers[0])

    handler: Any = handle_batch if "batch_size" in options else handle
    subscribe_to("t", group_id="g", handler_id="h", **options)(handler)
    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", commit_interval=3600, commit_count=1, **NEVER_LATE)
    async with running(new_app(settings, handler)) as athomic:
        monkeypatch.setattr(MemoryConsumer, "commit", noted)
        for looks in ("session.POLL_SECONDS", "commits.LOOK_SECONDS"):  # a poll looks at what is done, too
            monkeypatch.setattr(f"fastapi_athomic.consumption.{looks}", 3600.0)
        await athomic.publish("t", 0)
        await record.count(1)
        gate.set()
        assert await record.count(2) == ["begun", "committed"]
        monkeypatch.undo()
        await athomic.publish("t", 1)  # ends the last poll, which is a long one
        await record.count(3)


def test_p5_the_more_consumers_have_a_trickle_the_more_waits_for_each_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they commit as often as five would; none keeps more than `commit_count` waiting."""
    now = 100.0
    monkeypatch.setattr(commits, "monotonic", lambda: now)
    monkeypatch.setattr(commits, "_thread", type(commits._thread)())

    def new() -> Committer:
        committer = Committer.__new__(Committer)
        committer._settings = AthomicSettings()
        return committer

    company = [new() for _ in range(60)]
    found = [committer._few() for committer in company]
    assert [found[number - 1][0] for number in (1, 5, 10, 20, 60)] == [3, 3, 6, 10, 10], "messages"
    assert [found[number - 1][1] for number in (1, 5, 10, 20)] == pytest.approx([0.05, 0.05, 0.1, 0.2]), "seconds"
    now += commits.TRICKLING_SECONDS
    assert company[0]._few()[0] == 3, "the others are quiet"


async def test_p5_no_more_than_commit_count_waits_while_messages_trickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many that came at once may be done before the committer has its turn."""
    record, gate, clock, commit = Record(), Gate(), [monotonic()], MemoryConsumer.commit

    @subscribe_to("t", group_id="g", handler_id="h")
    async def handle(number: int) -> None:
        if number == 1:
            await gate.wait()

    async def noted(consumer: MemoryConsumer, offsets: Any, timeout: float) -> None:
        await commit(consumer, offsets, timeout)
        record.note([committed.offset for committed in offsets.values()])

    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", commit_interval=3600, **NEVER_LATE)
    monkeypatch.setattr(ThreadLoad, "share", lambda _: 0.0)
    monkeypatch.setattr(ConsumerSession, "_note_positions", lambda *_: None)  # it looks at what is done, too
    async with running(new_app(settings, handle)) as athomic:
        set_clock(monkeypatch, lambda: clock[0], *SESSION)
        monkeypatch.setattr(MemoryConsumer, "commit", noted)
        clock[0] += 36_000  # the last commit was long ago
        await athomic.publish("t", 0, key="k")
        assert len(await record.count(1)) == 1
        clock[0] += COMMIT_PAUSE  # now one or two would wait
        await athomic.publish_many("t", range(1, 41), key=lambda _: "k")
        await eventually(lambda: athomic.consumers()[0].counters.received == 41)
        gate.set()
        _, (committed,) = await record.count(2)
        assert 41 - settings.commit_count <= committed <= 41
        monkeypatch.undo()


@pytest.mark.parametrize(("count", "waited"), [(0, False), (1, True), (3, False)])
async def test_a_trickle_has_waited_only_if_there_is_something(count: int, waited: bool) -> None:
    """Another consumer may take it along when nothing is done here: then the next message waits as usual."""
    committer, work_done = Committer.__new__(Committer), WorkDone()
    committer._assignment = SimpleNamespace(states={}, work_done=work_done)  # type: ignore[assignment]
    trickling = asyncio.create_task(committer._trickle(3, monotonic(), 60.0))
    await asyncio.sleep(0)
    work_done.note(count)
    work_done.wake()
    assert await trickling is waited


async def test_consumers_in_which_messages_trickle_commit_one_after_the_other() -> None:
    """Once they have waited for half of their wait. Each has a turn of the event loop of its own."""
    trickles = type(commits._thread)()
    done = [WorkDone() for _ in range(4)]

    async def wait(number: int, goes_along: float) -> None:
        await trickles.wait(done[number], 10, 3600, goes_along)
        trickles.take_along(100.5)  # as a committer does then

    waits = [asyncio.create_task(wait(*place)) for place in ((0, 100.0), (1, 101.0), (2, 100.0), (3, 100.0))]
    await asyncio.sleep(0)
    trickles.take_along(100.5)
    ended = []
    for _ in range(8):
        await asyncio.sleep(0)
        ended.append([task.done() for task in waits])
    assert ended[-1] == [True, False, True, True]
    assert [True, False, False, False] in ended, "all at once"
    trickles.take_along(101.0)
    await waits[1]
    trickles.take_along(102.0)  # nobody waits any more


def test_an_event_loop_that_was_closed_in_the_midst_of_a_wait_harms_no_later_one() -> None:
    trickles, left, loop = type(commits._thread)(), WorkDone(), asyncio.new_event_loop()
    task = loop.create_task(trickles.wait(left, 10, 3600, 100.0))
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is left on purpose
    loop.close()

    async def later() -> None:
        wait, done = asyncio.get_running_loop().create_task, WorkDone()
        task = wait(trickles.wait(done, 10, 3600, 100.0))
        await asyncio.sleep(0)
        for _ in range(2):
            trickles.take_along(101.0)
        await task

    asyncio.run(later())

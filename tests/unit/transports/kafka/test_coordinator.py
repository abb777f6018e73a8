"""When heartbeats are due, and when a member joins again without a pause. tests/integration/test_rebalances.py has
the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from aiokafka.protocol.group import SyncGroupRequest

from fastapi_athomic.bell import SHORT, Bell, shared_moment
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.transports.base import CommittedOffset, Confirmation
from fastapi_athomic.transports.kafka import coordinator as module
from fastapi_athomic.transports.kafka.client_log import _of_our_clients
from fastapi_athomic.transports.kafka.coordinator import GroupMembership, heartbeat_pause
from fastapi_athomic.transports.kafka.group_wire import CommitQuestion, HeartbeatQuestion, Member
from fastapi_athomic.transports.kafka.wire import Question

LONGEST = 3.0


@pytest.fixture(autouse=True)
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of other tests do not count."""
    monkeypatch.setattr(module, "_working", type(module._working)())


class Membership(GroupMembership):
    """One that is connected to nothing."""

    def __init__(self, partitions: Collection[str] = ("t[0]",)) -> None:
        self._subscription = SimpleNamespace(assigned_partitions=lambda: partitions)
        self._heartbeat_interval_ms = LONGEST * 1000
        self._rejoin_needed_fut = asyncio.get_running_loop().create_future()
        self._called = Bell()
        self._retry_backoff_ms = 250
        self._group_instance_id = self._assignors = None
        self._session_timeout_ms, self._rebalance_timeout_ms = 10_000, 35_000
        self.coordinator_id: int | None = None
        self.group_id = "g"


def beats(worked_at: float, working: int = 1) -> Iterator[float]:
    """The times of heartbeats after one at 0.0, if there was something to do at `worked_at` and not since."""
    last = 0.0
    while True:
        last += heartbeat_pause(last - worked_at, working, LONGEST)
        yield round(last, 3)


def test_heartbeats_are_frequent_while_messages_come() -> None:
    assert heartbeat_pause(-0.05, 1, LONGEST) == module.SHORTEST_HEARTBEAT


def test_after_the_last_message_each_pause_is_as_long_as_it_has_been_quiet() -> None:
    after = beats(worked_at=0.0)
    assert [next(after) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.2, 9.2]


def test_members_of_a_process_share_what_heartbeats_may_cost() -> None:
    pauses = {working: heartbeat_pause(-0.05, working, LONGEST) for working in (1, 5, 50, 1000)}
    assert pauses == {1: 0.1, 5: 0.1, 50: 1.0, 1000: LONGEST}
    assert 50 / pauses[50] == module.HEARTBEATS_A_SECOND


def test_together_they_send_no_more_also_though_they_send_at_shared_moments() -> None:
    for working in range(1, 140):
        pause = heartbeat_pause(-0.05, working, LONGEST)
        first = shared_moment(1000.0, pause)
        between = shared_moment(first + 0.004, pause) - first
        assert working / between <= module.HEARTBEATS_A_SECOND * 1.001, working
        assert between <= working / module.HEARTBEATS_A_SECOND + 0.5, "and no fewer than they must"


def test_an_interval_below_the_shortest_is_kept() -> None:
    assert heartbeat_pause(-0.05, 50, 0.03) == 0.03


async def test_only_members_with_something_to_do_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: clock)
    members = [Membership() for _ in range(50)]
    for member in members:
        member.note_traffic()
        member._heartbeat_pause(clock)
    assert members[0]._heartbeat_pause(clock) == 1.0
    for member in members[1:]:
        assert member._heartbeat_pause(clock + LONGEST + 1) == LONGEST
    assert members[0]._heartbeat_pause(clock) == 0.1


async def test_a_message_after_a_quiet_spell_makes_a_heartbeat_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: clock)
    member = Membership()
    waiting = asyncio.create_task(member._wait_until_due(clock, float("inf")))
    await asyncio.sleep(0)
    assert not waiting.done()
    clock += 1.0  # by far not `LONGEST`
    member.note_traffic()
    await asyncio.wait_for(waiting, LONGEST / 2)


@pytest.mark.parametrize("number", [1, 6, 8, 13, 20])
@pytest.mark.parametrize("later", [0.0, 0.03, 0.06])
async def test_messages_wake_nobody_whose_next_heartbeat_comes_soon_enough(number: int, later: float) -> None:
    """Whatever the pause is, and where it begins between the moments at which all wake."""
    members = [Membership() for _ in range(number)]
    for member in members:
        member.note_traffic()
        member._heartbeat_pause(monotonic())
    last = monotonic() + later
    waiting = asyncio.create_task(members[0]._wait_until_due(last, float("inf")))
    await asyncio.sleep(0)
    members[0].note_traffic()
    assert members[0]._called.waited_for
    waiting.cancel()


async def test_members_with_a_trickle_send_their_heartbeats_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: clock)
    waits = list[float]()

    async def wait(_: Bell, seconds: float) -> None:
        nonlocal clock
        waits.append(seconds)
        clock += seconds

    monkeypatch.setattr(Bell, "wait", wait)
    members = [Membership() for _ in range(20)]
    for member in members:
        member.note_traffic()
        member._heartbeat_pause(clock)
    due = list[float]()
    for number, member in enumerate(members):
        clock = 100.0 + number * 0.0137
        await member._wait_until_due(clock, float("inf"))
        due.append(round(clock, 3))
    assert len(waits) == len(members)
    assert len(set(due)) <= 20 * 0.0137 / SHORT + 1.5


async def test_a_member_without_partitions_does_not_keep_the_others_waiting() -> None:
    assert [Membership(partitions)._heartbeat_pause(0.0) for partitions in (["t[0]"], [])] == [LONGEST, 1.0]


async def test_who_has_heard_of_the_rebalance_only_keeps_its_place() -> None:
    member = Membership()
    member.note_traffic()
    assert member._heartbeat_pause(0.0) == module.SHORTEST_HEARTBEAT
    member._rejoin_needed_fut.set_result(None)
    assert member._heartbeat_pause(0.0) == LONGEST


@pytest.mark.parametrize(
    ("error", "pauses"),
    [
        (RebalanceInProgressError, [[], [0.25], [0.25]]),
        (UnknownMemberIdError, [[], [0.25], [0.25]]),
        (GroupLoadInProgressError, [[0.25], [0.5], [0.75]]),
    ],
)
async def test_who_can_join_again_at_once_does_but_never_spins(
    error: Any, pauses: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def answer(*_: object) -> Any:
        return SimpleNamespace(error_code=error.errno)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    class Attempt:
        def __init__(self, member: Membership, *_: object) -> None:
            self._member = member

        async def perform_group_join(self) -> None:
            await self._member._send_req(SyncGroupRequest("g", 1, "m", None, []))

    monkeypatch.setattr(GroupCoordinator, "_send_req", answer)
    monkeypatch.setattr(module, "CoordinatorGroupRebalance", Attempt)
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
    member, told = Membership(), []
    for _ in pauses:
        assert not await member._do_rejoin_group(SimpleNamespace(active=True))
        told.append([sum(slept)] if slept else [])
    assert told == pauses


# --- what is asked at once


class Client:
    """A coordinator's client that gives this answer, or raises it; None: no connection is open."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked: list[tuple[int, bytes]] = []

    def ask_open(self, node: int, question: Question) -> asyncio.Future[object] | None:
        self.asked.append((node, question.body()))
        if self.answer is None:
            return None
        future = asyncio.get_running_loop().create_future()
        if isinstance(self.answer, Exception):
            future.set_exception(self.answer)
        else:
            future.set_result(self.answer)
        return future


class Asking(Membership):
    """A member of generation 3 whose coordinator is node 1."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self._client = Client(answer)
        self._commit_lock = asyncio.Lock()
        self.coordinator_id, self.generation, self.member_id = 1, 3, "m"
        self.heartbeats = 0  # by aiokafka
        self.dead = 0  # so often the coordinator was found dead

    def coordinator_dead(self) -> None:
        self.dead += 1

    async def _do_heartbeat(self) -> bool:
        self.heartbeats += 1
        return True


OFFSETS = {TopicPartition("t", 0): CommittedOffset(5, "note")}
NO_ANSWER = [TimeoutError(), KafkaConnectionError("closed")]


async def test_what_the_coordinator_accepts_takes_one_request() -> None:
    member = Asking(answer=True)
    assert await member.commit_open(OFFSETS)
    assert await member._beat()
    expected = Member("g", 3, "m")
    assert member._client.asked == [
        (1, CommitQuestion(expected, offsets=OFFSETS).body()),
        (1, HeartbeatQuestion(expected).body()),
    ]
    assert (member.heartbeats, member.dead) == (0, 0)


@pytest.mark.parametrize("answer", [False, None], ids=["refused", "no connection is open"])
async def test_what_is_out_of_the_ordinary_is_left_to_aiokafka(answer: object) -> None:
    member = Asking(answer)
    assert not await member.commit_open(OFFSETS)
    assert await member._beat()
    assert (member.heartbeats, member.dead) == (1, 0)


@pytest.mark.parametrize("answer", NO_ANSWER, ids=["late", "closed"])
async def test_a_coordinator_that_does_not_answer_is_looked_for_again(answer: Exception) -> None:
    member = Asking(answer)
    assert not await member.commit_open(OFFSETS)
    assert not await member._beat()
    assert (member.heartbeats, member.dead) == (0, 2)


async def test_who_is_no_member_or_knows_no_coordinator_asks_nobody() -> None:
    member = Asking(answer=True)
    member.generation = -1
    assert not await member.commit_open(OFFSETS)
    member.generation, member.coordinator_id = 3, None
    assert not await member.commit_open(OFFSETS)
    assert member._client.asked == []


async def test_p4_a_commit_does_not_overtake_one_that_is_under_way() -> None:
    """The older one might come last, and set the offset back."""
    member = Asking(answer=True)
    async with member._commit_lock:
        assert not await member.commit_open(OFFSETS)
    assert member._client.asked == []


async def test_a_right_that_was_taken_away_is_told_as_before() -> None:
    """aiokafka ends the heartbeats with that error, and the consumer is rebuilt: else it would never hear."""
    member = Asking(answer=False)

    async def refused() -> bool:
        raise GroupAuthorizationFailedError("g")

    member._do_heartbeat = refused  # type: ignore[method-assign]
    with pytest.raises(GroupAuthorizationFailedError):
        await member._beat()


async def test_a_commit_is_traffic() -> None:
    """The next heartbeat is due sooner: it matters how soon this member hears of a rebalance."""
    member = Asking(answer=True)
    member._rests = True
    resting = asyncio.create_task(member._called.wait(3600.0))
    await asyncio.sleep(0)
    await member.commit_open(OFFSETS)
    await asyncio.wait_for(resting, LONGEST)
    assert member._worked_at > 0


async def test_what_aiokafka_logs_of_a_dead_coordinator_is_logged_as_ours() -> None:
    """So it is said once in a while, and not by each member."""
    member, ours = Asking(TimeoutError()), list[bool]()
    member.coordinator_dead = lambda: ours.append(_of_our_clients.get())  # type: ignore[method-assign]
    assert not await member.commit_open(OFFSETS)
    assert ours == [True]


# --- who is sure to be a member


async def test_the_group_waits_for_a_member_until_its_session_or_a_rebalance_has_timed_out() -> None:
    member = Membership()
    member._confirm(100.0)
    assert member.confirmation() == Confirmation(100.0, 110.0)
    member._rebalance_timeout_ms = 7_000
    assert member.confirmation() == Confirmation(100.0, 107.0)
    member._confirm(99.0)  # an answer that came late
    assert member.confirmation().at == 100.0


@pytest.mark.parametrize(
    ("answer", "confirmed"),
    [(True, True), (False, True), (TimeoutError(), False), (KafkaConnectionError("closed"), False)],
    ids=["accepted", "accepted by way of aiokafka", "late", "closed"],
)
async def test_a_heartbeat_confirms_a_member_if_it_is_answered(answer: object, confirmed: bool) -> None:
    member: Any = Asking(answer)
    began = monotonic()
    member._confirm(began - 7.0)
    member._max_poll_interval, member._subscription.fetcher_idle_time = 300.0, 0.0
    last = list[float]()

    async def due(sent: float, _: float) -> None:
        last.append(sent)
        if len(last) > 1:
            raise asyncio.CancelledError

    async def known() -> None: ...

    member._wait_until_due, member.ensure_coordinator_known = due, known
    await member._heartbeat_routine()
    assert last[0] == began - 7.0, "the first one is due as long after the join as any other: its session runs"
    assert (began <= member.confirmation().at <= monotonic()) is confirmed


@pytest.mark.parametrize(("accepted", "broker_assigns"), [(True, False), (False, False), (True, True)])
async def test_a_commit_confirms_a_member_if_it_prolongs_the_session(accepted: bool, broker_assigns: bool) -> None:
    """In a group in which the broker assigns (KIP-848) only heartbeats do."""
    member, began = Asking(accepted), monotonic()
    member._broker_assigns = broker_assigns
    await member.commit_open(OFFSETS)
    assert (member.confirmation().at >= began) is (accepted and not broker_assigns)


async def test_who_has_joined_is_a_member_before_it_hears_of_its_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since it asked for them: the answer may have come late, or have been read late."""
    clock = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: clock)
    member: Any = Membership()
    member.generation, member.member_id = 1, "m"
    seen = list[float]()

    async def answer(*_: object) -> Any:
        nonlocal clock
        clock += 3.0
        return SimpleNamespace(error_code=0)

    class Attempt:
        def __init__(self, *_: object) -> None: ...

        async def perform_group_join(self) -> tuple[str, bytes]:
            await member._send_req(SyncGroupRequest("g", 1, "m", None, []))
            return "roundrobin", b""

    async def complete(*_: object) -> None:
        seen.append(member.confirmation().at)

    monkeypatch.setattr(GroupCoordinator, "_send_req", answer)
    monkeypatch.setattr(module, "CoordinatorGroupRebalance", Attempt)
    member._on_join_complete = complete
    assert await member._do_rejoin_group(SimpleNamespace(active=True))
    assert seen == [100.0]

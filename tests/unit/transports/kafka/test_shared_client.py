"""The client that members share: whose topics it asks for, and when it is closed. No broker is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar, copy_context
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest
from aiokafka.structs import BrokerMetadata

from fastapi_athomic import AthomicSettings, CommitFailedError, KafkaSettings, RawMessage
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.transports.base import CommittedOffset, ConsumerConfig
from fastapi_athomic.transports.kafka import consumer as kafka_consumer
from fastapi_athomic.transports.kafka import shared_client
from fastapi_athomic.transports.kafka.client import KafkaClient
from fastapi_athomic.transports.kafka.consumer import KafkaConsumer
from fastapi_athomic.transports.kafka.group_member import GroupMember
from fastapi_athomic.transports.kafka.group_wire import HeartbeatQuestion, Member
from fastapi_athomic.transports.kafka.mixed_group import SideMembership
from fastapi_athomic.transports.kafka.options import connection_options
from fastapi_athomic.transports.kafka.reading import Reading
from fastapi_athomic.transports.kafka.shared_client import MemberClient, SharedClient, SharedClients
from tests.support.apps import eventually
from tests.support.silent_server import SilentServer

SETTINGS = AthomicSettings(broker_url="kafka://nowhere:1")


class Answering(SharedClient):
    """Its brokers answer when the test says so."""

    def __init__(self) -> None:
        super().__init__(SETTINGS, connection_options(SETTINGS))
        self.asked: list[list[str] | None] = []
        self.answers = asyncio.Event()
        self._sync_task = asyncio.create_task(self._md_synchronizer())

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        self.asked.append(self._question_topics(topics))
        await self.answers.wait()
        return True

    def member(self) -> MemberClient:
        return MemberClient(self, 1000, "c")


@pytest.fixture
async def client() -> AsyncIterator[Answering]:
    client = Answering()
    yield client
    await client.close()


async def test_who_follows_all_topics_waits_for_an_answer_that_has_all(client: Answering) -> None:
    """A request for the topics of others is under way: its answer would look as if there were only those."""
    client.member().set_topics(["a"])
    await eventually(lambda: client.asked)
    known = client.member().set_topics([])
    client.answers.set()
    await known
    assert client.asked == [["a"], None]


async def test_topics_that_nobody_follows_any_more_are_not_asked_for(client: Answering) -> None:
    client.answers.set()
    one, all_topics = client.member(), client.member()
    await one.set_topics(["a"])
    await all_topics.set_topics([])
    all_topics.leave()
    await client.force_metadata_update()
    one.leave()
    await client.force_metadata_update()
    assert client.asked == [["a"], None, ["a"], []]


async def test_a_connection_keeps_nothing_of_what_it_was_opened_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler's span, say: the connection lives for days."""

    async def open_(client: KafkaClient, place: object) -> Any:
        return copy_context()

    monkeypatch.setattr(KafkaClient, "_open", open_)
    span = ContextVar[str]("span")
    clients = [KafkaClient(), KafkaClient.take_over(AIOKafkaClient())]
    span.set("of a handler")
    assert [span in await client._get_conn(1) for client in clients] == [False, False]


async def test_a_join_that_is_broken_off_while_it_connects_leaves_no_connection(client: Answering) -> None:
    member = client.member()
    with SilentServer() as silent:
        where = urlsplit(silent.url)
        client.cluster._brokers = {1: BrokerMetadata(1, where.hostname, where.port, None)}
        joining = asyncio.create_task(member.send(1, JoinGroupRequest("g", 1000, 1000, "", None, "consumer", [])))
        assert await asyncio.to_thread(silent.asked.acquire, timeout=10)
        (opening,) = client._opening.values()
        joining.cancel()
        await asyncio.wait([joining, opening])
    assert opening.cancelled()


class Listener:
    def on_arrival(self) -> None: ...

    async def on_assigned(self, _: object) -> None: ...

    async def on_revoked(self, _: object) -> None: ...


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[SharedClient]:
    """The clients that were closed. They are opened without a broker."""
    closed = list[SharedClient]()

    async def opening(*_: object) -> None: ...

    async def closing(client: SharedClient, _: float) -> None:
        closed.append(client)
        await client.close()

    monkeypatch.setattr(shared_client, "open_client", opening)
    monkeypatch.setattr(shared_client, "close_client", closing)
    return closed


def consumer(settings: AthomicSettings = SETTINGS) -> KafkaConsumer:
    clients = SharedClients(settings, connection_options(settings))
    return KafkaConsumer(
        ConsumerConfig(group_id="g", client_id="c", topics=("t",)), Listener(), settings, clients, set()
    )


async def test_a_member_that_cannot_be_made_gives_its_client_back(
    closed: list[SharedClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> GroupMember:
        raise RuntimeError

    monkeypatch.setattr(kafka_consumer, "GroupMember", fails)
    with pytest.raises(RuntimeError):
        await consumer().start()
    assert len(closed) == 1


async def test_a_stop_that_is_cancelled_closes_the_client_all_the_same(
    closed: list[SharedClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    member, leaving, close = consumer(), asyncio.Event(), GroupMember.close
    await member.start()

    async def hangs(self: GroupMember, _: float) -> None:
        leaving.set()
        try:
            await asyncio.Event().wait()
        finally:
            await close(self, 0.0)

    monkeypatch.setattr(GroupMember, "close", hangs)
    stopping = asyncio.create_task(member.stop(5))
    await leaving.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert len(closed) == 1


async def test_a_member_that_was_stopped_while_it_joined_takes_no_partitions(closed: list[SharedClient]) -> None:
    member = consumer()
    await member.start()
    await member.stop(1)
    await member.assigned(frozenset())
    assert member.assignment() == frozenset()
    assert len(closed) == 1


@pytest.mark.parametrize("what", [GroupCoordinator, SideMembership])
async def test_a_second_member_that_does_not_leave_in_time_follows_no_topics_any_more(
    closed: list[SharedClient], monkeypatch: pytest.MonkeyPatch, what: type
) -> None:
    """The broker is away: the first of the two does not even come to an end, or the leaving of the second one."""

    async def hangs(_: object) -> None:
        await asyncio.Event().wait()

    member = consumer()
    await member.start()
    coordinator = member._running()._coordinator
    coordinator._side = SideMembership.beside(coordinator)
    shared = coordinator._client.shared
    assert len(shared.members) == 2
    monkeypatch.setattr(what, "close" if what is GroupCoordinator else "_maybe_leave_group", hangs)
    await member.stop(0.5)
    assert shared.members == set()
    assert closed == [shared]


# --- commits, and what is given out

OFFSETS = {TopicPartition("t", 0): CommittedOffset(5)}


class Asked:
    """What the coordinator of a member was asked, in which way."""

    def __init__(self, member: GroupMember, *, accepts: bool) -> None:
        self.ways: list[str] = []
        self._accepts = accepts
        coordinator: Any = member._coordinator
        coordinator.commit_open = self._at_once
        member.commit_now = self._step_by_step  # type: ignore[assignment,method-assign]

    async def _at_once(self, _: object) -> bool:
        self.ways.append("at once")
        return self._accepts

    async def _step_by_step(self, *_: object) -> None:
        self.ways.append("step by step")


@pytest.mark.parametrize("session_timeout", [10.0, 45.0])
@pytest.mark.parametrize(
    ("accepts", "seconds", "ways"),
    [
        (True, None, ["at once"]),
        (False, None, ["at once", "step by step"]),
        (True, 1.0, ["step by step"]),
    ],
    ids=["accepted", "refused", "no time for an answer that is late"],
)
async def test_a_commit_is_asked_at_once(
    closed: list[SharedClient], session_timeout: float, accepts: bool, seconds: float | None, ways: list[str]
) -> None:
    settings = AthomicSettings(kafka=KafkaSettings(session_timeout=session_timeout))
    member = consumer(settings)
    await member.start()
    asked = Asked(member._running(), accepts=accepts)
    await member.commit(OFFSETS, seconds or settings.request_timeout)
    assert asked.ways == ways
    await member.stop(1)


async def test_who_has_left_asks_nothing(closed: list[SharedClient]) -> None:
    member = consumer()
    await member.start()
    group_member = member._running()
    asked = Asked(group_member, accepts=True)
    await member.stop(1)
    assert not await group_member.commit_at_once(OFFSETS, 10)
    assert asked.ways == []


async def test_a_second_attempt_has_the_rest_of_the_time(
    closed: list[SharedClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a text that tells of all of it."""
    member, clock = consumer(), [100.0]
    await member.start()

    async def late(*_: object) -> bool:
        clock[0] += 6
        return False

    given: list[Any] = []

    async def within(work: Any, seconds: float, doing: str, *, began: float) -> None:
        given.append((seconds, began))
        await work

    asked = Asked(member._running(), accepts=False)
    monkeypatch.setattr(member._running(), "commit_at_once", late)
    monkeypatch.setattr(kafka_consumer, "monotonic", lambda: clock[0])
    monkeypatch.setattr(kafka_consumer, "within", within)
    await member.commit(OFFSETS, 10)
    assert (given, asked.ways) == ([(4, 6)], ["step by step"])
    await member.stop(1)


async def test_who_is_no_member_commits_nothing(closed: list[SharedClient]) -> None:
    member = consumer()
    await member.start()
    coordinator: Any = member._running()._coordinator
    coordinator.coordinator_id = 1
    assert coordinator.generation < 0
    with pytest.raises(CommitFailedError):
        await member.commit(OFFSETS, 10)
    await member.stop(1)


async def test_nothing_is_given_out_before_the_partitions_are_taken(closed: list[SharedClient]) -> None:
    """What was found during the rebalance belongs to positions that are about to change."""
    member = consumer()
    await member.start()
    place = TopicPartition("t", 0)
    group_member = member._running()
    taken: dict[TopicPartition, list[RawMessage]] = {place: [RawMessage("t", 0, 0, 0, None, b"", ())]}
    group_member.ready[place] = Reading(place, group_member)
    group_member.take = lambda *_: taken  # type: ignore[method-assign]
    assert (list(member.ready()), member.take([place], 10)) == ([], {})
    member._may_fetch = True
    assert (list(member.ready()), member.take([place], 10)) == ([place], taken)
    assert group_member._coordinator._worked_at > 0, "messages are traffic"
    await member.stop(1)
    assert list(member.ready()) == []


async def test_what_is_asked_at_once_goes_over_the_connection_of_all_that_the_member_asks(
    client: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one commit could overtake another."""
    member, groups = client.member(), list[Any]()

    async def send(node: int, request: object, *, group: object) -> None:
        groups.append(group)

    monkeypatch.setattr(client, "ask_open", lambda node, question, group: groups.append(group))
    monkeypatch.setattr(client, "send", send)
    member.ask_open(1, HeartbeatQuestion(Member("g", 1, "m")))
    await member.send(1, HeartbeatRequest("g", 1, "m"), group=ConnectionGroup.COORDINATION)
    assert groups == [member._slot, member._slot]

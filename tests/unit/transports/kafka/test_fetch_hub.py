"""Whom the fetch hub asks, on which lane, and how long a broker may wait. The brokers are the tests' own."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextvars import Context, ContextVar, copy_context
from itertools import count
from time import monotonic
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, OffsetOutOfRangeError, TopicAuthorizationFailedError

from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.transports.base import TopicInfo
from fastapi_athomic.transports.kafka import client_log, fetch_hub, fetch_lane, fetch_schedule
from fastapi_athomic.transports.kafka.connection import Asker
from fastapi_athomic.transports.kafka.fetch_hub import FetchHub
from fastapi_athomic.transports.kafka.fetch_schedule import EMPTY_ANSWERS, OTHER_WAITS, SHORT_WAIT
from fastapi_athomic.transports.kafka.fetch_wire import Answer, FetchQuestion, Limits, Part
from fastapi_athomic.transports.kafka.prefetch import Unreadable
from fastapi_athomic.transports.kafka.reading import Reading
from tests.support.apps import eventually
from tests.support.clock import set_clock

from .test_fetch_wire import told
from .test_prefetch import batch

A, B, C = (TopicPartition("t", number) for number in range(3))
LONGEST, PACE = 5.0, 0.002
LIMITS = Limits(1000, 1000)
STANDING = "standing-0"


class Member:
    """Reads partitions, and wants more of one as soon as something has come."""

    def __init__(self, hub: FetchHub) -> None:
        self.ready: OrderedDict[TopicPartition, Reading] = OrderedDict()
        self.max_batch_bytes = 1_000_000
        self.unreadable: list[tuple[TopicPartition, Unreadable]] = []
        self.seen: list[tuple[TopicPartition, int]] = []
        self.takes = True
        self._hub = hub

    def read(self, place: TopicPartition, offset: int) -> Reading:
        reading = Reading(place, self)
        reading.position, reading.stopped = offset, False
        self._hub.want(reading)
        return reading

    def on_arrival(self) -> None:
        if self.takes:
            self.take()

    def take(self) -> None:
        for place, reading in list(self.ready.items()):
            self.seen += [(place, message.offset) for message in reading.take(100)]
            if reading.wanted:
                self._hub.want(reading)

    def on_unreadable(self, place: TopicPartition, where: Unreadable) -> None:
        self.unreadable.append((place, where))

    def unpack_later(self, unpack: Callable[[], None], then: Callable[[], None]) -> None:
        raise NotImplementedError


class Request:
    """A request that waits at the broker."""

    def __init__(self, node: int, question: FetchQuestion, lane: str) -> None:
        self.node, self.lane = node, lane
        self.wait = question.wait / 1000
        _, _, self.asked, self.forgotten = told(question)
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def answer(self, *parts: Part, session: int = 1, code: int = 0, throttled: float = 0.0) -> None:
        self.answered.set_result(Answer(code, session, list(parts), throttled))


class Cluster:
    """The metadata, and brokers that answer when the test says so."""

    def __init__(self) -> None:
        self.cluster = self
        self.leaders = dict.fromkeys((A, B, C), 1)
        self.requests: list[Request] = []
        self.asked_for_leaders = 0
        self.came: dict[str, int] = {}  # bytes of an answer that is not whole yet, by lane
        self.topic_id: bytes | None = b"one"  # empty: there is no topic; None: no answer
        self.described = 0
        self.contexts: list[Context] = []  # in which requests were sent
        self._listeners: set[Callable[[Any], None]] = set()
        self.add_listener, self.remove_listener = self._listeners.add, self._listeners.remove

    def leader_for_partition(self, place: TopicPartition) -> int | None:
        return self.leaders.get(place)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {place.partition for place in self.leaders if place.topic == topic} or None

    def partitions_for_broker(self, node: int) -> set[TopicPartition]:
        return {place for place, leader in self.leaders.items() if leader == node}

    async def force_metadata_update(self) -> bool:
        self.asked_for_leaders += 1
        for listener in list(self._listeners):
            listener(self)
        return True

    def ask(self, node: int, question: FetchQuestion, group: str, asker: Asker) -> None:
        def answer(answered: asyncio.Future[Answer]) -> None:
            if (error := answered.exception()) is not None:
                asker.set_exception(error)
            else:
                asker.set_result(answered.result())

        request = Request(node, question, group)
        self.requests.append(request)
        self.contexts.append(copy_context())
        request.answered.add_done_callback(answer)

    async def describe(self, names: set[str]) -> dict[str, TopicInfo | None]:
        self.described += 1
        if self.topic_id is None:
            raise KafkaConnectionError
        return dict.fromkeys(names, TopicInfo(self.topic_id, 3) if self.topic_id else None)

    def heard(self, node: int, lane: str) -> int:
        return self.came.get(lane, 0)

    def waits_since(self, node: int, lane: str) -> float | None:
        return float("-inf")

    def hang_up(self, node: int, lane: str) -> None:
        for request in self.requests:
            if (request.node, request.lane) == (node, lane) and not request.answered.done():
                request.answered.set_exception(KafkaConnectionError())

    async def request(self, number: int) -> Request:
        await eventually(lambda: len(self.requests) > number)
        return self.requests[number]


def message(place: TopicPartition, offset: int, size: int = 0) -> Part:
    data = batch(offset, range(1), keys=(bytes(size),))
    return Part(place, 0, offset + 1, offset + 1, [], data)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def hub(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FetchHub]:
    monkeypatch.setattr(fetch_hub, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(fetch_schedule, "RETRY_SECONDS", 0.001)
    hub = FetchHub(cluster, LIMITS, LONGEST, PACE)  # type: ignore[arg-type]
    yield hub
    hub.close()


async def test_one_request_carries_the_partitions_of_all_members(cluster: Cluster, hub: FetchHub) -> None:
    for place in (A, B, C):
        Member(hub).read(place, 5)
    request = await cluster.request(0)
    assert (request.asked, request.lane) == ({A: 5, B: 5, C: 5}, STANDING)


async def test_a_message_costs_one_request(cluster: Cluster, hub: FetchHub) -> None:
    """What was fetched has been taken, and is asked for from its new position, when the next request goes out."""
    member = Member(hub)
    for place in (A, B):
        member.read(place, 5)
    for number in range(5):
        (await cluster.request(number)).answer(message(A, 5 + number))
        assert (await cluster.request(number + 1)).asked == {A: 6 + number}
    assert member.seen == [(A, 5 + number) for number in range(5)]
    assert {request.lane for request in cluster.requests} == {STANDING}


async def test_messages_that_trickle_are_gathered(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_schedule, "GATHER", 60.0)
    slow, member = Member(hub), Member(hub)
    slow.takes = False
    slow.read(A, 5)
    member.read(B, 5)
    (await cluster.request(0)).answer(message(A, 5), message(B, 5))
    await eventually(lambda: (A in slow.ready) and member.seen)
    assert len(cluster.requests) == 1, "it waits for the slow one"
    slow.take()
    assert (await cluster.request(1)).asked == {A: 6, B: 6}


async def test_while_messages_trickle_requests_keep_a_distance(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes meanwhile comes in one answer. What comes in bulk waits for nothing."""
    now = 100.0
    set_clock(monkeypatch, lambda: now, "transports.kafka.fetch_schedule", "transports.kafka.fetch_lane")
    member = Member(hub)
    member.read(A, 5)
    (await cluster.request(0)).answer(message(A, 5))
    await eventually(lambda: member.seen)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(cluster.requests) == 1
    now += PACE
    (await cluster.request(1)).answer(message(A, 6, size=fetch_schedule.TRICKLE_BYTES))
    assert (await cluster.request(2)).asked == {A: 7}, "at once: the clock stands still"


async def test_the_standing_lane_takes_over_what_other_lanes_are_about_to_bring(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else both would ask for their own partitions, each while the other is under way, without end."""
    now = 100.0
    set_clock(monkeypatch, lambda: now, "transports.kafka.fetch_schedule", "transports.kafka.fetch_lane")
    member = Member(hub)
    member.read(A, 5)
    await cluster.request(0)
    member.read(B, 5)
    assert (await cluster.request(1)).lane == "fetch-1"
    now += SHORT_WAIT - fetch_schedule.SOON / 2
    cluster.requests[0].answer()
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(cluster.requests) == 2
    cluster.requests[1].answer(session=0)
    third = await cluster.request(2)
    assert (third.asked, third.lane) == ({B: 5}, STANDING)


async def test_nobody_waits_for_a_member_that_takes_its_time(cluster: Cluster, hub: FetchHub) -> None:
    slow, member = Member(hub), Member(hub)
    slow.takes = False
    slow.read(A, 5)
    member.read(B, 5)
    (await cluster.request(0)).answer(message(A, 5), message(B, 5))
    second = await cluster.request(1)
    assert (second.asked, second.forgotten, second.lane) == ({B: 6}, [A], STANDING)
    slow.take()
    third = await cluster.request(2)
    assert (third.asked, third.lane) == ({A: 6}, "fetch-1")


async def test_what_is_wanted_while_a_request_waits_is_asked_for_on_other_lanes(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_schedule, "PARTITIONS_A_LANE", 6)
    member, waits = Member(hub), [SHORT_WAIT, *OTHER_WAITS]
    places = [TopicPartition("t", number) for number in range(6)]
    cluster.leaders = dict.fromkeys(places, 1)
    for number, place in enumerate(places[:4]):
        member.read(place, 5)
        request = await cluster.request(number)
        assert (request.asked, request.lane) == ({place: 5}, f"fetch-{number}" if number else STANDING)
        assert request.wait <= waits[number]
    for place in places[4:]:
        member.read(place, 5)
    assert cluster.requests[3].wait <= 0.02, "as long as these have to wait"
    cluster.requests[3].answer()
    last = await cluster.request(4)
    assert (last.asked, last.lane) == (dict.fromkeys(places[3:], 5), "fetch-3")
    cluster.requests[0].answer()
    cluster.requests[1].answer(session=0)
    takes_over = await cluster.request(5)
    assert takes_over.lane == STANDING
    assert takes_over.asked.keys() <= {places[1]}


async def test_the_longer_it_is_quiet_the_longer_a_broker_may_wait(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    set_clock(monkeypatch, lambda: now, "transports.kafka.fetch_schedule", "transports.kafka.fetch_lane")
    member = Member(hub)
    member.read(A, 5)
    waits = []
    for number in range(8):
        request = await cluster.request(number)
        waits.append(request.wait)
        now += request.wait
        request.answer()
    assert waits == [0.25, 0.25, 0.5, 1, 2, 4, 5, 5]
    (await cluster.request(8)).answer(message(A, 5))
    now += 1
    assert (await cluster.request(9)).wait == SHORT_WAIT, "there is something to do"


async def test_a_standing_lane_that_is_overdue_keeps_nobody_waiting(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is dead, and nobody knows yet."""
    now = 100.0
    set_clock(monkeypatch, lambda: now, "transports.kafka.fetch_schedule", "transports.kafka.fetch_lane")
    member = Member(hub)
    member.read(A, 5)
    now += (await cluster.request(0)).wait + fetch_lane.OVERDUE
    member.read(B, 5)
    second = await cluster.request(1)
    assert (second.asked, second.lane) == ({B: 5}, "fetch-1")
    assert second.wait == OTHER_WAITS[0], "it does not ask again and again"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are over at once, so all answers are late."""
    monkeypatch.setattr(fetch_schedule, "SHORT_WAIT", 0.01)
    monkeypatch.setattr(fetch_lane, "OVERDUE", 0.01)
    monkeypatch.setattr(fetch_lane, "SILENT_SECONDS", 0.01)


@pytest.mark.usefixtures("impatient")
async def test_what_a_connection_that_fell_silent_does_not_bring_is_asked_for_on_a_new_one(
    cluster: Cluster, hub: FetchHub
) -> None:
    """Also what was on the standing lane before: nobody waits until a request has timed out."""
    member = Member(hub)
    member.read(A, 5)
    first = await cluster.request(0)
    second = await cluster.request(1)
    assert first.answered.done()
    assert second.asked == {A: 5}
    second.answer(message(A, 5))
    await eventually(lambda: member.seen)


@pytest.mark.usefixtures("impatient")
async def test_a_large_answer_may_take_its_time(cluster: Cluster, hub: FetchHub) -> None:
    """Else it would be asked for again and again, and never come."""
    member = Member(hub)
    member.read(A, 5)
    first = await cluster.request(0)
    looks = count(1)

    def heard(node: int, lane: str) -> int:
        return next(looks)

    cluster.heard = heard  # type: ignore[method-assign]
    await eventually(lambda: next(looks) > 20)
    assert not first.answered.done()
    first.answer(message(A, 5))
    await eventually(lambda: member.seen)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("opened", [False, True])
async def test_a_connection_that_takes_long_to_open_is_not_taken_for_a_silent_one(
    cluster: Cluster, hub: FetchHub, opened: bool
) -> None:
    """The broker may wait for messages from when the request was sent, not from when it was to be."""
    looks = count(1)

    def waits_since(node: int, lane: str) -> float | None:
        next(looks)
        return monotonic() if opened else None

    cluster.waits_since = waits_since  # type: ignore[method-assign]
    Member(hub).read(A, 5)
    first = await cluster.request(0)
    await eventually(lambda: next(looks) > 20)
    assert not first.answered.done()


async def test_what_waits_for_a_lane_that_is_about_to_end_does_not_wait_until_it_is_found_dead(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_schedule, "SHORT_WAIT", 0.01)
    for module in (fetch_lane, fetch_schedule):
        monkeypatch.setattr(module, "OVERDUE", 0.01)
    member = Member(hub)
    member.read(A, 5)
    await cluster.request(0)
    member.read(B, 5)
    second = await cluster.request(1)
    assert (second.asked, second.lane) == ({B: 5}, "fetch-1")
    assert not cluster.requests[0].answered.done()


async def test_an_answer_that_a_quota_delays_is_not_late(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker does not look at the connection for so long."""
    now = 100.0
    set_clock(monkeypatch, lambda: now, "transports.kafka.fetch_schedule", "transports.kafka.fetch_lane")
    Member(hub).read(A, 5)
    (await cluster.request(0)).answer(throttled=60.0)
    wait = (await cluster.request(1)).wait
    (broker,) = hub._brokers.values()
    assert broker._standing[0].doubted_at == now + wait + 60.0 + fetch_lane.OVERDUE


async def test_what_came_is_handled_before_more_is_asked_for(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing a request takes as long as many a handler, and the message is there already."""
    asked_before: list[int] = []

    class Working(Member):
        def on_arrival(self) -> None:
            super().on_arrival()
            asyncio.get_running_loop().call_soon(lambda: asked_before.append(len(cluster.requests)))

    monkeypatch.setattr(fetch_schedule, "PARTITIONS_A_LANE", 1)
    member = Working(hub)
    for number, place in enumerate((A, B)):
        member.read(place, 5)
        await cluster.request(number)
    cluster.requests[0].answer(message(A, 5))
    cluster.requests[1].answer(message(B, 5))  # in the same turn of the event loop
    assert [(await cluster.request(number)).asked for number in (2, 3)] == [{A: 6}, {B: 6}]
    assert asked_before == [2, 2]


async def test_many_partitions_are_spread_over_several_lanes(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each answer the broker looks at all of the lane's."""
    monkeypatch.setattr(fetch_schedule, "PARTITIONS_A_LANE", 2)
    monkeypatch.setattr(fetch_schedule, "MOST_STANDING", 2)
    member, places = Member(hub), [TopicPartition("t", number) for number in range(6)]
    cluster.leaders = dict.fromkeys(places, 1)
    for place in places:
        member.read(place, 5)
    for number in range(2):
        await cluster.request(number)
    asked = {request.lane: request.asked.keys() for request in cluster.requests}
    assert asked == {STANDING: {*places[:2], places[4]}, "standing-1": {*places[2:4], places[5]}}
    cluster.requests[1].answer(message(places[2], 5))
    again = await cluster.request(2)
    assert (again.lane, again.asked) == ("standing-1", {places[2]: 6}), "it stays where it is"


async def test_each_of_many_partitions_costs_the_same(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it gets its home, and when it is wanted while that waits. Thousands would block the event loop else."""
    looked_at = count()
    monkeypatch.setattr(fetch_schedule, "PARTITIONS_A_LANE", 100)

    def hash_of(thing: object) -> int:
        next(looked_at)
        return id(thing)

    def equal(thing: object, other: object) -> bool:
        next(looked_at)
        return thing is other

    cluster.leaders = dict.fromkeys((TopicPartition("t", number) for number in range(51)), 1)
    first, *others = cluster.leaders
    member = Member(hub)
    member.read(first, 5)
    await cluster.request(0)
    monkeypatch.setattr(fetch_lane.Lane, "__hash__", hash_of)
    monkeypatch.setattr(Reading, "__eq__", equal)
    for place in others:
        member.read(place, 5)
    assert (await cluster.request(1)).asked == dict.fromkeys(others, 5)
    assert next(looked_at) < 10 * len(others)


async def test_who_has_moved_away_leaves_room_for_others(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_schedule, "PARTITIONS_A_LANE", 1)
    member = Member(hub)
    member.read(A, 5)
    await cluster.request(0)
    cluster.leaders[A] = 2
    await cluster.force_metadata_update()
    moved = await cluster.request(1)
    assert (moved.node, moved.lane) == (2, STANDING)
    cluster.requests[0].answer()
    member.read(B, 5)
    third = await cluster.request(2)
    assert (third.node, third.lane, third.asked) == (1, STANDING, {B: 5})


async def test_who_only_goes_has_no_home(cluster: Cluster, hub: FetchHub) -> None:
    """Else brokers would count partitions that they do not lead."""
    cluster.leaders[B] = 2
    member = Member(hub)
    first, second = member.read(A, 5), member.read(B, 5)
    await cluster.request(1)
    for reading in (first, second):
        hub.forget(reading)
    assert {node: list(broker._homes) for node, broker in hub._brokers.items()} == {1: [A], 2: [B]}


async def test_no_lane_keeps_a_partition_that_is_gone(cluster: Cluster, hub: FetchHub) -> None:
    """Each rebalance makes new readings: in a week they would add up. And a lane would wait for them in vain."""
    member = Member(hub)
    member.takes = False
    readings = [member.read(A, 5)]
    home = await cluster.request(0)
    readings.append(member.read(B, 5))
    (await cluster.request(1)).answer(message(B, 5), session=0)
    home.answer(message(A, 5))
    await eventually(lambda: len(member.ready) == 2)
    (broker,) = hub._brokers.values()
    lanes = (*broker._standing, *broker._others)
    assert [lane.taken_soon for lane in lanes if lane.taken_soon] == [{readings[0]}]
    del cluster.leaders[A]
    await cluster.force_metadata_update()
    for reading in readings:
        hub.forget(reading)
    assert not any(lane.taken_soon for lane in lanes)


async def test_what_lasts_keeps_nothing_of_who_happened_to_begin_it(cluster: Cluster, hub: FetchHub) -> None:
    """A connection is opened where a request is sent, and lives for days. What it logs is calmed, whoever began it."""
    span = ContextVar[str]("span")
    span.set("of a handler")
    member = Member(hub)
    member.read(A, 5)
    (await cluster.request(0)).answer(message(A, 5))
    await cluster.request(1)
    assert [(span in context, context[client_log._of_our_clients]) for context in cluster.contexts] == [
        (False, True)
    ] * 2


async def test_a_fault_while_a_lane_asks_does_not_leave_it_waiting(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "ask", None)
    Member(hub).read(A, 5)
    await eventually(lambda: "cannot be asked" in caplog.text)
    monkeypatch.undo()
    assert (await cluster.request(0)).asked == {A: 5}


async def test_a_fault_while_it_asks_does_not_end_the_fetching(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fetch_schedule.BrokerSchedule, "_use", None)
    Member(hub).read(A, 5)
    await eventually(lambda: "cannot be asked" in caplog.text)
    monkeypatch.undo()
    assert (await cluster.request(0)).asked == {A: 5}


async def test_members_that_are_equally_far_share_a_fetch(cluster: Cluster, hub: FetchHub) -> None:
    first, second, behind = Member(hub), Member(hub), Member(hub)
    first.read(A, 5)
    request = await cluster.request(0)
    second.read(A, 5)
    behind.read(A, 4)
    beside = await cluster.request(1)
    assert (request.asked, beside.asked) == ({A: 5}, {A: 4})
    beside.answer(message(A, 4))
    await eventually(lambda: behind.seen)
    request.answer(message(A, 5))
    await eventually(lambda: behind.seen == [(A, 4), (A, 5)])
    assert first.seen == second.seen == [(A, 5)]
    assert (await cluster.request(2)).asked == {A: 6}


async def test_who_comes_later_knows_the_end_that_the_broker_does_not_tell_again(
    cluster: Cluster, hub: FetchHub
) -> None:
    first, second = Member(hub), Member(hub)
    reading = first.read(A, 5)
    (await cluster.request(0)).answer(Part(A, 0, 7, 6, [], b""))
    waiting = await cluster.request(1)
    assert second.read(A, 5).end == 6, "it shares the request that waits"
    waiting.answer()
    await cluster.request(2)
    hub.forget(reading)
    (await cluster.request(2)).answer(Part(A, 0, 8, 8, [], b""))
    await cluster.request(3)
    assert first.read(A, 5).end == 8, "it has been gone meanwhile"


async def test_nothing_comes_to_who_does_not_want_it_any_more(cluster: Cluster, hub: FetchHub) -> None:
    member, other = Member(hub), Member(hub)
    reading = member.read(A, 5)
    other.read(B, 5)
    request = await cluster.request(0)
    hub.forget(reading)
    reading.position = 9  # as a seek does
    hub.want(reading)
    assert (await cluster.request(1)).asked == {A: 9}
    request.answer(message(A, 5), message(B, 5))
    await eventually(lambda: other.seen)
    assert member.seen == []


async def test_a_request_that_fails_is_sent_again(cluster: Cluster, hub: FetchHub) -> None:
    member = Member(hub)
    member.read(A, 5)
    member.read(B, 5)
    (await cluster.request(0)).answered.set_exception(KafkaConnectionError())
    second = await cluster.request(1)
    assert second.asked == {A: 5, B: 5}, "with a session of its own"
    assert cluster.asked_for_leaders > 0
    second.answer(code=70)  # the broker does not know the session
    assert (await cluster.request(2)).asked == {A: 5, B: 5}


async def test_a_fault_of_ours_does_not_end_the_fetching(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, other = Member(hub), Member(hub)
    member.read(A, 5)
    other.read(B, 5)
    monkeypatch.setattr(Reading, "arrived", None)
    (await cluster.request(0)).answer(message(A, 5))
    await eventually(lambda: member.unreadable)
    monkeypatch.undo()
    (await cluster.request(1)).answer(message(B, 5))
    await eventually(lambda: other.seen)


async def test_a_partition_whose_leader_has_moved_is_asked_for_there(cluster: Cluster, hub: FetchHub) -> None:
    member = Member(hub)
    member.read(A, 5)
    member.read(B, 5)
    first = await cluster.request(0)
    cluster.leaders[A] = 2
    first.answer(Part(A, 6, -1, -1, [], b""))
    await eventually(lambda: len(cluster.requests) == 3)
    assert {request.node: request.asked for request in cluster.requests[1:]}[2] == {A: 5}
    cluster.leaders[B] = 2  # nobody says so but the metadata
    await cluster.force_metadata_update()
    await eventually(lambda: any((request.node, request.asked) == (2, {B: 5}) for request in cluster.requests))


async def gone(cluster: Cluster, hub: FetchHub, member: Member, *, known: bytes) -> Reading:
    """A partition that the broker does not know when it is asked, and for some time."""
    reading = member.read(A, 5)
    reading.topic_id = known
    first = await cluster.request(0)
    cluster.topic_id = None
    first.answer(Part(A, 3, -1, -1, [], b""))
    await eventually(lambda: cluster.described > 2)
    cluster.topic_id = b""
    await eventually(lambda: cluster.described > 5)
    hub.want(reading)
    assert len(cluster.requests) == 1
    return reading


async def test_another_topic_by_the_same_name_is_not_read_from_where_the_old_one_was_left(
    cluster: Cluster, hub: FetchHub
) -> None:
    """It may have grown beyond that: its first messages would come after those that follow."""
    member = Member(hub)
    reading = await gone(cluster, hub, member, known=b"one")
    cluster.topic_id = b"other"
    await eventually(lambda: reading.misplaced)
    member.read(B, 0)
    assert A not in (await cluster.request(1)).asked


@pytest.mark.parametrize("known", [b"one", b""], ids=["known", "unknown before"])
async def test_a_topic_that_the_broker_did_not_know_for_a_moment_is_read_on(
    cluster: Cluster, hub: FetchHub, known: bytes
) -> None:
    member = Member(hub)
    reading = await gone(cluster, hub, member, known=known)
    cluster.topic_id = b"one"
    again = await cluster.request(1)
    assert again.forgotten == [], "the session has it still, from the same offset"
    again.answer(message(A, 5))
    await eventually(lambda: member.seen == [(A, 5)])
    assert not reading.misplaced


async def test_a_topic_of_which_the_metadata_knows_nothing_any_more_may_be_another_one(
    cluster: Cluster, hub: FetchHub
) -> None:
    reading = Member(hub).read(A, 5)
    reading.topic_id = b"one"
    await cluster.request(0)
    leader = cluster.leaders.pop(A)
    cluster.topic_id = b"other"
    await cluster.force_metadata_update()
    cluster.leaders[A] = leader
    await eventually(lambda: reading.misplaced)


async def test_what_came_by_the_name_of_a_topic_while_a_broker_was_away_is_not_read_on(
    cluster: Cluster, hub: FetchHub
) -> None:
    reading = Member(hub).read(A, 5)
    reading.topic_id = b"one"
    cluster.topic_id = b"other"
    (await cluster.request(0)).answered.set_exception(KafkaConnectionError())
    await eventually(lambda: reading.misplaced)
    assert len(cluster.requests) == 1


async def test_what_is_homeless_may_get_another_topic_by_its_name(cluster: Cluster, hub: FetchHub) -> None:
    """Its leader was looked for when the topic was deleted."""
    cluster.leaders[A] = -1
    reading = Member(hub).read(A, 5)
    reading.topic_id = b"one"
    await eventually(lambda: cluster.asked_for_leaders > 2)
    cluster.topic_id = b""
    leaders, cluster.leaders = cluster.leaders, {}
    await eventually(lambda: cluster.described > 2)
    cluster.leaders, cluster.topic_id = {**leaders, A: 1}, b"other"
    await eventually(lambda: reading.misplaced)
    assert cluster.requests == []


async def test_a_partition_without_a_leader_is_asked_for_when_it_has_one(cluster: Cluster, hub: FetchHub) -> None:
    del cluster.leaders[A]
    Member(hub).read(A, 5)
    await eventually(lambda: cluster.asked_for_leaders > 2)
    assert cluster.requests == []
    cluster.leaders[A] = 3
    assert (await cluster.request(0)).node == 3


async def test_an_error_is_that_of_one_partition(cluster: Cluster, hub: FetchHub) -> None:
    member, other = Member(hub), Member(hub)
    lost, denied = member.read(A, 5), member.read(B, 5)
    other.read(C, 5)
    (await cluster.request(0)).answer(
        *(Part(A, OffsetOutOfRangeError.errno, -1, -1, [], b""), message(C, 5)),
        Part(B, TopicAuthorizationFailedError.errno, -1, -1, [], b""),
    )
    second = await cluster.request(1)
    assert (second.asked, set(second.forgotten)) == ({C: 6}, {A, B})
    assert lost.misplaced
    assert "the right Read on topic" in member.unreadable[0][1].cause
    assert not denied.wanted
    assert other.seen == [(C, 5)]


async def test_a_partition_of_which_nothing_comes_although_there_is_more_is_held(
    cluster: Cluster, hub: FetchHub
) -> None:
    member = Member(hub)
    reading, idle = member.read(A, 5), member.read(B, 5)
    ends = [Part(A, 0, 9, 9, [], b""), Part(B, 0, 5, 5, [], b"")]
    for number in range(EMPTY_ANSWERS):
        request = await cluster.request(number)
        assert request.wait <= SHORT_WAIT, "so that it is known before long"
        request.answer(*ends)
        ends = []
    await eventually(lambda: member.unreadable)
    assert "the broker gives nothing" in member.unreadable[0][1].cause
    assert (reading.wanted, idle.wanted) == (False, True)


async def test_a_partition_of_which_nothing_comes_is_held_beside_busy_ones_too(
    cluster: Cluster, hub: FetchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their answers come fast, so few of them count: that of the partition may have been sent before it had more."""
    now = 0.0
    set_clock(monkeypatch, lambda: now, "transports.kafka.fetch_schedule", "transports.kafka.fetch_lane")
    monkeypatch.setattr(fetch_schedule, "TRICKLE_BYTES", 0)
    member, busy = Member(hub), Member(hub)
    reading = member.read(A, 5)
    busy.read(B, 0)
    ends = [Part(A, 0, 9, 9, [], b"")]
    last = 2 * EMPTY_ANSWERS - 2
    for number in range(last):
        assert reading.wanted
        now += SHORT_WAIT / 2
        (await cluster.request(number)).answer(message(B, number), *ends)
        ends = []
        await eventually(lambda: len(busy.seen) > number)  # noqa: B023 - awaited here
    now += SHORT_WAIT
    (await cluster.request(last)).answer(message(B, last))
    await eventually(lambda: member.unreadable)
    assert "the broker gives nothing" in member.unreadable[0][1].cause
    assert not reading.wanted


async def test_answers_that_a_quota_makes_empty_hold_nothing(cluster: Cluster, hub: FetchHub) -> None:
    member = Member(hub)
    reading = member.read(A, 5)
    ends = [Part(A, 0, 9, 9, [], b"")]
    for number in range(2 * EMPTY_ANSWERS):
        (await cluster.request(number)).answer(*ends, throttled=1.0)
        ends = []
    (await cluster.request(2 * EMPTY_ANSWERS)).answer(message(A, 5))
    await eventually(lambda: member.seen)
    assert member.unreadable == []
    assert reading.wanted


async def test_what_finds_no_room_in_a_full_answer_is_not_held(cluster: Cluster, hub: FetchHub) -> None:
    member, busy = Member(hub), Member(hub)
    reading = member.read(A, 5)
    busy.read(B, 0)
    ends = [Part(A, 0, 9, 9, [], b"")]
    for number in range(2 * EMPTY_ANSWERS):
        (await cluster.request(number)).answer(message(B, number, size=LIMITS.most_bytes // 2), *ends)
        ends = []
    await eventually(lambda: len(busy.seen) == 2 * EMPTY_ANSWERS)
    assert member.unreadable == []
    assert reading.wanted

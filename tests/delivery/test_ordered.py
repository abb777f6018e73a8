"""P17: the sequence of each aggregate is kept. On memory:// with the state in memory, elsewhere with it in Redis."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_athomic import Athomic, DeliveryAttempt, MessageHeaders, RawMessage, RetryPolicy, ordered_consumer
from tests.support.apps import Gate, Record, eventually, new_app, running, sentences

from .brokers import Broker
from .brokers import Record as Written
from .test_delivery import committed_in_all, eventually_committed, numbers

QUICK = RetryPolicy(max_attempts=3, delay=0.01, jitter=0)
NOT_AGAIN_ON_MOCK = pytest.mark.not_on(
    "mock", reason="it lets nobody in before the session of the member that left is over"
)
ONCE = RetryPolicy(max_attempts=1, max_delay=0)


class Step(BaseModel):
    order: str
    number: int


def step(order: str, number: int, partition: int | None = None, **more: Any) -> Written:
    value = json.dumps({"order": order, "number": number, **more}).encode()
    return Written(value, order.encode(), (("x-tenant-id", b"acme"), ("null", None)), partition)


def steps(order: str, sequence: Iterable[int], partition: int | None = None) -> list[Written]:
    return [step(order, number, partition) for number in sequence]


def seen_by(seen: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for order, number in seen:
        found[order].append(number)
    return dict(found)


@pytest.fixture
def settings(broker: Broker, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Settings of an app on the broker, with a state store that suits it."""
    in_memory = broker.name == "memory" and broker.isolation == "loop"
    url = None if in_memory else request.getfixturevalue("redis_server").url

    def make(**changes: Any) -> Any:
        return broker.settings(state_store_url=url, **changes)

    return make


def new_handler(topic: str, record: Record, act: Callable[[Step], Any] | None = None, **options: Any) -> Any:
    """Notes what it handles, after `act` has had its say."""

    @ordered_consumer(
        topic,
        group_id=topic,
        handler_id="h",
        aggregate_key_field="order",
        sequence_id_field="number",
        **({"retry": QUICK} | options),
    )
    async def handle(message: Step) -> None:
        if act is not None:
            await act(message)
        record.note((message.order, message.number))

    return handle


def status(athomic: Athomic) -> Any:
    return athomic.consumers()[0]


async def test_p17_shuffled_and_doubled_messages_are_handled_once_and_in_order(
    broker: Broker, topic: str, settings: Any
) -> None:
    await broker.create_topic(topic, 3)
    orders, chance = [f"o{number}" for number in range(20)], random.Random(17)
    records = [step(order, number, chance.randrange(3)) for order in orders for number in numbers(30, 1)]
    records += records[::3]
    chance.shuffle(records)
    held_back = [record for record in records if b'"number": 7}' in (record.value or b"")]
    record = Record()

    async with running(new_app(settings(), new_handler(topic, record, concurrency=5))) as athomic:
        await broker.produce(topic, [record for record in records if record not in held_back])
        await record.count(20 * 6)
        await eventually_committed(broker, topic, 800 - len(held_back))
        assert status(athomic).counters.parked >= 20 * 23
        await eventually(lambda: status(athomic).ordered.parked == 20 * 23)
        await broker.produce(topic, held_back)
        await record.count(20 * 30)
        await eventually_committed(broker, topic, 800)
        await eventually(lambda: status(athomic).counters.processed == 600)
        counters = status(athomic).counters
    assert seen_by(record.seen) == {order: numbers(30, 1) for order in orders}
    # one that comes when its double is parked, and is next in line by then, is handled in its stead: none is skipped
    assert 150 < counters.duplicates == counters.skipped <= 200


async def test_p17_one_aggregate_does_not_wait_for_another(broker: Broker, topic: str, settings: Any) -> None:
    await broker.create_topic(topic, 1)
    record, go_on, running_now = Record(), Gate(), Record()

    async def act(message: Step) -> None:
        running_now.note(message.number)
        if message.order == "slow":
            await go_on.wait()

    async with running(new_app(settings(), new_handler(topic, record, act, concurrency=2))):
        await broker.produce(topic, [*steps("slow", [1, 2]), *steps("quick", [2, 1, 3])])
        await record.count(3)
        assert seen_by(record.seen) == {"quick": [1, 2, 3]}
        assert await committed_in_all(broker, topic) == 0, "slow 1 is at work, slow 2 waits behind it in memory"
        go_on.set()
        await record.count(5)
        await eventually_committed(broker, topic, 5)
    assert seen_by(record.seen)["slow"] == [1, 2]


@NOT_AGAIN_ON_MOCK
async def test_p17_what_comes_early_is_parked_and_committed_and_survives_a_restart(
    broker: Broker, topic: str, settings: Any
) -> None:
    await broker.create_topic(topic, 2)
    record, raws = Record(), Record()

    @ordered_consumer(topic, group_id=topic, handler_id="h", aggregate_key_field="order", sequence_id_field="number")
    async def handle(message: Step, raw: RawMessage, headers: MessageHeaders) -> None:
        raws.note((raw.partition, raw.key, headers.raw))
        record.note((message.order, message.number))

    athomic = new_app(settings(), handle)
    async with running(athomic):
        await broker.produce(topic, [*steps("a", [3, 2], 0), *steps("b", [2], 1)])
        await eventually_committed(broker, topic, 3)
        await eventually(lambda: status(athomic).ordered.parked == 3)
        assert status(athomic).ordered.aggregates_waiting == 2
        assert record.seen == []
    async with running(athomic):
        await broker.produce(topic, steps("a", [1], 1))
        await record.count(3)
        await eventually_committed(broker, topic, 4)
        await broker.produce(topic, steps("b", [1], 0))
        await record.count(5)
    assert seen_by(record.seen) == {"a": [1, 2, 3], "b": [1, 2]}
    headers = (("x-tenant-id", b"acme"), ("null", None))
    assert raws.seen[1:3] == [(0, b"a", headers)] * 2, "as they came"


async def test_p17_a_retry_holds_its_aggregate_only(broker: Broker, topic: str, settings: Any) -> None:
    await broker.create_topic(topic, 1)
    record = Record()

    @ordered_consumer(
        topic, group_id=topic, handler_id="h", aggregate_key_field="order", sequence_id_field="number", retry=QUICK
    )
    async def handle(message: Step, attempt: DeliveryAttempt) -> None:
        record.note((message.order, (message.number, attempt.number)))
        if message.order == "bad" and message.number % 2 and attempt.number < 3:
            raise RuntimeError("not yet")

    async with running(new_app(settings(), handle)) as athomic:
        await broker.produce(topic, [*steps("bad", [1, 3, 2, 4]), *steps("good", [1, 2])])
        await record.until(lambda seen: ("bad", (4, 1)) in seen)
        await eventually_committed(broker, topic, 6)
        counters = status(athomic).counters
    attempts = {order: [attempt for whose, attempt in record.seen if whose == order] for order in ("bad", "good")}
    assert attempts["bad"] == [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 2), (3, 3), (4, 1)]
    assert attempts["good"] == [(1, 1), (2, 1)]
    assert (counters.failed, counters.retried) == (4, 4)


async def test_p17_a_dead_letter_lets_the_next_go_on_and_comes_back_by_a_redrive(
    broker: Broker, topic: str, settings: Any
) -> None:
    await broker.create_topic(topic, 1)
    record, broken = Record(), {2}

    async def act(message: Step) -> None:
        if message.number in broken:
            raise RuntimeError("broken")

    async with running(new_app(settings(), new_handler(topic, record, act))) as athomic:
        await broker.produce(topic, [*steps("a", [3, 2, 1]), *steps("a", [2])])
        await record.count(2)
        await eventually_committed(broker, topic, 4)
        assert seen_by(record.seen) == {"a": [1, 3]}
        assert status(athomic).counters.dead_lettered == 1
        broken.clear()
        assert (await athomic.dead_letters("h").redrive()).settled == 1
        await record.count(3)
        await broker.produce(topic, steps("a", [4]))
        await record.count(4)
    assert seen_by(record.seen) == {"a": [1, 3, 2, 4]}


async def test_p17_a_blocked_aggregate_waits_in_the_store_and_goes_on_when_its_message_can_be_handled(
    broker: Broker, topic: str, settings: Any
) -> None:
    await broker.create_topic(topic, 1)
    record, broken, tries = Record(), {2}, Record()

    async def act(message: Step) -> None:
        if message.order == "a" and message.number in broken:
            tries.note(message.number)
            raise RuntimeError("broken")

    handler = new_handler(topic, record, act, on_failure="block", retry=ONCE)
    async with running(new_app(settings(), handler)) as athomic:
        await broker.produce(topic, [*steps("a", [1, 2, 3]), *steps("b", [1, 2])])
        await record.count(3)
        await eventually_committed(broker, topic, 5)
        await broker.produce(topic, [*steps("a", [4, 5]), *steps("b", [3])])
        await eventually_committed(broker, topic, 8)
        assert seen_by(record.seen) == {"a": [1], "b": [1, 2, 3]}
        assert status(athomic).ordered.blocked == 1
        assert status(athomic).health.status == "degraded"
        assert "1 aggregates are blocked by a message that failed" in sentences(status(athomic).health)
        await tries.count(2)
        broken.clear()
        await record.count(7)
        await eventually(lambda: status(athomic).ordered.blocked == 0)
        await eventually(lambda: status(athomic).health.status == "healthy")
        assert status(athomic).counters.dead_lettered == 0
    assert seen_by(record.seen) == {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3]}


async def test_p17_a_gap_is_shown_and_waits(broker: Broker, topic: str, settings: Any) -> None:
    await broker.create_topic(topic, 1)
    record = Record()
    async with running(new_app(settings(), new_handler(topic, record, gap_timeout=0.05))) as athomic:
        await broker.produce(topic, [*steps("a", [1, 3]), *steps("b", [2])])
        await eventually(lambda: "2 aggregates wait for a missing number" in str(status(athomic).health.reasons))
        shown = status(athomic)
        assert shown.health.status == "degraded"
        assert (shown.ordered.aggregates_waiting, shown.ordered.parked) == (2, 2)
        assert shown.ordered.oldest_gap_seconds >= 0.05  # rounded
        assert record.seen == [("a", 1)]
        await broker.produce(topic, [*steps("a", [2]), *steps("b", [1])])
        await record.count(5)
        await eventually(lambda: status(athomic).health.status == "healthy")
        await eventually(lambda: status(athomic).ordered.parked == 0)
    assert seen_by(record.seen) == {"a": [1, 2, 3], "b": [1, 2]}


async def test_p17_a_gap_is_skipped(broker: Broker, topic: str, settings: Any) -> None:
    await broker.create_topic(topic, 1)
    record = Record()
    handler = new_handler(topic, record, gap_timeout=0.05, on_gap="skip")
    async with running(new_app(settings(), handler)) as athomic:
        await broker.produce(topic, steps("a", [1, 5, 4]))
        await record.count(3)
        await broker.produce(topic, steps("a", [2, 6]))
        await record.count(4)
        await eventually_committed(broker, topic, 5)
        counters = status(athomic).counters
    assert seen_by(record.seen) == {"a": [1, 4, 5, 6]}
    assert (counters.given_up, counters.duplicates) == (2, 1)


async def test_p17_a_gap_sends_what_waits_to_the_dlq_and_a_redrive_brings_it_back_in_order(
    broker: Broker, topic: str, settings: Any
) -> None:
    await broker.create_topic(topic, 1)
    record = Record()
    handler = new_handler(topic, record, gap_timeout=0.05, on_gap="dead_letter")
    async with running(new_app(settings(), handler)) as athomic:
        await broker.produce(topic, steps("a", [1, 4, 3]))
        await eventually(lambda: status(athomic).counters.dead_lettered == 2)
        await eventually(lambda: status(athomic).ordered.parked == 0)
        letters = await athomic.dead_letters("h").browse()
        assert {letter.error_type for letter in letters} == {"fastapi_athomic.exceptions.SequenceGapError"}
        assert {(letter.error_stage, letter.original_topic) for letter in letters} == {("handler", topic)}
        assert [json.loads(letter.value or b"")["number"] for letter in letters] == [3, 4]
        await broker.produce(topic, steps("a", [2]))
        await record.count(2)
        await athomic.dead_letters("h").redrive()
        await record.count(4)
    assert seen_by(record.seen) == {"a": [1, 2, 3, 4]}


@NOT_AGAIN_ON_MOCK
async def test_p17_a_gap_is_noticed_after_a_restart_without_a_new_message(
    broker: Broker, topic: str, settings: Any
) -> None:
    await broker.create_topic(topic, 1)
    record = Record()
    async with running(new_app(settings(), new_handler(topic, record))) as athomic:
        await broker.produce(topic, steps("a", [3, 2]))
        await eventually(lambda: status(athomic).ordered.parked == 2)
        await eventually_committed(broker, topic, 2)
    after = new_app(settings(), new_handler(topic, record, gap_timeout=0.01, on_gap="skip"))
    async with running(after):
        await record.count(2)
    assert seen_by(record.seen) == {"a": [2, 3]}


async def test_p17_a_full_waiting_room_loses_nothing_and_says_so(broker: Broker, topic: str, settings: Any) -> None:
    await broker.create_topic(topic, 1)
    record = Record()
    small = settings(ordered={"room_per_aggregate": 3})
    async with running(new_app(small, new_handler(topic, record))) as athomic:
        await broker.produce(topic, steps("a", range(9, 1, -1)))
        await eventually(lambda: status(athomic).ordered.full == 1)
        assert "the waiting room is full for 1 aggregates" in sentences(status(athomic).health)
        await eventually(lambda: status(athomic).ordered.parked == 3)
        assert status(athomic).assignment[0].in_flight == 5
        await broker.produce(topic, [*steps("b", [1]), *steps("a", [1])])
        await record.count(10)
        await eventually_committed(broker, topic, 10)
        await eventually(lambda: status(athomic).health.status == "healthy")
    assert seen_by(record.seen) == {"a": list(range(1, 10)), "b": [1]}


async def test_p17_what_has_no_place_in_a_sequence_goes_to_the_dlq_at_once(
    broker: Broker, topic: str, settings: Any
) -> None:
    await broker.create_topic(topic, 1)
    record = Record()
    bad = [b"{", b'{"order": "a"}', b'{"order": null, "number": 1}', b'{"order": "a", "number": true}', b"[]", None]
    bad += [b'{"order": "a", "number": 1.5}', b'{"order": "a", "number": 9007199254740992}', b'{"number": 1}']

    @ordered_consumer(topic, group_id=topic, handler_id="h", aggregate_key_field="order", sequence_id_field="number")
    async def handle(message: Any) -> None:
        record.note((message["order"], message["number"]))

    async with running(new_app(settings(), handle)) as athomic:
        await broker.produce(topic, [*map(Written, bad), *steps("a", [2, 1])])
        await record.count(2)
        await eventually_committed(broker, topic, len(bad) + 2)
        letters = await athomic.dead_letters("h").browse()
        assert status(athomic).counters.failed == len(bad)
    assert sorted(letter.value or b"" for letter in letters) == sorted(value or b"" for value in bad)
    assert {letter.error_stage for letter in letters} == {"decode"}
    assert seen_by(record.seen) == {"a": [1, 2]}


async def test_p17_first_sequence_says_where_an_unknown_aggregate_begins(
    broker: Broker, topic: str, settings: Any
) -> None:
    await broker.create_topic(topic, 1)
    record = Record()
    async with running(new_app(settings(), new_handler(topic, record, first_sequence=-1))):
        await broker.produce(topic, steps("a", [1, 0, -1, -2]))
        await record.count(3)
        await eventually_committed(broker, topic, 4)
    assert seen_by(record.seen) == {"a": [-1, 0, 1]}


@NOT_AGAIN_ON_MOCK
async def test_p17_a_stop_in_mid_stream_repeats_nothing(broker: Broker, topic: str, settings: Any) -> None:
    await broker.create_topic(topic, 2)
    orders = [f"o{number}" for number in range(10)]
    records = [step(order, number) for order in orders for number in range(1, 41)]
    random.Random(3).shuffle(records)
    record = Record()
    athomic = new_app(settings(), new_handler(topic, record, concurrency=3))
    await broker.produce(topic, records)
    for round_ in range(1, 4):
        async with running(athomic):
            await record.count(round_ * 100)
    async with running(athomic):
        await record.count(400)
        await eventually_committed(broker, topic, 400)
    assert seen_by(record.seen) == {order: numbers(40, 1) for order in orders}


@pytest.mark.not_on("mock", reason="it takes one member per group")
async def test_p17_two_members_share_the_aggregates(broker: Broker, topic: str, settings: Any) -> None:
    """Each aggregate's messages lie on both partitions, so each member has to give much to the other."""
    await broker.create_topic(topic, 2)
    record = Record()
    first, second = (new_app(settings(), new_handler(topic, record, concurrency=3)) for _ in range(2))
    orders = [f"o{number}" for number in range(10)]
    records = [step(order, number, number % 2) for order in orders for number in range(1, 41)]
    random.Random(5).shuffle(records)
    async with running(first), running(second):
        await eventually(lambda: all(len(status(app).assignment) for app in (first, second)))
        await broker.produce(topic, records)
        await record.count(400)
        await eventually_committed(broker, topic, 400)
        await eventually(lambda: sum(status(app).counters.processed for app in (first, second)) == 400)
        counters = [status(app).counters for app in (first, second)]
    assert seen_by(record.seen) == {order: numbers(40, 1) for order in orders}
    assert [each.received for each in counters] == [200, 200]
    assert any(each.parked for each in counters), "nobody parked anything for the other"

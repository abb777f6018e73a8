"""What every transport must deliver; run unchanged on each broker."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import defaultdict
from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_athomic import (
    BatchItemError,
    DeliveryAttempt,
    MessageHeaders,
    RawMessage,
    RetryPolicy,
    subscribe_to,
)
from tests.support.apps import Gate, Record, eventually, new_app, owned, running

from .brokers import Broker
from .brokers import Record as Written

QUICK = RetryPolicy(max_attempts=3, delay=0.01, jitter=0)


class Event(BaseModel):
    number: int


def event(number: int, key: str | None = None, partition: int | None = None) -> Written:
    return Written(b'{"number": %d}' % number, key.encode() if key else None, partition=partition)


def numbers(count: int, start: int = 0) -> list[int]:
    return list(range(start, start + count))


async def committed_in_all(broker: Broker, topic: str) -> int:
    """How many messages are committed. The tests' groups bear the name of their topic."""
    return sum((await broker.committed(topic, topic)).values())


# --- P1, P3: everything once, committed


async def test_p01_everything_is_handled_and_committed(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 3)
    await broker.produce(topic, [event(number, key=f"k{number % 7}") for number in numbers(300)])
    record = Record()

    @subscribe_to(topic, group_id=topic)
    async def handle(message: Event, raw: RawMessage) -> None:
        record.note((raw.partition, raw.offset, message.number))

    async with running(new_app(broker.settings(), handle)):
        seen = await record.count(300)
    assert sorted(number for _, _, number in seen) == numbers(300)
    for partition in range(3):
        offsets = [offset for place, offset, _ in seen if place == partition]
        assert offsets == numbers(len(offsets)), "out of order"
    assert await committed_in_all(broker, topic) == 300


async def test_p03_a_clean_stop_and_start_repeats_nothing(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 2)
    record = Record()

    @subscribe_to(topic, group_id=topic, concurrency=2)
    async def handle(message: Event) -> None:
        await asyncio.sleep(0)
        record.note(message.number)

    athomic = new_app(broker.settings(), handle)
    for round_ in range(3):
        await broker.produce(topic, [event(number) for number in numbers(40, round_ * 40)])
        async with running(athomic):
            await record.count(round_ * 40 + 20)  # stopped in the middle
    async with running(athomic):
        await record.count(120)
        await eventually_committed(broker, topic, 120)
    assert sorted(record.seen) == numbers(120)


async def eventually_committed(broker: Broker, topic: str, count: int) -> None:
    async with asyncio.timeout(30):
        while await committed_in_all(broker, topic) != count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


async def test_p03_a_message_in_the_handler_is_finished_before_the_app_stops(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(0), event(1)])
    record, go_on = Record(), Gate()

    @subscribe_to(topic, group_id=topic)
    async def handle(message: Event) -> None:
        record.note(f"begin {message.number}")
        await go_on.wait()
        record.note(f"end {message.number}")

    async with running(new_app(broker.settings(), handle)):
        await record.count(1)
        asyncio.get_running_loop().call_later(0.1, go_on.set)
    assert record.seen == ["begin 0", "end 0"]
    assert (await broker.committed(topic, topic))[0] == 1


async def test_p01_nothing_is_committed_beyond_what_still_runs(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(number) for number in numbers(50)])
    record, go_on = Record(), Gate()

    @subscribe_to(topic, group_id=topic, ordering="none", concurrency=10)
    async def handle(message: Event) -> None:
        if message.number == 7:
            await go_on.wait()
        record.note(message.number)

    settings = broker.settings(shutdown_timeout=3.0)
    async with running(new_app(settings, handle)):
        await record.count(49)
        assert set((await broker.committed(topic, topic)).values()) <= {*range(8)}
    assert (await broker.committed(topic, topic))[0] == 7

    go_on.set()
    async with running(new_app(settings, handle)):
        await record.count(50)
        await eventually_committed(broker, topic, 50)
    assert record.seen[49:] == [7], "what was done above the committed offset came again"


# --- P2: order


async def test_p02_a_retry_in_place_keeps_the_partitions_order(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(number) for number in numbers(20)])
    record = Record()

    @subscribe_to(topic, group_id=topic, retry=QUICK)
    async def handle(message: Event, attempt: DeliveryAttempt) -> None:
        record.note((message.number, attempt.number))
        if message.number % 5 == 0 and attempt.number < 3:
            raise RuntimeError("not yet")

    async with running(new_app(broker.settings(), handle)):
        await record.until(lambda seen: (19, 1) in seen)
    expected = [(n, a) for n in range(20) for a in ((1, 2, 3) if n % 5 == 0 else (1,))]
    assert record.seen == expected


async def test_p02_key_order_holds_while_other_keys_go_on(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    keys = ["slow", "b", "c", "slow", "b", "c", "slow"]
    await broker.produce(topic, [event(number, key=key) for number, key in enumerate(keys)])
    record, go_on = Record(), Gate()

    @subscribe_to(topic, group_id=topic, ordering="key", concurrency=3, retry=QUICK)
    async def handle(message: Event, raw: RawMessage, attempt: DeliveryAttempt) -> None:
        key = (raw.key or b"").decode()
        if key == "slow":
            await go_on.wait()
            if attempt.number == 1 and message.number == 0:
                record.note((key, "failed"))
                raise RuntimeError("not yet")
        record.note((key, message.number))

    async with running(new_app(broker.settings(), handle)):
        await record.count(4)  # the others are through, though `slow` came first
        assert all(key != "slow" for key, _ in record.seen)
        go_on.set()
        await record.count(8)
    by_key: dict[str, list[Any]] = defaultdict(list)
    for key, what in record.seen:
        by_key[key].append(what)
    assert by_key == {"slow": ["failed", 0, 3, 6], "b": [1, 4], "c": [2, 5]}


async def test_p02_messages_without_key_keep_their_partitions_order(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(number) for number in numbers(30)])
    record = Record()

    @subscribe_to(topic, group_id=topic, ordering="key", concurrency=10)
    async def handle(message: Event) -> None:
        await asyncio.sleep(0.001 * (message.number % 3))
        record.note(message.number)

    async with running(new_app(broker.settings(), handle)):
        assert await record.count(30) == numbers(30)


@pytest.mark.parametrize(("ordering", "keys"), [("none", False), ("key", True)])
async def test_up_to_concurrency_messages_are_handled_at_once(
    broker: Broker, topic: str, ordering: Any, keys: bool
) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(number, key=f"k{number}" if keys else None) for number in numbers(20)])
    record, together = Record(), asyncio.Barrier(5)
    running_now, most = 0, 0

    @subscribe_to(topic, group_id=topic, ordering=ordering, concurrency=5)
    async def handle(message: Event) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await together.wait()  # returns when five have come
        running_now -= 1
        record.note(message.number)

    async with running(new_app(broker.settings(), handle)):
        await record.count(20)
    assert most == 5
    assert sorted(record.seen) == numbers(20)


async def test_partitions_are_handled_side_by_side(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 3)
    await broker.produce(topic, [event(number, partition=number % 3) for number in numbers(9)])
    record, together = Record(), asyncio.Barrier(3)

    @subscribe_to(topic, group_id=topic, concurrency=3)
    async def handle(message: Event) -> None:
        await together.wait()
        record.note(message.number)

    async with running(new_app(broker.settings(), handle)):
        await record.count(9)
    assert [number for number in record.seen if number % 3 == 0] == [0, 3, 6]


# --- batches


async def test_batches_come_from_one_partition_and_hold_at_most_batch_size(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 2)
    await broker.produce(topic, [event(number, partition=number % 2) for number in numbers(100)])
    record = Record()

    @subscribe_to(topic, group_id=topic, batch_size=15, batch_linger_ms=20)
    async def handle(messages: list[Event], raw: list[RawMessage]) -> None:
        assert len({message.partition for message in raw}) == 1
        record.note([message.number for message in messages])

    async with running(new_app(broker.settings(), handle)):
        await record.until(lambda seen: sum(map(len, seen)) == 100)
    assert max(map(len, record.seen)) <= 15
    handled = [number for batch in record.seen for number in batch]
    assert [n for n in handled if n % 2 == 0] == numbers(100)[::2]
    assert [n for n in handled if n % 2] == numbers(100)[1::2]
    assert await committed_in_all(broker, topic) == 100


async def test_a_poisoned_batch_is_bisected_and_only_the_poison_is_dead_lettered(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    undecodable = Written(b"{not json")
    await broker.produce(topic, [*map(event, numbers(20)), undecodable, *map(event, numbers(19, 20))])
    handled, calls = Record(), Record()

    @subscribe_to(topic, group_id=topic, batch_size=40, batch_linger_ms=500, retry=RetryPolicy(max_attempts=1))
    async def handle(messages: list[Event]) -> None:
        calls.note(len(messages))
        if any(message.number == 13 for message in messages):
            raise ValueError("poison")
        for message in messages:
            handled.note(message.number)

    async with running(new_app(broker.settings(), handle)):
        await handled.count(38)
        await eventually_committed(broker, topic, 40)
    assert sorted(handled.seen) == [number for number in numbers(39) if number != 13]
    assert len(calls.seen) <= 2 * 6 + 1, "no more calls than bisection needs"
    letters = await broker.read(f"{topic}.{topic}.dlq")
    assert [letter.value for letter in letters] == [b"{not json", b'{"number": 13}']


async def test_one_poison_in_a_large_batch_costs_few_calls(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(number, partition=0) for number in numbers(500)])
    handled, calls = Record(), Record()

    @subscribe_to(topic, group_id=topic, batch_size=500, batch_linger_ms=2_000, retry=RetryPolicy(max_attempts=1))
    async def handle(messages: list[Event]) -> None:
        calls.note(len(messages))
        if any(message.number == 333 for message in messages):
            raise ValueError("poison")
        for message in messages:
            handled.note(message.number)

    async with running(new_app(broker.settings(), handle)):
        await handled.count(499)
        await eventually_committed(broker, topic, 500)
    assert max(calls.seen) == 500
    assert len(calls.seen) <= 1 + 2 * 9, "2 log2(500) more"
    assert handled.seen == [number for number in numbers(500) if number != 333]
    assert [letter.value for letter in await broker.read(f"{topic}.{topic}.dlq")] == [b'{"number": 333}']


async def test_a_pattern_that_matches_its_own_dead_letters_does_not_loop(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(1)])
    record = Record()

    @subscribe_to(re.compile(re.escape(topic) + ".*"), group_id=topic, retry=RetryPolicy(max_attempts=1))
    async def handle(message: Event, raw: RawMessage) -> None:
        record.note(raw.topic)
        raise RuntimeError("never")

    async with running(new_app(broker.settings(), handle)) as athomic:
        await record.count(1)
        await athomic.drain()
        assert not [place for place in athomic.consumers()[0].assignment if place.topic.endswith(".dlq")]
    assert record.seen == [topic]
    assert len(await broker.read(f"{topic}.{topic}.dlq")) == 1


async def test_a_batch_handler_may_name_the_item_that_failed(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, map(event, numbers(10)))
    record = Record()

    @subscribe_to(topic, group_id=topic, batch_size=10, batch_linger_ms=500, retry=RetryPolicy(max_attempts=1))
    async def handle(messages: list[Event]) -> None:
        for index, message in enumerate(messages):
            if message.number == 4:
                raise BatchItemError(index)
            record.note(message.number)

    async with running(new_app(broker.settings(), handle)):
        await record.count(9)
        await eventually_committed(broker, topic, 10)
    assert record.seen == [0, 1, 2, 3, 5, 6, 7, 8, 9], "each once"
    assert [letter.value for letter in await broker.read(f"{topic}.{topic}.dlq")] == [b'{"number": 4}']


# --- P6: poison


async def test_p06_what_cannot_be_handled_is_dead_lettered_byte_for_byte(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 2)
    headers = (("trace", b"\xff\x00"), ("empty", b""), ("null", None), ("trace", b"again"))
    bad = [
        Written(b"\xff\xfe not json", b"k\xff1", headers, partition=1),
        Written(b'{"number": "many"}', None, (), partition=1),
        Written(None, b"k2", headers, partition=1),
        Written(b'{"number": 13}', b"k3", headers, partition=1),
    ]
    await broker.produce(topic, [event(1, partition=1), *bad, event(2, partition=1)])
    record = Record()

    @subscribe_to(topic, group_id=topic, retry=QUICK)
    async def handle(message: Event) -> None:
        if message.number == 13:
            raise LookupError("unlucky")
        record.note(message.number)

    async with running(new_app(broker.settings(), handle)):
        await record.count(2)
        await eventually_committed(broker, topic, 6)
    letters = await broker.read(f"{topic}.{topic}.dlq")
    assert [(letter.value, letter.key) for letter in letters] == [(one.value, one.key) for one in bad]
    for letter, one, offset in zip(letters, bad, (1, 2, 3, 4), strict=True):
        assert letter.headers[: len(one.headers)] == one.headers
        added = MessageHeaders(letter.headers[len(one.headers) :])
        assert added.text("athomic-original-topic") == topic
        assert added.text("athomic-original-partition") == "1"
        assert added.text("athomic-original-offset") == str(offset)
        assert added.text("athomic-consumer-group") == topic
    stages = [MessageHeaders(letter.headers).text("athomic-error-stage") for letter in letters]
    assert stages == ["decode", "decode", "decode", "handler"]
    last = MessageHeaders(letters[-1].headers)
    assert last.text("athomic-attempts") == "3"
    assert last.text("athomic-error-type") == "builtins.LookupError"
    assert last.text("athomic-error-message") == "unlucky"


async def test_a_handler_that_takes_too_long_is_cancelled_and_dead_lettered(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, map(event, numbers(2)))
    record = Record()

    @subscribe_to(topic, group_id=topic, timeout=0.05, retry=RetryPolicy(max_attempts=2, delay=0.01))
    async def handle(message: Event) -> None:
        if message.number == 0:
            try:
                await asyncio.Event().wait()
            finally:
                record.note("cut off")
        record.note(message.number)

    async with running(new_app(broker.settings(), handle)):
        await record.count(3)
        await eventually_committed(broker, topic, 2)
    assert record.seen == ["cut off", "cut off", 1]
    (letter,) = await broker.read(f"{topic}.{topic}.dlq")
    assert MessageHeaders(letter.headers).text("athomic-error-stage") == "timeout"


async def test_without_a_dlq_a_failed_message_is_skipped_and_counted(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, map(event, numbers(3)))
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", dlq=False, retry=RetryPolicy(max_attempts=1))
    async def handle(message: Event) -> None:
        record.note(message.number)
        if message.number == 1:
            raise RuntimeError("never")

    async with running(new_app(broker.settings(), handle)) as athomic:
        await record.count(3)
        await eventually_committed(broker, topic, 3)
        (status,) = athomic.consumers()
        assert (status.counters.skipped, status.counters.dead_lettered) == (1, 0)


# --- what handlers are


async def test_sync_handlers_run_in_a_thread_in_order(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, map(event, numbers(20)))
    record, main = Record(), threading.get_ident()
    loop = asyncio.get_running_loop()

    @subscribe_to(topic, group_id=topic)
    def handle(message: Event) -> None:
        assert threading.get_ident() != main
        loop.call_soon_threadsafe(record.note, message.number)

    async with running(new_app(broker.settings(), handle)):
        assert await record.count(20) == numbers(20)


async def test_a_handler_may_follow_several_topics_or_a_pattern(broker: Broker, topic: str) -> None:
    for name in (f"{topic}.a", f"{topic}.b", f"x{topic}.a"):
        await broker.create_topic(name, 1)
        await broker.produce(name, [Written(name.encode())])
    listed, matched = Record(), Record()

    @subscribe_to([f"{topic}.a", f"x{topic}.a"], group_id=f"{topic}.1")
    async def by_name(message: str) -> None:
        listed.note(message)

    @subscribe_to(re.compile(re.escape(topic) + r"\.."), group_id=f"{topic}.2")
    async def by_pattern(message: str) -> None:
        matched.note(message)

    async with running(new_app(broker.settings(), by_name, by_pattern)):
        await listed.count(2)
        await matched.count(2)
    assert sorted(listed.seen) == sorted([f"{topic}.a", f"x{topic}.a"])
    assert sorted(matched.seen) == [f"{topic}.a", f"{topic}.b"]


async def test_null_values_reach_handlers_that_take_none(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [Written(None, b"gone"), event(1)])
    record = Record()

    @subscribe_to(topic, group_id=topic)
    async def handle(message: Event | None) -> None:
        record.note(message)

    async with running(new_app(broker.settings(), handle)):
        assert await record.count(2) == [None, Event(number=1)]


async def test_two_groups_each_get_everything(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 2)
    first, second = Record(), Record()

    @subscribe_to(topic, group_id=f"{topic}.1", handler_id="one")
    async def one(message: Event) -> None:
        first.note(message.number)

    @subscribe_to(topic, group_id=f"{topic}.2", handler_id="two")
    async def two(message: Event) -> None:
        second.note(message.number)

    await broker.produce(topic, map(event, numbers(30)))
    async with running(new_app(broker.settings(), one, two)):
        await first.count(30)
        await second.count(30)
    assert sorted(first.seen) == sorted(second.seen) == numbers(30)


async def test_latest_skips_what_was_there_before(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, map(event, numbers(5)))
    record = Record()

    @subscribe_to(topic, group_id=topic, auto_offset_reset="latest")
    async def handle(message: Event) -> None:
        record.note(message.number)

    async with running(new_app(broker.settings(), handle)) as athomic:
        await eventually(lambda: athomic.consumers()[0].assignment[0].position == 5)
        await broker.produce(topic, map(event, numbers(5, 5)))
        assert await record.count(5) == numbers(5, 5)


# --- publishing


async def test_what_is_published_is_read_back_byte_for_byte(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 3)
    async with running(new_app(broker.settings())) as athomic:
        place = await athomic.publish(topic, Event(number=1), key="a", headers={"x": b"\xff\x00", "n": None})
        bare = await athomic.publish(topic, b"\x00\xff", partition=2)
        await athomic.publish(topic, None, key=b"\xff")
        many = await athomic.publish_many(topic, numbers(50), key=lambda number: number % 5)
    found = {(message.partition, message.offset): message for message in await broker.read(topic)}
    first = found[place.partition, place.offset]
    assert (first.value, first.key) == (b'{"number":1}', b"a")
    assert first.headers[:2] == (("x", b"\xff\x00"), ("n", None))
    assert found[2, bare.offset].value == b"\x00\xff"
    assert [message.value for message in found.values() if message.key == b"\xff"] == [None]
    assert [found[one.partition, one.offset].value for one in many] == [b"%d" % number for number in numbers(50)]
    assert len(found) == 53


@pytest.mark.not_on("mock", reason="librdkafka's mock cluster makes topics with four partitions")
async def test_one_key_is_one_partition_for_every_client(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 7)
    keys = [f"key-{number}" for number in numbers(40)]
    await broker.produce(topic, [Written(b"", key.encode()) for key in keys])
    async with running(new_app(broker.settings())) as athomic:
        ours = {key: (await athomic.publish(topic, b"", key=key)).partition for key in keys}
    found = await broker.read(topic)
    assert len(found) == 80
    assert all(ours[(message.key or b"").decode()] == message.partition for message in found)
    assert len(set(ours.values())) == 7


# --- P4: groups


@pytest.mark.not_on("mock", reason="librdkafka's mock cluster lets aiokafka have one member per group")
async def test_p04_members_share_the_partitions_and_hand_them_over(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 4)
    record = Record()

    def handler(who: str) -> Any:
        @subscribe_to(topic, group_id=topic, handler_id="shared")
        async def handle(message: Event) -> None:
            await asyncio.sleep(0.001)
            record.note((who, message.number))

        return handle

    first, second = new_app(broker.settings(), handler("first")), new_app(broker.settings(), handler("second"))
    async with running(first):
        await broker.produce(topic, [event(number, partition=number % 4) for number in numbers(200)])
        await record.count(20)
        async with running(second):
            await eventually(lambda: len(owned(first, topic)) == len(owned(second, topic)) == 2)
            await broker.produce(topic, [event(number, partition=number % 4) for number in numbers(200, 200)])
            await record.count(320)
        await broker.produce(topic, [event(number, partition=number % 4) for number in numbers(40, 400)])
        await record.count(440)
        await eventually_committed(broker, topic, 440)
    assert sorted(number for _, number in record.seen) == numbers(440), "lost or repeated"
    assert {who for who, _ in record.seen} == {"first", "second"}
    for partition in range(4):
        of_partition = [number for _, number in record.seen if number % 4 == partition]
        assert of_partition == sorted(of_partition), "out of order"

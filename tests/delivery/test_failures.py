"""The failure path on every broker: retry topics and what comes back."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_athomic import DeliveryAttempt, MessageHeaders, RawMessage, RetryPolicy, subscribe_to
from tests.support.apps import Record, new_app, running

from .brokers import Broker
from .brokers import Record as Written
from .test_delivery import event, eventually_committed, numbers


class Event(BaseModel):
    number: int


async def test_a_message_comes_back_from_retry_topics_when_due_and_ends_in_the_dlq(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 2)
    headers = (("own", b"\xff"),)
    await broker.produce(topic, [Written(b'{"number": 1}', b"key", headers, partition=1)])
    record = Record()
    retry = RetryPolicy(max_attempts=2, delay=0.01, retry_topics=(0.5, 1.0), jitter=0)

    @subscribe_to(topic, group_id=topic, handler_id="h", ordering="none", retry=retry)
    async def handle(message: Event, raw: RawMessage, attempt: DeliveryAttempt) -> None:
        record.note((time.time(), raw.topic, raw.key, attempt.number, attempt.maximum))
        raise RuntimeError("never")

    async with running(new_app(broker.settings(), handle)) as athomic:
        await record.count(4)
        await athomic.drain()
        counters = athomic.consumers()[0].counters
    first, second, third, fourth = record.seen
    stages = [f"{topic}.{topic}.retry.0.5s", f"{topic}.{topic}.retry.1s"]
    assert [seen[1] for seen in record.seen] == [topic, topic, *stages]
    assert [(key, number, maximum) for _, _, key, number, maximum in record.seen] == [
        (b"key", number, 4) for number in (1, 2, 3, 4)
    ]
    assert third[0] - second[0] >= 0.499, "never before it is due"
    assert fourth[0] - third[0] >= 0.999
    assert (counters.deferred, counters.dead_lettered, counters.failed) == (2, 1, 4)
    (letter,) = await broker.read(f"{topic}.{topic}.dlq")
    assert (letter.value, letter.key, letter.headers[0]) == (b'{"number": 1}', b"key", headers[0])
    said = MessageHeaders(letter.headers)
    assert said.text("athomic-original-topic") == topic
    assert said.text("athomic-original-partition") == "1"
    assert said.text("athomic-attempts") == "4"
    assert "athomic-retry-due" not in said
    assert first[0] - 0.1 <= _seconds(said.text("athomic-first-failed-at")) <= second[0]


async def test_what_failed_before_in_the_same_lane_does_not_count_for_the_next_message(
    broker: Broker, topic: str
) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(1), event(2)])
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=RetryPolicy(max_attempts=2, delay=0.3, jitter=0))
    async def handle(message: Event, attempt: DeliveryAttempt) -> None:
        record.note((message.number, attempt.number, time.time()))
        if attempt.number == 1 or message.number == 2:
            raise RuntimeError("not yet")

    async with running(new_app(broker.settings(), handle)) as athomic:
        await record.count(4)
        await athomic.drain()
    assert [(number, attempt) for number, attempt, _ in record.seen] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    (letter,) = await broker.read(f"{topic}.{topic}.dlq")
    first_failed_at = _seconds(MessageHeaders(letter.headers).text("athomic-first-failed-at"))
    assert first_failed_at >= record.seen[2][2] - 0.1, "the first attempt of the first message was 0.3 s before"


def _seconds(moment: str | None) -> float:
    from datetime import datetime

    assert moment is not None
    return datetime.fromisoformat(moment).timestamp()


@pytest.mark.not_on("mock", reason="it waits for the old member's session, the messages would be due by then")
async def test_many_failing_messages_over_three_stages_with_a_restart_in_the_middle(broker: Broker, topic: str) -> None:
    count = 1_000
    await broker.create_topic(topic, 3)
    await broker.produce(topic, [event(number, key=str(number)) for number in numbers(count)])
    record = Record()
    early: list[Any] = []
    retry = RetryPolicy(max_attempts=1, retry_topics=(0.5, 1.0, 1.5))

    @subscribe_to(topic, group_id=topic, handler_id="h", ordering="none", concurrency=20, retry=retry)
    async def handle(message: Event, headers: MessageHeaders) -> None:
        due = headers.text("athomic-retry-due")
        if due is not None and time.time() * 1000 < int(due):
            early.append(message)
        record.note(message.number)
        raise RuntimeError("never")

    athomic = new_app(broker.settings(), handle)
    async with running(athomic):
        await record.count(count * 3 // 2)
    async with running(athomic):
        await record.count(count * 4)
        await athomic.drain()
    assert early == []
    assert Counter(record.seen) == dict.fromkeys(numbers(count), 4), "each so often as stated"
    letters = await broker.read(f"{topic}.{topic}.dlq")
    assert sorted(letter.key or b"" for letter in letters) == sorted(str(number).encode() for number in numbers(count))
    assert {MessageHeaders(letter.headers).text("athomic-attempts") for letter in letters} == {"4"}


async def test_a_message_that_recovers_goes_no_further(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.create_topic(
        f"{topic}.{topic}.retry.0.2s", 1
    )  # the group moves when it is made, and all wait for that
    await broker.produce(topic, [event(1), event(2)])
    record = Record()
    retry = RetryPolicy(max_attempts=1, retry_topics=(0.2, 60.0), allow_reordering=True)

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=retry)
    async def handle(message: Event, attempt: DeliveryAttempt) -> None:
        record.note((message.number, attempt.number))
        if message.number == 1 and attempt.number == 1:
            raise RuntimeError("once")

    async with running(new_app(broker.settings(), handle)) as athomic:
        await record.count(3)
        await athomic.drain()
        await eventually_committed(broker, topic, 2)
    assert record.seen == [(1, 1), (2, 1), (1, 2)], "what came later did not wait"
    assert await broker.read(f"{topic}.{topic}.dlq") == []


async def test_fatal_and_undecodable_messages_take_no_detour(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [Written(b"{"), event(1)])
    retry = RetryPolicy(max_attempts=3, retry_topics=(60.0,), fatal=(LookupError,), allow_reordering=True)

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=retry)
    async def handle(message: Event) -> None:
        raise KeyError("fatal")

    async with running(new_app(broker.settings(), handle)):
        await eventually_committed(broker, topic, 2)
    assert [letter.value for letter in await broker.read(f"{topic}.{topic}.dlq")] == [b"{", b'{"number": 1}']
    assert await broker.read(f"{topic}.{topic}.retry.60s") == []


async def test_batches_use_retry_topics_too(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.create_topic(f"{topic}.{topic}.retry.0.3s", 1)
    await broker.produce(topic, [event(number) for number in numbers(10)])
    record = Record()
    retry = RetryPolicy(max_attempts=1, retry_topics=(0.3,), allow_reordering=True)

    @subscribe_to(topic, group_id=topic, handler_id="h", batch_size=10, batch_linger_ms=200, retry=retry)
    async def handle(messages: list[Event], attempt: DeliveryAttempt) -> None:
        if attempt.number == 1 and any(message.number == 4 for message in messages):
            raise RuntimeError("poison")
        record.note([message.number for message in messages])

    async with running(new_app(broker.settings(), handle)):
        await record.until(lambda seen: sum(map(len, seen)) == 10)
    assert record.seen[-1] == [4], "alone, when it was due"
    assert await broker.read(f"{topic}.{topic}.dlq") == []


async def test_headers_in_the_spelling_of_others(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [event(7)])

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def handle(message: Event) -> None:
        raise LookupError("why")

    async with running(new_app(broker.settings(dlq_header_spellings=("spring", "smallrye")), handle)):
        await eventually_committed(broker, topic, 1)
    (letter,) = await broker.read(f"{topic}.{topic}.dlq")
    said = dict(letter.headers)
    assert said["kafka_dlt-original-topic"] == said["dead-letter-topic"] == topic.encode()
    assert said["kafka_dlt-original-offset"] == bytes(8)
    assert said["kafka_dlt-original-partition"] == bytes(4)
    assert said["kafka_dlt-exception-message"] == said["dead-letter-reason"] == b"why"
    assert said["kafka_dlt-exception-fqcn"] == said["dead-letter-exception-class-name"] == b"builtins.LookupError"

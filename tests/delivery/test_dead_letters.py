"""Dead letters for people, on every broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_athomic import (
    Athomic,
    ConfigurationError,
    DeadLetters,
    MessageHeaders,
    RawMessage,
    RetryPolicy,
    TransportError,
    subscribe_to,
)
from fastapi_athomic.failures.markers import decode_offsets, encode_offsets
from fastapi_athomic.failures.settling import Settling
from tests.support.apps import Record, new_app, running

from .brokers import Broker
from .brokers import Record as Written
from .test_delivery import event, numbers

ONCE = RetryPolicy(max_attempts=1)


class Event(BaseModel):
    number: int


class Shop:
    """An app whose handler fails for the numbers in `broken`."""

    def __init__(self, broker: Broker, topic: str, **settings: Any) -> None:
        self.record, self.broken = Record(), set(numbers(100))

        @subscribe_to(topic, group_id=topic, handler_id="h", retry=ONCE)
        async def handle(message: Event, raw: RawMessage, headers: MessageHeaders) -> None:
            self.record.note((message.number, raw.topic, headers))
            if message.number in self.broken:
                raise RuntimeError("broken")

        self.athomic: Athomic = new_app(broker.settings(**settings), handle)

    @property
    def letters(self) -> DeadLetters:
        return self.athomic.dead_letters("h")


async def fill(broker: Broker, topic: str, shop: Shop, count: int = 5) -> None:
    await broker.create_topic(topic, 2)
    await broker.produce(topic, [event(number, partition=number % 2) for number in numbers(count)])


async def test_they_can_be_looked_at_without_touching_anybodys_offsets(broker: Broker, topic: str) -> None:
    shop = Shop(broker, topic)
    await fill(broker, topic, shop)
    async with running(shop.athomic):
        await shop.record.count(5)
        await shop.athomic.drain()
        before = await broker.committed(topic, f"{topic}.{topic}.dlq")
        assert await shop.letters.count() == 5
        found = await shop.letters.browse()
        assert [letter.value for letter in found] == [b'{"number": %d}' % number for number in (0, 2, 4, 1, 3)]
        assert [(letter.original_topic, letter.original_partition, letter.original_offset) for letter in found] == [
            (topic, 0, 0),
            (topic, 0, 1),
            (topic, 0, 2),
            (topic, 1, 0),
            (topic, 1, 1),
        ]
        assert {(letter.error_type, letter.error_stage, letter.attempts) for letter in found} == {
            ("builtins.RuntimeError", "handler", 1)
        }
        assert [letter.offset for letter in await shop.letters.browse(partition=0, offset=1, limit=1)] == [1]
        now = datetime.now(UTC)
        assert len(await shop.letters.browse(since=now - timedelta(hours=1))) == 5
        assert await shop.letters.browse(since=now + timedelta(hours=1)) == []
        one = await shop.letters.get(1, 1)
        assert one is not None
        assert one.value == b'{"number": 3}'
        assert await shop.letters.get(1, 99) is None
        assert await broker.committed(topic, f"{topic}.{topic}.dlq") == before == {}


async def test_a_redrive_reaches_the_group_that_failed_and_nobody_else(broker: Broker, topic: str) -> None:
    shop, bystander = Shop(broker, topic), Record()

    @subscribe_to(topic, group_id=f"{topic}.other", handler_id="other")
    async def other(message: Event) -> None:
        bystander.note(message.number)

    await fill(broker, topic, shop)
    other_app = new_app(broker.settings(), other)
    async with running(shop.athomic), running(other_app):
        await shop.record.count(5)
        await bystander.count(5)
        await shop.athomic.drain()
        shop.broken.clear()

        planned = await shop.letters.redrive(dry_run=True)
        assert (planned.selected, planned.settled, planned.dry_run) == (5, 5, True)
        assert await shop.letters.count() == 5

        one = await shop.letters.redrive(partition=0, offset=1)
        assert one.settled == 1
        some = await shop.letters.redrive(where=lambda letter: letter.value == b'{"number": 1}')
        assert some.settled == 1
        capped = await shop.letters.redrive(limit=2)
        assert capped.settled == 2
        assert await shop.letters.count() == 1
        assert (await shop.letters.redrive()).settled == 1
        assert (await shop.letters.redrive()).selected == 0, "nothing is sent back twice"
        await shop.record.count(10)
        await shop.athomic.drain()
        assert await shop.letters.count() == 0
        assert shop.athomic.consumers()[0].counters.redriven == 5
        await other_app.drain()
    redriven = shop.record.seen[5:]
    assert sorted(number for number, _, _ in redriven) == numbers(5)
    assert {place for _, place, _ in redriven} == {f"{topic}.{topic}.redrive"}
    assert sorted(bystander.seen) == numbers(5), "the other group saw each once"
    headers = redriven[0][2]
    assert headers.text("athomic-redrives") == "1"
    assert headers.text("athomic-original-topic") == topic
    assert "athomic-error-type" not in headers


async def test_what_fails_again_can_be_sent_back_only_so_often(broker: Broker, topic: str) -> None:
    shop = Shop(broker, topic, max_redrives=2)
    await broker.create_topic(topic, 1)
    await broker.produce(topic, [Written(b'{"number": 1}', b"key", (("own", b"1"),))])
    async with running(shop.athomic):
        for round_ in range(2):
            await shop.record.count(round_ + 1)
            await shop.athomic.drain()
            assert (await shop.letters.redrive()).settled == 1
        await shop.record.count(3)
        await shop.athomic.drain()
        (letter,) = await shop.letters.browse()
        assert letter.redrives == 2
        assert (letter.original_topic, letter.original_partition, letter.original_offset) == (topic, 0, 0)
        assert letter.headers["own"] == b"1"
        assert letter.attempts == 1
        report = await shop.letters.redrive()
        assert (report.settled, report.exhausted) == (0, 1)
        assert await shop.letters.count() == 1, "it waits for somebody"


async def test_a_redrive_that_broke_off_goes_on_and_sends_nothing_twice(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(broker, topic)
    await fill(broker, topic, shop)
    async with running(shop.athomic):
        await shop.record.count(5)
        await shop.athomic.drain()
        shop.broken.clear()

        async def broken_off(*_: object) -> None:
            raise TransportError("the process died here: sent, but not marked")

        monkeypatch.setattr(Settling, "_mark", broken_off)
        with pytest.raises(TransportError, match="died here"):
            await shop.letters.redrive()
        monkeypatch.undo()
        report = await shop.letters.redrive()
        assert report.settled == 5
        assert 0 < report.resumed <= 5
        await shop.record.count(10)
        await shop.athomic.drain()
        assert await shop.letters.count() == 0
    assert sorted(number for number, _, _ in shop.record.seen[5:]) == numbers(5)


async def test_a_discard_keeps_its_reason(broker: Broker, topic: str) -> None:
    shop = Shop(broker, topic)
    await fill(broker, topic, shop, count=2)
    async with running(shop.athomic):
        await shop.record.count(2)
        await shop.athomic.drain()
        with pytest.raises(ConfigurationError, match="needs a reason"):
            await shop.letters.discard(reason=" ")
        assert (await shop.letters.discard(reason="duplicates", dry_run=True)).settled == 2
        assert (await shop.letters.discard(reason="duplicates")).settled == 2
        assert await shop.letters.count() == 0
        assert (await shop.letters.redrive()).selected == 0
    markers = [MessageHeaders(message.headers) for message in await broker.read(f"{topic}.{topic}.dlq")][1::2]
    assert [marker.text("athomic-resolution-reason") for marker in markers] == ["duplicates"] * 2
    assert [marker.text("athomic-resolution") for marker in markers] == ["discarded"] * 2


async def test_wrong_questions_get_clear_answers(broker: Broker, topic: str) -> None:
    shop = Shop(broker, topic)
    await broker.create_topic(topic, 1)
    async with running(shop.athomic):
        with pytest.raises(ConfigurationError, match="no handler nobody; the handlers are: h"):
            shop.athomic.dead_letters("nobody")
        with pytest.raises(ConfigurationError, match="h does not consume elsewhere"):
            await shop.letters.count(source="elsewhere")
        assert await shop.letters.count(source=topic) == 0


@pytest.mark.parametrize(("offsets", "text"), [([], ""), ([3], "3"), ([1, 2, 3, 7], "1-3,7"), ([9, 1, 2], "1-2,9")])
def test_offsets_are_noted_compactly(offsets: list[int], text: str) -> None:
    assert encode_offsets(offsets) == text
    assert decode_offsets(text) == set(offsets)


@pytest.mark.parametrize("text", ["x", "1-", "-", "1,x"])
def test_a_note_that_makes_no_sense_settles_nothing_more_than_it_says(text: str) -> None:
    assert decode_offsets(text) <= {1}

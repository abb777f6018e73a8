"""Dead letters that do not fit into their topic as they are. On `memory://`."""

from __future__ import annotations

import os

import pytest
from pydantic import BaseModel

from fastapi_athomic import (
    RetryPolicy,
    ordered_consumer,
    subscribe_to,
)
from fastapi_athomic.failures.letter_headers import OMITTED
from fastapi_athomic.failures.settling import TOO_LARGE
from fastapi_athomic.settings import MemorySettings
from tests.support.apps import eventually, running
from tests.unit.failures.letter_shop import LARGE, LIMIT, ONCE, REASON, SMALL, Shop


async def test_p07_fault_05_a_letter_that_is_larger_unpacked_is_written_packed() -> None:
    shop = Shop()
    shop.put("t", b"0" * 100_000, b"k")
    shop.put("t", b"next")
    async with running(shop.app()) as athomic:
        await athomic.drain()
        letter, _ = await athomic.dead_letters("h").browse()
    assert (letter.value, letter.key, letter.omitted) == (b"0" * 100_000, b"k", ())
    assert [message.value for _, message in shop.record.seen] == [b"0" * 100_000, b"next"]


async def test_p07_fault_05_our_headers_do_not_push_a_message_over_the_limit() -> None:
    shop, value = Shop(dlq_traceback=True), os.urandom(LIMIT - 900)
    shop.put("t", value)
    async with running(shop.app()) as athomic:
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
    assert letter.value == value, "the error is said in fewer words first"
    assert letter.error_message == REASON[:100]
    assert "athomic-error-traceback" not in letter.headers


@pytest.mark.parametrize(
    ("value", "key", "header", "omitted"),
    [
        (LARGE, SMALL, SMALL, {"value"}),
        (SMALL, LARGE, SMALL, {"key"}),
        (SMALL, SMALL, LARGE, {"headers"}),
        (LARGE, LARGE, LARGE, {"value", "key", "headers"}),
        (None, LARGE, SMALL, {"key"}),
    ],
    ids=["value", "key", "headers", "all", "key of a tombstone"],
)
async def test_p20_fault_05_what_is_too_large_is_left_out_and_comes_back_from_its_source(
    value: bytes | None, key: bytes, header: bytes, omitted: set[str]
) -> None:
    shop = Shop()
    shop.put("t", value, key, (("own", header),))
    async with running(shop.app()) as athomic:
        await athomic.drain()
        letters = athomic.dead_letters("h")
        (letter,) = await letters.browse()
        assert set(letter.omitted) == omitted
        sizes = {"value": len(value or b""), "key": len(key), "headers": len("own") + len(header)}
        assert {part: letter.headers.text(OMITTED[part]) for part in omitted} == {p: str(sizes[p]) for p in omitted}
        shop.broken = False
        report = await letters.redrive()
        assert (report.settled, report.refused) == (0, {TOO_LARGE: 1}), "the redrive topic takes no more than the DLQ"
        assert await letters.count() == 1


async def test_p07_fault_05_batches_too() -> None:
    shop = Shop()
    for value in (LARGE, b"0" * 100_000, b"good"):
        shop.put("t", value)

    @subscribe_to("t", group_id="g", handler_id="h", batch_size=3, retry=ONCE)
    async def handle(values: list[bytes]) -> None:
        if values != [b"good"]:
            raise RuntimeError("poison")
        shop.record.note(values)

    async with running(shop.app(handle)) as athomic:
        await shop.record.count(1)
        await athomic.drain()
        found = await athomic.dead_letters("h").browse()
    assert [(letter.omitted, len(letter.value or b"")) for letter in found] == [(("value",), 0), ((), 100_000)]


class Event(BaseModel):
    key: str
    number: int
    padding: str


async def test_p07_fault_05_ordered_consumers_too() -> None:
    shop = Shop()

    @ordered_consumer(
        "t", group_id="g", handler_id="h", aggregate_key_field="key", sequence_id_field="number", retry=ONCE
    )
    async def handle(event: Event) -> None:
        shop.record.note(event.number)
        if event.number == 1:
            raise RuntimeError("poison")

    for number in (1, 2):
        event = Event(key="k", number=number, padding=os.urandom(LIMIT).hex())
        shop.put("t", event.model_dump_json().encode())
    shop.put("t", b"{" + LARGE)
    async with running(shop.app(handle)) as athomic:
        await athomic.drain()
        found = await athomic.dead_letters("h").browse()
    assert shop.record.seen == [1, 2]
    assert sorted((letter.original_offset, letter.omitted) for letter in found) == [(0, ("value",)), (2, ("value",))]


async def test_p07_fault_05_what_cannot_be_deferred_for_its_size_is_dead_lettered() -> None:
    shop = Shop()
    shop.put("t", LARGE)
    shop.put("t", b"0" * 100_000)
    retry = RetryPolicy(max_attempts=1, retry_topics=(3_600,), allow_reordering=True)
    async with running(shop.app(shop.handler(retry=retry))) as athomic:
        await eventually(lambda: athomic.consumers()[0].counters.dead_lettered == 1)
        await eventually(lambda: athomic.consumers()[0].counters.deferred == 1)
        (letter,) = await athomic.dead_letters("h").browse()
    assert letter.omitted == ("value",)
    assert [message.value for message in shop.read("t.g.retry.3600s")] == [b"0" * 100_000]


async def test_p07_fault_05_where_nothing_at_all_fits_the_partition_waits_and_health_says_so() -> None:
    shop = Shop()
    shop.settings = shop.settings.model_copy(update={"memory": MemorySettings(max_message_bytes=100)})
    shop.put("t", b"x")
    async with running(shop.app()) as athomic:
        await eventually(lambda: "t[0] waits: dead letter to t.g.dlq refused" in str(athomic.health()))
    assert shop.read("t.g.dlq") == []

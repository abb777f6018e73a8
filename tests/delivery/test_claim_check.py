"""Payloads that are larger than the topic takes go through a claim check, on every broker."""

from __future__ import annotations

import asyncio
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_athomic import (
    Athomic,
    PayloadPipeline,
    PayloadUnavailableError,
    PublishError,
    RawMessage,
    RetryPolicy,
    include_athomic,
    subscribe_to,
)
from fastapi_athomic.payload.claim_check import MAGIC, ClaimCheck, Folder
from tests.support.apps import Record, eventually, running

from .brokers import Broker

LARGE = b"".join(sha256(number.to_bytes(4, "big")).digest() for number in range(160_000))  # 5 MB, of no pattern
ONCE = RetryPolicy(max_attempts=1)


def claims(folder: Path) -> PayloadPipeline:
    return PayloadPipeline([ClaimCheck(Folder(folder))])


def app(broker: Broker, payload: PayloadPipeline, *handlers: Any) -> Athomic:
    return include_athomic(FastAPI(), broker.settings(), handlers=handlers, payload=payload)


@pytest.mark.not_on("mock", reason="it takes messages of any size")
async def test_five_megabytes_go_through_a_topic_that_takes_one(broker: Broker, topic: str, tmp_path: Path) -> None:
    await broker.create_topic(topic, 1)
    record = Record()

    @subscribe_to(topic, group_id=topic)
    async def handle(data: bytes, raw: RawMessage) -> None:
        record.note((data, len(raw.value or b"")))

    async with running(app(broker, claims(tmp_path), handle)) as athomic:
        with pytest.raises(PublishError):
            await athomic.publish(topic, LARGE, payload=PayloadPipeline())
        await athomic.publish(topic, LARGE)
        await athomic.publish(topic, b"small")
        await athomic.publish_many(topic, [LARGE, b"small"])
        seen = await record.count(4)
    assert [data for data, _ in seen] == [LARGE, b"small"] * 2
    assert max(size for _, size in seen) < 200


async def test_batches_and_sync_handlers_get_them_too(broker: Broker, topic: str, tmp_path: Path) -> None:
    await broker.create_topic(topic, 1)
    record = Record()

    @subscribe_to(topic, group_id=f"{topic}.batch", batch_size=2)
    async def handle_batch(data: list[bytes]) -> None:
        for each in data:
            record.note(each)

    @subscribe_to(topic, group_id=topic)
    def handle(data: bytes) -> None:
        record.note(data)

    async with running(app(broker, claims(tmp_path), handle, handle_batch)) as athomic:
        await athomic.publish_many(topic, [LARGE, b"small"])
        seen = await record.count(4)
    assert sorted(map(len, seen)) == sorted(map(len, [LARGE, b"small"] * 2))


async def test_letters_retries_and_redrives_keep_the_reference(broker: Broker, topic: str, tmp_path: Path) -> None:
    await broker.create_topic(topic, 1)
    record, broken = Record(), [True]
    policy = RetryPolicy(max_attempts=1, retry_topics=(0.1,), allow_reordering=True)

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=policy)
    async def handle(data: bytes, raw: RawMessage) -> None:
        record.note((len(data), raw.topic))
        if broken:
            raise RuntimeError("broken")

    async with running(app(broker, claims(tmp_path), handle)) as athomic:
        await athomic.publish(topic, LARGE)
        await record.count(2)
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
        assert (letter.value or b"").startswith(MAGIC)
        assert letter.headers["content-encoding"] == b"claim-check"
        broken.clear()
        assert (await athomic.dead_letters("h").redrive()).settled == 1
        await record.count(3)
        await athomic.drain()
        assert await athomic.dead_letters("h").count() == 0
    assert {size for size, _ in record.seen} == {len(LARGE)}
    assert len({place for _, place in record.seen}) == 3, "the topic, the retry topic and the redrive topic"


async def test_a_lost_object_is_a_dead_letter_of_stage_decode(broker: Broker, topic: str, tmp_path: Path) -> None:
    await broker.create_topic(topic, 1)
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=ONCE)
    async def handle(data: bytes) -> None:
        record.note(len(data))

    async with running(app(broker, claims(tmp_path))) as publishing:
        await publishing.publish(topic, LARGE)
        await publishing.publish(topic, b"next")
    for path in await asyncio.to_thread(lambda: list(tmp_path.iterdir())):
        await asyncio.to_thread(shutil.rmtree, path)
    async with running(app(broker, claims(tmp_path), handle)) as athomic:
        assert await record.count(1) == [4]
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
    assert (letter.error_stage, letter.attempts) == ("decode", 1)
    assert letter.error_message == ("step claim-check: the object that the message refers to is not in the store")


async def test_messages_wait_for_a_store_that_is_away(broker: Broker, topic: str, tmp_path: Path) -> None:
    await broker.create_topic(topic, 1)
    record, folder = Record(), tmp_path / "mounted" / "orders"
    await asyncio.to_thread(folder.mkdir, parents=True)

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=ONCE)
    async def handle(data: bytes) -> None:
        record.note(len(data))

    async with running(app(broker, claims(folder))) as publishing:
        await publishing.publish(topic, LARGE)
    await asyncio.to_thread((tmp_path / "mounted").rename, tmp_path / "away")
    async with running(app(broker, claims(folder), handle)) as athomic:
        await eventually(lambda: "the folder of the claim check is not there" in str(athomic.health()))
        assert record.seen == []
        await asyncio.to_thread((tmp_path / "away").rename, tmp_path / "mounted")
        assert await record.count(1) == [len(LARGE)]
        await athomic.drain()
        assert await athomic.dead_letters("h").count() == 0


async def test_a_publish_fails_if_the_store_stays_away(broker: Broker, topic: str, tmp_path: Path) -> None:
    await broker.create_topic(topic, 1)  # which may take longer than what follows
    athomic = include_athomic(FastAPI(), broker.settings(publish_timeout=0.3), payload=claims(tmp_path / "missing"))
    async with running(athomic):
        await athomic.publish(topic, b"small")
        with pytest.raises(PayloadUnavailableError, match="the folder of the claim check is not there"):
            await athomic.publish(topic, LARGE)

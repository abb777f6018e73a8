"""Encryption and compression while messages are under way: keys change, steps come and go, and no message fails."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import Athomic, PayloadPipeline, RawMessage, RetryPolicy, include_athomic, subscribe_to
from fastapi_athomic.payload import keys as keys_module
from fastapi_athomic.payload.compression import Zstd
from fastapi_athomic.payload.encryption import AesGcm, Fernet
from fastapi_athomic.payload.keys import KeyFile
from tests.support.apps import Record, running

from .brokers import Broker
from .brokers import Record as Written

pytestmark = pytest.mark.timeout(120)
A, B = (b64encode(os.urandom(32)).decode() for _ in range(2))
NOTE = "x" * 300


class Order(BaseModel):
    number: int
    note: str = NOTE


class Handled(Record):
    """The numbers of orders."""

    def __init__(self) -> None:
        super().__init__()
        self.key_ids = Record()
        """Those of `AesGcm`."""


def replace(path: Path, *lines: str) -> None:
    new = path.with_name("new")
    new.write_text("\n".join(lines))
    new.replace(path)


def app(broker: Broker, topic: str, record: Handled, payload: PayloadPipeline, broken: set[int]) -> Athomic:
    """Every fifth message fails once, and comes back from a retry topic; those in `broken` become dead letters."""
    retry = RetryPolicy(max_attempts=1, retry_topics=(0.1,), jitter=0)

    @subscribe_to(topic, group_id=topic, handler_id="h", ordering="none", retry=retry)
    async def handle(order: Order, raw: RawMessage) -> None:
        assert order.note == NOTE
        if order.number in broken or (order.number % 5 == 0 and raw.topic == topic):
            raise RuntimeError("not yet")
        record.note(order.number)
        if raw.value is not None:
            record.key_ids.note(raw.value[6:7])

    return include_athomic(FastAPI(), broker.settings(), handlers=[handle], payload=payload)


async def letters(athomic: Athomic) -> list[tuple[str | None, str | None]]:
    return [(each.error_stage, each.error_message) for each in await athomic.dead_letters("h").browse()]


@pytest.mark.not_on("mock", reason="librdkafka's mock cluster lets aiokafka have one member per group")
async def test_keys_are_exchanged_under_load_without_a_failed_message(
    broker: Broker, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, whose files are exchanged one after the other; retries and redrives across the exchange."""
    monkeypatch.setattr(keys_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(keys_module, "SOON_SECONDS", 0.01)
    await broker.create_topic(topic, 2)
    record, broken = Handled(), {3, 44}
    paths = [tmp_path / name for name in ("first", "second")]
    for path in paths:
        replace(path, f"a:{A}")
    apps = [app(broker, topic, record, PayloadPipeline([Zstd(), AesGcm(KeyFile(path))]), broken) for path in paths]
    numbers = iter(range(10_000))
    stop = asyncio.Event()

    async def publish(athomic: Athomic) -> None:
        while not stop.is_set():
            number = next(numbers)
            await athomic.publish(topic, Order(number=number), key=str(number % 7))

    async def some_more() -> None:
        await record.count(len(record.seen) + 20)

    async with running(apps[0]), running(apps[1]):
        publishing = [asyncio.create_task(publish(athomic)) for athomic in apps]
        for lines in ((f"a:{A}", f"b:{B}"), (f"b:{B}", f"a:{A}")):
            for path in paths:
                await some_more()
                replace(path, *lines)
        await record.key_ids.until(lambda seen: set(seen[-20:]) == {b"b"})
        stop.set()
        await asyncio.gather(*publishing)
        published = set(range(next(numbers)))
        await record.until(lambda seen: set(seen) == published - {3, 44})
        assert await letters(apps[0]) == [("handler", "not yet")] * 2
        broken.clear()
        assert (await apps[0].dead_letters("h").redrive()).settled == 2
        await record.until(lambda seen: set(seen) == published)
        for path in paths:
            replace(path, f"b:{B}")
        await apps[1].publish(topic, Order(number=10_001), key="k")
        await record.until(lambda seen: 10_001 in seen)
    ids = {message.value[6:7] for message in await broker.read(topic) if message.value is not None}
    assert ids == {b"a", b"b"}
    assert all(message.value is not None and NOTE.encode() not in message.value for message in await broker.read(topic))


@pytest.mark.not_on("mock", reason="librdkafka's mock cluster lets aiokafka have one member per group")
async def test_steps_come_and_go_without_a_failed_message(broker: Broker, topic: str) -> None:
    """Each phase has an app of the phase before beside it, as while a service is rolled out."""
    await broker.create_topic(topic, 2)
    plain = PayloadPipeline()
    read = PayloadPipeline([Zstd(required=False, writes=False), AesGcm({"a": A}, required=False, writes=False)])
    write = PayloadPipeline([Zstd(required=False), AesGcm({"a": A}, required=False)])
    strict = PayloadPipeline([Zstd(required=False), AesGcm({"a": A})])
    record, published = Handled(), 0
    phases = [plain, read, write, strict, write, read, plain]
    for old, new in pairwise(phases):
        async with AsyncExitStack() as stack:
            apps = [app(broker, topic, record, payload, set()) for payload in (old, new)]
            for athomic in apps:
                await stack.enter_async_context(running(athomic))
            for athomic in apps * 2:
                for _ in range(5):
                    await athomic.publish(topic, Order(number=published), key=str(published))
                    published += 1
            await record.until(lambda seen: set(seen) == set(range(published)))  # noqa: B023
            assert await letters(apps[0]) == []


async def test_what_was_moved_changed_or_is_too_large_is_a_dead_letter_as_it_came(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    record = Handled()
    encryption = AesGcm({"a": A})
    athomic = app(broker, topic, record, PayloadPipeline([Zstd(max_size=100_000), encryption]), set())
    other = f"{topic}.other"
    await broker.create_topic(other, 1)
    async with running(athomic):
        await athomic.publish(other, Order(number=1), key="k")
        await athomic.publish(topic, Order(number=2), key="k")
        await athomic.publish(topic, Order(number=3, note="y" * 1_000_000), key="k")
        (moved,) = [message.value for message in await broker.read(other)]
        right, large = [message.value for message in await broker.read(topic)]
        assert moved is not None
        assert right is not None
        bad = [moved, right[:-1], bytes([*right[:40], right[40] ^ 1, *right[41:]]), right, b'{"number": 4}']
        await broker.produce(topic, [Written(value, key=b"k") for value in bad[:3]])
        await broker.produce(topic, [Written(right, key=b"another"), Written(bad[4], key=b"k")])
        await athomic.drain()
        await record.until(lambda seen: seen == [2])
        found = await athomic.dead_letters("h").browse()
    assert [letter.value for letter in found] == [large, *bad]
    assert {letter.error_stage for letter in found} == {"decode"}
    said = [letter.error_message or "" for letter in found]
    assert said[0] == "step zstd: the payload is refused: it unpacks to more than 100000 bytes (max_size)"
    assert all(each.startswith("step aes-gcm: the payload ") for each in said[1:])


async def test_a_redrive_of_what_was_encrypted_with_fernet(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    record, broken = Handled(), {1}
    athomic = app(broker, topic, record, PayloadPipeline([Fernet([A, B])]), broken)
    async with running(athomic):
        await athomic.publish(topic, Order(number=1))
        await athomic.publish(topic, Order(number=2))
        await record.until(lambda seen: seen == [2])
        await athomic.drain()
        broken.clear()
        assert (await athomic.dead_letters("h").redrive()).settled == 1
        await record.until(lambda seen: seen == [2, 1])

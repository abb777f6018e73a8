"""The payload pipeline end to end: what is published, fails, comes back and changes its form can be read."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import Athomic, Key, PayloadPipeline, RawMessage, RetryPolicy, include_athomic, subscribe_to
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.payload.steps import BytesStep, Incoming, Outgoing
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.registry import SchemaRegistry
from fastapi_athomic.schemas.wire import Framing
from tests.support.apps import Record, running
from tests.support.payloads import Depot, Sealed, Words, settled

from .brokers import Broker
from .brokers import Record as Written

ONCE = RetryPolicy(max_attempts=1)


class Order(BaseModel):
    number: int


class Other(BaseModel):
    text: str = ""
    number: int


class Gzip(BytesStep):
    name = "gzip"
    kind = "compression"
    required = False

    def encode(self, data: bytes, outgoing: Outgoing) -> bytes:
        return gzip.compress(data)

    def decode(self, data: bytes, incoming: Incoming) -> bytes:
        return gzip.decompress(data)

    def recognizes(self, data: bytes) -> bool:
        return data.startswith(b"\x1f\x8b")


def new_app(
    broker: Broker, *handlers: Any, payload: Any = None, topic_payloads: Any = None, **settings: Any
) -> Athomic:
    options = broker.settings(**settings)
    return include_athomic(FastAPI(), options, handlers=handlers, payload=payload, topic_payloads=topic_payloads)


def full() -> PayloadPipeline:
    return PayloadPipeline([Words(), Gzip(), Sealed(), Depot()], key=Words())


async def test_each_topic_handler_and_publish_has_its_pipeline(broker: Broker, topic: str) -> None:
    topics = [f"{topic}.{name}" for name in ("app", "topic", "handler")]
    for each in topics:
        await broker.create_topic(each, 1)
    record = Record()

    @subscribe_to(topics[0], group_id=topics[0], handler_id="app")
    async def of_app(order: Order) -> None:
        record.note(("app", order.number))

    @subscribe_to(topics[1], group_id=topics[1], handler_id="topic")
    async def of_topic(order: Order, key: Key[int]) -> None:
        record.note(("topic", order.number, key))

    @subscribe_to(topics[2], group_id=topics[2], handler_id="own", payload=PayloadPipeline([Sealed()]))
    async def of_handler(order: Order) -> None:
        record.note(("handler", order.number))

    handlers = (of_app, of_topic, of_handler)
    athomic = new_app(broker, *handlers, payload=PayloadPipeline([Gzip()]), topic_payloads={topics[1]: full()})
    async with running(athomic):
        for number, each in enumerate(topics):
            await athomic.publish(each, Order(number=number), key=7)
        await athomic.publish_many(topics[1], [Order(number=4), Order(number=5)], key=lambda order: order.number)
        await asyncio.to_thread(athomic.publish_sync, topics[2], Order(number=6))
        await athomic.publish(topics[0], Order(number=8), key=7, payload=PayloadPipeline([Gzip(), Depot(above=10**6)]))
        await record.count(7)
        await athomic.drain()
    assert sorted(record.seen) == [
        ("app", 0),
        ("app", 8),
        ("handler", 2),
        ("handler", 6),
        ("topic", 1, 7),
        ("topic", 4, 4),
        ("topic", 5, 5),
    ]
    (of_app_topic, _), of_topics = await broker.read(topics[0]), await broker.read(topics[1])
    assert gzip.decompress(of_app_topic.value or b"") == b'{"number":0}'
    assert dict(of_app_topic.headers)["content-encoding"] == b"gzip"
    assert of_topics[0].key == b"\1key 7"
    assert (of_topics[0].value or b"").startswith(b"depotsealed")
    assert dict(of_topics[0].headers)["content-encoding"] == b"gzip, sealed, depot"
    assert dict(of_topics[0].headers)["content-type"] == b"application/x-words"


@pytest.mark.parametrize("framing", get_args(Framing))
async def test_what_is_made_of_a_message_and_published_with_its_headers_can_be_read(
    broker: Broker, topic: str, framing: Framing
) -> None:
    await broker.create_topic(topic, 1)
    registry = SchemaRegistry("memory://")
    avro = PayloadPipeline([Avro(registry, framing=framing, auto_register=True)])
    record = Record()

    @subscribe_to(topic, group_id=topic)
    async def of_topic(order: Other) -> None:
        record.note(order.number)

    outgoing = Outgoing("other")
    await settled(
        PayloadPipeline([Avro(registry, framing="header", auto_register=True)]).write(Order(number=0), outgoing)
    )
    athomic = new_app(broker, of_topic, payload=avro)
    async with running(athomic):
        await athomic.publish(topic, Other(number=1), key="k", headers=outgoing.headers)
        more = [Other(number=2), Other(number=3)]
        await athomic.publish_many(topic, more, key=lambda _: "k", headers=[*outgoing.headers, ("a", b"b")])
        await record.count(3)
    assert record.seen == [1, 2, 3]
    assert [dict(each.headers).get("a") for each in await broker.read(topic)] == [None, b"b", b"b"]


@pytest.mark.parametrize("where", ["handler", "topic", "app"])
async def test_what_fails_keeps_its_bytes_and_is_read_when_it_comes_back(
    broker: Broker, topic: str, where: str
) -> None:
    """Through a retry topic, the DLQ and a redrive; the seal is bound to the topic where it was first, and the key."""
    await broker.create_topic(topic, 1)
    record, broken = Record(), {0, 1}
    pipeline = full()
    own: dict[str, Any] = {"payload": pipeline} if where == "handler" else {}

    @subscribe_to(
        topic,
        group_id=topic,
        handler_id="h",
        ordering="none",
        retry=RetryPolicy(max_attempts=1, retry_topics=(0.1,)),
        **own,
    )
    async def handle(order: Order, key: Key[str], raw: RawMessage) -> None:
        record.note((order.number, key, raw))
        if order.number in broken:
            raise RuntimeError("broken")

    athomic = new_app(
        broker,
        handle,
        payload=pipeline if where == "app" else None,
        topic_payloads={topic: pipeline} if where == "topic" else None,
    )
    async with running(athomic):
        for number in (0, 1, 2):
            await athomic.publish(topic, Order(number=number), key=f"key {number}", headers={"source": b"\xff"})
        letters = athomic.dead_letters("h")
        await record.count(5)
        await athomic.drain()
        found = await letters.browse()
        assert sorted(letter.key or b"" for letter in found) == [b"\1key 'key 0'", b"\1key 'key 1'"]
        numbers = [await letters.decode(letter, Order) for letter in found]
        assert numbers == [await pipeline.read(letter, Order) for letter in found]
        assert {order.number for order in numbers} == broken
        broken.clear()
        await letters.redrive()
        await record.count(7)
        await athomic.drain()
        assert await letters.count() == 0
    first = {number: raw for number, _, raw in record.seen if raw.topic == topic}
    assert first.keys() == {0, 1, 2}
    for number, key, raw in record.seen:
        assert key == f"key {number}"
        assert (raw.key, raw.value) == (first[number].key, first[number].value)
        headers = [each for each in raw.headers if not each[0].startswith(("athomic-", "traceparent"))]
        assert headers == [each for each in first[number].headers if not each[0].startswith("traceparent")]
    assert len({raw.topic for *_, raw in record.seen}) == 3


@pytest.mark.parametrize("dlq", [True, "named"])
async def test_a_handler_of_dead_letters_reads_them(broker: Broker, topic: str, dlq: Any) -> None:
    await broker.create_topic(topic, 1)
    letters_topic = f"{topic}.errors" if dlq == "named" else f"{topic}.{topic}.dlq"
    await broker.create_topic(letters_topic, 1)
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=ONCE, dlq=letters_topic if dlq == "named" else True)
    async def handle(order: Order) -> None:
        raise RuntimeError("broken")

    @subscribe_to(letters_topic, group_id=f"{topic}-2", handler_id="letters", retry=ONCE)
    async def handle_letter(order: Order, key: Key[int], raw: RawMessage) -> None:
        record.note((order.number, key))

    athomic = new_app(broker, handle, handle_letter, topic_payloads={topic: full()})
    async with running(athomic):
        await athomic.publish(topic, Order(number=1), key=5)
        assert await record.count(1) == [(1, 5)]


@pytest.mark.parametrize("where", ["handler", "topic"])
async def test_a_handler_of_dead_letters_that_fails_keeps_where_they_came_from(
    broker: Broker, topic: str, where: str
) -> None:
    """Through its own retry topic, its own DLQ, a redrive from there, and a third handler."""
    letters_topic = f"{topic}.{topic}.dlq"
    third_topic = f"{letters_topic}.{topic}-2.dlq"
    for each in (topic, letters_topic, third_topic):
        await broker.create_topic(each, 1)
    record, broken = Record(), [True]
    own: dict[str, Any] = {"payload": full()} if where == "handler" else {}
    once_more = RetryPolicy(max_attempts=1, retry_topics=(0.1,))

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=ONCE, **own)
    async def handle(order: Order) -> None:
        raise RuntimeError("broken")

    @subscribe_to(letters_topic, group_id=f"{topic}-2", handler_id="letters", ordering="none", retry=once_more)
    async def handle_letter(order: Order, key: Key[int]) -> None:
        record.note(("letters", order.number))
        if broken[0]:
            raise RuntimeError("broken")

    @subscribe_to(third_topic, group_id=f"{topic}-3", handler_id="third", ordering="none", retry=once_more)
    async def handle_third(order: Order, key: Key[int]) -> None:
        record.note(("third", order.number))
        raise RuntimeError("broken")

    topic_payloads = {topic: full()} if where == "topic" else None
    athomic = new_app(broker, handle, handle_letter, handle_third, topic_payloads=topic_payloads)
    async with running(athomic):
        await athomic.publish(topic, Order(number=1), key=5)
        await record.count(4)
        await athomic.drain()
        for handler, original in (("letters", letters_topic), ("third", third_topic)):
            (letter,) = await athomic.dead_letters(handler).browse()
            assert (letter.error_type, letter.original_topic, letter.first_topic) == (
                "builtins.RuntimeError",
                original,
                topic,
            )
            assert await athomic.dead_letters(handler).decode(letter, Order) == Order(number=1)
            assert await full().read(letter, Order) == Order(number=1)
        broken.clear()
        broken.append(False)
        await athomic.dead_letters("letters").redrive()
        await record.count(5)
        await athomic.drain()
    assert record.seen == [("letters", 1)] * 2 + [("third", 1)] * 2 + [("letters", 1)]


async def test_headers_do_not_make_a_message_one_of_another_topic(broker: Broker, topic: str) -> None:
    """What was sealed for one topic cannot be passed off in another one by naming that in headers."""
    other = f"{topic}.other"
    for each in (topic, other):
        await broker.create_topic(each, 1)
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=ONCE)
    async def handle(order: Order) -> None:
        record.note(order.number)

    athomic = new_app(broker, handle, payload=PayloadPipeline([Sealed()]))
    async with running(athomic):
        await athomic.publish(other, Order(number=1))
        (sealed,) = await broker.read(other)
        claims = {"original-topic": other, "consumer-group": topic, "written-to": topic}
        headers = tuple((f"athomic-{name}", value.encode()) for name, value in claims.items())
        await broker.produce(topic, [Written(sealed.value, sealed.key, (*sealed.headers, *headers))])
        await athomic.publish(topic, Order(number=2))
        assert await record.count(1) == [2]
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
    assert letter.error_message == "step sealed: the seal is broken"


@pytest.mark.parametrize("batch", [{}, {"batch_size": 2}], ids=["single", "batch"])
async def test_the_error_names_an_encoding_that_the_pipeline_does_not_have(
    broker: Broker, topic: str, batch: dict[str, Any]
) -> None:
    await broker.create_topic(topic, 1)

    async def handle(order: Order) -> None: ...

    async def handle_batch(orders: list[Order]) -> None: ...

    decorate = subscribe_to(topic, group_id=topic, handler_id="h", **batch)
    async with running(new_app(broker, decorate(handle_batch if batch else handle))) as athomic:
        await broker.produce(topic, [Written(b"\x28\xb5", headers=(("content-encoding", b"zstd, s3cret"),))])
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
    assert str(letter.error_message).startswith("step json: the payload is not a valid Order: ")
    assert str(letter.error_message).endswith(
        "; its header content-encoding names zstd, which the payload pipeline does not have"
    )


async def test_what_the_apps_lifespan_publishes_fits_the_handlers_of_the_topic(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    record = Record()

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=ONCE, payload=PayloadPipeline([Sealed()]))
    async def handle(order: Order) -> None:
        record.note(order.number)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await app.state.athomic.publish(topic, Order(number=1))
        yield

    athomic = include_athomic(FastAPI(lifespan=lifespan), broker.settings(), handlers=[handle])
    async with running(athomic):
        assert await record.count(1) == [1]


# --- rolling changes

INTRODUCED = [
    PayloadPipeline(),
    PayloadPipeline([Json(), Sealed(required=False, writes=False)]),
    PayloadPipeline([Json(), Sealed(required=False)]),
    PayloadPipeline([Json(), Sealed()], reads=[Words()]),
    PayloadPipeline([Words(), Sealed()], reads=[Json()]),
    PayloadPipeline([Words(), Sealed()]),
]
"""Encryption, then another format. Each is first read, then written, and then all that is read."""
REMOVED = [
    PayloadPipeline([Words(), Sealed()]),
    PayloadPipeline([Words(), Sealed()], reads=[Json()]),
    PayloadPipeline([Json(), Sealed(required=False)], reads=[Words()]),
    PayloadPipeline([Json(), Sealed(required=False, writes=False)]),
    PayloadPipeline(),
]


@pytest.mark.timeout(300)
@pytest.mark.not_on("mock", reason="it waits for members that have left until their session ends")
async def test_a_step_and_another_format_are_introduced_under_load(broker: Broker, topic: str) -> None:
    await changed(broker, topic, INTRODUCED)


@pytest.mark.not_on("mock", "kafka", reason="a minute for what they do as with the test before")
async def test_they_are_removed_under_load(broker: Broker, topic: str) -> None:
    await changed(broker, topic, REMOVED)


async def changed(broker: Broker, topic: str, versions: list[PayloadPipeline]) -> None:
    """Two processes of a service, restarted in turn with each version, publish and consume all the time."""
    await broker.create_topic(topic, 4)
    async with Service(broker, topic) as service:
        await service.deploy(versions[0])
        load = asyncio.create_task(service.publish())
        try:
            for version in versions[1:]:
                await service.deploy(version)
                await service.until_handled(service.published)  # what the version before has written
        finally:
            service.stopped = True
            await load
        await service.until_handled(service.published)
        assert service.failed + sum(service.failed_in(app) for app in service.running) == 0
    assert len(await broker.read(topic)) == service.published
    assert set(service.record.seen) == set(range(service.published))


class Service:
    """Two processes with the same handler."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker, self._topic = broker, topic
        self.record, self.published, self.failed, self.stopped = Record(), 0, 0, False
        self.running: list[Athomic] = []
        self._publishing = asyncio.Lock()
        self._ends: list[Any] = []

    async def __aenter__(self) -> Service:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self.running:
            await self._stop()

    async def deploy(self, pipeline: PayloadPipeline) -> None:
        """One process after the other, as a rolling deployment does: a new one starts, then an old one stops."""
        for _ in range(2):
            await self._start(pipeline)
            if len(self.running) > 2:
                await self._stop()

    async def _start(self, pipeline: PayloadPipeline) -> None:
        @subscribe_to(self._topic, group_id=self._topic, handler_id="h", retry=ONCE)
        async def handle(order: Order) -> None:
            self.record.note(order.number)

        athomic = new_app(self._broker, handle, payload=pipeline)
        end = running(athomic)
        await end.__aenter__()
        self.running.append(athomic)
        self._ends.append(end)

    async def _stop(self) -> None:
        async with self._publishing:
            athomic, end = self.running.pop(0), self._ends.pop(0)
        self.failed += self.failed_in(athomic)
        await end.__aexit__(None, None, None)

    def failed_in(self, athomic: Athomic) -> int:
        counters = athomic.consumers()[0].counters
        return counters.failed + counters.dead_lettered + counters.skipped

    async def publish(self) -> None:
        while not self.stopped:
            async with self._publishing:
                athomic = self.running[self.published % len(self.running)]
                await athomic.publish(self._topic, Order(number=self.published), key=self.published)
                self.published += 1

    async def until_handled(self, count: int) -> None:
        """Until all of the first numbers are handled."""
        await self.record.until(lambda seen: len(seen) >= count and set(seen) >= set(range(count)))

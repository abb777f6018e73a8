"""CloudEvents from route to handler, into dead letters and back, on every broker."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from fastapi_athomic import Athomic, PayloadPipeline, RawMessage, RetryPolicy, include_athomic, subscribe_to
from fastapi_athomic.payload.cloudevents import CloudEvent, CloudEvents
from tests.support.apps import Record, running

from .brokers import Broker
from .brokers import Record as Written

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Placed(BaseModel):
    number: int


class Cancelled(BaseModel):
    number: int
    reason: str = ""


TYPES = {"shop.order.placed": Placed, "shop.order.cancelled": Cancelled}


def pipeline(mode: Literal["binary", "structured"] = "binary") -> PayloadPipeline:
    return PayloadPipeline([CloudEvents("/shop", mode=mode, types=TYPES)])


def app(broker: Broker, *handlers: Any, mode: Any = "binary") -> Athomic:
    return include_athomic(FastAPI(), broker.settings(), handlers=handlers, payload=pipeline(mode))


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_handlers_get_events_data_unions_and_batches(broker: Broker, topic: str, mode: Any) -> None:
    await broker.create_topic(topic, 1)
    events, data, batches = Record(), Record(), Record()

    @subscribe_to(topic, group_id=f"{topic}.1")
    async def handle_event(event: CloudEvent[Placed] | CloudEvent[Cancelled]) -> None:
        events.note(event)

    @subscribe_to(topic, group_id=f"{topic}.2")
    def handle_data(order: Cancelled | Placed) -> None:
        data.note(order)

    @subscribe_to(topic, group_id=f"{topic}.3", batch_size=10)
    async def handle_batch(found: list[CloudEvent[Placed | Cancelled]]) -> None:
        for event in found:
            batches.note(event)

    sent = [Placed(number=1), Cancelled(number=2, reason="late")]
    async with running(app(broker, handle_event, handle_data, handle_batch, mode=mode)) as athomic:
        await athomic.publish(topic, sent[0])
        await athomic.publish_many(topic, sent[1:])
        assert sorted(await data.count(2), key=number_of) == sent
        first, second = sorted(await events.count(2), key=lambda event: number_of(event.data))
        assert {event.id for event in await batches.count(2)} == {first.id, second.id}
    assert [first.data, second.data] == sent
    assert [first.type, second.type] == ["shop.order.placed", "shop.order.cancelled"]
    assert first.id != second.id
    assert sorted((event.data for event in batches.seen), key=number_of) == sent


def number_of(order: Placed | Cancelled) -> int:
    return order.number


async def test_the_partition_key_becomes_the_key(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)
    async with running(app(broker)) as athomic:
        event = CloudEvent(data=Placed(number=1), extensions={"partitionkey": "k1"})
        await athomic.publish(topic, event)
        await athomic.publish(topic, event, key="other")
        await athomic.publish_many(topic, [event])
    assert sorted(message.key or b"" for message in await broker.read(topic)) == [b"k1", b"k1", b"other"]


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_letters_retries_and_redrives_keep_the_envelope(broker: Broker, topic: str, mode: Any) -> None:
    await broker.create_topic(topic, 1)
    record, broken = Record(), [True]
    policy = RetryPolicy(max_attempts=1, retry_topics=(0.1,), allow_reordering=True)

    @subscribe_to(topic, group_id=topic, handler_id="h", retry=policy)
    async def handle(event: CloudEvent[Placed], raw: RawMessage) -> None:
        record.note((event, raw.topic))
        if broken:
            raise RuntimeError("broken")

    sent = CloudEvent[Placed](
        id="1", source="/other", subject="s", extensions={"tenant": "acme"}, data=Placed(number=1)
    )
    async with running(app(broker, handle, mode=mode)) as athomic:
        await athomic.publish(topic, sent)
        await record.count(2)
        await athomic.drain()
        (letter,) = await athomic.dead_letters("h").browse()
        if mode == "binary":
            assert (letter.headers["ce_id"], letter.headers["ce_tenant"]) == (b"1", b"acme")
        else:
            assert json.loads(letter.value or b"")["id"] == "1"
        broken.clear()
        assert (await athomic.dead_letters("h").redrive()).settled == 1
        await record.count(3)
        await athomic.drain()
    first = record.seen[0][0]
    assert [event for event, _ in record.seen] == [first] * 3
    assert (first.id, first.source, first.type, first.subject) == ("1", "/other", "shop.order.placed", "s")
    assert len({place for _, place in record.seen}) == 3


async def test_what_is_no_valid_event_is_a_dead_letter_of_stage_decode(broker: Broker, topic: str) -> None:
    await broker.create_topic(topic, 1)

    @subscribe_to(topic, group_id=topic, handler_id="h")
    async def handle(event: CloudEvent[Placed]) -> None: ...

    headers = (("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b""))
    await broker.produce(topic, [Written(b"{}", headers=headers), Written(b"{}")])
    async with running(app(broker, handle)) as athomic:
        await athomic.drain()
        letters = await athomic.dead_letters("h").browse()
    assert [letter.error_stage for letter in letters] == ["decode", "decode"]
    assert "the attribute type must not be empty" in str(letters[0].error_message)
    assert "the message is no CloudEvent" in str(letters[1].error_message)


async def test_a_foreign_event_without_a_traceparent_goes_on_in_the_trace_in_which_it_began(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    await broker.create_topic(topic, 1)
    record = Record()

    @subscribe_to(topic, group_id=topic)
    async def handle(event: CloudEvent[Placed]) -> None:
        record.note(event.extensions["traceparent"])

    began = f"00-{TRACE}-b7ad6b7169203331-01".encode()
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"1"),
        ("ce_source", b"/s"),
        ("ce_type", b"shop.order.placed"),
        ("ce_traceparent", began),
    )
    await broker.produce(topic, [Written(b'{"number": 1}', headers=headers)])
    async with running(app(broker, handle)) as athomic:
        await record.count(1)
        await athomic.drain()
    provider.shutdown()
    (span,) = [span for span in exporter.get_finished_spans() if span.name == f"process {topic}"]
    assert f"{span.context.trace_id:032x}" == TRACE
    assert record.seen == [began.decode()]

"""One trace and one context from an HTTP request through the broker into handlers, and on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import BaseModel

from fastapi_athomic import (
    Athomic,
    ExecutionContext,
    RawMessage,
    RetryPolicy,
    get_context,
    get_lineage,
    include_athomic,
    set_context,
)
from tests.support.apps import Record, running

from .brokers import Broker


class Event(BaseModel):
    number: int
    tenant: str = ""


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The app's tracer provider, with what it exports."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def find(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def ancestors(exporter: InMemorySpanExporter, span: ReadableSpan) -> list[int]:
    """The ids of the spans above; FastAPI has some of its own between the request and the route."""
    spans = {found.context.span_id: found for found in exporter.get_finished_spans()}
    above = []
    current: ReadableSpan | None = span
    while current is not None and current.parent is not None:
        above.append(current.parent.span_id)
        current = spans.get(current.parent.span_id)
    return above


def client(athomic: Athomic) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(athomic.app), base_url="http://app")


async def test_request_publish_handling_and_next_publish_are_one_trace(
    broker: Broker, topic: str, exporter: InMemorySpanExporter
) -> None:
    next_topic = f"{topic}.next"
    await broker.create_topic(topic, 1)
    await broker.create_topic(next_topic, 1)
    record = Record()
    athomic = include_athomic(FastAPI(), broker.settings(lineage_headers=True))

    @athomic.app.post("/publish")
    async def publish() -> None:
        set_context(tenant_id="acme", user_id="ann")
        await athomic.publish(topic, Event(number=1))

    @athomic.subscribe_to(topic, group_id=topic)
    async def first(event: Event) -> None:
        await athomic.publish(next_topic, event)

    @athomic.subscribe_to(next_topic, group_id=next_topic)
    async def second(event: Event, context: ExecutionContext) -> None:
        record.note((context, get_lineage()))

    async with running(athomic), client(athomic) as http:
        answer = await http.post("/publish", headers={"x-request-id": "req-1"})
        assert answer.headers["x-request-id"] == "req-1"
        ((context, lineage),) = await record.count(1)
    assert (context.tenant_id, context.user_id, context.request_id) == ("acme", "ann", "req-1")
    assert lineage is not None
    assert lineage.source.name == next_topic
    assert lineage.parent is not None
    assert lineage.parent.job_name.endswith("first")
    assert lineage.root.job_name == "fastapi-athomic"

    (server,) = find(exporter, "POST /publish")
    chain = [server]
    for name, kind in (
        (f"send {topic}", SpanKind.PRODUCER),
        (f"process {topic}", SpanKind.CONSUMER),
        (f"send {next_topic}", SpanKind.PRODUCER),
        (f"process {next_topic}", SpanKind.CONSUMER),
    ):
        (span,) = find(exporter, name)
        assert span.kind is kind
        assert chain[-1].context.span_id in ancestors(exporter, span), f"{name} belongs to {chain[-1].name}"
        assert span.context.trace_id == server.context.trace_id
        chain.append(span)
    attributes = chain[2].attributes or {}
    assert attributes["messaging.destination.name"] == topic
    assert attributes["messaging.consumer.group.name"] == topic
    assert attributes["messaging.operation.type"] == "process"


async def test_a_batch_is_one_span_with_a_link_per_message(
    broker: Broker, topic: str, exporter: InMemorySpanExporter
) -> None:
    await broker.create_topic(topic, 1)
    record = Record()
    athomic = include_athomic(FastAPI(), broker.settings())

    @athomic.subscribe_to(topic, group_id=topic, batch_size=3, batch_linger_ms=5_000)
    async def handle(events: list[Event]) -> None:
        record.note(len(events))

    async with running(athomic):
        for number in range(3):
            await athomic.publish(topic, Event(number=number), partition=0)
        assert await record.count(1) == [3]
    (span,) = find(exporter, f"process {topic}")
    producers = {sent.context.span_id for sent in find(exporter, f"send {topic}")}
    assert len(producers) == 3
    assert {link.context.span_id for link in span.links} == producers
    assert (span.attributes or {})["messaging.batch.message_count"] == 3


@pytest.mark.parametrize("exposed", [True, False])
async def test_a_failed_handling_is_an_error_on_its_span_with_its_words_where_they_may_be_shown(
    broker: Broker, topic: str, exporter: InMemorySpanExporter, exposed: bool
) -> None:
    await broker.create_topic(topic, 1)
    record, secret = Record(), "s3cret"
    athomic = include_athomic(FastAPI(), broker.settings(expose_error_messages=exposed))

    @athomic.subscribe_to(topic, group_id=topic, retry=RetryPolicy(max_attempts=2, delay=0))
    async def handle(event: Event) -> None:
        record.note(event)
        if len(record.seen) == 1:
            raise LookupError(secret)  # not the word itself: the stack trace shows this line

    async with running(athomic):
        await athomic.publish(topic, Event(number=1))
        await record.count(2)
    failed, fine = find(exporter, f"process {topic}")
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "LookupError"
    assert fine.status.status_code is not StatusCode.ERROR
    assert failed.context.span_id in {link.context.span_id for link in fine.links}, "linked to the first attempt"
    assert (secret in failed.to_json()) is exposed


async def test_a_redriven_message_links_to_the_trace_in_which_it_failed(
    broker: Broker, topic: str, exporter: InMemorySpanExporter
) -> None:
    await broker.create_topic(topic, 1)
    record = Record()
    athomic = include_athomic(FastAPI(), broker.settings())

    @athomic.subscribe_to(topic, group_id=topic, handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def handle(event: Event) -> None:
        record.note(event)
        if len(record.seen) == 1:
            raise RuntimeError("once")

    async with running(athomic):
        await athomic.publish(topic, Event(number=1), partition=0)
        await record.count(1)
        await athomic.drain()
        await athomic.dead_letters("h").redrive()
        await record.count(2)
    (sent,) = find(exporter, f"send {topic}")
    (again,) = find(exporter, f"process {topic}.{topic}.redrive")
    assert again.parent is None
    (failed,) = find(exporter, f"process {topic}")
    assert [link.context.span_id for link in again.links] == [sent.context.span_id, failed.context.span_id]


@pytest.mark.parametrize("traced", [True, False])
async def test_p11_nobody_sees_anothers_context_or_span(
    broker: Broker, topic: str, request: pytest.FixtureRequest, traced: bool
) -> None:
    if traced:
        request.getfixturevalue("exporter")
    await broker.create_topic(topic, 3)
    requests, each, record = 200, 10, Record()
    athomic = include_athomic(FastAPI(), broker.settings())

    async def dependency(raw: RawMessage) -> AsyncIterator[str | None]:
        before = get_context().tenant_id
        yield before
        assert get_context().tenant_id == f"set for {before}", "what its own handler set, and nobody else"

    @athomic.app.post("/publish/{tenant}/{number}")
    async def publish(tenant: str, number: int, tasks: BackgroundTasks) -> str | None:
        assert get_context().tenant_id is None, "what another request set"
        set_context(tenant_id=tenant)
        await asyncio.sleep(0)
        events = [Event(number=number, tenant=tenant) for _ in range(each)]
        await athomic.publish_many(topic, events, key=lambda event: str(event.number))
        tasks.add_task(in_background, tenant)
        return get_context().tenant_id

    async def in_background(tenant: str) -> None:
        assert get_context().tenant_id == tenant

    @athomic.subscribe_to(topic, group_id=topic, ordering="key", concurrency=20)
    async def handle(event: Event, tenant: str | None = Depends(dependency)) -> None:
        span = trace.get_current_span().get_span_context()
        await asyncio.sleep(0.001)
        same_span = trace.get_current_span().get_span_context() == span
        record.note((event.tenant == tenant == get_context().tenant_id, same_span))
        set_context(tenant_id=f"set for {tenant}")

    @athomic.subscribe_to(topic, group_id=f"{topic}.sync", concurrency=3)
    def in_thread(event: Event) -> None:
        tenant = get_context().tenant_id
        set_context(tenant_id="leaked")
        loop.call_soon_threadsafe(record.note, (event.tenant == tenant, True))

    loop = asyncio.get_running_loop()
    async with running(athomic), client(athomic) as http:

        async def ask(number: int) -> None:
            answer = await http.post(f"/publish/t{number}/{number}", headers={"x-tenant-id": "forged"})
            assert answer.json() == f"t{number}"

        await asyncio.gather(*(ask(number) for number in range(requests)))
        seen = await record.count(2 * requests * each)
        await athomic.drain()
        assert get_context().tenant_id is None
        assert [consumer.counters.failed for consumer in athomic.consumers()] == [0, 0]
    assert seen == [(True, True)] * (2 * requests * each)

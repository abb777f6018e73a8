"""Beside OpenTelemetry's own instrumentation of aiokafka, which wraps the methods of its clients (fault 17)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from opentelemetry import trace
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from fastapi_athomic import AthomicSettings, RawMessage, subscribe_to
from tests.support.apps import Record, new_app, running
from tests.support.mock_cluster import MockCluster


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Of an app that is instrumented, as by the command `opentelemetry-instrument`."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    AIOKafkaInstrumentor().instrument(tracer_provider=provider)
    yield exporter
    AIOKafkaInstrumentor().uninstrument()
    provider.shutdown()


@pytest.fixture
def topic() -> str:
    return f"t-{uuid4().hex[:12]}"


def spans(exporter: InMemorySpanExporter, kind: SpanKind) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.kind is kind]


async def test_p11_fault_17_a_publish_and_its_handling_are_one_span_each_and_one_header(
    mock_cluster: MockCluster, topic: str, exporter: InMemorySpanExporter
) -> None:
    record = Record()

    @subscribe_to(topic, group_id=topic)
    async def handle(message: RawMessage) -> None:
        record.note(message)

    settings = AthomicSettings(broker_url=f"kafka://{mock_cluster.bootstrap}")
    async with running(new_app(settings, handle)) as athomic:
        await athomic.publish(topic, {"number": 1})
        await athomic.publish_many(topic, [{"number": 2}, {"number": 3}])
        messages = await record.count(3)
    assert [[name for name, _ in message.headers].count("traceparent") for message in messages] == [1, 1, 1]
    sent, handled = spans(exporter, SpanKind.PRODUCER), spans(exporter, SpanKind.CONSUMER)
    assert [span.name for span in sent] == [f"send {topic}"] * 2, "one a call, of whatever instrumentation"
    assert [span.name for span in handled] == [f"process {topic}"] * 3
    producers = {span.context.span_id for span in sent if span.context is not None}
    assert {span.parent.span_id for span in handled if span.parent is not None} == producers


async def test_fault_17_clients_of_the_apps_own_stay_instrumented(
    mock_cluster: MockCluster, topic: str, exporter: InMemorySpanExporter
) -> None:
    settings = AthomicSettings(broker_url=f"kafka://{mock_cluster.bootstrap}")
    async with running(new_app(settings)), AsyncExitStack() as stack:
        producer = AIOKafkaProducer(bootstrap_servers=mock_cluster.bootstrap)
        await producer.start()
        stack.push_async_callback(producer.stop)
        await producer.send_and_wait(topic, b"1")
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=mock_cluster.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        async with asyncio.timeout(30):
            assert (await consumer.getone()).value == b"1"
    assert [span.name for span in spans(exporter, SpanKind.PRODUCER)] == [f"{topic} send"]
    assert [span.name for span in spans(exporter, SpanKind.CONSUMER)] == [f"{topic} receive"]


async def test_fault_17_of_several_headers_of_others_the_last_counts(
    mock_cluster: MockCluster, topic: str, exporter: InMemorySpanExporter
) -> None:
    """The instrumentation itself makes them where a service passes headers on: its own is the last."""
    record = Record()

    @subscribe_to(topic, group_id=topic)
    async def handle(message: RawMessage) -> None:
        record.note(message)

    settings = AthomicSettings(broker_url=f"kafka://{mock_cluster.bootstrap}")
    async with running(new_app(settings, handle)):
        producer = AIOKafkaProducer(bootstrap_servers=mock_cluster.bootstrap)
        await producer.start()
        await producer.send_and_wait(
            topic, b"1", headers=[("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01")]
        )
        await producer.stop()
        (message,) = await record.count(1)
    assert [name for name, _ in message.headers] == ["traceparent", "traceparent"]
    (sent,), (handled,) = spans(exporter, SpanKind.PRODUCER), spans(exporter, SpanKind.CONSUMER)
    assert sent.context is not None
    assert handled.parent is not None
    assert handled.parent.span_id == sent.context.span_id

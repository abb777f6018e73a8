#!/usr/bin/env bash
# opentelemetry-instrumentation-aiokafka appends its traceparent to the very list of headers that `send` was given: the
# n-th message sent with one list carries n of them. Its own consumer side reads the first, so the `receive` span is no
# child of the `send` span, but of an older one; readers that take the last header (Java's lastHeader) see another trace.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0 confluent-kafka==2.16.1 \
    opentelemetry-sdk==1.45.1 opentelemetry-instrumentation-aiokafka==0.66b1
"$folder/venv/bin/python" - <<'PY'
import asyncio
from importlib.metadata import version

from confluent_kafka import Producer
from opentelemetry import trace
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
AIOKafkaInstrumentor().instrument()

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # noqa: E402

mock = Producer({"bootstrap.servers": "x", "test.mock.num.brokers": 1, "log_level": 0})
address = [f"{broker.host}:{broker.port}" for broker in mock.list_topics(timeout=10).brokers.values()][0]


async def main():
    producer = AIOKafkaProducer(bootstrap_servers=address)
    await producer.start()
    headers = [("source", b"shop")]
    for _ in range(4):
        await producer.send_and_wait("orders", b"1", headers=headers, partition=0)
    sent = spans.get_finished_spans()[1]  # of the second message
    spans.clear()
    consumer = AIOKafkaConsumer("orders", bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    messages = [await consumer.getone() for _ in range(4)]
    received = spans.get_finished_spans()[1]
    await consumer.stop()
    await producer.stop()
    return [[name for name, _ in message.headers].count("traceparent") for message in messages], sent, received


counts, sent, received = asyncio.run(main())
same = sent.context.trace_id == received.context.trace_id
print("opentelemetry-instrumentation-aiokafka", version("opentelemetry-instrumentation-aiokafka"))
print("traceparent headers of four messages sent with one list of headers:", counts)
print("the second message's receive span is in the trace of its send span:", same)
assert counts == [1, 2, 3, 4] and not same, "it behaves otherwise now"
PY

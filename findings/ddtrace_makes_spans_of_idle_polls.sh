#!/usr/bin/env bash
# ddtrace's integration of aiokafka makes a `kafka.consume` span of every `getmany`, also where nothing came: a consumer
# that is idle and polls once a second sends 86,400 traces a day, which hold nothing.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0 confluent-kafka==2.16.1 ddtrace==4.16.0
DD_INSTRUMENTATION_TELEMETRY_ENABLED=false DD_REMOTE_CONFIGURATION_ENABLED=false "$folder/venv/bin/python" - <<'PY'
import asyncio

import ddtrace
from confluent_kafka import Producer
from ddtrace.trace import TraceFilter, tracer

spans = []


class Keep(TraceFilter):
    def process_trace(self, trace):
        spans.extend(span.name for span in trace)


tracer.configure(trace_processors=[Keep()])
ddtrace.patch(aiokafka=True)

from aiokafka import AIOKafkaConsumer  # noqa: E402

mock = Producer({"bootstrap.servers": "x", "test.mock.num.brokers": 1, "log_level": 0})
address = [f"{broker.host}:{broker.port}" for broker in mock.list_topics(timeout=10).brokers.values()][0]


async def main():
    consumer = AIOKafkaConsumer("empty", bootstrap_servers=address)
    await consumer.start()
    for _ in range(20):
        assert await consumer.getmany(timeout_ms=10) == {}
    await consumer.stop()


asyncio.run(main())
tracer.flush()
print("ddtrace", ddtrace.__version__, "spans of 20 polls that found nothing:", len(spans), set(spans))
assert spans == ["kafka.consume"] * 20, "it behaves otherwise now"
PY

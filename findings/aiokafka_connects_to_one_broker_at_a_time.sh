#!/usr/bin/env bash
# aiokafka 0.14: a client opens its connections one after the other, under one lock. A broker that takes connections but
# does not answer (its machine hangs, a firewall drops packets) keeps the client from every broker that it has not
# connected to yet, for `request_timeout_ms` at a time. Below, broker 2 does not answer, and broker 1 is a sound one.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0 confluent-kafka==2.16.1
"$folder/venv/bin/python" - <<'PY' 2>/dev/null
import asyncio
import socket
from time import monotonic

import aiokafka
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from confluent_kafka import Producer

TIMEOUT = 3.0

mock = Producer({"bootstrap.servers": "x", "test.mock.num.brokers": 1, "log_level": 0})
address = [f"{broker.host}:{broker.port}" for broker in mock.list_topics(timeout=10).brokers.values()][0]
silent = socket.create_server(("127.0.0.1", 0))


class Metadata(ClusterMetadata):
    """Tells of broker 2, too."""

    def update_metadata(self, metadata):
        if len(metadata.brokers) == 1:
            metadata.brokers.append((2, *silent.getsockname(), None))
        super().update_metadata(metadata)


async def seconds_to_the_sound_one(beside):
    client = AIOKafkaClient(bootstrap_servers=address, request_timeout_ms=round(TIMEOUT * 1000))
    client.cluster = Metadata()
    await client.bootstrap()
    waiting = asyncio.create_task(client.ready(2)) if beside else None
    await asyncio.sleep(0.1)
    began = monotonic()
    assert await client.ready(1)
    took = monotonic() - began
    if waiting is not None:
        assert not await waiting
    await client.close()
    return took


async def main():
    return [await seconds_to_the_sound_one(beside) for beside in (False, True)]


alone, beside = asyncio.run(main())
print("aiokafka", aiokafka.__version__, f"request_timeout_ms={TIMEOUT * 1000:.0f}")
print(f"seconds until broker 1 is connected: {alone:.1f} alone, {beside:.1f} while broker 2 is being connected to")
assert alone < 1 and beside > TIMEOUT - 1, "it behaves otherwise now"
PY

#!/usr/bin/env bash
# aiokafka 0.14 loses messages of one partition when another cannot be unpacked: `getmany` takes what it has prefetched
# partition by partition, and moves the position of each; when a later one raises (lz4 without cramjam here, which no
# default install brings), what was taken before is dropped. The position stands behind it, and auto commit would commit that.
# Which partition comes first is chance: consumers are made until it was the readable one.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0 confluent-kafka==2.16.1
"$folder/venv/bin/python" - <<'PY' 2>/dev/null
import asyncio

import aiokafka
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import UnsupportedCodecError
from confluent_kafka import Producer

mock = Producer({"bootstrap.servers": "x", "test.mock.num.brokers": 1, "log_level": 0})
address = [f"{broker.host}:{broker.port}" for broker in mock.list_topics(timeout=10).brokers.values()][0]
PLAIN, PACKED = TopicPartition("orders", 0), TopicPartition("orders", 1)
for partition, codec in ((PLAIN, "none"), (PACKED, "lz4")):
    producer = Producer({"bootstrap.servers": address, "compression.type": codec, "log_level": 0})
    for _ in range(5):
        producer.produce("orders", b"x" * 1_000, partition=partition.partition)
    producer.flush()


async def consume():
    """What `getmany` gave of the plain partition in six calls, how often it raised, and where the position stands."""
    consumer = AIOKafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest", fetch_max_wait_ms=100)
    await consumer.start()
    consumer.assign([PLAIN, PACKED])
    await asyncio.sleep(1)  # both are prefetched
    given, errors = 0, 0
    for _ in range(6):
        try:
            given += len((await consumer.getmany(timeout_ms=200)).get(PLAIN, ()))
        except UnsupportedCodecError:
            errors += 1
    position = await consumer.position(PLAIN)
    await consumer.stop()
    return given, errors, position


async def main():
    for _ in range(12):
        seen = await consume()
        if seen[0] == 0 and seen[2] == 5:
            return seen
    return seen


given, errors, position = asyncio.run(main())
print("aiokafka", aiokafka.__version__, f"messages of the plain partition handed out: {given} of 5, position: {position}")
print(f"{errors} of 6 calls of getmany raised UnsupportedCodecError")
assert given == 0 and position == 5, "it behaves otherwise now"
PY

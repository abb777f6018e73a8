#!/usr/bin/env bash
# The empty key b"" is a key for aiokafka (all its messages go to one partition, as with Java's murmur2) and none for
# librdkafka's default partitioner (they are spread at random). A topic that clients of both kinds write to
# has no order for it; `partitioner=murmur2_random` makes librdkafka agree.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0 confluent-kafka==2.16.1
"$folder/venv/bin/python" - <<'PY'
import asyncio

import aiokafka
import confluent_kafka
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer

mock = Producer({"bootstrap.servers": "x", "test.mock.num.brokers": 1, "log_level": 0})
address = [f"{broker.host}:{broker.port}" for broker in mock.list_topics(timeout=10).brokers.values()][0]


def librdkafka(**options):
    producer = Producer({"bootstrap.servers": address, "sticky.partitioning.linger.ms": 0, "log_level": 0, **options})
    used = set()
    for _ in range(100):
        producer.produce("orders", b"1", key=b"", on_delivery=lambda error, message: used.add(message.partition()))
    producer.flush()
    return used


async def with_aiokafka():
    producer = AIOKafkaProducer(bootstrap_servers=address)
    await producer.start()
    used = {(await producer.send_and_wait("orders", b"1", key=b"")).partition for _ in range(20)}
    await producer.stop()
    return used


by_default, murmur2, ours = librdkafka(), librdkafka(partitioner="murmur2_random"), asyncio.run(with_aiokafka())
print("partitions of messages with the key b'':")
print("librdkafka", confluent_kafka.libversion()[0], "default:", sorted(by_default), "murmur2_random:", sorted(murmur2))
print("aiokafka", aiokafka.__version__, sorted(ours))
assert len(by_default) > 1 and len(ours) == 1 and murmur2 == ours, "it behaves otherwise now"
PY

#!/usr/bin/env bash
# FastStream 0.7.8 decodes the headers of a message as UTF-8 before anything else: a message with a binary header, which
# Kafka allows (a thumbnail here), never reaches its handler, and is committed as done, also with AckPolicy.NACK_ON_ERROR,
# under which what a handler fails on comes again (the last message here).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "faststream[kafka]==0.7.8" aiokafka==0.14.0 \
    confluent-kafka==2.16.1
"$folder/venv/bin/python" - <<'PY' 2>/dev/null
import asyncio
from importlib.metadata import version

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from confluent_kafka import Producer
from faststream import AckPolicy
from faststream.kafka import KafkaBroker

mock = Producer({"bootstrap.servers": "x", "test.mock.num.brokers": 1, "log_level": 0})
address = [f"{broker.host}:{broker.port}" for broker in mock.list_topics(timeout=10).brokers.values()][0]
HEADERS = [], [("thumbnail", b"\xff\xd8\xff\xe0")], []


async def main():
    producer = AIOKafkaProducer(bootstrap_servers=address)
    await producer.start()
    for number, headers in enumerate(HEADERS):
        await producer.send_and_wait("orders", b"%d" % number, headers=headers, partition=0)
    await producer.stop()

    handled, last = [], asyncio.Event()
    broker = KafkaBroker(address, logger=None)

    @broker.subscriber("orders", group_id="a", auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR)
    async def handle(body: int) -> None:
        handled.append(body)
        if handled.count(2) == 1 and body == 2:
            raise RuntimeError("try again")
        if body == 2:
            last.set()

    await broker.start()
    await asyncio.wait_for(last.wait(), 30)
    await broker.stop()
    asking = AIOKafkaConsumer(bootstrap_servers=address, group_id="a", enable_auto_commit=False)
    await asking.start()
    committed = await asking.committed(TopicPartition("orders", 0))
    await asking.stop()
    return handled, committed


handled, committed = asyncio.run(main())
print("faststream", version("faststream"), "was called for:", handled, "of 0, 1 and 2; committed offset:", committed)
assert handled == [0, 2, 2] and committed == 3, "it behaves otherwise now"
PY

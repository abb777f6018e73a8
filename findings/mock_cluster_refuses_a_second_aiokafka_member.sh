#!/usr/bin/env bash
# librdkafka's mock cluster serves a group of two librdkafka consumers, and one aiokafka consumer, but not a second
# aiokafka consumer in a group: it gets InvalidRequestError. Rebalances of aiokafka cannot be tested on it.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0 confluent-kafka==2.16.1
"$folder/venv/bin/python" - <<'PY' 2>/dev/null
import asyncio
import time

import aiokafka
import confluent_kafka
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer, Producer

mock = Producer({"bootstrap.servers": "x", "test.mock.num.brokers": 1, "log_level": 0})
address = [f"{broker.host}:{broker.port}" for broker in mock.list_topics(timeout=10).brokers.values()][0]
options = {"bootstrap.servers": address, "group.id": "a", "session.timeout.ms": 6_000, "log_level": 0}
Producer({"bootstrap.servers": address}).list_topics("orders", timeout=10)


def two_of_librdkafka():
    members = [Consumer(options), Consumer(options)]
    for member in members:
        member.subscribe(["orders"])
    end = time.monotonic() + 20
    while time.monotonic() < end and not all(member.assignment() for member in members):
        for member in members:
            member.poll(0.1)
    counts = sorted(len(member.assignment()) for member in members)
    for member in members:
        member.close()
    return counts


async def two_of_aiokafka():
    members = [AIOKafkaConsumer("orders", bootstrap_servers=address, group_id="b") for _ in range(2)]
    await members[0].start()
    try:
        async with asyncio.timeout(20):
            await members[1].start()
        return "joined"
    except Exception as error:
        return str(error)
    finally:
        await asyncio.gather(*(member.stop() for member in members), return_exceptions=True)


theirs, ours = two_of_librdkafka(), asyncio.run(two_of_aiokafka())
print("librdkafka", confluent_kafka.libversion()[0], "partitions of its two members:", theirs)
print("aiokafka", aiokafka.__version__, "second member:", ours)
assert theirs == [2, 2] and "InvalidRequestError" in ours, "it behaves otherwise now"
PY

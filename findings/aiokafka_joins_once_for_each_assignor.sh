#!/usr/bin/env bash
# A consumer of aiokafka with several assignors does not offer them in one JoinGroup request: it sends one for the first,
# then one for the first two, and so on. The answer to each is a generation of its own, so a group is rebalanced once more
# for every assignor on the list, each time that a member joins.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0 confluent-kafka==2.16.1
"$folder/venv/bin/python" - <<'PY' 2>/dev/null
import asyncio

import aiokafka
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from confluent_kafka import Producer

mock = Producer({"bootstrap.servers": "x", "test.mock.num.brokers": 1, "log_level": 0})
address = [f"{broker.host}:{broker.port}" for broker in mock.list_topics(timeout=10).brokers.values()][0]
Producer({"bootstrap.servers": address}).list_topics("orders", timeout=10)
send, joins = AIOKafkaClient.send, []


async def watched(self, node, request, **options):
    answer = await send(self, node, request, **options)
    if type(request).__name__.startswith("JoinGroup"):
        joins.append(([protocol[0] for protocol in request._group_protocols], answer.generation_id))
    return answer


async def join():
    assignors = [RangePartitionAssignor, RoundRobinPartitionAssignor, StickyPartitionAssignor]
    consumer = AIOKafkaConsumer(
        "orders", bootstrap_servers=address, group_id="g", partition_assignment_strategy=assignors
    )
    await consumer.start()
    async with asyncio.timeout(30):
        while not consumer.assignment():
            await asyncio.sleep(0.1)
    await consumer.stop()


AIOKafkaClient.send = watched
asyncio.run(join())
print("aiokafka", aiokafka.__version__)
for offered, generation in joins[:3]:
    print("generation", generation, "offered:", ", ".join(offered))
offers, generations = zip(*joins[:3], strict=True)
assert [len(offer) for offer in offers] == [1, 2, 3], "it offers them otherwise now"
assert len(set(generations)) == 3, "it is one generation now"
PY

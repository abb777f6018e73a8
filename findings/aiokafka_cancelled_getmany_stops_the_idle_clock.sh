#!/usr/bin/env bash
# aiokafka 0.14: a `getmany` that is cancelled (a timeout around it, say) or raises switches the clock off that
# `max_poll_interval_ms` is measured by, for good: a context manager without `finally`. The consumer below polls never
# again and keeps its partition; without the cancelled call the group takes it away after a second.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiokafka==0.14.0 confluent-kafka==2.16.1
"$folder/venv/bin/python" - <<'PY' 2>/dev/null
import asyncio

import aiokafka
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from confluent_kafka import Producer

mock = Producer({"bootstrap.servers": "x", "test.mock.num.brokers": 1, "log_level": 0})
address = [f"{broker.host}:{broker.port}" for broker in mock.list_topics(timeout=10).brokers.values()][0]


class Count(ConsumerRebalanceListener):
    revoked = 0

    async def on_partitions_revoked(self, revoked):
        self.revoked += bool(revoked)

    async def on_partitions_assigned(self, assigned): ...


async def idle_for_four_seconds(group, cancelled):
    """How often its partitions were taken from a consumer that does not poll."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=address, group_id=group, max_poll_interval_ms=1_000, heartbeat_interval_ms=200
    )
    await consumer.start()
    count = Count()
    consumer.subscribe(["orders"], listener=count)
    while not consumer.assignment():
        await consumer.getmany(timeout_ms=100)
    if cancelled:
        try:
            await asyncio.wait_for(consumer.getmany(timeout_ms=60_000), 0.1)
        except TimeoutError:
            pass
    await asyncio.sleep(4)
    clock = consumer._subscription.fetcher_idle_time
    await consumer.stop()
    return count.revoked, round(clock)


async def main():
    return await asyncio.gather(idle_for_four_seconds("a", False), idle_for_four_seconds("b", True))


usual, cancelled = asyncio.run(main())
print("aiokafka", aiokafka.__version__, "max_poll_interval_ms=1000, 4 s without a poll: (times revoked, idle clock in s)")
print("after usual polls:", usual, "after a cancelled one:", cancelled)
assert usual[0] > 0 and cancelled == (0, 0), "it behaves otherwise now"
PY

"""The connections of one client to its brokers."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from aiokafka.structs import BrokerMetadata

from fastapi_athomic.transports.kafka.client import KafkaClient
from fastapi_athomic.transports.kafka.client_life import close_client, open_client
from tests.support.mock_cluster import MockCluster
from tests.support.silent_server import SilentServer


async def test_p21_a_broker_that_does_not_answer_keeps_nobody_from_the_others(mock_cluster: MockCluster) -> None:
    """As aiokafka does it: it connects to one broker after the other."""
    client = KafkaClient(bootstrap_servers=mock_cluster.bootstrap)
    await open_client(client, 10, "connecting")
    with SilentServer() as silent:
        where = urlsplit(silent.url)
        (known,) = [broker.nodeId for broker in client.cluster.brokers()]
        client.cluster._brokers[99] = BrokerMetadata(99, where.hostname, where.port, None)
        waiting = asyncio.create_task(client.ready(99))
        assert await asyncio.to_thread(silent.asked.acquire, timeout=10)
        assert await client.ready(known)
        assert not waiting.done()
        waiting.cancel()
        await close_client(client, 5)
    assert [task for task in asyncio.all_tasks() if "_open" in repr(task.get_coro())] == []

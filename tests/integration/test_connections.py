"""The connections of one client to its brokers."""

from __future__ import annotations

import asyncio
import random
from urllib.parse import urlsplit

import pytest
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import BrokerMetadata

from fastapi_athomic.transports.kafka import client as kafka_client
from fastapi_athomic.transports.kafka.client import KafkaClient
from fastapi_athomic.transports.kafka.client_life import close_client, open_client
from fastapi_athomic.transports.kafka.group_offsets import GROUP
from tests.support.apps import eventually
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


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take minutes to wait for each answer before the next broker is asked."""
    monkeypatch.setattr(kafka_client, "ANSWER_SECONDS", 600.0)
    monkeypatch.setattr(kafka_client, "NEXT_SECONDS", 0.01)


@pytest.mark.usefixtures("patient")
async def test_p21_a_broker_that_does_not_answer_keeps_the_others_from_telling_nothing(
    mock_cluster: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a broker says of the cluster is there although another one was asked before."""
    monkeypatch.setattr(random, "shuffle", lambda nodes: nodes.sort(reverse=True))
    client = KafkaClient(bootstrap_servers=mock_cluster.bootstrap)
    await open_client(client, 10, "connecting")
    (known,) = [broker.nodeId for broker in client.cluster.brokers()]
    with SilentServer() as silent:
        where = urlsplit(silent.url)
        client.cluster._brokers[99] = BrokerMetadata(99, where.hostname, where.port, None)
        async with asyncio.timeout(20):
            assert await client.coordinator_lookup(GROUP, "g") == known
            assert await client.force_metadata_update()
        assert silent.asked.acquire(blocking=False)
        await close_client(client, 5)


@pytest.mark.usefixtures("patient")
async def test_p19_a_bootstrap_server_that_does_not_answer_does_not_hold_up_the_start(
    mock_cluster: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "shuffle", lambda hosts: None)  # aiokafka shuffles them
    with SilentServer() as silent:
        client = KafkaClient(bootstrap_servers=[urlsplit(silent.url).netloc, mock_cluster.bootstrap])
        await open_client(client, 20, "connecting")
        assert silent.asked.acquire(blocking=False)
        assert client.cluster.brokers()
        await close_client(client, 5)


async def test_p21_a_connection_that_fell_silent_is_closed_although_nobody_waits_any_more(
    mock_cluster: MockCluster,
) -> None:
    """Else it would stay in use for as long as each caller gives up before aiokafka does."""
    client = KafkaClient(bootstrap_servers=mock_cluster.bootstrap)
    client.patience = 0.2
    await open_client(client, 10, "connecting")
    (node,) = [broker.nodeId for broker in client.cluster.brokers()]
    await client.send(node, MetadataRequest([]))
    connection = client._conns[node, ConnectionGroup.DEFAULT]
    connection._writer.transport.pause_reading()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await client.send(node, MetadataRequest([]))
    await eventually(lambda: not connection.connected())
    assert (await client.send(node, MetadataRequest([]))).brokers
    await close_client(client, 5)

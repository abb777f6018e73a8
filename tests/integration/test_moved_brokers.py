"""Brokers that come back under other addresses, while the bootstrap address stays right."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import closing
from uuid import uuid4

import pytest
from aiokafka.structs import BrokerMetadata

from fastapi_athomic import Athomic, AthomicSettings, KafkaSettings, RetryPolicy, subscribe_to
from fastapi_athomic.exceptions import TransportError
from fastapi_athomic.messages import OutgoingMessage
from fastapi_athomic.transports.kafka import client as kafka_client
from fastapi_athomic.transports.kafka.client import KafkaClient
from fastapi_athomic.transports.kafka.reader import KafkaReader
from fastapi_athomic.transports.kafka.removal import delete_groups
from fastapi_athomic.transports.kafka.single import SingleWriter
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.support.apps import SECONDS, Record, new_app, running
from tests.support.forwarder import Forwarder
from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.silent_server import SilentServer

Kafka = KafkaBroker | ExternalKafka


def app(forwarder: Forwarder, topic: str, record: Record) -> Athomic:
    @subscribe_to(topic, group_id=topic, handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def handle(number: int) -> None:
        record.note(number)
        if number % 2:
            raise RuntimeError("never")

    # no shorter: a member that the group forgets while the broker is away is given messages again, and rightly so
    kafka = KafkaSettings(session_timeout=45, heartbeat_interval=1)
    return new_app(AthomicSettings(broker_url=f"kafka://{forwarder.address}", kafka=kafka), handle)


@pytest.mark.timeout(180)
async def test_p19_fault_07_brokers_at_new_addresses_are_found(mortal_kafka: KafkaBroker) -> None:
    """By an idle consumer and its coordinator, by the producer, by what reads dead letters; nothing is rebuilt."""
    topic, record = f"moved-{uuid4().hex[:12]}", Record()
    forwarder = Forwarder(mortal_kafka.port)
    athomic = app(forwarder, topic, record)
    async with forwarder.open(), running(athomic):
        await athomic.publish(topic, 1)
        await record.count(1)
        await athomic.drain()
        mortal_kafka.kill()
        mortal_kafka.move()
        forwarder.port = mortal_kafka.port
        mortal_kafka.process.start()
        await asyncio.to_thread(mortal_kafka.wait)
        letters = await athomic.dead_letters("h").browse()
        assert [letter.value for letter in letters] == [b"1"]
        await athomic.publish(topic, 2)
        await athomic.publish(topic, 3)
        await record.until(lambda seen: {1, 2, 3} <= set(seen))
        await athomic.drain()
        assert len(await athomic.dead_letters("h").browse()) == 2
        assert athomic.consumers()[0].restarts == 0


async def test_p19_fault_07_an_address_that_went_silent_is_left(
    apache_kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says that the broker is not there any more: connections open, and nothing is answered."""
    monkeypatch.setattr(kafka_client, "ANSWER_SECONDS", 1.0)
    client = KafkaClient(bootstrap_servers=apache_kafka.bootstrap)
    await client.bootstrap()
    (broker,) = client.cluster.brokers()
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        moved = BrokerMetadata(broker.nodeId, *silent.getsockname(), None)
        client.cluster._brokers = {broker.nodeId: moved}
        assert await client.force_metadata_update()
        assert client.cluster.brokers() == {broker}
        assert client._conns == {}
        assert await client.ready(broker.nodeId)
    await client.close()


async def test_p19_fault_07_who_may_ask_any_broker_asks_another_one_if_the_first_is_silent(
    apache_kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads dead letters, what writes a message by itself, and what removes groups."""
    topic, silent_node = f"silent-{uuid4().hex[:12]}", 99
    await Foreign(apache_kafka.bootstrap).create_topic(topic, 1)
    client = KafkaClient(bootstrap_servers=apache_kafka.bootstrap)
    await client.bootstrap()
    await client.add_topic(topic)
    with SilentServer() as silent:
        host, port = silent.url.removeprefix("http://").split(":")
        client.cluster._brokers[silent_node] = BrokerMetadata(silent_node, host, int(port), None)
        monkeypatch.setattr(client, "get_random_node", lambda: silent_node)
        monkeypatch.setattr(random, "shuffle", lambda nodes: nodes.sort(reverse=True))
        async with asyncio.timeout(SECONDS):
            assert await KafkaReader(client, 2**20, 2**20).bounds(topic) == {0: (0, 0)}
            message = OutgoingMessage(topic, None, b"1", (), partition=0)
            assert await SingleWriter(SECONDS).write(client, message, 0, "gzip") == 0
            with pytest.raises(TransportError, match=f"not deleted: group {topic}: "):
                await delete_groups(client, [topic])
        assert silent.asked.acquire(blocking=False)
    await client.close()

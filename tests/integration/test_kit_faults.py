"""Rebalances and redeliveries of a test kit on Apache Kafka; what Kafka cannot do on demand is refused."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from fastapi_athomic import AthomicSettings, ConfigurationError, include_athomic
from fastapi_athomic.testing import AsyncTestKit
from tests.support.kafka_broker import ExternalKafka, KafkaBroker


@pytest.fixture
def app() -> FastAPI:
    """Its consumers are in a thread: there the most can go wrong."""
    app = FastAPI()
    athomic = include_athomic(app, AthomicSettings(isolation="thread"))

    @athomic.subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None: ...

    return app


async def test_a_group_rebalances_and_delivers_again(app: FastAPI, apache_kafka: KafkaBroker | ExternalKafka) -> None:
    async with AsyncTestKit(app, broker=f"kafka://{apache_kafka.bootstrap}") as kit:
        for value in ("a", "b"):
            await kit.publish("t", value, partition=0)
        await kit.drain()
        before = kit.athomic.consumers()[0].counters.rebalances
        assigned = {place.partition for place in kit.athomic.consumers()[0].assignment}
        await kit.broker.rebalance("h")
        assert kit.athomic.consumers()[0].counters.rebalances == before + 2
        assert {place.partition for place in kit.athomic.consumers()[0].assignment} == assigned
        await kit.publish("t", "c", partition=0)
        await kit.drain()
        await kit.broker.redeliver("h", kit.handled("h")[1])
        await kit.drain()
        assert [handled.message for handled in kit.handled("h")] == ["a", "b", "c", "b", "c"]
        await kit.broker.create_topic("other", 3)
        assert (await kit.publish("other", b"x", partition=2)).partition == 2
        with pytest.raises(ConfigurationError, match=r"kit\.broker\.disconnect needs memory://"):
            await kit.broker.disconnect()
        with pytest.raises(ConfigurationError, match=r"kit\.clock .* the broker is not memory://"):
            await kit.clock.advance(1)

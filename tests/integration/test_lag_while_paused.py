"""The lag of a paused consumer on Apache Kafka grows with its topic."""

from __future__ import annotations

from uuid import uuid4

from fastapi_athomic import AthomicSettings, subscribe_to
from tests.support.apps import eventually, new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker


async def test_p13_what_comes_while_a_consumer_is_paused_counts_as_its_lag(
    apache_kafka: KafkaBroker | ExternalKafka,
) -> None:
    topic = f"paused-{uuid4().hex}"

    @subscribe_to(topic, group_id=topic, handler_id="h", auto_offset_reset="earliest")
    async def handle(text: str) -> None:
        pass

    settings = AthomicSettings(broker_url=f"kafka://{apache_kafka.bootstrap}")
    async with running(new_app(settings, handle)) as athomic:
        await athomic.publish(topic, "first")
        await athomic.drain()
        await athomic.pause("h")
        for number in range(20):
            await athomic.publish(topic, str(number))
        await eventually(lambda: athomic.consumers()[0].lag == 20)
        assert athomic.consumers()[0].lag_seconds is None, "the first of them has not been fetched"
        await athomic.resume("h")
        await athomic.drain()
        assert (athomic.consumers()[0].lag, athomic.consumers()[0].counters.processed) == (0, 21)

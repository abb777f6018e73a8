"""A topic moves from JSON to Avro while two instances of a service publish and consume it without a pause."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import Athomic, PayloadPipeline, RawMessage, include_athomic
from fastapi_athomic.payload.json_format import Json
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.delivery.brokers import KafkaBroker as Broker
from tests.support.apps import SECONDS, Record, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

SCHEMA = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "number", "type": "long"}, {"name": "note", "type": ["null", "string"], "default": None}],
}


class Order(BaseModel):
    number: int
    note: str | None = None


class Instance:
    """One of the service's instances. A deploy stops it and starts it again with another pipeline."""

    def __init__(self, new_app: Callable[[PayloadPipeline], Athomic], numbers: Iterator[int], topic: str) -> None:
        self._new_app = new_app
        self._numbers = numbers
        self._topic = topic
        self._stack = AsyncExitStack()
        self._publishing: asyncio.Task[None] | None = None
        self.published: list[int] = []

    async def deploy(self, pipeline: PayloadPipeline) -> None:
        await self.stop()
        athomic = await self._stack.enter_async_context(running(self._new_app(pipeline)))
        self._publishing = asyncio.create_task(self._publish(athomic))

    async def stop(self) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            await asyncio.wait([self._publishing])
        await self._stack.aclose()
        self._stack = AsyncExitStack()

    async def _publish(self, athomic: Athomic) -> None:
        while True:
            number = next(self._numbers)
            await asyncio.shield(self._sent(athomic, number))

    async def _sent(self, athomic: Athomic, number: int) -> None:
        await athomic.publish(self._topic, Order(number=number, note="n" * (number % 9)), key=number % 7)
        self.published.append(number)


@pytest.mark.timeout(180)
async def test_a_topic_moves_from_json_to_avro_under_load_without_a_failed_message(
    apache_kafka: KafkaBroker | ExternalKafka, schema_registry: Any
) -> None:
    topic, broker = f"moving-{uuid4().hex[:8]}", Broker(apache_kafka.bootstrap)
    await broker.create_topic(topic, 4)
    registry = SchemaRegistry(schema_registry.url)
    record, first_bytes = Record(), set[bytes]()

    def new_app(pipeline: PayloadPipeline) -> Athomic:
        athomic = include_athomic(FastAPI(), broker.settings(), topic_payloads={topic: pipeline})

        @athomic.subscribe_to(topic, group_id="shop", handler_id="shop", ordering="key", concurrency=4)
        async def handle(order: Order, raw: RawMessage) -> None:
            assert raw.value is not None
            first_bytes.add(raw.value[:1])
            record.note(order.number)

        return athomic

    def avro() -> Avro:
        return Avro(SchemaRegistry(schema_registry.url), schema=SCHEMA)

    await registry.register(f"{topic}-value", "AVRO", json.dumps(SCHEMA))
    numbers = count()
    instances = [Instance(new_app, numbers, topic) for _ in range(2)]
    stages: list[Callable[[], PayloadPipeline]] = [
        PayloadPipeline,  # as it was: JSON, and nothing is known of Avro
        lambda: PayloadPipeline([Json()], reads=[avro()]),  # reads both
        lambda: PayloadPipeline([avro()], reads=[Json()]),  # writes Avro, while others still write JSON
        lambda: PayloadPipeline([avro()]),  # JSON is history
    ]
    try:
        for stage in stages:
            for instance in instances:
                await instance.deploy(stage())
                await record.count(len(record.seen) + 200)
            before = {number for instance in instances for number in instance.published}
            await record.until(lambda seen, before=before: before <= {*seen})  # type: ignore[misc]
    finally:
        for instance in instances:
            await instance.stop()
        await registry.close()
    published = sorted(number for instance in instances for number in instance.published)
    async with running(new_app(PayloadPipeline([avro()]))) as athomic:
        await athomic.drain(SECONDS)
    assert sorted(set(record.seen)) == published
    assert first_bytes == {b"{", b"\0"}
    assert await broker.read(f"{topic}.shop.dlq") == []

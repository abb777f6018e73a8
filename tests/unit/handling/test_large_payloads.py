"""Payloads of more than a megabyte are read in a thread, in every format: every strategy waits for them, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from pydantic import AfterValidator, BaseModel

from fastapi_athomic import AthomicSettings, PayloadPipeline, include_athomic
from fastapi_athomic.payload.cloudevents import CloudEvents
from fastapi_athomic.payload.messagepack import MessagePack
from fastapi_athomic.payload.steps import Serializer
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from fastapi_athomic.settings import MemorySettings
from tests.support.apps import Record, running
from tests.support.protoc import generated

STRATEGIES: dict[str, dict[str, Any]] = {
    "partition": {},
    "key": {"ordering": "key", "concurrency": 3},
    "batch": {"batch_size": 4, "batch_linger_ms": 1},
    "ordered": {"aggregate_key_field": "shop", "sequence_id_field": "number", "first_sequence": 0},
}


def _in_which_thread(text: str) -> str:
    return threading.current_thread().name if text == "thread?" else text


class Sent(BaseModel):
    number: int
    lines: list[str]

    model_config = {"title": "Order"}


class Order(BaseModel):
    number: int
    shop: str = "s"
    thread: Annotated[str, AfterValidator(_in_which_thread)] = "thread?"
    lines: list[str] = []

    model_config = {"validate_default": True}


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_large_plain_json_is_read_in_a_thread(strategy: str) -> None:
    record = Record()
    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", memory=MemorySettings(max_message_bytes=10**8))
    athomic = include_athomic(FastAPI(), settings)

    async def handle(order: Order) -> None:
        record.note((order.number, order.thread, len(order.lines)))

    async def handle_batch(orders: list[Order]) -> None:
        for order in orders:
            await handle(order)

    decorate = athomic.ordered_consumer if strategy == "ordered" else athomic.subscribe_to
    bind: Any = partial(decorate, "t", group_id="g", handler_id="h", **STRATEGIES[strategy])
    bind()(handle_batch if strategy == "batch" else handle)
    async with running(athomic):
        sizes = [1, 1_100_000, 1, 1_100_000, 1]
        orders = [{"number": number, "lines": ["x" * 1_000] * (size // 1_000)} for number, size in enumerate(sizes)]
        await athomic.publish_many("t", orders, key=lambda _: "s")
        await record.count(len(sizes))
    assert [number for number, _, _ in record.seen] == [0, 1, 2, 3, 4]
    for number, thread, lines in record.seen:
        assert lines == sizes[number] // 1_000
        assert thread.startswith("athomic-payload") == (lines > 0)


shop_pb2 = generated(
    "athomic_handled.proto",
    """
    syntax = "proto3";
    package athomic.handled;
    message Order {
      int64 number = 1;
      repeated string lines = 2;
    }
    """,
)
FORMATS: dict[str, Callable[[], Serializer]] = {
    "messagepack": MessagePack,
    "avro": lambda: Avro(SchemaRegistry("memory://"), auto_register=True),
    "protobuf": lambda: Protobuf(SchemaRegistry("memory://"), schema=shop_pb2.Order, auto_register=True),
    "json-schema": lambda: JsonSchema(SchemaRegistry("memory://"), auto_register=True),
    "json-schema, validated": lambda: JsonSchema(SchemaRegistry("memory://"), auto_register=True, validate_reads=True),
    "events": lambda: CloudEvents("/shop", serializer=Avro(SchemaRegistry("memory://"), auto_register=True)),
}


@pytest.mark.parametrize("form", FORMATS)
async def test_large_payloads_of_other_formats_are_read_in_a_thread(form: str) -> None:
    record = Record()
    settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", memory=MemorySettings(max_message_bytes=10**8))
    athomic = include_athomic(FastAPI(), settings, payload=PayloadPipeline([FORMATS[form]()]))

    @athomic.subscribe_to("t", group_id="g", handler_id="h")
    async def handle(order: Order) -> None:
        record.note((order.number, order.thread, len(order.lines)))

    async with running(athomic):
        sizes = [1, 1_100_000, 1, 1_100_000, 1]
        for number, size in enumerate(sizes):
            await athomic.publish("t", Sent(number=number, lines=["x" * 1_000] * (size // 1_000)))
        await record.count(len(sizes))
    assert [(number, lines) for number, _, lines in record.seen] == [(n, size // 1_000) for n, size in enumerate(sizes)]
    assert [thread.startswith("athomic-payload") for _, thread, _ in record.seen] == [False, True, False, True, False]

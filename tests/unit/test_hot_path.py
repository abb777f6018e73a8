"""What a message costs, counted in function calls: the same on every machine, and at every speed of it.

All calls count that the event loop's thread makes, ours and those of libraries, Python's and C's: those of unpacking
what was fetched, and those from the moment the strategy has the messages until all are handled. If a path has become
shorter, lower its bound. What the plugin adds to an HTTP request is counted, too.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from packaging.version import Version
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_athomic import Athomic, AthomicSettings, PayloadPipeline, include_athomic
from fastapi_athomic.consumption.partitions import PartitionParts, PartitionState, WorkDone
from fastapi_athomic.consumption.strategies import ConsumptionStrategy
from fastapi_athomic.messages import RawMessage, TopicPartition
from fastapi_athomic.payload.compression import Lz4
from fastapi_athomic.payload.encryption import AesGcm
from fastapi_athomic.payload.steps import Incoming, Outgoing
from fastapi_athomic.propagation.middleware import AthomicMiddleware
from fastapi_athomic.schemas.avro import Avro
from fastapi_athomic.schemas.json_schema import JsonSchema
from fastapi_athomic.schemas.protobuf import Protobuf
from fastapi_athomic.schemas.registry import SchemaRegistry
from tests.support.clock import set_clock
from tests.support.payloads import settled
from tests.support.protoc import generated
from tests.unit.transports.kafka.test_prefetch import START, Fetched, batch

COUNT = 500
TRACEPARENT = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
HEADERS = (TRACEPARENT, ("x-tenant-id", b"acme"))
PYTHON_3_12 = sys.version_info >= (3, 12)
"""It calls less: comprehensions are no functions there (PEP 709), and `secrets.token_hex` calls one of C's, not two."""
TOLERANCE = 1.05
"""Less than a tenth: who adds that much has to say so here."""


class Order(BaseModel):
    number: int


class Step(BaseModel):
    number: int
    shop: str = "s"


class Calls:
    """Counts function calls while it is open."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> Calls:
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: object, event: str, argument: object) -> None:
        self.number += event in ("call", "c_call")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    provider = TracerProvider()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield
    provider.shutdown()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands still: slices would end after another number of messages each time."""
    rooms = ("consumption.lanes", "consumption.batches", "loop.fairness", "loop.load", "loop.turns", "sequencing")
    set_clock(monkeypatch, lambda: -1.0, *rooms)


def new_app(ordering: Any = "partition", **options: Any) -> Athomic:
    athomic = include_athomic(FastAPI(), AthomicSettings())

    async def handle(order: Order) -> None: ...

    async def handle_batch(orders: list[Order]) -> None: ...

    athomic.subscribe_to("t", group_id="g", handler_id="h", ordering=ordering, **options)(
        handle_batch if "batch_size" in options else handle
    )
    return athomic


def new_ordered_app() -> Athomic:
    athomic = include_athomic(FastAPI(), AthomicSettings())

    @athomic.ordered_consumer(
        "t", group_id="g", handler_id="h", aggregate_key_field="shop", sequence_id_field="number", first_sequence=0
    )
    async def handle(step: Step) -> None: ...

    return athomic


def messages(start: int) -> Iterable[RawMessage]:
    for offset in range(start, start + COUNT):
        yield RawMessage("t", 0, offset, 0, b"k%d" % (offset % 50), b'{"number": %d}' % offset, HEADERS)


def strategy_of(athomic: Athomic) -> ConsumptionStrategy:
    """As the factory wires it, without a session around it."""
    manager, _, _ = athomic._assemble()
    session: Any = manager.consumers["h"].life._new_session()
    return session._strategy  # type: ignore[no-any-return]


async def calls_per_message(athomic: Athomic) -> float:
    strategy = strategy_of(athomic)
    parts = PartitionParts(low_mark=0, has_room=lambda: None, work_done=WorkDone())
    state = PartitionState(TopicPartition("t", 0), parts, committed=0)
    for start in (0, COUNT):  # the first time builds what is kept
        with Calls() as calls:
            strategy.accept(state, state.receive(list(messages(start))))
            while state.tracker.outstanding:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
    await strategy.close(1)
    assert state.tracker.position == 2 * COUNT
    return calls.number / COUNT


def check(calls: float, bound: float) -> None:
    assert calls <= bound * TOLERANCE, f"{calls:.2f} calls, {bound} are allowed: the path has grown"
    assert calls >= bound / TOLERANCE, f"{calls:.2f} calls: lower the bound of {bound}"


async def test_a_message_in_partition_order() -> None:
    check(await calls_per_message(new_app()), 19.2)


async def test_a_message_in_key_order() -> None:
    check(await calls_per_message(new_app("key")), 25.7)


async def test_a_message_with_a_recorded_span(traced: None) -> None:
    check(await calls_per_message(new_app()), 178.2)


async def test_a_message_of_a_batch() -> None:
    check(await calls_per_message(new_app(batch_size=100)), 9.4)


async def test_a_message_of_an_ordered_consumer() -> None:
    check(await calls_per_message(new_ordered_app()), 52.7)


def test_a_message_that_is_unpacked() -> None:
    fetched = Fetched(batch(START, range(COUNT)))
    with Calls() as calls:
        messages, _ = fetched.take(COUNT)
    assert len(messages) == COUNT
    check(calls.number / COUNT, 1.03)


def test_a_message_that_is_compressed_and_encrypted() -> None:
    """JSON, lz4 and AES-GCM, all calls counted, also those of the libraries."""
    pipeline = PayloadPipeline([Lz4(min_size=0), AesGcm({"1": bytes(32)})])
    read, order = pipeline.decoder(Order), Order(number=10**40)  # long enough to be compressed
    sent = [Outgoing("t", b"k", HEADERS) for _ in range(2 * COUNT)]
    for part in (sent[:COUNT], sent[COUNT:]):  # the first time builds what is kept
        with Calls() as writing:
            data: list[Any] = [pipeline.write(order, outgoing) for outgoing in part]
        arrived = [
            Incoming("t", b"k", *each) for each in zip(data, (outgoing.headers for outgoing in part), strict=True)
        ]
        with Calls() as reading:
            found = [read(message) for message in arrived]
        assert found == [order] * COUNT
    check(writing.number / COUNT, with_library("cryptography", "44", 31, before=92))
    check(reading.number / COUNT, with_library("cryptography", "44", 24, before=85))


def with_library(package: str, since: str, bound: float, before: float) -> float:
    """The bound, which for an early version of the library is higher: it did more of its work in Python."""
    return bound if Version(version(package)) >= Version(since) else before


ORDER_PROTO = 'syntax = "proto3"; message Order { int64 number = 1; }'


@pytest.mark.parametrize(
    ("serializer", "bound"),
    [
        (lambda registry: Avro(registry, auto_register=True), with_library("fastavro", "1.13", 13, before=15)),
        (
            lambda registry: Protobuf(registry, schema=generated("hot.proto", ORDER_PROTO).Order, auto_register=True),
            with_library("protobuf", "7", 9, before=11),
        ),
        (lambda registry: JsonSchema(registry, auto_register=True), 6),
    ],
    ids=["avro", "protobuf", "json-schema"],
)
async def test_a_message_whose_schema_is_in_a_registry(serializer: Any, bound: float) -> None:
    pipeline = PayloadPipeline([serializer(SchemaRegistry("memory://"))])
    read, outgoing = pipeline.decoder(Order), Outgoing("t")
    data: Any = pipeline.write(Order(number=7), outgoing)
    message = Incoming("t", None, await data, (*HEADERS, *outgoing.headers))
    for _ in range(3):  # the first ones build what is kept
        await settled(read(message))
    with Calls() as calls:
        found = [read(message) for _ in range(COUNT)]
    assert found == [Order(number=7)] * COUNT
    check(calls.number / COUNT, bound)


async def calls_per_request(app: ASGIApp) -> int:
    async def send(message: Message) -> None: ...

    async def receive() -> Message:
        return {"type": "http.request"}

    with Calls() as calls:
        await app({"type": "http", "headers": [(b"host", b"localhost"), (b"accept", b"*/*")]}, receive, send)
    return calls.number


async def test_a_request() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"pong"})

    plugged = AthomicMiddleware(answer, settings=AthomicSettings())
    check(await calls_per_request(plugged) - await calls_per_request(answer), 26 if PYTHON_3_12 else 29)

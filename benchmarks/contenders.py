"""Consumers side by side: the same topic, the same decoding, the same handler.

Each runs in a process of its own: `python -m benchmarks.contenders NAME BOOTSTRAP TOPIC WARM_UP COUNT` prints one
line of JSON. Time is taken from the message after the warm-up to the last one, so that neither joining the group nor
what was prefetched counts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from pydantic import BaseModel


class Order(BaseModel):
    number: int
    key: int
    customer: str
    items: list[str]
    amount: float
    note: str


class Run:
    """Counts and checks what a contender handles."""

    def __init__(self, bootstrap: str, topic: str, warm_up: int, count: int) -> None:
        self.bootstrap, self.topic, self.warm_up, self.last = bootstrap, topic, warm_up, warm_up + count
        self.group = f"bench-{uuid4().hex[:12]}"  # of its own: each run reads the topic from its beginning
        self.handled = 0
        self.wrong = 0  # repeated, or out of order for its key
        self.done = asyncio.Event()
        self._newest: dict[int, int] = {}
        self._began = self._began_cpu = self._seconds = self._cpu = 0.0

    def note(self, order: Order) -> None:
        newest = self._newest
        if order.number <= newest.get(order.key, -1):
            self.wrong += 1
        newest[order.key] = order.number
        self.handled += 1
        if self.handled == self.warm_up:
            self._began, self._began_cpu = time.perf_counter(), time.process_time()
        elif self.handled == self.last:
            self._seconds = time.perf_counter() - self._began
            self._cpu = time.process_time() - self._began_cpu
            self.done.set()

    def result(self) -> dict[str, Any]:
        measured = self.last - self.warm_up
        return {
            "handled": self.handled,
            "wrong": self.wrong,
            "per_second": measured / self._seconds,
            "cpu_us": self._cpu / measured * 1e6,
        }


def consumer(run: Run) -> Any:
    from aiokafka import AIOKafkaConsumer

    return AIOKafkaConsumer(
        run.topic,
        bootstrap_servers=run.bootstrap,
        group_id=run.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=250,
    )


async def hand_written(run: Run) -> None:
    """What teams write by hand: poll, decode, await the handler, commit per poll."""

    async def handle(order: Order) -> None:
        run.note(order)

    async with consumer(run) as client:
        while not run.done.is_set():
            for messages in (await client.getmany(timeout_ms=200, max_records=500)).values():
                for message in messages:
                    await handle(Order.model_validate_json(message.value))
            await client.commit()


async def hand_written_traced(run: Run) -> None:
    """The same with a recorded span per message, its parent taken from the headers."""
    from opentelemetry import propagate, trace

    provider = traced()
    tracer = provider.get_tracer("bench")

    async def handle(order: Order) -> None:
        run.note(order)

    async with consumer(run) as client:
        while not run.done.is_set():
            for messages in (await client.getmany(timeout_ms=200, max_records=500)).values():
                for message in messages:
                    carrier = {name: value.decode() for name, value in message.headers}
                    parent = propagate.extract(carrier)
                    with tracer.start_as_current_span("process", parent, trace.SpanKind.CONSUMER):
                        await handle(Order.model_validate_json(message.value))
            await client.commit()


async def hand_written_batch(run: Run) -> None:
    async def handle(orders: list[Order]) -> None:
        for order in orders:
            run.note(order)

    async with consumer(run) as client:
        while not run.done.is_set():
            for messages in (await client.getmany(timeout_ms=200, max_records=500)).values():
                await handle([Order.model_validate_json(message.value) for message in messages])
            await client.commit()


def traced() -> Any:
    """An SDK that records every span and throws it away."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)
    return provider


async def ours(run: Run, **options: Any) -> None:
    from fastapi import FastAPI

    from fastapi_athomic import AthomicSettings, include_athomic

    athomic = include_athomic(FastAPI(), AthomicSettings(broker_url=f"kafka://{run.bootstrap}"))
    if "batch_size" in options:

        @athomic.subscribe_to(run.topic, group_id=run.group, handler_id="bench", **options)
        async def handle_batch(orders: list[Order]) -> None:
            for order in orders:
                run.note(order)
    else:

        @athomic.subscribe_to(run.topic, group_id=run.group, handler_id="bench", **options)
        async def handle(order: Order) -> None:
            run.note(order)

    async with athomic.app.router.lifespan_context(athomic.app):
        await run.done.wait()


async def ours_traced(run: Run) -> None:
    traced()
    await ours(run)


async def ours_batch(run: Run) -> None:
    await ours(run, batch_size=500)


async def faststream(run: Run, **options: Any) -> None:
    from faststream.kafka import KafkaBroker

    broker = KafkaBroker(run.bootstrap, middlewares=options.pop("middlewares", ()), logger=None)
    subscribe: Any = broker.subscriber(run.topic, group_id=run.group, auto_offset_reset="earliest", **options)

    async def handle_batch(orders: list[Order]) -> None:
        for order in orders:
            run.note(order)

    async def handle(order: Order) -> None:
        run.note(order)

    subscribe(handle_batch if options.get("batch") else handle)
    await broker.start()
    await run.done.wait()
    await broker.stop()


async def faststream_at_least_once(run: Run) -> None:
    from faststream import AckPolicy

    await faststream(run, ack_policy=AckPolicy.REJECT_ON_ERROR)


async def faststream_traced(run: Run) -> None:
    from faststream.kafka.opentelemetry import KafkaTelemetryMiddleware

    await faststream(run, middlewares=(KafkaTelemetryMiddleware(tracer_provider=traced()),))


async def faststream_batch(run: Run) -> None:
    await faststream(run, batch=True, max_records=500)


CONTENDERS: dict[str, Callable[[Run], Awaitable[None]]] = {
    "hand-written": hand_written,
    "hand-written traced": hand_written_traced,
    "hand-written batch": hand_written_batch,
    "fastapi-athomic": ours,
    "fastapi-athomic traced": ours_traced,
    "fastapi-athomic batch": ours_batch,
    "FastStream": faststream,
    "FastStream at least once": faststream_at_least_once,
    "FastStream traced": faststream_traced,
    "FastStream batch": faststream_batch,
}


async def main(name: str, bootstrap: str, topic: str, warm_up: str, count: str) -> None:
    run = Run(bootstrap, topic, int(warm_up), int(count))
    await CONTENDERS[name](run)
    print(json.dumps(run.result()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

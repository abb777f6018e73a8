"""Consumers side by side: the same topic, the same decoding, the same handler.

Each runs in a process of its own: `python -m benchmarks.contenders KIND NAME BOOTSTRAP TOPIC WARM_UP COUNT` prints
one line of JSON. The time runs from the first message after the warm-up to the last one, so that joining the group and
prefetched messages do not count.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Literal
from uuid import uuid4

from benchmarks.builds import OURS, check_build
from benchmarks.workload import Order

IO_SECONDS = 0.005
IN_FLIGHT = 1_000
BUFFERED = 5_000


class Run:
    """Counts and checks what a contender handles: each number of a key once and in order."""

    def __init__(self, bootstrap: str, topic: str, warm_up: int, count: int) -> None:
        self.bootstrap, self.topic, self.warm_up, self.last = bootstrap, topic, warm_up, warm_up + count
        self.group = f"bench-{uuid4().hex[:12]}"  # a new group, so that each run reads the topic from its beginning
        self.handled = 0
        self.wrong = 0  # lost, repeated, or out of order for its key
        self.done = asyncio.Event()
        self._loop = asyncio.get_running_loop()  # a contender may handle messages in another thread
        self._newest: dict[int, int] = {}
        self._began = self._began_cpu = self._seconds = self._cpu = 0.0

    def note(self, order: Order) -> None:
        newest = self._newest
        if order.number != newest.get(order.key, -1) + 1:
            self.wrong += 1
        newest[order.key] = order.number
        self.count()

    def count(self) -> None:
        self.handled += 1
        if self.handled == self.warm_up:
            self._began, self._began_cpu = time.perf_counter(), time.process_time()
        elif self.handled == self.last:
            self._seconds = time.perf_counter() - self._began
            self._cpu = time.process_time() - self._began_cpu
            self._loop.call_soon_threadsafe(self.done.set)

    def result(self) -> dict[str, float]:
        measured = self.last - self.warm_up
        return {
            "wrong": self.wrong,
            "messages/s": measured / self._seconds,
            "CPU per message": self._cpu / measured * 1e6,
        }


class UnorderedRun(Run):
    """For contenders that promise no order: checks only that each message comes once."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seen: set[tuple[int, int]] = set()

    def note(self, order: Order) -> None:
        place = (order.key, order.number)
        self.wrong += place in self._seen
        self._seen.add(place)
        self.count()


class LatencyRun(Run):
    """Measures how long messages take from `publish` to the handler."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._waits: list[int] = []  # nanoseconds

    def note(self, order: Order) -> None:
        if self.handled >= self.warm_up:
            self._waits.append(time.monotonic_ns() - order.sent)
        super().note(order)

    def result(self) -> dict[str, float]:
        waits = sorted(self._waits)
        return {"wrong": self.wrong} | {
            name: waits[int(len(waits) * share)] / 1e6 for name, share in {"p50": 0.5, "p99": 0.99}.items()
        }


Kind = Literal["rate", "unordered", "latency"]
KINDS: dict[Kind, type[Run]] = {"rate": Run, "unordered": UnorderedRun, "latency": LatencyRun}


def consumer(run: Run, *, enable_auto_commit: bool = False) -> Any:
    from aiokafka import AIOKafkaConsumer

    return AIOKafkaConsumer(
        run.topic,
        bootstrap_servers=run.bootstrap,
        group_id=run.group,
        enable_auto_commit=enable_auto_commit,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=250,
    )


# --- what teams write by hand


async def hand_written(run: Run) -> None:
    """Polls, decodes, awaits the handler, and commits once per poll."""

    async def handle(order: Order) -> None:
        run.note(order)

    async with consumer(run) as client:
        while not run.done.is_set():
            for messages in (await client.getmany(timeout_ms=200, max_records=500)).values():
                for message in messages:
                    await handle(Order.model_validate_json(message.value))
            await client.commit()


async def one_by_one(run: Run) -> None:
    """`async for`, with the client's auto-commit."""

    async def handle(order: Order) -> None:
        run.note(order)

    async with consumer(run, enable_auto_commit=True) as client:
        async for message in client:
            await handle(Order.model_validate_json(message.value))
            if run.done.is_set():
                break


async def hand_written_traced(run: Run) -> None:
    """With a recorded span per message, whose parent comes from the headers."""
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


class Pending:
    """The offsets of one partition that are not committed yet, in order."""

    def __init__(self) -> None:
        self.offsets: deque[int] = deque()
        self.done: set[int] = set()

    def to_commit(self) -> int | None:
        """The offset below which everything is done; None if it has not moved."""
        last = None
        while self.offsets and self.offsets[0] in self.done:
            last = self.offsets.popleft()
            self.done.remove(last)
        return None if last is None else last + 1


async def hand_written_lanes(run: Run) -> None:
    """Order by key, `IN_FLIGHT` at once, with a task for each key that has messages; commits what is done."""
    lanes: dict[bytes, deque[Any]] = {}
    running, room = asyncio.Semaphore(IN_FLIGHT), asyncio.Semaphore(BUFFERED)
    pending: dict[int, Pending] = {}
    tasks: set[asyncio.Task[None]] = set()

    async def lane(key: bytes, waiting: deque[Any]) -> None:
        while waiting:
            message = waiting[0]
            async with running:
                await handle_after_io(run, Order.model_validate_json(message.value))
            waiting.popleft()
            pending[message.partition].done.add(message.offset)
            room.release()
        del lanes[key]

    async def commit(client: Any) -> None:
        from aiokafka import TopicPartition

        while True:
            await asyncio.sleep(0.05)
            offsets = {TopicPartition(run.topic, number): of.to_commit() for number, of in pending.items()}
            if moved := {partition: offset for partition, offset in offsets.items() if offset is not None}:
                await client.commit(moved)

    async with consumer(run) as client:
        committing = asyncio.create_task(commit(client))
        while not run.done.is_set():
            for partition, messages in (await client.getmany(timeout_ms=200, max_records=500)).items():
                noted = pending.setdefault(partition.partition, Pending())
                for message in messages:
                    await room.acquire()
                    noted.offsets.append(message.offset)
                    if waiting := lanes.get(message.key):
                        waiting.append(message)
                        continue
                    lanes[message.key] = waiting = deque([message])
                    task = asyncio.create_task(lane(message.key, waiting))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
        committing.cancel()


async def handle_after_io(run: Run, order: Order) -> None:
    await asyncio.sleep(IO_SECONDS)
    run.note(order)


def traced() -> Any:
    """An OpenTelemetry SDK that records every span and throws it away."""
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


# --- ours


async def ours(run: Run, isolation: Literal["loop", "thread"] = "loop", **options: Any) -> None:
    from fastapi import FastAPI

    from fastapi_athomic import AthomicSettings, include_athomic

    check_build()
    settings = AthomicSettings(broker_url=f"kafka://{run.bootstrap}", isolation=isolation)
    athomic = include_athomic(FastAPI(), settings)

    async def handle(order: Order) -> None:
        run.note(order)

    async def handle_batch(orders: list[Order]) -> None:
        for order in orders:
            run.note(order)

    async def handle_io(order: Order) -> None:
        await handle_after_io(run, order)

    handler: Any = handle_batch if "batch_size" in options else handle_io if "concurrency" in options else handle
    athomic.subscribe_to(run.topic, group_id=run.group, handler_id="bench", **options)(handler)
    async with athomic.app.router.lifespan_context(athomic.app):
        await run.done.wait()


async def ours_in_a_thread(run: Run) -> None:
    await ours(run, "thread")


async def ours_traced(run: Run) -> None:
    traced()
    await ours(run)


async def ours_batch(run: Run) -> None:
    await ours(run, batch_size=500)


async def ours_lanes(run: Run) -> None:
    await ours(run, ordering="key", concurrency=IN_FLIGHT)


# --- peers


async def faststream(run: Run, **options: Any) -> None:
    from faststream.kafka import KafkaBroker

    broker = KafkaBroker(run.bootstrap, middlewares=options.pop("middlewares", ()), logger=None)
    subscribe: Any = broker.subscriber(run.topic, group_id=run.group, auto_offset_reset="earliest", **options)

    async def handle_batch(orders: list[Order]) -> None:
        for order in orders:
            run.note(order)

    async def handle(order: Order) -> None:
        run.note(order)

    async def handle_io(order: Order) -> None:
        await handle_after_io(run, order)

    subscribe(handle_batch if options.get("batch") else handle_io if "max_workers" in options else handle)
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


async def faststream_100_workers(run: Run) -> None:
    await faststream(run, max_workers=100)


async def faststream_1000_workers(run: Run) -> None:
    await faststream(run, max_workers=1_000)


async def kstreams(run: Run) -> None:
    from kstreams import ConsumerRecord, create_engine
    from kstreams.backends.kafka import Kafka

    engine = create_engine(title="bench", backend=Kafka(bootstrap_servers=[run.bootstrap]))

    async def handle(record: Any) -> None:
        run.note(Order.model_validate_json(record.value))

    handle.__annotations__["record"] = ConsumerRecord  # it does not accept annotations that are strings
    engine.stream(run.topic, group_id=run.group, auto_offset_reset="earliest")(handle)

    await engine.start()
    await run.done.wait()
    await engine.stop()


HAND = "hand-written"
IN_A_THREAD = f"{OURS}, isolation=thread"

CONTENDERS: dict[str, Callable[[Run], Awaitable[None]]] = {
    HAND: hand_written,
    "hand-written, traced": hand_written_traced,
    "hand-written, batch": hand_written_batch,
    "hand-written, key lanes": hand_written_lanes,
    "aiokafka, async for": one_by_one,
    OURS: ours,
    IN_A_THREAD: ours_in_a_thread,
    "fastapi-athomic, traced": ours_traced,
    "fastapi-athomic, batch": ours_batch,
    "fastapi-athomic, key lanes": ours_lanes,
    "kstreams": kstreams,
    "FastStream": faststream,
    "FastStream, at least once": faststream_at_least_once,
    "FastStream, traced": faststream_traced,
    "FastStream, batch": faststream_batch,
    "FastStream, 100 workers": faststream_100_workers,
    "FastStream, 1000 workers": faststream_1000_workers,
}


async def main(kind: Kind, name: str, bootstrap: str, topic: str, warm_up: str, count: str) -> None:
    run = KINDS[kind](bootstrap, topic, int(warm_up), int(count))
    await CONTENDERS[name](run)
    print(json.dumps(run.result()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))  # type: ignore[arg-type]

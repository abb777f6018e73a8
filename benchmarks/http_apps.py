"""Web services that drain a backlog beside their routes. `BENCH_APP` names one, and uvicorn runs it.

Each has `GET /ping` and `GET /handled`, and a handler that keeps a core busy for `WORK_SECONDS`, or with `BENCH_WORK`
numpy multiplies matrices. `BENCH_CORES` lists the cores that it may run on; by default all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import monotonic, perf_counter
from typing import Any, Literal

from fastapi import FastAPI

from benchmarks.builds import check_build
from benchmarks.workload import Order

BOOTSTRAP = os.environ.get("BENCH_BOOTSTRAP", "")
TOPIC = os.environ.get("BENCH_TOPIC", "")
GROUP = os.environ.get("BENCH_GROUP", "")
WORK_SECONDS = 0.0001
MATRIX_SIZE = 512
"""A product of two such matrices takes one to three milliseconds. numpy lets go of the GIL meanwhile."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Work:
    """What the handlers do: keep a core busy, count, and check the order."""

    def __init__(self, compute: Callable[[], object]) -> None:
        self.handled = 0
        self.wrong = 0  # lost, repeated, or out of order for its key
        self._compute = compute
        self._newest: dict[int, int] = {}

    async def handle(self, order: Order) -> None:
        self._compute()
        self.wrong += order.number != self._newest.get(order.key, -1) + 1
        self._newest[order.key] = order.number
        self.handled += 1


def stay_busy() -> None:
    end = perf_counter() + WORK_SECONDS
    while perf_counter() < end:
        pass


def product() -> Callable[[], object]:
    import numpy

    matrix = numpy.ones((MATRIX_SIZE, MATRIX_SIZE), dtype=numpy.float32)
    return lambda: matrix @ matrix


work = Work(product() if os.environ.get("BENCH_WORK") == "numpy" else stay_busy)


def new_app(lifespan: Lifespan | None = None) -> FastAPI:
    app = FastAPI(lifespan=lifespan)

    @app.get("/ping")
    async def ping() -> str:
        return "pong"

    @app.get("/handled")
    async def handled() -> dict[str, int]:
        return {"handled": work.handled, "wrong": work.wrong}

    return app


def hand_written(slice_seconds: float | None = None) -> FastAPI:
    """The loop that teams write by hand. With `slice_seconds` it yields to the event loop after working for so long."""

    async def consume(client: Any) -> None:
        look_up_at = monotonic()
        while True:
            for messages in (await client.getmany(timeout_ms=200, max_records=500)).values():
                for message in messages:
                    await work.handle(Order.model_validate_json(message.value))
                    if slice_seconds is not None and monotonic() > look_up_at:
                        await asyncio.sleep(0)
                        look_up_at = monotonic() + slice_seconds
            await client.commit()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        from aiokafka import AIOKafkaConsumer

        client = AIOKafkaConsumer(
            TOPIC,
            bootstrap_servers=BOOTSTRAP,
            group_id=GROUP,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=250,
        )
        await client.start()
        consuming = asyncio.create_task(consume(client))
        yield
        consuming.cancel()
        await client.stop()

    return new_app(lifespan)


def ours(isolation: Literal["loop", "thread"]) -> FastAPI:
    from fastapi_athomic import AthomicSettings, include_athomic

    check_build()
    app = new_app()
    athomic = include_athomic(app, AthomicSettings(broker_url=f"kafka://{BOOTSTRAP}", isolation=isolation))

    @athomic.subscribe_to(TOPIC, group_id=GROUP, handler_id="bench")
    async def handle(order: Order) -> None:
        await work.handle(order)

    return app


def faststream() -> FastAPI:
    from faststream.kafka import KafkaBroker

    broker = KafkaBroker(BOOTSTRAP, logger=None)

    async def handle(order: Order) -> None:
        await work.handle(order)

    subscribe: Any = broker.subscriber(TOPIC, group_id=GROUP, auto_offset_reset="earliest")
    subscribe(handle)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await broker.start()
        yield
        await broker.stop()

    return new_app(lifespan)


APPS: dict[str, Callable[[], FastAPI]] = {
    "no consumer": new_app,
    "hand-written": hand_written,
    "hand-written, yields every 1 ms": lambda: hand_written(0.001),
    "FastStream": faststream,
    "fastapi-athomic": lambda: ours("loop"),
    "fastapi-athomic, isolation=thread": lambda: ours("thread"),
}


def app() -> FastAPI:
    """For `uvicorn --factory`."""
    if cores := os.environ.get("BENCH_CORES"):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    return APPS[os.environ["BENCH_APP"]]()

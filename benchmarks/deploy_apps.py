"""The service that is deployed again and again. `BENCH_APP` names the contender, and uvicorn runs it.

Its handler notes each message in a file that all its processes write to, so that no restart forgets one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

from benchmarks.builds import OURS
from benchmarks.everyday_apps import BOOTSTRAP, TOPICS, Handler, faststream, ours
from benchmarks.workload import Order

WORK_SECONDS = 0.003
CONCURRENCY = 50
"""Of ours, which keeps the order of each key meanwhile. The others have no such thing: they take one at a time."""
HAND = "hand-written"
READY_PATHS = {OURS: "/consumers/health/startup"}
"""What answers when a process has its partitions. The lifespan of the others waits for them, so any route does."""


def handler() -> Handler:
    record = os.open(os.environ["BENCH_RECORD"], os.O_WRONLY | os.O_APPEND)

    async def handle(order: Order) -> None:
        began = time.monotonic_ns()
        await asyncio.sleep(WORK_SECONDS)
        os.write(record, b"%d %d %d %d %d\n" % (order.sent, began, time.monotonic_ns(), order.key, order.number))

    return handle


def hand_written(subscriptions: Mapping[str, Handler]) -> Any:
    """Polls, decodes, awaits the handler, and commits once per poll. When it is to end, it does what it has polled."""
    ((topic, handle),) = subscriptions.items()

    async def consume(client: Any, ending: asyncio.Event) -> None:
        from aiokafka.errors import KafkaError

        while not ending.is_set():
            for messages in (await client.getmany(timeout_ms=200, max_records=500)).values():
                for message in messages:
                    await handle(Order.model_validate_json(message.value))
            with suppress(KafkaError):  # the group has been divided anew meanwhile
                await client.commit()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        from aiokafka import AIOKafkaConsumer

        servers, policy, ending = {"bootstrap_servers": BOOTSTRAP}, {"auto_offset_reset": "earliest"}, asyncio.Event()
        client = AIOKafkaConsumer(topic, group_id=topic, enable_auto_commit=False, **servers, **policy)
        await client.start()
        consuming = asyncio.create_task(consume(client, ending))
        yield
        ending.set()
        await consuming
        await client.stop()

    return lifespan


def app() -> FastAPI:
    """For `uvicorn --factory`."""
    subscriptions = {topic: handler() for topic in TOPICS}
    match os.environ["BENCH_APP"]:
        case "hand-written":
            app = FastAPI(lifespan=hand_written(subscriptions))
        case "FastStream":
            app = FastAPI(lifespan=faststream(subscriptions))
        case _:
            app = FastAPI()
            ours(app, subscriptions, ordering="key", concurrency=CONCURRENCY)

    @app.get("/")
    async def here() -> None: ...

    return app

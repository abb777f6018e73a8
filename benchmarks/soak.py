"""F8: memory and rate while millions of messages go by.

Each app runs in a process of its own: `python -m benchmarks.soak memory COUNT`, `... without COUNT` (the same app and
messages without a consumer), `... kafka BOOTSTRAP TOPIC COUNT`. It prints a line of JSON each second.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import islice

import psutil
from fastapi import FastAPI

from benchmarks.builds import check_build
from benchmarks.contenders import Run
from benchmarks.workload import Order, keys_of
from fastapi_athomic import Athomic, AthomicSettings, include_athomic

CHUNK, AHEAD, RETAINED = 500, 5_000, 10_000
MEGABYTE = 1_048_576


def new_app(broker_url: str) -> Athomic:
    check_build()
    memory = {"partitions": 4, "retention_messages": RETAINED}
    return include_athomic(FastAPI(), AthomicSettings.model_validate({"broker_url": broker_url, "memory": memory}))


def subscribe(athomic: Athomic, run: Run) -> None:
    @athomic.subscribe_to(run.topic, group_id=run.group, handler_id="soak")
    async def handle(order: Order) -> None:
        run.note(order)


async def sample(run: Run) -> None:
    process, began = psutil.Process(), time.monotonic()
    while True:
        seconds = time.monotonic() - began
        resident = process.memory_info().rss / MEGABYTE
        print(json.dumps({"seconds": seconds, "handled": run.handled, "resident": resident}), flush=True)
        await asyncio.sleep(1)


async def publish(athomic: Athomic, run: Run, *, consumed: bool) -> None:
    numbers: dict[int, int] = {}
    keys = keys_of("uniform", run.last)
    sent = 0
    while chunk := list(islice(keys, CHUNK)):
        orders = []
        for key in chunk:
            numbers[key] = number = numbers.get(key, -1) + 1
            orders.append(
                Order(number=number, key=key, sent=0, customer=f"c{key}", items=["a", "b"], amount=1.5, note="x" * 50)
            )
        await athomic.publish_many(run.topic, orders, key=lambda order: str(order.key))
        sent += len(orders)
        if not consumed:
            run.handled = sent
        while consumed and sent - run.handled > AHEAD:  # noqa: ASYNC110 - an event would cost each message
            await asyncio.sleep(0.001)


async def soak(run: Run, athomic: Athomic, *, publishes: bool, consumed: bool) -> None:
    if consumed:
        subscribe(athomic, run)
    async with athomic.app.router.lifespan_context(athomic.app):
        await athomic.wait_until_ready()
        sampling = asyncio.create_task(sample(run))
        if publishes:
            await publish(athomic, run, consumed=consumed)
        if consumed:
            await run.done.wait()
        await asyncio.sleep(1)
        sampling.cancel()
    print(json.dumps({"wrong": run.wrong, "handled": run.handled}))


async def main(scenario: str, *arguments: str) -> None:
    if scenario == "kafka":
        bootstrap, topic, count = arguments
        run = Run(bootstrap, topic, 1, int(count) - 1)
        await soak(run, new_app(f"kafka://{bootstrap}"), publishes=False, consumed=True)
    else:
        run = Run("", "orders", 1, int(arguments[0]) - 1)
        await soak(run, new_app("memory://"), publishes=True, consumed=scenario == "memory")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

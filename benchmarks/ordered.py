"""F6: the speed of an ordered consumer on Redis, and its round trips to Redis.

Each run is a process of its own: `python -m benchmarks.ordered BOOTSTRAP TOPIC REDIS_URL WARM_UP COUNT ISOLATION`
prints one line of JSON. Redis counts the round trips, from the first message to the last. Fetched batches are the
non-empty lists of messages of one partition that the strategy gets.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from benchmarks.builds import check_build
from benchmarks.contenders import Run
from benchmarks.workload import Order
from tests.support.redis_server import start_redis

NAMES: Mapping[str, Literal["loop", "thread"]] = {
    "fastapi-athomic, ordered": "loop",
    "fastapi-athomic, ordered, isolation=thread": "thread",
}
ROUND_TRIPS = "round trips per batch"


@contextmanager
def running_redis() -> Iterator[str]:
    """Yields the URL of a Redis that writes an append-only file, with the defaults of `appendonly`."""
    with tempfile.TemporaryDirectory() as directory:
        server = start_redis(Path(directory) / "redis")
        try:
            yield server.url
        finally:
            server.stop()


def ordered_strategy() -> Any:
    """The class, which had another place in old builds."""
    try:
        return import_module("fastapi_athomic.sequencing.strategy").OrderedStrategy
    except ModuleNotFoundError:
        return import_module("fastapi_athomic.ordering").OrderedStrategy


class Batches:
    """Counts the batches that the strategy gets."""

    def __init__(self) -> None:
        self.number = 0
        strategy = ordered_strategy()
        self._accept: Callable[[Any, Any, Sequence[Any]], None] = strategy.accept
        strategy.accept = lambda *given: self.accept(*given)

    def accept(self, strategy: Any, partition: Any, messages: Sequence[Any]) -> None:
        self.number += bool(messages)
        self._accept(strategy, partition, messages)


async def round_trips(client: Any) -> int:
    """How many scripts were run and loaded. Commands inside a script are not round trips."""
    found: dict[str, dict[str, int]] = await client.info("commandstats")
    names = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_script", "cmdstat_script|load")
    return sum(int(found[name]["calls"]) for name in names if name in found)


async def measure(
    bootstrap: str, topic: str, url: str, warm_up: int, count: int, isolation: Literal["loop", "thread"]
) -> dict[str, float]:
    from fastapi import FastAPI
    from pydantic import SecretStr
    from redis.asyncio import Redis

    from fastapi_athomic import AthomicSettings, include_athomic

    check_build()
    batches = Batches()
    settings = AthomicSettings(broker_url=f"kafka://{bootstrap}", isolation=isolation, state_store_url=SecretStr(url))
    athomic = include_athomic(FastAPI(), settings)
    run = Run(bootstrap, topic, warm_up, count)

    @athomic.ordered_consumer(
        topic, group_id=run.group, aggregate_key_field="key", sequence_id_field="number", first_sequence=0
    )
    async def handle(order: Order) -> None:
        run.note(order)

    async with Redis.from_url(url) as client:
        before = await round_trips(client)
        async with athomic.app.router.lifespan_context(athomic.app):
            await run.done.wait()
            asked = await round_trips(client) - before
    return run.result() | {ROUND_TRIPS: asked / batches.number}


async def main(bootstrap: str, topic: str, url: str, warm_up: str, count: str, isolation: Any) -> None:
    print(json.dumps(await measure(bootstrap, topic, url, int(warm_up), int(count), isolation)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

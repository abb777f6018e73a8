"""The app that `benchmarks.heavy` measures: a handler that computes, in each way of docs/heavy-computation.md."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing import get_context
from typing import Any

import numpy as np
from fastapi import FastAPI

from fastapi_athomic import AthomicSettings, include_athomic

SIZE = 3_000
"""Of the model: a matrix of so many rows and columns, through which each message goes once."""
BATCH = 32
PROCESSES = 2
way = os.environ.get("BENCH_WAY", "loop")
work = os.environ.get("BENCH_WORK", "numpy")
model = np.ones((SIZE, SIZE), dtype=np.float32)
pool: ProcessPoolExecutor


def infer(number: int) -> float:
    """A vector through the model. numpy lets go of the GIL meanwhile."""
    return float((np.full(SIZE, number, dtype=np.float32) @ model).sum())


def infer_all(numbers: list[int]) -> list[float]:
    """All of them at once: the model is read from memory once, not once for each."""
    rows = np.full((len(numbers), SIZE), 1, dtype=np.float32) * np.array(numbers, dtype=np.float32)[:, None]
    return [float(row.sum()) for row in rows @ model]


def count(number: int) -> float:
    """Plain Python, which holds the GIL."""
    total = 0
    for each in range(120_000):
        total += each ^ number
    return float(total)


compute: Callable[[int], float] = infer if work == "numpy" else count


def compute_all(numbers: list[int]) -> list[float]:
    return infer_all(numbers) if work == "numpy" else [count(number) for number in numbers]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global pool
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        if way == "process":
            await asyncio.gather(*(asyncio.wrap_future(pool.submit(compute, each)) for each in range(2 * PROCESSES)))
        compute(1)
        yield


app = FastAPI(lifespan=lifespan)
settings = AthomicSettings(broker_url="memory://", isolation="thread" if way == "isolation" else "loop")
athomic = include_athomic(app, settings)
handled = 0
began = ended = 0.0


def note(messages: int = 1) -> None:
    global handled, ended
    handled += messages
    ended = time.monotonic()


async def in_the_loop(number: int) -> None:
    compute(number)
    note()


def in_a_thread(number: int) -> None:
    compute(number)
    note()


async def in_a_process(number: int) -> None:
    await asyncio.wrap_future(pool.submit(compute, number))
    note()


def in_a_batch(numbers: list[int]) -> None:
    compute_all(numbers)
    note(len(numbers))


def subscribe(handler: Callable[..., Any], **options: Any) -> None:
    athomic.subscribe_to("numbers", group_id="bench", handler_id="bench", **options)(handler)


match way:
    case "loop" | "isolation":
        subscribe(in_the_loop)
    case "thread":
        subscribe(in_a_thread, ordering="none", concurrency=PROCESSES)
    case "process":
        subscribe(in_a_process, ordering="none", concurrency=2 * PROCESSES)
    case "batch":
        subscribe(in_a_batch, batch_size=BATCH, batch_linger_ms=5)


@app.post("/begin")
async def begin(messages: int) -> None:
    global began
    began = time.monotonic()
    await athomic.publish_many("numbers", list(range(messages)))


@app.get("/done")
async def done() -> dict[str, float]:
    return {"handled": handled, "seconds": ended - began}


@app.get("/ping")
async def ping() -> None: ...

"""The app that `benchmarks.workers` runs: its handler computes, or waits, for a given time."""

from __future__ import annotations

import asyncio
import os
import time

from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import include_athomic, subscribe_to

TOPIC = os.environ["BENCH_TOPIC"]
SECONDS = float(os.environ["BENCH_SECONDS"])
app = FastAPI()
include_athomic(app)


class Message(BaseModel):
    number: int


async def compute(message: Message) -> None:
    """Uses up the processor: time of this thread, so that a busy machine does not shorten the work."""
    end = time.thread_time() + SECONDS
    while time.thread_time() < end:
        pass


async def wait(message: Message) -> None:
    await asyncio.sleep(SECONDS)


handler = {"compute": compute, "wait": wait}[os.environ["BENCH_HANDLER"]]
subscribe_to(TOPIC, group_id=TOPIC, handler_id="bench", concurrency=8)(handler)

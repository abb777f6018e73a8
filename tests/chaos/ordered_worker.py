"""The app with an ordered consumer that chaos tests attack. uvicorn runs it in processes of its own."""

from __future__ import annotations

import asyncio
import os
import random
import time

from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import RetryPolicy, include_athomic, ordered_consumer

app = FastAPI()
include_athomic(app)
record = os.open(os.environ["CHAOS_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Numbered(BaseModel):
    key: str
    sequence: int


class InjectedError(Exception):
    """The error that the handler raises now and then."""


@ordered_consumer(
    os.environ["CHAOS_TOPIC"],
    group_id=os.environ["CHAOS_TOPIC"],
    handler_id="worker",
    aggregate_key_field="key",
    sequence_id_field="sequence",
    concurrency=10,
    retry=RetryPolicy(max_attempts=0, delay=0.01, max_delay=0.05),
)
async def handle(message: Numbered) -> None:
    """Notes each handling with one write to a file, which survives however the process dies."""
    began = time.monotonic_ns()
    await asyncio.sleep(0.002)
    if random.random() < 0.01:
        raise InjectedError
    line = f"{began} {time.monotonic_ns()} {os.getpid()} {message.key} {message.sequence}\n"
    os.write(record, line.encode())

"""The service that chaos tests attack. uvicorn runs it in processes of its own; the environment says what it does."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import RetryPolicy, include_athomic, subscribe_to

TOPIC = os.environ["CHAOS_TOPIC"]
HANDLER_SECONDS = float(os.environ.get("CHAOS_HANDLER_SECONDS", "0.02"))
FAILURES = float(os.environ.get("CHAOS_FAILURES", "0"))  # the share of attempts that fail
GATE = Path(os.environ.get("CHAOS_GATE", os.devnull))  # messages with `slow` take until this file exists

app = FastAPI()
include_athomic(app)
record = os.open(os.environ["CHAOS_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Numbered(BaseModel):
    key: str
    sequence: int
    slow: bool = False


class InjectedError(Exception):
    """The error that the handler raises now and then."""


async def handle(message: Numbered) -> None:
    """Notes each handling with one write to a file, which survives however the process dies."""
    began = time.monotonic_ns()
    await asyncio.sleep(HANDLER_SECONDS)
    while message.slow and not GATE.exists():  # noqa: ASYNC110, ASYNC240 - the test is another process
        await asyncio.sleep(0.05)
    if random.random() < FAILURES:
        raise InjectedError
    line = f"{began} {time.monotonic_ns()} {os.getpid()} {message.key} {message.sequence}\n"
    os.write(record, line.encode())


def note_start(message: Numbered) -> None:
    now = time.monotonic_ns()
    os.write(record, f"{now} {now} {os.getpid()} {message.key} {message.sequence}\n".encode())


async def stubborn(message: Numbered) -> None:
    """Never ends, even when cancelled."""
    note_start(message)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


def thread(message: Numbered) -> None:
    """Never ends; runs in a thread, which cannot be cancelled."""
    note_start(message)
    time.sleep(1e6)


async def blocking(message: Numbered) -> None:
    """Blocks the event loop for good."""
    note_start(message)
    time.sleep(1e6)  # noqa: ASYNC251 - that is what it is for


subscribe_to(
    TOPIC,
    group_id=TOPIC,
    handler_id="worker",
    ordering=os.environ.get("CHAOS_ORDERING", "key"),  # type: ignore[arg-type]
    concurrency=int(os.environ.get("CHAOS_CONCURRENCY", "50")),
    retry=RetryPolicy(max_attempts=0, delay=0.02, max_delay=0.2),
)(
    {"handle": handle, "stubborn": stubborn, "thread": thread, "blocking": blocking}[
        os.environ.get("CHAOS_HANDLER", "handle")
    ]
)

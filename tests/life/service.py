"""The service that lives: handlers of every kind side by side, run by uvicorn in processes of their own."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel

from fastapi_athomic import (
    AthomicError,
    DeliveryAttempt,
    RawMessage,
    RetryPolicy,
    include_athomic,
    ordered_consumer,
    subscribe_to,
)

from . import timers
from .handlers import Options, group_of

timers.shorten()

PREFIX = os.environ["LIFE_PREFIX"]
OPTIONS = Options.from_json(os.environ["LIFE_OPTIONS"])
FLAGS = Path(os.environ["LIFE_FLAGS"])
record = os.open(os.environ["LIFE_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

app = FastAPI()
athomic = include_athomic(app)


class Deed(BaseModel):
    """What a message makes its handlers do. `at`: only these handlers; empty: all."""

    kind: str
    at: list[str] = []
    flag: str = ""


class Numbered(BaseModel):
    topic: str
    key: str
    sequence: int
    deed: Deed | None = None
    padding: str = ""


class InjectedError(Exception):
    """The error that handlers fail with."""


class NonsenseError(Exception):
    """An error for which the retry policy's delay function fails."""


class Panic(BaseException):
    """A `BaseException`, like the panics of a Rust extension."""


def delay(attempt: int, error: BaseException) -> float:
    if isinstance(error, NonsenseError):
        raise ValueError("no such delay")
    return 0.02 * attempt


def note(handler: str, message: Numbered) -> None:
    """Notes a handled message with one write to a file, which survives however the process dies."""
    line = f"{handler} {message.topic} {message.key} {message.sequence} {os.getpid()}\n"
    os.write(record, line.encode())


def _fail(handler: str, deed: Deed | None, attempt: DeliveryAttempt, raw: RawMessage) -> str | None:
    """Raises the error that the message asks for; returns the kind of a deed that is not an error."""
    if deed is None or (deed.at and handler not in deed.at):
        return None
    redriven = any(name == "athomic-redrives" for name, _ in raw.headers)
    if deed.kind == "flaky" and attempt.number > 1:
        return None
    if deed.kind in ("flaky", "always") or (deed.kind == "until_redriven" and not redriven):
        raise InjectedError
    if deed.kind == "until_retried" and ".retry." not in raw.topic:
        raise InjectedError
    if deed.kind == "nonsense":
        raise NonsenseError
    if deed.kind == "panic":
        raise Panic
    return deed.kind


async def act(handler: str, message: Numbered, attempt: DeliveryAttempt, raw: RawMessage) -> None:
    kind = _fail(handler, message.deed, attempt, raw)
    if kind is None or message.deed is None:
        return
    flag = FLAGS / message.deed.flag
    if kind == "cancelled":  # by someone else
        other = asyncio.create_task(asyncio.sleep(60))
        other.cancel()
        await other
    if kind in ("wait", "swallow"):
        (FLAGS / f"{message.deed.flag}-began").touch()
        await _wait(flag, swallow=kind == "swallow")


async def _wait(flag: Path, *, swallow: bool) -> None:
    try:
        while not flag.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        if swallow:
            raise SwallowedError from None
        raise


class SwallowedError(Exception):
    """The handler was cancelled, and returns as if nothing had happened."""


async def handle_loop(handler: str, message: Numbered, attempt: DeliveryAttempt, raw: RawMessage) -> None:
    await asyncio.sleep(0.002)
    try:
        await act(handler, message, attempt, raw)
    except SwallowedError:
        return
    note(handler, message)


def policy(**more: Any) -> RetryPolicy:
    return RetryPolicy(max_attempts=2, delay=delay, **more)


def subscribe_loop(handler: str, topic: Any, **options: Any) -> None:
    async def handle(message: Numbered, attempt: DeliveryAttempt, raw: RawMessage) -> None:
        await handle_loop(handler, message, attempt, raw)

    options.setdefault("retry", policy())
    athomic.subscribe_to(topic, group_id=group_of(PREFIX, handler), handler_id=handler, **options)(handle)


MAIN = f"{PREFIX}.main"
subscribe_loop("loop", MAIN, ordering=OPTIONS.ordering, concurrency=OPTIONS.concurrency)
subscribe_loop(
    "latest",
    MAIN,
    auto_offset_reset="latest",
    ordering="none",
    concurrency=10,
    retry=policy(retry_topics=OPTIONS.retry_topics),
)
subscribe_loop(
    "retrying",
    f"{PREFIX}.tries",
    ordering="none",
    concurrency=10,
    dlq=OPTIONS.dlq(PREFIX),
    retry=policy(retry_topics=OPTIONS.retry_topics),
)
subscribe_loop("pattern", re.compile(re.escape(PREFIX) + r"\.many\..*"))
subscribe_loop("pattern_too", re.compile(re.escape(PREFIX) + r"\.many\..*"), ordering="key", concurrency=4)
subscribe_loop("billing", f"{PREFIX}.orders", dlq=f"{PREFIX}.errors")
subscribe_loop("shipping", f"{PREFIX}.orders", dlq=f"{PREFIX}.errors")
subscribe_loop("fleeting", f"{PREFIX}.fleeting")


@subscribe_to(
    MAIN,
    group_id=group_of(PREFIX, "thread"),
    handler_id="thread",
    ordering=OPTIONS.ordering,
    concurrency=min(OPTIONS.concurrency, 4),
    retry=policy(),
)
def handle_in_thread(message: Numbered, attempt: DeliveryAttempt, raw: RawMessage) -> None:
    _fail("thread", message.deed, attempt, raw)
    note("thread", message)


def connection() -> str:
    return "a sync dependency, which runs in a thread"


@subscribe_to(MAIN, group_id=group_of(PREFIX, "dependency"), handler_id="dependency", retry=policy())
async def handle_with_dependency(
    message: Numbered, attempt: DeliveryAttempt, raw: RawMessage, used: Annotated[str, Depends(connection)]
) -> None:
    await act("dependency", message, attempt, raw)
    note("dependency", message)


@subscribe_to(
    MAIN,
    group_id=group_of(PREFIX, "batch"),
    handler_id="batch",
    batch_size=OPTIONS.batch_size,
    batch_linger_ms=20,
    retry=policy(),
)
async def handle_batch(messages: list[Numbered]) -> None:
    await asyncio.sleep(0.002)
    for message in messages:
        note("batch", message)


if "ATHOMIC_STATE_STORE_URL" in os.environ:

    @ordered_consumer(
        f"{PREFIX}.sequence",
        group_id=group_of(PREFIX, "ordered"),
        handler_id="ordered",
        aggregate_key_field="key",
        sequence_id_field="sequence",
        first_sequence=0,
        concurrency=10,
        retry=policy(),
    )
    async def handle_ordered(message: Numbered) -> None:
        await asyncio.sleep(0.002)
        note("ordered", message)


@app.get("/ping")
async def ping() -> str:
    return "pong"


@app.post("/redrive/{handler}")
async def redrive(handler: str, source: str | None = None) -> dict[str, int]:
    try:
        report = await athomic.dead_letters(handler).redrive(source=source)
    except AthomicError as error:
        raise HTTPException(502, f"{type(error).__name__}: {error}") from error
    return {"settled": report.settled, "resumed": report.resumed}

"""Runs the lifespan of an ASGI app without a server: the app's resources are there, and nothing is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message

from ..exceptions import AthomicError


@asynccontextmanager
async def lifespan_of(app: ASGIApp) -> AsyncIterator[None]:
    """Inside the block the app has started. See the specification of ASGI, "Lifespan Protocol".

    Raises:
        AthomicError: the start or the end failed, or the app ended by itself.
    """
    orders: asyncio.Queue[Message] = asyncio.Queue()
    replies: asyncio.Queue[Message] = asyncio.Queue()
    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}

    async def run() -> None:
        await app(scope, orders.get, replies.put)

    running = asyncio.create_task(run(), name="athomic-lifespan")
    try:
        await _pass(running, orders, replies, "startup")
        yield
        await _pass(running, orders, replies, "shutdown")
    finally:
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # told already


async def _pass(
    running: asyncio.Task[None], orders: asyncio.Queue[Message], replies: asyncio.Queue[Message], phase: str
) -> None:
    orders.put_nowait({"type": f"lifespan.{phase}"})
    reply = asyncio.create_task(replies.get())
    await asyncio.wait([running, reply], return_when=asyncio.FIRST_COMPLETED)
    if not reply.done():
        reply.cancel()
        error = running.exception()
        raise AthomicError(f"the app's {phase} ended without an answer") from error
    if reply.result()["type"] != f"lifespan.{phase}.complete":
        said = str(reply.result().get("message", "")).strip()
        raise AthomicError(f"the app's {phase} failed: {said.splitlines()[-1] if said else 'it says nothing'}")

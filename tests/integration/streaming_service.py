"""A service with an endless stream, run by uvicorn: see `test_termination`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.responses import StreamingResponse

from fastapi_athomic import include_athomic

logging.basicConfig(level=logging.INFO)
app = FastAPI()
athomic = include_athomic(app)


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def ticks() -> AsyncIterator[str]:
        while True:
            yield "tick\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(ticks())


@app.get("/work")
async def work() -> None:
    await athomic.publish("t", "x")


@athomic.subscribe_to("t", group_id="g", handler_id="h")
async def handle(message: str) -> None:
    logging.info("begun")
    await asyncio.sleep(0.3)
    logging.info("done")

"""Apps under test, run in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from fastapi_athomic import Athomic, AthomicSettings, include_athomic

SECONDS = 30.0
"""So long a test waits for something that should happen at once."""


def new_app(settings: AthomicSettings, *handlers: Callable[..., Any]) -> Athomic:
    """An app with these handlers and nothing else."""
    return include_athomic(FastAPI(), settings, handlers=handlers)


@asynccontextmanager
async def running(athomic: Athomic) -> AsyncIterator[Athomic]:
    """Runs the app's lifespan; its consumers are ready inside the block."""
    async with athomic.app.router.lifespan_context(athomic.app):
        await athomic.wait_until_ready(SECONDS)
        yield athomic


def owned(athomic: Athomic, topic: str) -> set[int]:
    """The partitions of the topic that the app's first consumer has."""
    return {place.partition for place in athomic.consumers()[0].assignment if place.topic == topic}


class Record:
    """What handlers note, for tests to wait for."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._changed = asyncio.Event()

    def note(self, what: Any) -> None:
        self.seen.append(what)
        self._changed.set()

    async def until(self, holds: Callable[[list[Any]], bool], seconds: float = SECONDS) -> list[Any]:
        """Returns what was noted as soon as `holds` is true for it."""
        try:
            async with asyncio.timeout(seconds):
                while not holds(self.seen):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"did not happen; {len(self.seen)} noted: {self.seen[-20:]}") from None
        return self.seen

    async def count(self, number: int) -> list[Any]:
        return await self.until(lambda seen: len(seen) >= number)


async def eventually(holds: Callable[[], Any], seconds: float = SECONDS) -> None:
    """For state that no event tells of: looks again every few milliseconds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)

"""Apps under test. They run in the event loop of the test; their consumers may run in another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from fastapi_athomic import Athomic, AthomicSettings, RawMessage, include_athomic
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.observation.status import ConsumerHealth, HealthReport
from fastapi_athomic.transports.base import TransportConsumer

SECONDS = 30.0
"""How long a test waits for something that should happen at once."""


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
    """The partitions of the topic that are assigned to the app's first consumer."""
    return {place.partition for place in athomic.consumers()[0].assignment if place.topic == topic}


class Gate:
    """An `asyncio.Event` that tests and handlers share, each in its own event loop and thread."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []
        self._open = False
        self._lock = threading.Lock()

    def set(self) -> None:
        with self._lock:
            self._open = True
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.get_loop().is_closed():
                waiter.get_loop().call_soon_threadsafe(_let_through, waiter)

    def clear(self) -> None:
        self._open = False

    async def wait(self) -> None:
        with self._lock:
            if self._open:
                return
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
        await waiter


def _let_through(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Record:
    """What handlers note, in any thread, so that tests can wait for it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._changed = Gate()

    def note(self, what: Any) -> None:
        self.seen.append(what)
        self._changed.set()

    async def until(self, holds: Callable[[list[Any]], bool], seconds: float = SECONDS) -> list[Any]:
        """Returns what was noted, as soon as `holds` is true of it."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._changed.clear()
                    if holds(self.seen):
                        return self.seen
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"did not happen; {len(self.seen)} noted: {self.seen[-20:]}") from None

    async def count(self, number: int) -> list[Any]:
        return await self.until(lambda seen: len(seen) >= number)


async def eventually(holds: Callable[[], Any], seconds: float = SECONDS) -> None:
    """Waits for state that no event announces: looks again every few milliseconds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.005)


async def take(
    consumer: TransportConsumer, places: Collection[TopicPartition], limit: int = 100, seconds: float = SECONDS
) -> dict[TopicPartition, Sequence[RawMessage]]:
    """The next messages of these partitions, as soon as there are some."""
    found = dict[TopicPartition, Sequence[RawMessage]]()

    def look() -> bool:
        consumer.poll(places)
        found.update(consumer.take(places, limit))
        return bool(found)

    await eventually(look, seconds)
    return found


def sentences(health: ConsumerHealth | HealthReport) -> list[str]:
    """What health says, without codes."""
    return [reason.message for reason in health.reasons]

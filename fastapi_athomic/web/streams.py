"""Server-sent events for open dashboards: what the consumers do, looked at once an interval for all of them.

Nothing runs while no stream is open. A stream ends by itself after a while, and at once when the app stops: servers
wait for open responses before they end an app's lifespan, so a stream without end would hold up the stop.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from ..clock import utc_now
from ..compatibility import EventSourceResponse
from ..loop.load import RequestGauge
from ..loop.termination import told_of_termination
from ..manager import ConsumerManager, unstarted
from ..observation.status import ConsumerStatus, HealthReport, ProcessInfo
from ..settings import AthomicSettings
from .problems import NOT_RUNNING, TOO_MANY_STREAMS, ProblemError, answer

logger = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds after which somebody for whom there was no room may ask again."""
_UNBUFFERED = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Headers that keep proxies from holding events back."""
_SPENT = b'event: end\ndata: {"reason": "time"}\n\n'
_STOPPING = b'event: end\ndata: {"reason": "stopping"}\n\n'


class Snapshot(BaseModel):
    """What the event `snapshot` holds: the consumers at one moment, of all processes that share a state store."""

    time: datetime = Field(description="When they were looked at, in UTC")
    process: ProcessInfo
    health: HealthReport
    consumers: list[ConsumerStatus]


class Streams:
    """The open streams of one app. They live in the event loop of the routes."""

    def __init__(
        self,
        settings: AthomicSettings,
        manager: Callable[[], ConsumerManager | None],
        statuses: Callable[[], Awaitable[list[ConsumerStatus]]],
    ) -> None:
        """`manager` returns None while the app does not run; `statuses` are those of all processes, where known."""
        self._settings = settings
        self._manager = manager
        self._statuses = statuses
        self._ended: asyncio.Event | None = None  # of the present run of the app's lifespan; None: it does not run
        self._looking = asyncio.Lock()
        self._looked_in = -1  # the number of the interval that `_latest` is of
        self._latest = b""
        self.open = 0  # how many there are now

    @contextmanager
    def running(self) -> Iterator[None]:
        """Streams may be opened within this block. SIGTERM and SIGINT end them, as the end of the block does."""
        self._ended = ended = asyncio.Event()
        self._looking = asyncio.Lock()
        try:
            with told_of_termination(ended.set), told_of_termination(ended.set, signal.SIGINT):
                yield
        finally:
            ended.set()
            self._ended = None

    @property
    def seconds(self) -> float:
        """How long a stream lasts."""
        return self._settings.dashboard.stream_seconds

    @property
    def refusal(self) -> ProblemError | None:
        """Why nobody may open a stream now; None: there is room."""
        headers = {"retry-after": str(RETRY_AFTER)}
        if self._ended is None or self._ended.is_set():
            return ProblemError(NOT_RUNNING, "the app has not started, or stops", headers)
        if self.open >= self._settings.dashboard.most_streams:
            return ProblemError(
                TOO_MANY_STREAMS, f"{self.open} are open, see the setting dashboard.most_streams", headers
            )
        return None

    async def events(self) -> AsyncIterator[bytes]:
        """A snapshot at once, then one an interval, and a last event that says why there are no more."""
        ended, loop = self._ended, asyncio.get_running_loop()
        if ended is None:
            return
        end = loop.time() + self.seconds
        while not ended.is_set():
            yield await self._snapshot()
            now = loop.time()
            if now >= end:
                yield _SPENT
                return
            await _within(min(self._begin_of_next(now), end) - now, ended)
        yield _STOPPING

    async def _snapshot(self) -> bytes:
        """The event of the present interval. Whoever asks first looks at the consumers."""
        async with self._looking:
            interval = self._number(asyncio.get_running_loop().time())
            if interval != self._looked_in:
                self._latest = _event(await self._look())
                self._looked_in = interval
            return self._latest

    async def _look(self) -> Snapshot:
        statuses = await self._statuses()
        current = self._manager()
        health = current.health() if current else unstarted(self._settings)
        return Snapshot(time=utc_now(), process=health.process, health=health, consumers=statuses)

    def _number(self, now: float) -> int:
        return int(now / self._settings.dashboard.interval)

    def _begin_of_next(self, now: float) -> float:
        return (self._number(now) + 1) * self._settings.dashboard.interval


class EventStream(EventSourceResponse):
    """One open stream, or 503 where there is no room for it. It does not count as a request that is being answered."""

    def __init__(self, streams: Streams, requests: RequestGauge) -> None:
        super().__init__(streams.events(), headers=_UNBUFFERED)
        self._streams = streams
        self._requests = requests
        self._stuck = False  # whoever opened it does not read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := self._streams.refusal) is not None:
            await answer(Request(scope), refusal)(scope, receive, send)
            return
        self._streams.open += 1
        try:
            with self._requests.waiting():
                await super().__call__(scope, receive, partial(self._send, send))
        except Exception:
            if not self._stuck:
                raise
            logger.debug("a stream of events was given up: nobody reads it")
        finally:
            self._streams.open -= 1

    async def _send(self, send: Send, message: Message) -> None:
        """Gives up a client that takes nothing for as long as a stream lasts: it would keep others out."""
        try:
            async with asyncio.timeout(self._streams.seconds):
                await send(message)
        except TimeoutError:
            self._stuck = True
            raise


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Returns after so many seconds, or when the event is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _event(snapshot: Snapshot) -> bytes:
    return b"event: snapshot\ndata: " + snapshot.model_dump_json().encode() + b"\n\n"

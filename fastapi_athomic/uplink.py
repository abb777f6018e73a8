"""The app's link up to the broker: everything that the app publishes goes through it.

It is there before the app's own lifespan starts and until that has ended, so that both ends of it can publish. The
consumers of a `Run` come and go in between, and use the same connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from .broker import NOT_RUNNING, BrokerConnection
from .exceptions import PublishError, TransportError
from .loop.isolation import Home
from .publisher import Publisher
from .settings import AthomicSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

PUBLISH_RESERVE = 1.0
"""Seconds beyond `publish_timeout` for a publish that gives up to say why, before its caller stops waiting for it."""
END_RESERVE = 1.5
"""Seconds beyond the time allowed after which a connection that has not been closed is abandoned."""
LEAST_SECONDS = 0.1
"""What closing the connection gets if the consumers have used up `shutdown_timeout`."""


class Uplink:
    """What an app publishes through, for one run of its lifespan.

    `opened` and `publishing` are for the event loop of the routes, `publishing_sync` is for threads without one.
    """

    def __init__(
        self, home: Home, connection: BrokerConnection, publisher: Publisher, settings: AthomicSettings
    ) -> None:
        self.home = home
        self.connection = connection
        self.publisher = publisher  # replaced once: the app's lifespan may have set another tracer provider
        self.seconds_left = settings.shutdown_timeout  # of it, to close the connection; 0: the consumers hang
        self._publish_timeout = settings.publish_timeout
        self._process = os.getpid()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Connects in the background, and disconnects at the end of the `async with` block."""
        try:
            await self.home.open()
            await self.home.run(self.connection.begin)
            yield
        finally:
            await self._close()

    async def _close(self) -> None:
        """Returns even if a handler blocks the consumers' event loop."""
        seconds, patience = max(LEAST_SECONDS, self.seconds_left), 0.0
        try:
            async with asyncio.timeout(seconds + (END_RESERVE if self.seconds_left else 0.0)):
                await self.home.run(partial(self.connection.end, seconds))
            patience = END_RESERVE
        except (TimeoutError, TransportError) as error:
            logger.warning("the connection to the broker could not be closed: %s", error or "out of time")
        finally:
            await self.home.close(patience)  # also if this shutdown is cancelled: a thread would outlive it

    def check_process(self) -> None:
        """Raises `PublishError` in a fork: the connection belongs to the process that opened it."""
        if self._process != os.getpid():
            raise PublishError(NOT_RUNNING)

    async def publishing(self, work: Callable[[], Awaitable[T]]) -> T:
        """Calls and awaits `work`, which uses `publisher`, in the consumers' event loop.

        Raises:
            PublishError: publishing failed, or that event loop does not answer.
        """
        try:
            return await self.home.run(work, self._publish_timeout + PUBLISH_RESERVE)
        except TransportError as error:
            raise self._unsure(error) from error

    def publishing_sync(self, call: str, work: Callable[[], Awaitable[T]], timeout: float | None) -> T:
        """Like `publishing`, for a thread without a running event loop: it waits. `call` is what it refuses elsewhere.

        `timeout`: seconds; None means `publish_timeout`.

        Raises:
            PublishError: publishing failed, took too long, or would block an event loop.
        """
        if _in_event_loop():
            raise PublishError(f"athomic.{call}_sync would block the event loop: await athomic.{call}(...) instead")
        try:
            return self.home.call(work, self._publish_timeout + PUBLISH_RESERVE if timeout is None else timeout)
        except TransportError as error:
            raise self._unsure(error) from error

    def _unsure(self, error: TransportError) -> PublishError:
        known = self.connection.last_error
        reason = f"; the broker cannot be reached: {known}" if known is not None else ""
        return PublishError(f"perhaps not published: {error}{reason}")


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

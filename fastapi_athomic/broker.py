"""Whether the broker can be reached: the service that all others depend on."""

from __future__ import annotations

import asyncio
import logging

from .exceptions import PublishError, TransportError
from .settings import AthomicSettings
from .transports.base import Transport

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
PING_INTERVAL = 2.0
"""Seconds between two questions whether the broker is still there."""
PING_SECONDS = 5.0
PINGS = 2
"""So many in a row must fail before the broker counts as away: one of several brokers may be."""


class BrokerConnection:
    """The service that holds the connection to the broker; all other services depend on it."""

    name = "broker"
    depends_on: tuple[str, ...] = ()
    required = True

    def __init__(self, transport: Transport, settings: AthomicSettings) -> None:
        self._transport = transport
        self._settings = settings
        self._connected = asyncio.Event()
        self._stopped = False
        self._watching: asyncio.Task[None] | None = None
        self.last_error: TransportError | None = None  # why the broker cannot be reached, while it cannot

    async def start(self) -> None:
        """Returns when the broker has been reached once; keeps trying until then."""
        delay = self._settings.restart_backoff
        while True:
            try:
                await self._transport.start(CONNECT_SECONDS)
                break
            except TransportError as error:
                if self.last_error is None:
                    logger.warning("the broker cannot be reached, trying on: %s", error)
                self.last_error = error
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._settings.restart_backoff_max)
        self.last_error = None
        self._connected.set()
        self._watching = asyncio.create_task(self._watch(), name="athomic-broker-watch")

    async def _watch(self) -> None:
        """Keeps `last_error` true. A client library tries to reconnect for ever and says nothing."""
        while True:
            await asyncio.sleep(PING_INTERVAL)
            error = await self._ping()
            if error is not None and self.last_error is None:
                logger.warning("the broker cannot be reached any more: %s", error)
            elif error is None and self.last_error is not None:
                logger.warning("the broker can be reached again")
            self.last_error = error

    async def _ping(self) -> TransportError | None:
        error: TransportError | None = None
        for _ in range(PINGS):
            try:
                await self._transport.ping(PING_SECONDS)
            except TransportError as caught:
                error = caught
            else:
                return None
        return error

    async def stop(self, timeout: float) -> None:
        self._stopped = True
        self._connected.clear()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._transport.stop(timeout)

    async def wait_until_connected(self, timeout: float) -> None:
        if self._stopped:
            raise PublishError("the app is not running: publish between its start-up and its shutdown")
        if self._connected.is_set():
            return
        try:
            async with asyncio.timeout(timeout):
                await self._connected.wait()
        except TimeoutError:
            raise PublishError(f"the broker cannot be reached: {self.last_error or 'no answer yet'}") from None

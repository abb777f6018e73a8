"""The connection to the broker: the service that all others depend on."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from time import monotonic

from .clock import utc_now
from .exceptions import PublishError, TransportError
from .settings import AthomicSettings
from .transports.base import Transport

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""Most seconds that one attempt to connect may take."""
PING_INTERVAL = 2.0
"""Seconds between two checks that the broker still answers."""
PING_SECONDS = 5.0
"""Most seconds that the answer to one ping may take."""
PINGS = 2
"""So many pings in a row must fail before the cluster counts as unreachable: after one, a single broker may be down."""
NOTICED_SECONDS = PING_INTERVAL + PINGS * PING_SECONDS
"""At most so long after its last answer a broker counts as unreachable."""
NOT_RUNNING = (
    "the app is not running in this process: publish from its routes, its handlers or its own lifespan (before and "
    "after `yield`), not at import time, not after its end, and not from another process; in a test "
    "stay inside `with TestKit(app)` or `with TestClient(app)`"
)
"""The text of a `PublishError`."""


class BrokerConnection:
    """Connects, and from then on checks that the broker answers. `last_error` says why it cannot be reached.

    It lives from `begin` to `end`. As a service of the consumers' lifecycle it only makes them wait for the broker.
    """

    name = "broker"
    depends_on: tuple[str, ...] = ()
    required = True

    def __init__(self, transport: Transport, settings: AthomicSettings) -> None:
        self._transport = transport
        self._settings = settings
        self._connected = asyncio.Event()
        self._stopped = False
        self._connecting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.last_error: TransportError | None = None  # None while the broker can be reached
        self.changed_at = utc_now()  # when it was reached, or could no longer be

    async def begin(self) -> None:
        """Connects in the background."""
        self._connecting = asyncio.create_task(self._connect(), name="athomic-connect")

    async def start(self) -> None:
        """Returns when the broker has been reached. Call it after `begin`."""
        if self._connecting is not None:
            await asyncio.shield(self._connecting)

    async def stop(self, timeout: float) -> None:
        """Leaves the connection open: the app may publish after its consumers have stopped."""

    async def _connect(self) -> None:
        """Tries until it succeeds."""
        delay = self._settings.restart_backoff
        while True:
            try:
                await self._transport.start(CONNECT_SECONDS)
                break
            except TransportError as error:
                if str(error) != str(self.last_error):
                    logger.warning("the broker cannot be reached, trying again: %s", error)
                self.last_error = error
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._settings.restart_backoff_max)
        self.last_error, self.changed_at = None, utc_now()
        self._connected.set()
        self._watching = asyncio.create_task(self._watch(), name="athomic-broker-watch")

    async def _watch(self) -> None:
        """Keeps `last_error` up to date: the client libraries reconnect forever, and report nothing."""
        away_since = 0.0  # on the monotonic clock
        while True:
            await asyncio.sleep(PING_INTERVAL)
            error = await self._ping()
            if error is not None and self.last_error is None:
                away_since = monotonic()
                logger.warning("the broker can no longer be reached, trying again: %s", error)
            elif error is None and self.last_error is not None:
                logger.warning("the broker can be reached again after %.0f s", monotonic() - away_since)
            elif error is not None and str(error) != str(self.last_error):
                logger.warning("the broker still cannot be reached, for another reason: %s", error)
            if (error is None) is not (self.last_error is None):
                self.changed_at = utc_now()
            self.last_error = error

    @property
    def reached_since(self) -> datetime | None:
        """Since when the broker answers; None: it does not, or has not yet. May be asked from another thread."""
        return self.changed_at if self._connected.is_set() and self.last_error is None else None

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

    async def end(self, timeout: float) -> None:
        """Disconnects within `timeout` seconds."""
        self._stopped = True
        self._connected.set()  # whoever waits is told
        tasks = [task for task in (self._connecting, self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._transport.stop(timeout)

    async def wait_until_connected(self, timeout: float) -> None:
        """Returns when the broker has been reached for the first time.

        Raises:
            PublishError: it was not within `timeout` seconds, or the app has stopped.
        """
        if not self._connected.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._connected.wait()
            except TimeoutError:
                reason = self.last_error or "no answer yet"
                raise PublishError(f"the broker cannot be reached, tried for {timeout:g} s: {reason}") from None
        if self._stopped:
            raise PublishError(NOT_RUNNING)

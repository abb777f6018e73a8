"""The connection to Redis of what is kept there. Needs the extra `redis`, and is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError


class RedisConnection:
    """Opened by the first use, also of the first use after `close`: connections belong to one event loop.

    `timeout`: seconds that one call may take. `clock` gives seconds, for tests; None: the server's clock.
    """

    def __init__(
        self, url: str, *, prefix: str = "athomic", timeout: float = 5.0, clock: Callable[[], float] | None = None
    ) -> None:
        self._url = url
        self._prefix = prefix  # of all keys
        self._timeout = timeout
        self._clock = clock
        self._client: Redis | None = None

    async def close(self) -> None:
        """Closes its connections. The next call opens them again."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(RedisError, OSError):  # the connection may be gone already
                await client.aclose()

    def _connected(self) -> Redis:
        if self._client is None:
            self._client = Redis.from_url(
                self._url,
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                retry=Retry(NoBackoff(), 0),  # who asks decides whether to ask again, and health shows it
            )
        return self._client

    def _now(self) -> int | bytes:
        """In milliseconds, as scripts take it; empty: they ask the server."""
        return b"" if self._clock is None else round(self._clock() * 1000)

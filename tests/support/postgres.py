"""Postgres for tests: an address from the environment, or the programs of an installed one, run in a folder."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import asyncpg

from .processes import Process, free_port

URL_VARIABLE = "ATHOMIC_TEST_POSTGRES_URL"
START_SECONDS = 60.0
INSTALLED = Path("/usr/lib/postgresql")
"""Where Debian puts the programs, by version, and not on the path."""
RIGHTLESS = ("postgres", "nobody")
"""Users that run it where the tests are root: Postgres refuses to be that."""
OPTIONS = {"fsync": "off", "shared_buffers": "16MB", "max_connections": "60", "unix_socket_directories": ""}


class PostgresUnavailableError(Exception):
    """Postgres cannot be provided here; the text says why."""


class Postgres:
    """A server that makes databases."""

    def __init__(self, url: str, description: str) -> None:
        self._url = url
        self.description = description

    def new_database(self) -> str:
        """The URL of an empty database, without a driver."""
        name = f"test_{uuid4().hex}"
        asyncio.run(self.execute(f"CREATE DATABASE {name}"))
        return f"{self._url.rpartition('/')[0]}/{name}"

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def stop(self) -> None:
        """Does nothing: whoever started it stops it."""


class PostgresServer(Postgres):
    """One server of the tests' own. It can be stopped and started again with the same data."""

    def __init__(self) -> None:
        self._port = free_port()
        super().__init__(f"postgresql://shop@127.0.0.1:{self._port}/postgres", "Postgres, started by the tests")
        self._user = _rightless_user()
        self._folder = Path(mkdtemp(prefix="postgres-"))  # not below pytest's, which is closed to other users
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._initialize()
        options = [f"-c{name}={value}" for name, value in OPTIONS.items()]
        command = [_program("postgres"), "-D", str(self._data), "-p", str(self._port), "-h", "127.0.0.1", *options]
        self.process = Process(command, self._folder / "server.log", run_as=self._user)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _initialize(self) -> None:
        command = [_program("initdb"), "-D", str(self._data), "-U", "shop", "-A", "trust", "-E", "UTF8"]
        done = subprocess.run(
            [*command, "--no-sync", "--no-locale"],
            user=self._user,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise PostgresUnavailableError(f"Postgres could not make its data: {(done.stderr or done.stdout)[-900:]}")

    def start(self) -> None:
        self.process.start()
        self.process.wait_until(lambda: asyncio.run(self.execute("SELECT 1")), START_SECONDS)

    def halt(self) -> None:
        """Breaks all connections, and leaves the data where they are (a "fast" shutdown)."""
        self.process.signal(signal.SIGINT)
        self.process.wait(30)

    def stop(self) -> None:
        self.process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def start_postgres() -> Postgres:
    """Raises `PostgresUnavailableError` if there is no address and no server to run."""
    if url := os.environ.get(URL_VARIABLE):
        return Postgres(url, f"Postgres at {URL_VARIABLE}")
    server = PostgresServer()
    server.start()
    return server


def _program(name: str) -> str:
    for found in _programs(name):
        return found
    raise PostgresUnavailableError(
        f"Postgres needs {name} on the path or in {INSTALLED}/*/bin (Debian: apt-get install postgresql), or a URL in "
        f"{URL_VARIABLE}"
    )


def _programs(name: str) -> Iterator[str]:
    if (on_path := shutil.which(name)) is not None:
        yield on_path
    yield from map(str, sorted(INSTALLED.glob(f"*/bin/{name}"), reverse=True))


def _rightless_user() -> str | None:
    """None: we are not root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in RIGHTLESS:
        if name in known:
            return name
    raise PostgresUnavailableError(f"Postgres refuses to be run by root, and there is none of: {', '.join(RIGHTLESS)}")

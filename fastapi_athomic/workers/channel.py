"""What a supervisor and one of its processes say to each other: lines of JSON over a socket pair."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from ..operation_settings import WorkerSettings

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of one line: the metrics of an app with many handlers and partitions are the longest."""

Message = dict[str, Any]
"""`kind` says what it is, other keys what belongs to that.

From a process: `hello` (the app would start), `refused` (it would not: `error`), `ready` (all consumers have joined
their groups; `partitions`: how many the topics of each handler have), `answer` (`number`, `body`). To a process: `go`
(start the app), `ask` (`number`, `what`).
"""


class Hello(BaseModel):
    """What a process says of its app before it starts it."""

    handlers: list[str]  # ids of those that it would run
    prefix: str  # of the plugin's routes
    guarded: bool  # the app asks for a login before it shows them
    shutdown_timeout: float  # seconds
    worker: WorkerSettings


class Channel:
    """One end. Use `opened` to make it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def opened(cls, end: socket.socket) -> Channel:
        """The channel over one socket of the pair, which it closes in the end."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LONGEST_LINE))

    def send(self, kind: str, **more: Any) -> None:
        """Never waits and never raises: if the other side is gone, whoever reads is told."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"kind": kind, **more}).encode() + b"\n")

    async def receive(self) -> Message | None:
        """The next message; None if the other side is gone."""
        with suppress(OSError, ValueError):  # a reset; a line that is too long, or that was cut off
            if line := await self._reader.readline():
                message: Message = json.loads(line)
                return message
        return None

    async def flushed(self) -> None:
        """Returns when what was sent is on its way, or can never be; closes this end."""
        with suppress(OSError):
            await self._writer.drain()
            self._writer.close()
            await self._writer.wait_closed()

    def close(self) -> None:
        """The other side reads its end."""
        self._writer.close()

"""One process of a supervisor, as the supervisor sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Protocol

from ..exceptions import AthomicError
from .channel import Channel, Hello


class RefusedError(AthomicError):
    """The app would not start: something is wrong with its code or its settings."""


class EndedError(AthomicError):
    """A process ended before it could say what it is."""


class Process(Protocol):
    """A process that was started. It loads the app, says `hello`, and waits to be told to `go`."""

    pid: int
    ready: asyncio.Event  # all its consumers have joined their groups
    partitions: dict[str, int]  # then: how many the topics of a handler have, by its id, where that is known

    async def hello(self) -> Hello:
        """Returns when the app is loaded and checked.

        Raises:
            RefusedError: the app would not start.
            EndedError: the process ended.
        """
        ...

    def go(self) -> None:
        """Tells it to start the app."""

    async def ended(self) -> int:
        """Returns when the process has ended: its exit status, or minus the number of the signal that killed it."""
        ...

    async def ask(self, what: str, timeout: float) -> Any | None:
        """Its answer to `what`; None if none came within `timeout` seconds."""
        ...

    def terminate(self) -> None:
        """Tells it to finish what runs, to commit, and to end."""

    def kill(self) -> None:
        """Ends it at once."""


Spawn = Callable[[int], Awaitable[Process]]
"""Starts a process. The number says which of the supervisor's places it has, from 1."""


class ChildProcess:
    """A `Process` of the operating system. `spawned` makes it."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel, lifeline: int) -> None:
        self.pid = process.pid
        self.ready = asyncio.Event()
        self.partitions: dict[str, int] = {}
        self._process = process
        self._channel = channel
        self._lifeline = lifeline  # the writing end of a pipe; it is closed when this process ends, however it does
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count()
        self._reading = asyncio.create_task(self._read(), name=f"athomic-process-{self.pid}")

    @classmethod
    async def spawned(cls, command: Sequence[str], environment: Mapping[str, str] | None = None) -> ChildProcess:
        """Starts `command` with two more arguments: the file descriptors of its channel and of its lifeline."""
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                str(reading),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), reading),
                env=environment,
            )
        except BaseException:
            ours.close()
            os.close(writing)
            raise
        finally:
            theirs.close()
            os.close(reading)
        return cls(process, await Channel.opened(ours), writing)

    async def _read(self) -> None:
        try:
            while (message := await self._channel.receive()) is not None:
                self._take(message)
        finally:
            code = await self._process.wait()
            if not self._hello.done():
                self._hello.set_exception(EndedError(f"it {said_of_end(code)} before it had loaded the app"))
                self._hello.exception()  # nobody may be waiting for it
            for answer in self._answers.values():
                answer.cancel()
            self.ready.clear()
            self._channel.close()
            os.close(self._lifeline)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "hello" and not self._hello.done():
            self._hello.set_result(Hello.model_validate(message))
        elif kind == "refused" and not self._hello.done():
            self._hello.set_exception(RefusedError(message["error"]))
        elif kind == "ready":
            self.partitions = message["partitions"]
            self.ready.set()
        elif kind == "answer":
            answer = self._answers.get(message["number"])
            if answer is not None and not answer.done():
                answer.set_result(message["body"])

    async def hello(self) -> Hello:
        return await asyncio.shield(self._hello)

    def go(self) -> None:
        self._channel.send("go")

    async def ended(self) -> int:
        await asyncio.wait([self._reading])
        return await self._process.wait()

    async def ask(self, what: str, timeout: float) -> Any | None:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._channel.send("ask", number=number, what=what)
        try:
            await asyncio.wait([answer], timeout=timeout)
            return answer.result() if answer.done() and not answer.cancelled() else None
        finally:
            answer.cancel()
            del self._answers[number]

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            self._process.send_signal(number)


def said_of_end(code: int) -> str:
    """How a process ended, as part of a sentence."""
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"

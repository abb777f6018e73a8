"""The clock of a test kit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import time
from typing import Any

from .bench import Bench
from .portal import Call


class AsyncClock:
    """The clock that an app in an `AsyncTestKit` goes by."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.auto = True

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return time()

    async def advance(self, seconds: float) -> None:
        """Puts the clock forward: what was due in between happens, in order."""
        raise NotImplementedError

    def backend_options(self) -> dict[str, Any]:
        """Of the event loop that the app runs in, for anyio."""
        return {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The app goes by this clock inside the `with` block. It runs inside that."""
        yield

    @asynccontextmanager
    async def skipping(self) -> AsyncIterator[None]:
        """Whatever waits for a time has it come at once, inside the `async with` block."""
        yield


class Clock:
    """The clock that an app in a `TestKit` goes by."""

    def __init__(self, clock: AsyncClock, call: Call) -> None:
        self._clock, self._call = clock, call

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock.now

    def advance(self, seconds: float) -> None:
        """Puts the clock forward: what was due in between happens, in order."""
        self._call(self._clock.advance, seconds)

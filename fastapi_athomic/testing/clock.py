"""The clock of a test kit: skips what an app waits for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from time import monotonic as real_monotonic

from ..checks import shown
from ..exceptions import ConfigurationError
from ..loop.blocking import worker_name
from . import virtual_time
from .bench import Bench
from .loop_time import LoopTime
from .portal import Call

FIRST_STEP, LONGEST_STEP = 0.05, 2.0
"""Seconds that are skipped at once where nothing but routine is due. What polls, renews and measures goes on so."""
LEAST_STEP = 0.001
PAUSE = 0.001
"""Real seconds between two looks at what really runs."""
END_GRACE = 1.0
"""Real seconds that the app has to stop, before it is skipped what it still waits for: mostly a call that hangs."""
GRACE = 0.25
"""Real seconds that `advance` waits for a call of a handler that runs: threads and sockets need them."""


class AsyncClock:
    """The clock that an app in an `AsyncTestKit` goes by: the real one, ahead of it by what was skipped.

    Timestamps of messages, retry topics, lingers, leases, rate limits, pauses and the event loop of the app go by it.
    `time.time()` and `datetime.now()` in the app's own code do not. Only with a broker and a store on `memory://`.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench, self._athomic, self._records = bench, bench.athomic, bench.records
        self._refusal = _refusal(bench)
        self._loops: dict[asyncio.AbstractEventLoop, LoopTime] = {}
        self._lock = asyncio.Lock()
        self._hurrying: asyncio.Task[None] | None = None
        self._waited_for: set[tuple[str, float]] = set()  # calls of handlers that `advance` waits for no longer

    @property
    def now(self) -> datetime:
        """The moment it is, in UTC."""
        return datetime.fromtimestamp(virtual_time.time(), UTC)

    @property
    def skips(self) -> bool:
        """Whether it can be put forward: only where broker and store are in memory, in an event loop of asyncio's."""
        return self._refusal is None

    async def advance(self, seconds: float) -> None:
        """Puts the clock forward. What is due in between happens, in order, before this returns.

        A handler that sleeps (`asyncio.sleep`) goes on in its time, and one with a `timeout` runs out of it. One that
        really works, in a thread or with a socket, is given a quarter of a second.

        Raises:
            ConfigurationError: the clock cannot be put forward, or `seconds` is negative or no number.
        """
        check_seconds(seconds)
        if self._refusal is not None:
            raise ConfigurationError(self._refusal)
        self._records.note_drain()
        async with self._skipping():
            left, step = float(seconds), FIRST_STEP
            await self._settle()
            await self._let_work()
            while left > 0:
                skipped = min(left, self._step(step))
                self._skip(skipped)
                left, step = left - skipped, min(step * 2, LONGEST_STEP)
                await self._settle()
                await self._let_work()

    async def skip_until(self, done: Callable[[], Awaitable[bool]], timeout: float) -> bool:
        """Skips whatever is waited for until this is done.

        Time is real while a handler runs, or a request, or a question to a registry or an object store.

        `timeout`: real seconds; False: it is not done by then.
        """
        end = real_monotonic() + timeout
        async with self._skipping():
            step = FIRST_STEP
            while True:
                await self._settle()
                if await done():
                    return True
                if real_monotonic() > end:
                    return False
                if self._is_busy():
                    await asyncio.sleep(PAUSE)
                else:
                    self._skip(self._step(step))
                    step = min(step * 2, LONGEST_STEP)

    # --- for the kit

    @contextmanager
    def installed(self, shared: asyncio.AbstractEventLoop | None = None) -> Iterator[None]:
        """The app goes by this clock inside the `with` block. It runs inside that.

        `shared`: the loop of the test, if the app runs in that one. Not the one that a sync kit blocks.

        Raises:
            ConfigurationError: another kit is open.
        """
        with virtual_time.replaced():
            try:
                self.adopt(shared, shared=True)
                yield
            finally:
                if self._hurrying is not None:
                    self._hurrying.cancel()
                loops, self._loops = self._loops, {}
                for loop in loops.values():
                    loop.restore()

    async def hurry(self) -> None:
        """The app is about to stop. A test that leaves a call hanging need not wait for `shutdown_timeout`."""
        self.adopt(asyncio.get_running_loop(), shared=False)
        if self.skips:
            self._hurrying = asyncio.create_task(self._hurry(), name="athomic-test-end")

    async def _hurry(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        own = self._loops[asyncio.get_running_loop()]
        own.real_tasks.add(task)
        await asyncio.sleep(END_GRACE)
        while True:
            self._skip(self._step(LONGEST_STEP))
            for loop in self._loops.values():
                if loop is not own:
                    loop.wake()
            await asyncio.sleep(PAUSE)

    def adopt(self, loop: asyncio.AbstractEventLoop | None, *, shared: bool) -> None:
        """Timers of this event loop are put forward, too. `shared`: with the test."""
        if self._refusal is not None or loop is None or loop in self._loops:
            return
        if isinstance(loop, asyncio.BaseEventLoop):
            self._loops[loop] = LoopTime(loop, shared=shared)
        else:
            kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
            self._refusal = f"kit.clock cannot be put forward in an event loop of {kind}: it needs asyncio's own"

    @asynccontextmanager
    async def _skipping(self) -> AsyncIterator[None]:
        """In the `async with` block the current task may skip. Its own timers are real."""
        self._bench.check_open()
        self.adopt(asyncio.get_running_loop(), shared=False)
        await self._athomic.at_home(self._adopt_home)
        task = asyncio.current_task()
        async with self._lock:
            real = self._loops[asyncio.get_running_loop()].real_tasks
            known = task in real
            if task is not None:
                real.add(task)
            try:
                yield
            finally:
                if task is not None and not known:
                    real.discard(task)

    async def _adopt_home(self) -> None:
        self.adopt(asyncio.get_running_loop(), shared=False)

    # --- a skip

    def _step(self, longest: float) -> float:
        due = min((loop.due_in() for loop in self._loops.values()), default=math.inf)
        return max(LEAST_STEP, min(longest, due))

    def _skip(self, seconds: float) -> None:
        for loop in self._loops.values():
            loop.skip(seconds)
        virtual_time.skip(seconds)

    async def _settle(self) -> None:
        """Returns when nothing is ready in any loop."""
        own = self._loops[asyncio.get_running_loop()]
        others = [loop for loop in self._loops.values() if loop is not own and not loop.loop.is_closed()]
        moved = True
        while moved:
            await own.settle()
            moved = False
            for other in others:
                moved |= await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(other.settle(), other.loop))

    # --- what really works

    def _running(self) -> dict[str, float]:
        """The handlers that run, with the start of the oldest call of each."""
        manager = self._athomic.manager()
        consumers = manager.consumers if manager is not None else {}
        starts = {name: consumer.oldest_start() for name, consumer in consumers.items()}
        return {name: start for name, start in starts.items() if start is not None}

    def _is_busy(self) -> bool:
        asking = any(watch.asks_for_payloads() for watch in self._bench.observer.watches.values())
        return asking or bool(self._running()) or self._athomic.requests.in_flight > 0

    def _working(self) -> set[tuple[str, float]]:
        """The calls of handlers that need real time: they are in no `asyncio.sleep`."""
        return {(name, start) for name, start in self._running().items() if not self._sleeps(name)} - self._waited_for

    def _sleeps(self, handler_id: str) -> bool:
        return any(loop.sleeps(worker_name(handler_id)) for loop in self._loops.values())

    async def _let_work(self) -> None:
        end = real_monotonic() + GRACE
        while working := self._working():
            if real_monotonic() > end:
                self._waited_for |= working
            await asyncio.sleep(PAUSE)
            await self._settle()


class Clock:
    """The clock that an app in a `TestKit` goes by: see `AsyncClock`."""

    def __init__(self, clock: AsyncClock, call: Call) -> None:
        self._clock, self._call = clock, call

    @property
    def now(self) -> datetime:
        """The moment it is, in UTC."""
        return self._clock.now

    def advance(self, seconds: float) -> None:
        """Puts the clock forward: see `AsyncClock.advance`."""
        self._call(self._clock.advance, seconds)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _refusal(bench: Bench) -> str | None:
    settings = bench.settings
    store = settings.state_store_url.get_secret_value() if settings.state_store_url is not None else "memory://"
    for what, url in (("broker", settings.broker_url), ("store", store)):
        if not url.startswith("memory:"):
            return f"kit.clock can be put forward only where nothing real is waited for: the {what} is not memory://"
    return None


def check_seconds(seconds: float) -> None:
    """Raises `ConfigurationError` unless it is a number of 0 or more."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ConfigurationError(f"seconds must be a number of 0 or more, not {shown(seconds)}")

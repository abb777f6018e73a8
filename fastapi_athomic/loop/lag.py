"""How late an event loop is, how busy its thread, and what keeps it from turning."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from collections.abc import Callable
from time import monotonic, process_time, thread_time
from types import FrameType
from typing import NamedTuple

logger = logging.getLogger(__name__)

LAG_INTERVAL = 0.05
"""Seconds between two looks at the event loop's lag."""
FADING = 0.95
"""What is left of a peak from one look to the next: half of it after 0.7 s."""
GREATEST_LAG = 0.2
"""Seconds: a loop that is later gets no less work, and one that was frozen is not held down for long afterwards."""
LOAD_SECONDS = 0.5
"""A thread that computes for a few milliseconds is not busy yet."""
QUIET_SECONDS = 10.0
"""The same handler is not warned of more often."""

_WORKER = re.compile(r"athomic-(.+)-worker-\d+")


def worker_name(handler_id: str) -> str:
    """What the tasks that serve a handler are called, before their number: a blocked loop is blamed by it."""
    return f"athomic-{handler_id}-worker"


class LoopLag:
    """How late the event loop is: the greatest delay of the last seconds, `GREATEST_LAG` at most."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.turned_at: float | None = None  # on the monotonic clock; None: nobody watches

    async def watch(self, late: Callable[[float], None] | None = None) -> None:
        """Measures until it is cancelled. `late` is told each delay, in seconds."""
        try:
            while True:
                self.turned_at = began = monotonic()
                await asyncio.sleep(LAG_INTERVAL)
                delay = max(0.0, monotonic() - began - LAG_INTERVAL)
                self.seconds = max(min(delay, GREATEST_LAG), self.seconds * FADING)
                if late is not None:
                    late(delay)
        finally:
            self.turned_at = None


class ThreadLoad:
    """How much of its time a thread computes. To be asked in that thread, now and then."""

    def __init__(self) -> None:
        self._share = 0.0
        self._since = self._computed = 0.0  # seconds, on the monotonic clock and on that of the thread

    def share(self) -> float:
        """From 0 to 1, over `LOAD_SECONDS` or since it was asked before."""
        now = monotonic()
        seconds = now - self._since
        if seconds >= LOAD_SECONDS:
            computed = thread_time()
            self._share = (computed - self._computed) / seconds
            self._since, self._computed = now, computed
        return self._share


class Culprit(NamedTuple):
    """What was seen running in a loop that did not turn."""

    handler_id: str | None  # None: it is no handler's own task
    place: str  # function and line; no path

    def __str__(self) -> str:
        return f"handler {self.handler_id} (in {self.place})" if self.handler_id else self.place


class BlockingDetector:
    """Looks at an event loop from a thread of its own, and says which handler keeps it from turning.

    `blocking_after`: seconds that a loop may stand still. `blame` is told the handler and the seconds, in the loop.
    """

    def __init__(self, lag: LoopLag, blocking_after: float, blame: Callable[[str, float], None]) -> None:
        self._lag = lag
        self._blocking_after = blocking_after
        self._blame = blame
        self._ended = threading.Event()
        self._culprit: Culprit | None = None
        self._warned: dict[Culprit, float] = {}

    async def watch(self) -> None:
        """Watches the loop it runs in until it is cancelled."""
        self._ended.clear()
        arguments = (asyncio.get_running_loop(), threading.get_ident())
        threading.Thread(target=self._look, args=arguments, name="athomic-blocking", daemon=True).start()
        try:
            await self._lag.watch(self._turned)
        finally:
            self._ended.set()

    def _turned(self, delay: float) -> None:
        culprit, self._culprit = self._culprit, None
        if delay < self._blocking_after or culprit is None:
            return
        if culprit.handler_id is not None:
            self._blame(culprit.handler_id, delay)
        if monotonic() - self._warned.get(culprit, float("-inf")) > QUIET_SECONDS:
            self._warned = {culprit: monotonic()}
            logger.warning("%s blocked the event loop for %.2f s: %s", culprit, delay, ADVICE)

    def _look(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        said_of: float | None = None
        while True:
            slept, computed = monotonic(), process_time()
            if self._ended.wait(self._blocking_after / 2):
                return
            began, now = self._lag.turned_at, monotonic()
            stands = now - began - LAG_INTERVAL if began is not None else 0.0
            if stands < self._blocking_after or _process_stood_still(now - slept, process_time() - computed, stands):
                continue
            self._culprit = culprit = self._culprit or _running_in(loop, thread)
            if culprit is not None and stands > QUIET_SECONDS and said_of != began:
                said_of = began
                logger.warning("%s has been blocking the event loop for %.0f s: %s", culprit, stands, ADVICE)


def _process_stood_still(slept: float, computed: float, stands: float) -> bool:
    """Whether the loop stands because the whole process did (frozen, or without a core). Nobody in it is to blame."""
    return slept > 0.9 * stands and computed < slept / 2


ADVICE = "everything else waits; await what it waits for, or make it a plain def, which runs in a thread"


def _running_in(loop: asyncio.AbstractEventLoop, thread: int) -> Culprit | None:
    frame = sys._current_frames().get(thread)
    if frame is None:
        return None
    try:
        task = asyncio.current_task(loop)
    except RuntimeError:
        task = None
    worker = _WORKER.fullmatch(task.get_name()) if task is not None else None
    return Culprit(worker[1] if worker else None, _place(frame))


def _place(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}, line {frame.f_lineno}"

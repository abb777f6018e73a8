"""What blocks the event loop? A thread looks, and a log warning and health name the handler."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from collections.abc import Callable
from time import monotonic, process_time
from types import FrameType
from typing import NamedTuple

from .load import LAG_INTERVAL, LoopLag

logger = logging.getLogger(__name__)

QUIET_SECONDS = 10.0
"""The pause between two warnings about the same handler, and about all that is no handler."""

_WORKER = re.compile(r"athomic-(.+)-worker-\d+")
_WAITING = re.compile(r"selectors\.|asyncio\.(runners|base_events)\.\w+\._?run|uvicorn\.(\w+\.)+\w*run, ")
"""Where the event loop itself is: in its selector, and for a loop that is not in Python (uvloop) at who runs it."""


def worker_name(handler_id: str) -> str:
    """The name of the tasks that serve a handler, without their number. It tells which handler blocks the loop."""
    return f"athomic-{handler_id}-worker"


class Culprit(NamedTuple):
    """What was running while the loop did not turn."""

    handler_id: str | None  # None: the task belongs to no handler
    place: str  # function and line, without a path

    def __str__(self) -> str:
        return f"handler {self.handler_id} (in {self.place})" if self.handler_id else self.place


class BlockingDetector:
    """Watches an event loop from a thread of its own, and logs which handler blocks it.

    `blocking_after`: how many seconds the loop may stand still. `blame` is called in the loop, with the handler id and
    the seconds that it stood still. `tick` is called in the loop, too, several times a second: whoever has something
    to do from time to time need not wake an idle app for it.
    """

    def __init__(
        self,
        lag: LoopLag,
        blocking_after: float,
        blame: Callable[[str, float], None],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._lag = lag
        self._blocking_after = blocking_after
        self._blame = blame
        self._tick = tick
        self._ended = threading.Event()
        self._culprit: Culprit | None = None
        self._warned: dict[str | None, float] = {}  # by handler id
        self._awake_since = float("-inf")  # the whole process stood still until then; on the monotonic clock

    async def watch(self) -> None:
        """Watches the loop that it runs in, until it is cancelled."""
        self._ended.clear()
        arguments = (asyncio.get_running_loop(), threading.get_ident())
        threading.Thread(target=self._look, args=arguments, name="athomic-blocking", daemon=True).start()
        try:
            await self._lag.watch(self._turned)
        finally:
            self._ended.set()

    def _turned(self, delay: float) -> None:
        self._tick()
        culprit, self._culprit = self._culprit, None
        delay = min(delay, monotonic() - self._awake_since)
        if delay < self._blocking_after or culprit is None:
            return
        if culprit.handler_id is not None:
            self._blame(culprit.handler_id, delay)
        if monotonic() - self._warned.get(culprit.handler_id, float("-inf")) > QUIET_SECONDS:
            self._warned[culprit.handler_id] = monotonic()
            logger.warning("%s blocked the event loop for %.2f s: %s", culprit, delay, ADVICE)

    def _pause(self) -> float:
        """How many seconds the next look can wait: until the loop has stood still for little more than half as long as
        it may. So there is a second look before that is over, which tells whether the process stood still instead.

        A loop that turns on time has turned twice by then.
        """
        half, turned_at = self._blocking_after / 2, self._lag.turned_at
        return half if turned_at is None else max(half, turned_at + LAG_INTERVAL + half * 1.2 - monotonic())

    def _look(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        said_of: float | None = None
        looked, computed = monotonic(), process_time()
        while not self._ended.wait(self._pause()):
            began, now, cpu = self._lag.turned_at, monotonic(), process_time()
            passed, used, looked, computed = now - looked, cpu - computed, now, cpu
            stands = now - max(began + LAG_INTERVAL, self._awake_since) if began is not None else 0.0
            if stands < self._blocking_after:
                continue
            if _process_stood_still(passed, used, stands):
                self._awake_since = now  # the loop may need a while to turn again: that alone counts
                continue
            self._culprit = culprit = self._culprit or _running_in(loop, thread)
            if culprit is not None and stands > QUIET_SECONDS and said_of != began:
                said_of = began
                logger.warning("%s has been blocking the event loop for %.0f s: %s", culprit, stands, ADVICE)


def _process_stood_still(passed: float, computed: float, stands: float) -> bool:
    """Whether the loop stands still because the whole process did (frozen, or without CPU): no code is to blame.

    `passed`: the seconds since the last look, which are many then. `computed`: the seconds of CPU used meanwhile.
    """
    return passed > 0.9 * stands and computed < passed / 2


ADVICE = "everything else waits; await what it waits for, or make it a plain def, which runs in a thread"


def _running_in(loop: asyncio.AbstractEventLoop, thread: int) -> Culprit | None:
    frame = sys._current_frames().get(thread)
    if frame is None:
        return None
    try:
        task = asyncio.current_task(loop)
    except RuntimeError:
        task = None
    place = _place(frame)
    if task is None and _WAITING.match(place):
        return None  # no code holds up a loop that waits for its sockets: the process got no CPU
    worker = _WORKER.fullmatch(task.get_name()) if task is not None else None
    return Culprit(worker[1] if worker else None, place)


def _place(frame: FrameType) -> str:
    while frame.f_code.co_filename.startswith("<frozen") and frame.f_back is not None:
        frame = frame.f_back  # who imports, instead of Python's own code for that
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}, line {frame.f_lineno}"

"""The time of one event loop under a test kit: its timers come earlier by as much as a test skips."""

from __future__ import annotations

import asyncio
import heapq
import re
from collections.abc import Callable
from contextvars import Context
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

from ..bell import Bell
from . import virtual_time

MOST_TURNS = 500
"""Of the loop, in a row, for what is ready: something may be ready for ever."""
QUIET_TURNS = 2
"""So many turns in which nothing becomes ready: nothing will, but by time, by a thread or by a socket."""

ROUTINE = re.compile(
    r"athomic-(loop-lag|health|lineage|broker-watch|pauses|status)|memory-.*|.*-(session|commit|topics|ledger)"
)
"""The package's tasks that look again and again whether there is something to do."""
REAL = "athomic-check-"
"""So begin the names of the tasks in which the app's own health checks run: what they ask takes its real time."""


class LoopTime:
    """Puts the timers of one event loop forward. Used from its thread, but for `wake`, `due_in` and `skip`.

    It replaces `time` and `call_at` of the loop object. `shared`: the loop is the test's as well, whose own timers stay
    as they are; only those that were begun `in_app` are put forward.
    """

    def __init__(self, loop: asyncio.BaseEventLoop, *, shared: bool) -> None:
        self.loop = loop
        self.real_tasks: WeakSet[asyncio.Task[Any]] = WeakSet()  # timers of these stay as they are
        self._shared = shared
        self._inner = cast(Any, loop)  # asyncio has no public way to see or to move a loop's timers
        self._time, self._call_at = loop.time, loop.call_at
        self._fixed: list[Any] = [  # timers that are not put forward
            timer for timer in self._inner._scheduled if shared or self._is_real(_limited_by(timer))
        ]
        self._routine: WeakSet[asyncio.TimerHandle] = WeakSet()
        self._sleeping: WeakKeyDictionary[asyncio.Task[Any], asyncio.TimerHandle] = WeakKeyDictionary()
        vars(loop).update(time=self.time, call_at=self.call_at)

    def restore(self) -> None:
        """The loop is as it was. Timers that are left come when they would have come."""
        for name in ("time", "call_at"):
            vars(self.loop).pop(name, None)
        for timer in self._inner._scheduled:
            timer._when -= virtual_time.ahead()

    def time(self) -> float:
        """Stands in for the loop's own."""
        return self._time() + virtual_time.ahead()

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Stands in for the loop's own."""
        timer = self._call_at(when, callback, *args, context=context)
        task = asyncio.current_task(self.loop)
        module = getattr(callback, "__module__", "")
        if (self._shared and not virtual_time.is_of_app()) or self._is_real(task):
            self._fixed.append(timer)
        elif module == Bell.__module__ or (task is not None and _is_routine(task.get_name(), module)):
            self._routine.add(timer)
        elif task is not None and module == "asyncio.futures":
            self._sleeping[task] = timer
        return timer

    def _is_real(self, task: asyncio.Task[Any] | None) -> bool:
        return task is not None and (task in self.real_tasks or task.get_name().startswith(REAL))

    # --- what a skip asks and does

    async def settle(self) -> bool:
        """Lets the loop turn until nothing is ready. Returns whether something was."""
        turns = quiet = 0
        while quiet < QUIET_TURNS and turns < MOST_TURNS:
            await asyncio.sleep(0)
            turns += 1
            quiet = 0 if self._inner._ready else quiet + 1
        return turns > QUIET_TURNS

    def wake(self) -> None:
        """Has the loop look at its timers now. From any thread."""
        try:
            self.loop.call_soon_threadsafe(lambda: None)
        except RuntimeError:  # it has been closed
            return

    def due_in(self) -> float:
        """The seconds until the next timer that matters: of no routine, and none of those that stay as they are."""
        fixed = {id(timer) for timer in self._fixed}
        return min(
            (
                timer.when() - self.time()
                for timer in list(self._inner._scheduled)
                if not timer.cancelled() and id(timer) not in fixed and timer not in self._routine
            ),
            default=float("inf"),
        )

    def skip(self, seconds: float) -> None:
        """Call it with each skip: what stays as it is comes so much later on the clock that was put forward."""
        self._fixed = [timer for timer in self._fixed if timer._scheduled and not timer.cancelled()]
        for timer in self._fixed:
            timer._when += seconds
        if self._fixed:
            heapq.heapify(self._inner._scheduled)

    def sleeps(self, name: str) -> bool:
        """Whether a task with a name that begins so is in an `asyncio.sleep`."""
        return any(
            task.get_name().startswith(name) and not timer.cancelled() and timer.when() > self.time()
            for task, timer in list(self._sleeping.items())
            if not task.done()
        )


def _limited_by(timer: Any) -> asyncio.Task[Any] | None:
    """The task that runs into this timer, if it is that of an `asyncio.timeout`."""
    owner = getattr(timer._callback, "__self__", None)
    return getattr(owner, "_task", None) if isinstance(owner, asyncio.Timeout) else None


def _is_routine(task: str, module: str) -> bool:
    pausing = module in ("asyncio.futures", "asyncio.timeouts")
    return bool(ROUTINE.fullmatch(task)) and (pausing or task.endswith("-commit"))

"""Begins the drain on SIGTERM, not when the last response has been sent.

Servers end an app's lifespan only after the last open response. One client that holds a stream open would keep the
consumers from draining (finishing what runs, committing, leaving their groups) until the process is killed.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

Begin = Callable[[], object]


class _Handler:
    """Calls the functions that the apps gave, then the handler that was there before. One serves all apps of a process.

    Only `told_of_termination` adds to `told` and removes from it.
    """

    def __init__(self, number: signal.Signals, before: Callable[[int, FrameType | None], object]) -> None:
        self.number = number
        self.before = before
        self.told: list[tuple[asyncio.AbstractEventLoop, Begin]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for loop, begin in tuple(self.told):
            with suppress(RuntimeError):  # the loop was closed without an end of the app's lifespan
                loop.call_soon_threadsafe(begin)
        self.before(number, frame)

    def step_back(self) -> None:
        """Restores the handler before, unless someone put another handler in place, which calls this one."""
        in_place: object = signal.getsignal(self.number)
        if in_place is self:
            signal.signal(self.number, self.before)


@contextmanager
def told_of_termination(begin: Begin, number: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """Within the block, the signal calls `begin` in the running event loop, then the handler that was there before.

    Does nothing if no Python code handles the signal, because then it ends the process; nor outside the main thread,
    which alone may set handlers.
    """
    handler = _handler(number) if threading.current_thread() is threading.main_thread() else None
    if handler is None:
        yield
        return
    told = (asyncio.get_running_loop(), begin)
    handler.told.append(told)
    signal.signal(number, handler)
    try:
        yield
    finally:
        handler.told.remove(told)
        if not handler.told:
            handler.step_back()


def _handler(number: signal.Signals) -> _Handler | None:
    """Ours if it is in place already, else a new one. None: no Python code handles the signal."""
    current = signal.getsignal(number)
    if isinstance(current, _Handler):
        return current
    return _Handler(number, current) if callable(current) else None

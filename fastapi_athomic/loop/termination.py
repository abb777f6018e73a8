"""The drain begins with SIGTERM, not when the last response has been sent.

Servers end an app's lifespan only after the last open response: one client that holds a stream open would keep the
consumers from draining until the process is killed.
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
    """Tells all who want to be told, and then whoever handled the signal before. One serves all apps of a process."""

    def __init__(self, before: Callable[[int, FrameType | None], object]) -> None:
        self.before = before
        self.told: list[tuple[asyncio.AbstractEventLoop, Begin]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for loop, begin in tuple(self.told):
            with suppress(RuntimeError):  # the loop was closed, and the app's lifespan never ended
                loop.call_soon_threadsafe(begin)
        self.before(number, frame)

    def step_back(self) -> None:
        """Unless another stands before it, who calls it."""
        in_place: object = signal.getsignal(signal.SIGTERM)
        if in_place is self:
            signal.signal(signal.SIGTERM, self.before)


@contextmanager
def told_of_termination(begin: Begin) -> Iterator[None]:
    """`begin` is called in the event loop at hand when SIGTERM comes; then whoever handles it goes on as ever.

    Nothing is done where nobody in Python handles the signal, as it ends the process then, nor outside of the main
    thread, where nobody can.
    """
    handler = _handler() if threading.current_thread() is threading.main_thread() else None
    if handler is None:
        yield
        return
    told = (asyncio.get_running_loop(), begin)
    handler.told.append(told)
    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        handler.told.remove(told)
        if not handler.told:
            handler.step_back()


def _handler() -> _Handler | None:
    """Ours, if it is in its place already, or a new one; None: nobody in Python handles the signal."""
    current = signal.getsignal(signal.SIGTERM)
    if isinstance(current, _Handler):
        return current
    return _Handler(current) if callable(current) else None

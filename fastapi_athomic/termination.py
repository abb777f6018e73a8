"""The drain begins with SIGTERM, not when the last response has been sent.

Servers end an app's lifespan only after the last open response: one client that holds a stream open would keep the
consumers from draining until the process is killed.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def told_of_termination(begin: Callable[[], object]) -> Iterator[None]:
    """`begin` is called in the event loop at hand when SIGTERM comes; then whoever handles it goes on as ever.

    Nothing is done where nobody in Python handles the signal, as it ends the process then, nor outside of the main
    thread, where nobody can.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    handle_before, loop, told = before, asyncio.get_running_loop(), True

    def handle(number: int, frame: FrameType | None) -> None:
        if told:
            loop.call_soon_threadsafe(begin)
        handle_before(number, frame)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        told = False
        if signal.getsignal(signal.SIGTERM) is handle:  # else somebody has put himself before us, and calls us
            signal.signal(signal.SIGTERM, before)

"""Tells whose cancellation a `CancelledError` is: ours, the event loop's, or the handler's own.

Handlers run in worker tasks. We cancel those when we close them, and set a flag before. The end of the event loop
cancels all tasks, including the one that made the workers. Any other cancellation that a handler raises is an error of
the handler: it awaited a task that somebody cancelled, or cancelled its own.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any


class Owner:
    """The task that creates this object. It makes workers, and closes them before it ends."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        try:
            self._task = asyncio.current_task()
        except RuntimeError:  # no event loop is running
            return

    @property
    def ends(self) -> bool:
        """Whether this task ends with its workers still open, which happens only when the event loop shuts down."""
        task = self._task
        return task is not None and (task.done() or task.cancelling() > 0 or not task.get_loop().is_running())


def is_interrupt(error: BaseException) -> bool:
    """Whether an error is Ctrl-C, which is meant for the process. Python raises that only in the main thread."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


async def forget_cancellation() -> None:
    """Clears a cancellation of the current task that was meant for a handler, but came after the handler had ended.

    Otherwise it would interrupt whatever the task does next. A handler can cancel the task that it runs in; so do old
    libraries, with their timeouts.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return
    while task.uncancel():
        pass
    try:
        await asyncio.sleep(0)  # the cancellation is raised here, unless it was before
    except asyncio.CancelledError:
        if task.cancelling():  # a new one
            raise

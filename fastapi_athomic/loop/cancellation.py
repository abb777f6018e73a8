"""Whose cancellation it is: ours, that of the process, or something that a handler came upon.

Handlers run in the tasks of workers. We cancel those when we close them, which is marked before. The end of the event
loop cancels everything, also the task that the workers were made in. Whatever else comes out of a handler as a
cancellation is an error of its own: of a task that somebody cancelled, or of its own task by its own doing.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any


class Owner:
    """The task at hand, which makes workers and closes them before it ends."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        try:
            self._task = asyncio.current_task()
        except RuntimeError:  # no event loop runs
            return

    @property
    def ends(self) -> bool:
        """It ends without having closed them: so does the event loop."""
        task = self._task
        return task is not None and (task.done() or task.cancelling() > 0 or not task.get_loop().is_running())


def is_interrupt(error: BaseException) -> bool:
    """Ctrl-C, which is for the process: Python raises it in the main thread only."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


async def forget_cancellation() -> None:
    """What was meant for a handler, and came too late for it, shall not strike what is done next in its task.

    A handler may cancel the task that it runs in, and so may old libraries with their timeouts.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return
    while task.uncancel():
        pass
    try:
        await asyncio.sleep(0)  # where it is raised, if it has not been yet
    except asyncio.CancelledError:
        if task.cancelling():  # another one, meanwhile
            raise

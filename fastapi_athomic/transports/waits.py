"""Waits for messages that can be cut short."""

from __future__ import annotations

import asyncio


def cut_short(limit: asyncio.Timeout | None) -> None:
    """Lets a wait end now as if its time were up. None: nobody waits. For the event loop of the wait."""
    if limit is not None and not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())

"""Consumers give the event loop back before HTTP routes feel them."""

from __future__ import annotations

import asyncio
from time import monotonic

TURNS = 3
"""Turns of the event loop given away at once.

One lets a request in, the next ones let it be answered (measured, PEERS F5).
"""


class LoopShare:
    """The slice of time that all consumers of one event loop work in together, before everybody else gets a turn."""

    __slots__ = ("deadline", "slice_seconds")

    def __init__(self, slice_seconds: float) -> None:
        self.slice_seconds = slice_seconds
        self.deadline = 0.0  # on the monotonic clock; whoever is past it calls `give_way`

    async def give_way(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.deadline = monotonic() + self.slice_seconds

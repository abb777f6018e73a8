"""How late an event loop is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

LAG_INTERVAL = 0.05
"""Seconds between two looks at the event loop's lag."""
FADING = 0.95
"""What is left of a peak from one look to the next: half of it after 0.7 s."""
GREATEST_LAG = 0.2
"""Seconds: a loop that is later gets no less work, and one that was frozen is not held down for long afterwards."""


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

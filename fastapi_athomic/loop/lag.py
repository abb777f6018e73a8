"""How late is the event loop?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

LAG_INTERVAL = 0.05
"""Seconds between two measurements."""
FADING = 0.95
"""What remains of a peak from one measurement to the next: half of it after 0.7 s."""
GREATEST_LAG = 0.2
"""Seconds. A loop that is later than this gets no less work, and one that was frozen soon gets its full share again."""


class LoopLag:
    """How late the event loop is: the greatest delay of the last seconds, at most `GREATEST_LAG`.

    Readers in other threads may look at `seconds` and `turned_at`; only `watch` sets them.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.turned_at: float | None = None  # when the loop last turned, on the monotonic clock; None: nobody watches

    async def watch(self, late: Callable[[float], None] | None = None) -> None:
        """Measures until it is cancelled. Calls `late` with each delay, in seconds."""
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

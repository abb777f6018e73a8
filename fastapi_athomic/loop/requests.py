"""How busy the HTTP routes are, which consumers share the event loop with."""

from __future__ import annotations

from time import monotonic

QUIET_SECONDS = 1.0
"""So long after the last request nobody seems to be there who could be held up."""


class RequestGauge:
    """How many HTTP requests are being answered, and when the last one was."""

    __slots__ = ("ended_at", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self.ended_at = float("-inf")  # the last one, on the monotonic clock

    def __enter__(self) -> None:
        self.in_flight += 1

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1
        self.ended_at = monotonic()

    def quiet(self, now: float) -> bool:
        """Whether nobody has asked for anything for a while."""
        return not self.in_flight and now - self.ended_at > QUIET_SECONDS

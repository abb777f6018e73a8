"""How busy the HTTP routes are that consumers share an event loop, or the GIL, with."""

from __future__ import annotations

from time import monotonic

QUIET_SECONDS = 1.0
"""This long after the last request the routes count as quiet: there is probably nobody to hold up."""


class RequestGauge:
    """How many HTTP requests are being answered, and when the last answer ended.

    The middleware enters it for each request. Only that changes the fields; anybody can read them.
    """

    __slots__ = ("ended_at", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self.ended_at = float("-inf")  # the last request, on the monotonic clock

    def __enter__(self) -> None:
        self.in_flight += 1

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1
        self.ended_at = monotonic()

    def quiet(self, now: float) -> bool:
        """Whether there has been no request for `QUIET_SECONDS`. `now` is on the monotonic clock."""
        return not self.in_flight and now - self.ended_at > QUIET_SECONDS

"""The tokens of a rate limit: they come with time, and are taken by what begins."""

from __future__ import annotations

from time import monotonic

from ..limits import RateLimit


class TokenBucket:
    """Full at the start and after a change of the limit for the better. Without a limit there is always a token.

    Its attributes may be read from another thread.
    """

    def __init__(self, limit: RateLimit | None) -> None:
        self.limit: RateLimit | None = None
        self._tokens = 0.0  # below 0: in debt, after a batch larger than the bucket
        self._counted_at = 0.0  # on the monotonic clock
        self.set(limit)

    def set(self, limit: RateLimit | None) -> None:
        """Another limit from now on. What was there stays, as far as it fits; who had no limit begins with a full one.

        A debt stays, too.
        """
        if limit is not None and self.limit is not None:
            self._count()
            self._tokens = min(self._tokens, limit.capacity)
        elif limit is not None:
            self._tokens, self._counted_at = limit.capacity, monotonic()
        self.limit = limit

    def take(self, count: int) -> bool:
        """Takes so many tokens; false: there are too few, and nothing has changed."""
        limit = self.limit
        if limit is None:
            return True
        self._count()
        if self._tokens < min(count, limit.capacity):
            return False
        self._tokens -= count
        return True

    def give_back(self, count: int) -> None:
        """What was taken for them did not begin."""
        if self.limit is not None:
            self._count()
            self._tokens = min(self._tokens + count, self.limit.capacity)

    def seconds_until(self, count: int) -> float:
        """How long until so many can be taken, if nobody takes any before."""
        if self.limit is None:
            return 0.0
        self._count()
        missing = min(count, self.limit.capacity) - self._tokens
        return max(0.0, missing / self.limit.messages_per_second)

    def _count(self) -> None:
        """Adds the tokens that have come since it was last asked."""
        assert self.limit is not None
        now = monotonic()
        come = (now - self._counted_at) * self.limit.messages_per_second
        self._tokens, self._counted_at = min(self._tokens + come, self.limit.capacity), now

"""Where a strategy's work waits while its rate limit has no tokens, or its circuit breaker is open.

What waits here is in no handler and with no worker: polling, rebalances and stops go on as if it had not been its turn
yet. A lane that waits keeps its place before its own later messages, and its turn among the other lanes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, Protocol, TypeVar

from ..limits import CircuitBreaker, RateLimit
from ..observation.reasons import Reason
from ..observation.status import RateLimitStatus
from .breaker import Breaker, BreakerState
from .bucket import TokenBucket

SHORTEST_WAIT = 0.005
"""Seconds. Tokens that come faster are given out several at a time."""
MOMENT = 5.0
"""Seconds after which what still waits for its turn does so for another reason."""


class Limits:
    """The rate limit and the circuit breaker of one consumer; as long as its service, over its sessions."""

    def __init__(self, name: str, rate: RateLimit | None = None, breaker: CircuitBreaker | None = None) -> None:
        self.declared_rate = rate  # in code and settings
        self.bucket = TokenBucket(rate)
        self.breaker = Breaker(name, breaker)
        self.breaker.changed = self._tell
        self.watchers: list[Callable[[], None]] = []  # told of each change
        self.waiting = 0  # lanes that wait; for the status
        self._waited_at = float("-inf")  # when some were last seen to wait, on the monotonic clock

    @property
    def any(self) -> bool:
        """Something is limited, or watched."""
        return self.bucket.limit is not None or self.breaker.watches

    def set_rate(self, limit: RateLimit | None) -> None:
        """Another limit from now on; None: as declared."""
        self.bucket.set(limit if limit is not None else self.declared_rate)
        self._tell()

    def note_waiting(self, lanes: int) -> None:
        """So many lanes wait."""
        if lanes or self.waiting:
            self._waited_at = monotonic()
        self.waiting = lanes

    def hold_back(self) -> bool:
        """Messages wait here, or did a moment ago. May be asked from another thread."""
        return self.waiting > 0 or monotonic() - self._waited_at < MOMENT

    def problems(self) -> list[Reason]:
        """For health: a rate limit is none. May be asked from another thread."""
        problem = self.breaker.problem()
        return [problem] if problem is not None else []

    def rate_status(self) -> RateLimitStatus | None:
        """None: there is no limit. May be asked from another thread."""
        limit = self.bucket.limit
        if limit is None:
            return None
        return RateLimitStatus(
            messages_per_second=limit.messages_per_second, burst=limit.capacity, waiting=self.waiting
        )

    def _tell(self) -> None:
        for watcher in list(self.watchers):
            watcher()


class HasLanes(Protocol):
    """Nothing is asked of a lane, but that it can be a key."""

    def __hash__(self) -> int: ...


L = TypeVar("L", bound=HasLanes)


class Gate(Generic[L]):
    """Lets the lanes of one strategy pass.

    Strategies look at `active` for each message, and call nothing while it is false. Else they ask `admits` before each
    call of the handler; call `succeeded` after one that succeeded; and `left` when the worker leaves the lane. A lane
    that is not admitted is put into the pool again (`put`) when it may pass.
    """

    def __init__(self, limits: Limits, put: Callable[[L], None]) -> None:
        self._limits = limits
        self._bucket, self._breaker = limits.bucket, limits.breaker
        self._put = put
        self._waiting = deque[tuple[L, int]]()  # with the tokens that each needs
        self._passes: dict[L, int] = {}  # lanes that may pass, with the tokens that were taken for them
        self._began: dict[L, float] = {}  # when the running calls began, if there is a breaker; monotonic
        self._probe: L | None = None  # the lane whose message a half open breaker let through
        self._timer: asyncio.Handle | None = None
        self._closed = False
        self.active = limits.any
        limits.watchers.append(self._changed)

    # --- asked by workers

    def admits(self, lane: L, count: int = 1) -> int:
        """How many of the next `count` messages of the lane may begin now, in one call. 0: it waits here.

        All of them; or one, to see whether it succeeds.
        """
        allowed = self._admitted(lane, count)
        if allowed and self._breaker.policy is not None:
            self._began[lane] = self._breaker.now()
        return allowed

    def _admitted(self, lane: L, count: int) -> int:
        if lane is self._probe:
            if lane in self._passes:  # it was let through while it waited, and begins now
                return self._passes.pop(lane)
            self._end_probe()  # the message before it told nothing
        taken = self._passes.pop(lane, 0)
        if taken and self._breaker.state is BreakerState.CLOSED:
            self._note()
            return taken
        if taken:  # the breaker has opened meanwhile
            self._bucket.give_back(taken)
        elif not self._waiting and (allowed := self._take(lane, count)):
            return allowed
        self._waiting.append((lane, count))
        self._note()
        self._look_at_once()
        return 0

    def succeeded(self, lane: L) -> None:
        """A call of the handler for this lane has succeeded."""
        probe = lane is self._probe
        if probe:
            self._probe = None
        self._breaker.succeeded(began=self._began.pop(lane, None), probe=probe)

    def left(self, lane: L) -> None:
        """No worker serves the lane any more; it may wait here."""
        self._began.pop(lane, None)
        if lane is self._probe and lane not in self._passes:
            self._end_probe()
        elif self._passes and (taken := self._passes.pop(lane, 0)):
            # it might have passed, but its partition was closed meanwhile
            self._bucket.give_back(taken)
            if lane is self._probe:
                self._end_probe()
            self._look_at_once()

    def let_go(self) -> None:
        """Partitions are taken away: each lane looks at once whether it still has something to wait for."""
        waiting, self._waiting = self._waiting, deque()
        self._note()
        for lane, _ in waiting:
            self._put(lane)

    def close(self) -> None:
        """Nothing passes any more, and nothing is waited for."""
        self._closed = True
        self._waiting.clear()
        self._passes.clear()
        self._note()
        if self._changed in self._limits.watchers:
            self._limits.watchers.remove(self._changed)
        self._stop_timer()
        if self._probe is not None:
            self._end_probe()

    # --- who passes

    def _take(self, lane: L, count: int) -> int:
        """Takes the tokens for a call; 0: it may not begin."""
        breaker = self._breaker
        breaker.look()
        if breaker.state is BreakerState.HALF_OPEN:
            count = 1
        if breaker.state is BreakerState.OPEN or not self._bucket.take(count):
            return 0
        if not breaker.admits():
            self._bucket.give_back(count)
            return 0
        if breaker.state is BreakerState.HALF_OPEN:
            self._probe = lane
        return count

    def _let_pass(self) -> None:
        """Lets those pass that may, in the order in which they came, and looks again when the next one may."""
        while self._waiting and not self._closed:
            lane, count = self._waiting[0]
            allowed = self._take(lane, count)
            if not allowed:
                break
            self._waiting.popleft()
            self._passes[lane] = allowed
            self._put(lane)
        self._note()
        if self._waiting and not self._closed:
            self._look_later(self._waiting[0][1])

    def _look_later(self, count: int) -> None:
        breaker = self._breaker
        if breaker.state is BreakerState.CLOSED or (breaker.state is BreakerState.HALF_OPEN and self._probe is None):
            seconds: float | None = self._bucket.seconds_until(1 if breaker.state is BreakerState.HALF_OPEN else count)
        else:
            seconds = breaker.seconds_until_half_open()  # None: who changes it calls `_changed`
        if seconds is not None:
            self._stop_timer()
            self._timer = asyncio.get_running_loop().call_later(max(SHORTEST_WAIT, seconds), self._let_pass)

    def _look_at_once(self) -> None:
        """As soon as the caller is done: it may be in the midst of a change."""
        if not self._closed:
            self._stop_timer()
            self._timer = asyncio.get_running_loop().call_soon(self._let_pass)

    def _changed(self) -> None:
        """Another limit, or another state of the breaker."""
        if self._breaker.state is not BreakerState.HALF_OPEN:
            self._probe = None
        self._note()
        self._look_at_once()

    def _end_probe(self) -> None:
        self._probe = None
        self._breaker.probe_over()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note(self) -> None:
        self._limits.note_waiting(len(self._waiting))
        self.active = self._limits.any or bool(self._waiting or self._passes)

"""The circuit breaker of one handler: whether calls may begin, by how the last ones ended."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from time import monotonic
from typing import Any

from ..clock import utc_now
from ..error_text import type_name
from ..limits import CircuitBreaker
from ..observation.reasons import Reason, ReasonCode
from ..observation.status import BreakerStatus
from ..outcomes import FailureContext

logger = logging.getLogger(__name__)


class BreakerState(StrEnum):
    """What may begin."""

    CLOSED = "closed"  # everything
    OPEN = "open"  # nothing
    HALF_OPEN = "half_open"  # one message, to see whether it succeeds


class Breaker:
    """Lives as long as the service, over its sessions. `Gate` asks it before a call begins and tells how it ended.

    Only for the consumers' event loop; `state`, `status` and `problem` may be read from another thread.
    """

    def __init__(self, name: str, policy: CircuitBreaker | None) -> None:
        self.policy = policy
        self.state = BreakerState.CLOSED
        self.forced = False  # an operator has opened it: it stays open until one closes it
        self.changed: Callable[[], None] = lambda: None  # called after each change, for the gate
        self.told: Callable[[dict[str, Any]], None] = lambda details: None  # of each change that nobody asked for
        self._name = name
        self._failed_at = deque[float](maxlen=policy.failures if policy is not None else 1)  # in a row; monotonic
        self._openings = 0  # in a row, without a success in between
        self._until = 0.0  # on the monotonic clock: when it is half open
        self._probing = False  # the one message of a half open breaker is under way
        self._since = utc_now()
        self._next: datetime | None = None  # `_until`, for people
        self._error: str | None = None  # the type of the last error that counted

    @property
    def watches(self) -> bool:
        """It has to be asked and told: it has a policy, or is not closed."""
        return self.policy is not None or self.state is not BreakerState.CLOSED

    # --- asked and told by the gate

    def admits(self) -> bool:
        """Whether a call may begin now. One that begins while it is half open must be told of: `ended`."""
        self.look()
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.OPEN or self._probing:
            return False
        self._probing = True
        return True

    def look(self) -> None:
        """Becomes half open when it is time to."""
        if self.state is BreakerState.OPEN and not self.forced and monotonic() >= self._until:
            self._become(BreakerState.HALF_OPEN)

    def seconds_until_half_open(self) -> float | None:
        """None: it is not open, or stays so until an operator closes it."""
        if self.state is not BreakerState.OPEN or self.forced:
            return None
        return max(0.0, self._until - monotonic())

    def now(self) -> float:
        """The time at which a call begins, for `succeeded`."""
        return monotonic()

    def succeeded(self, *, began: float | None, probe: bool) -> None:
        """A call has succeeded. `probe`: it began while the breaker was half open.

        One that `began` (on the monotonic clock; None: unknown) before the failures tells nothing about now: where
        many run at once, the last ones that got through would hide that all others fail.
        """
        if probe and self.state is BreakerState.HALF_OPEN:
            self._close()
        elif self._failed_at and self.state is BreakerState.CLOSED and (began is None or began >= self._failed_at[0]):
            self._failed_at.clear()

    def probe_over(self) -> None:
        """The message that was let through has ended, and told nothing about the dependency: another one may try."""
        if self._probing:
            self._probing = False
            self.changed()

    def excuses(self, failure: FailureContext) -> bool:
        """Notes a failure. True: it opened the breaker or came while that was open, so it is no attempt that counts."""
        policy = self.policy
        if policy is None or not policy.counts(failure):
            return False
        now = monotonic()
        self._error = type_name(failure.error)
        self._failed_at.append(now)
        if self.state is BreakerState.HALF_OPEN:
            self._open(policy, now)
        elif self.state is BreakerState.CLOSED:
            in_a_row = self._failed_at
            if len(in_a_row) == policy.failures and now - in_a_row[0] <= policy.window:
                self._open(policy, now)
        return self.state is BreakerState.OPEN

    # --- what an operator does

    def force(self, *, opened: bool) -> None:
        """Opens it until it is closed here again, or closes it."""
        self.forced = opened
        self._failed_at.clear()
        if opened:
            self._openings, self._next, self._error = 0, None, None
            self._become(BreakerState.OPEN, quietly=True)
        else:
            self._close(quietly=True)

    def release(self) -> None:
        """Leaves it to itself again. One that is open tries a message now; it closes if it has no policy."""
        self.forced = False
        if self.state is BreakerState.OPEN and self.policy is not None:
            self._until, self._next = 0.0, None
            self._become(BreakerState.HALF_OPEN, quietly=True)
        elif self.policy is None:
            self._close(quietly=True)

    # --- what others see

    def status(self) -> BreakerStatus | None:
        """None if there is none: the handler has no policy, and nobody opened it."""
        if not self.watches:
            return None
        return BreakerStatus(
            state=self.state.value,
            since=self._since,
            until=self._next if self.state is BreakerState.OPEN else None,
            forced=self.forced,
            failures=len(self._failed_at),
            error=self._error,
        )

    def problem(self) -> Reason | None:
        """Why nothing begins, for health; None while it is closed."""
        if self.state is BreakerState.CLOSED:
            return None
        return Reason(code=ReasonCode.BREAKER_OPEN, message=self._in_words(), since=self._since)

    def _in_words(self) -> str:
        since = f"since {self._since:%Y-%m-%d %H:%M:%S} UTC"
        if self.forced:
            return f"its circuit breaker was opened by an operator {since}: nothing begins until it is closed"
        if self.state is BreakerState.HALF_OPEN:
            why = f" ({self._error})" if self._error is not None else ""
            return f"its circuit breaker is half open {since}{why}: one message is tried"
        return f"its circuit breaker is open {since} ({self._error}): nothing begins until {self._next:%H:%M:%S} UTC"

    # --- changes

    def _open(self, policy: CircuitBreaker, now: float) -> None:
        pause = min(policy.pause * 2.0 ** min(self._openings, 64), policy.longest_pause)
        self._openings += 1
        self._until, self._next = now + pause, utc_now() + timedelta(seconds=pause)
        logger.warning(
            "%s: its circuit breaker opens: nothing begins for %g s, as the handler keeps failing with %s",
            *(self._name, pause, self._error),
        )
        self._become(BreakerState.OPEN)

    def _close(self, *, quietly: bool = False) -> None:
        self._openings, self._next = 0, None
        self._failed_at.clear()
        self._become(BreakerState.CLOSED, quietly=quietly)

    def _become(self, state: BreakerState, *, quietly: bool = False) -> None:
        if state is self.state and not quietly:
            return
        self.state, self._since, self._probing = state, utc_now(), False
        if not quietly:
            error = self._error if state is BreakerState.OPEN else None
            until = self._next if state is BreakerState.OPEN else None
            self.told({"state": state.value, "error": error, "until": until})
        self.changed()

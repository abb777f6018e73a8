"""The partitions that the group has given to this member, what may start on them, and whether they are still ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic

from ..messages import TopicPartition
from .notes import Stamp
from .partitions import Hold, PartitionParts, PartitionState, WorkDone
from .parts import SessionParts

logger = logging.getLogger(__name__)

TRUSTED_SHARE = 0.7
"""Share of the session timeout: a process that stood still for longer may have been evicted from the group."""


class Assignment:
    """The partitions of one session, each with its state. It is the strategy's `Guard`.

    It tells the strategy with which partitions to begin, and what to drop. What holds all partitions (a pause, doubt
    about the membership) also holds those that are added later.

    The poll loop calls `note_poll` each time it comes round. If it does not for most of the session timeout, `suspect`
    holds all partitions, until `Membership.confirm` knows more.
    """

    def __init__(self, parts: SessionParts, wake: Callable[[], None], *, paused: bool) -> None:
        self.states: dict[TopicPartition, PartitionState] = {}  # for others to read; only this class adds and removes
        self.work_done = WorkDone()  # of all partitions
        self.closing = False  # the session ends: nothing is opened any more
        self.strategy = parts.make_strategy(self)
        self._name = parts.name
        self._counters = parts.counters
        self._holds: set[Hold] = {"paused"} if paused else set()
        self._shared = PartitionParts(
            low_mark=parts.max_buffered - parts.settings.max_poll_messages,
            max_bytes=parts.settings.max_buffered_bytes,
            has_room=wake,
            work_done=self.work_done,
            delay_of=parts.delay_of,
        )
        self._away_limit = float("inf") if parts.session_timeout is None else parts.session_timeout * TRUSTED_SHARE
        self.note_poll(monotonic())

    # --- what comes and goes

    def add(
        self,
        place: TopicPartition,
        committed: int | None,
        stamp: Stamp,
        skip: frozenset[int] = frozenset(),
    ) -> PartitionState:
        """Gives the partition a new state. One that it had must have been revoked before."""
        state = self.states[place] = PartitionState(place, self._shared, committed=committed, stamp=stamp, skip=skip)
        for reason in self._holds:
            state.hold(reason)
        if self.closing:
            state.leave()
        return state

    def reopen_if_open(self, state: PartitionState) -> None:
        """Lets the strategy begin, or go on, with the partition if it is open."""
        if state.open:
            self.strategy.reopen(state)

    def leave(self, states: Iterable[PartitionState]) -> None:
        """These partitions go to another member: what has not started is dropped, what runs may finish."""
        for state in states:
            if not state.revoked:
                state.leave()
            self.strategy.release(state)

    def revoke(self, states: Iterable[PartitionState]) -> None:
        """Fences these partitions: what has not started is dropped, what runs commits nothing any more."""
        for state in states:
            state.revoke()
            self.strategy.release(state)

    def remove(self, places: Collection[TopicPartition]) -> None:
        """Forgets partitions that were revoked."""
        for place in places:
            self.states.pop(place, None)

    def revoke_all(self) -> None:
        """Fences all partitions, and forgets them."""
        self.revoke(self.states.values())
        self.states.clear()

    async def drain(self, states: Sequence[PartitionState], timeout: float) -> None:
        """Waits until nothing of these partitions runs, for `timeout` seconds at most. What runs then is given up."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(state.drained() for state in states))
        except TimeoutError:
            pass
        cut_off = sum(state.running for state in states)
        if cut_off:
            self._counters.abandoned += cut_off
            logger.warning(
                "%s: %d calls of the handler have not ended after %.1f s: given up, nothing of theirs is committed",
                *(self._name, cut_off, timeout),
            )

    def close(self) -> list[PartitionState]:
        """The session ends: lets go of all partitions, as `leave` does, and returns them."""
        self.closing = True
        states = list(self.states.values())
        self.leave(states)
        return states

    # --- what holds them all

    def hold(self, reason: Hold) -> None:
        """Holds all partitions, those that are added later included."""
        self._holds.add(reason)
        for state in self.states.values():
            state.hold(reason)

    def lift(self, reason: Hold) -> None:
        """Goes on with all partitions that nothing else holds."""
        self._holds.discard(reason)
        for state in self.states.values():
            state.lift(reason)
            self.reopen_if_open(state)

    # --- trust

    def note_poll(self, now: float) -> None:
        """This process is awake, and trusted to be a member for a while. `now` is on the monotonic clock."""
        self.polled_at, self.trusted_until = now, now + self._away_limit

    @property
    def doubtful(self) -> bool:
        """This process stood still for too long to know whether it is still a member of the group."""
        return "doubt" in self._holds

    def suspect(self, now: float) -> bool:
        """True when no new work may start: this process stood still for so long that it may have been evicted.

        All partitions are held then. `now` is on the monotonic clock.
        """
        if "doubt" in self._holds:
            return True
        if now <= self.trusted_until:
            return False
        logger.warning(
            "%s: the process stood still for %.1f s: its membership is in doubt, nothing starts until a commit tells",
            *(self._name, now - self.polled_at),
        )
        self.hold("doubt")
        return True

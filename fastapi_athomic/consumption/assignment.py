"""The partitions that the group has given to this member, what may start on them, and whether they are still ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic

from ..messages import TopicPartition
from .notes import NOTE_SPAN, Stamp
from .partitions import Hold, PartitionParts, PartitionState, WorkDone
from .parts import SessionParts

logger = logging.getLogger(__name__)

TRUSTED_SHARE = 0.7
"""Share of the session timeout. A process that stood still for longer may have been evicted from the group."""


class Assignment:
    """The partitions of one session, each with its state. It is the strategy's `Guard`.

    It tells the strategy which partitions to work on, and which to drop. A hold on all partitions (doubt about the
    membership) and the operator's pauses also apply to those that are added later.

    The poll loop calls `note_poll` in each round. If it has not done so for most of the session timeout, `suspect`
    holds all partitions until `Membership.confirm` has found out whether this process is still a member. It does so,
    too, if the broker has not said for the whole session timeout that it is: until `trust_again`, or a rebalance.

    `confirmed_at`: see `TransportConsumer`.
    """

    def __init__(self, parts: SessionParts, wake: Callable[[], None], confirmed_at: Callable[[], float | None]) -> None:
        self.states: dict[TopicPartition, PartitionState] = {}  # for others to read; only this class adds and removes
        self.work_done = WorkDone()  # of all partitions
        self.closing = False  # the session ends: nothing is opened any more
        self.wake = wake
        self.strategy = parts.make_strategy(self)
        self._name = parts.name
        self._counters = parts.counters
        self.doubted_at: float | None = None  # since when the membership is in doubt; monotonic. None: it is not
        self.cut_off = False  # it is in doubt because the broker does not answer
        self._controls = parts.controls
        self._holds: set[Hold] = set()
        self._max_poll_messages = parts.settings.max_poll_messages
        self._shared = PartitionParts(
            low_mark=self._low_mark(),
            most_span=NOTE_SPAN - self._max_poll_messages,
            max_bytes=parts.settings.max_buffered_bytes,
            has_room=wake,
            work_done=self.work_done,
            delay_of=parts.delay_of,
        )
        self._confirmed_at = confirmed_at
        self._session_timeout = float("inf") if parts.session_timeout is None else parts.session_timeout
        self.away_limit = self._session_timeout * TRUSTED_SHARE
        self.note_poll(monotonic())

    # --- partitions come and go

    def add(
        self,
        place: TopicPartition,
        committed: int | None,
        stamp: Stamp,
        skip: frozenset[int] = frozenset(),
    ) -> PartitionState:
        """Gives the partition a new state. If it had one, that must have been revoked before."""
        state = self.states[place] = PartitionState(place, self._shared, committed=committed, stamp=stamp, skip=skip)
        for reason in self._holds:
            state.hold(reason)
        if self.paused(place):
            state.hold("paused")
        if self.closing:
            state.leave()
        return state

    def reopen_if_open(self, state: PartitionState) -> None:
        """Lets the strategy start work on the partition, or resume it. Does nothing if new work may not start."""
        if state.open:
            self.strategy.reopen(state)

    def leave(self, states: Iterable[PartitionState]) -> None:
        """These partitions go to another member: waiting messages are dropped, running handlers may finish."""
        for state in states:
            if not state.revoked:
                state.leave()
            self.strategy.release(state)

    def revoke(self, states: Iterable[PartitionState]) -> None:
        """Fences these partitions: waiting messages are dropped, running handlers commit nothing any more."""
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
        """Waits until no handler runs for these partitions, at most `timeout` seconds; then it gives up on the rest.

        Draining is only this wait here: the caller stops new work before it, and commits after it.
        """
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(state.drained() for state in states))
        except TimeoutError:
            pass
        cut_off = sum(state.running for state in states)
        if cut_off:
            self._counters.abandoned += cut_off
            logger.warning(
                "%s: %d handler calls were still running after %.1f s: gave up on them, their messages may be handled "
                "again",
                *(self._name, cut_off, timeout),
            )

    def close(self) -> list[PartitionState]:
        """The session ends: lets go of all partitions, as `leave` does, and returns them."""
        self.closing = True
        states = list(self.states.values())
        self.leave(states)
        return states

    # --- holds on all partitions

    def hold(self, reason: Hold) -> None:
        """Holds all partitions, also those that are added later."""
        self._holds.add(reason)
        for state in self.states.values():
            state.hold(reason)

    def lift(self, reason: Hold) -> None:
        """Lifts this hold. Work goes on in all partitions that have no other."""
        self._holds.discard(reason)
        if reason == "doubt":
            self.doubted_at, self.cut_off = None, False
        for state in self.states.values():
            state.lift(reason)
            self.reopen_if_open(state)

    # --- what an operator sets

    def paused(self, place: TopicPartition) -> bool:
        """An operator has paused this partition; it may be that of another member."""
        return self._controls.pauses.covers(place)

    def apply_pauses(self) -> None:
        """The operator's pauses have changed. Work goes on in the partitions that nothing holds any more."""
        for place, state in self.states.items():
            if self.paused(place):
                state.hold("paused")
            else:
                state.lift("paused")
        for state in list(self.states.values()):  # also those that go on: an ordered message may be of no partition
            self.reopen_if_open(state)

    def apply_concurrency(self) -> None:
        """The operator has changed how many calls run at once."""
        self.strategy.resize(self._controls.concurrency)
        self._shared = self._shared._replace(low_mark=self._low_mark())
        for state in self.states.values():
            state.set_most_left(self._shared.low_mark)

    def _low_mark(self) -> int:
        return self._controls.max_buffered - self._max_poll_messages

    # --- trust in our membership

    def note_poll(self, now: float) -> None:
        """The process is awake: it is trusted to be a member until `trusted_until`. `now` is on the monotonic clock."""
        self.polled_at = now
        self._trust()

    def _trust(self) -> None:
        confirmed_at = self._confirmed_at()
        silent_limit = float("inf") if confirmed_at is None else confirmed_at + self._session_timeout
        self.trusted_until = min(self.polled_at + self.away_limit, silent_limit)

    @property
    def doubtful(self) -> bool:
        """Nobody knows whether this process is still a member of the group: it stood still, or the broker is silent."""
        return "doubt" in self._holds

    def trust_again(self, now: float) -> bool:
        """The broker was silent, and has said now that we are a member. False: it has not, or that was not the doubt.

        `now` is on the monotonic clock.
        """
        if not self.cut_off or now > self.trusted_until:
            return False
        logger.warning("%s: the broker answers again: handlers go on", self._name)
        self.lift("doubt")
        return True

    def suspect(self, now: float) -> bool:
        """True when no new work may start: this process may have been evicted, see the class.

        All partitions are held then. `now` is on the monotonic clock.
        """
        if "doubt" in self._holds:
            return True
        if now <= self.trusted_until:
            return False
        self._trust()  # the broker may have answered since the last poll
        if now <= self.trusted_until:
            return False
        stood_still, confirmed_at = now - self.polled_at, self._confirmed_at()
        if confirmed_at is None or stood_still > self.away_limit:
            said, self.doubted_at = "the process stood still for %.1f s", self.polled_at
        else:
            said, self.doubted_at, self.cut_off = "the broker has not answered for %.1f s", confirmed_at, True
        ends = "until it answers" if self.cut_off else "until a commit confirms it"
        logger.warning(
            f"%s: {said}: its membership is in doubt, no handler starts {ends}",
            *(self._name, now - self.doubted_at),
        )
        self.hold("doubt")
        self.wake()
        return True

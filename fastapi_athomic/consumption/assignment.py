"""The partitions that the group has given to this member, what may start on them, and whether they are still ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic

from ..loop.load import ThreadLoad
from ..messages import TopicPartition
from ..transports.base import Confirmation
from .notes import NOTE_SPAN, Stamp
from .partitions import Hold, PartitionParts, PartitionState, WorkDone
from .parts import SessionParts

logger = logging.getLogger(__name__)

TRUSTED_SHARE = 0.7
"""Share of the session timeout. A process that stood still for longer may have been evicted from the group."""
BUSY = 0.9
"""Share of the time. A thread that computes for longer would not get more done by more calls at once."""


class Assignment:
    """The partitions of one session, each with its state. It is the strategy's `Guard`.

    It tells the strategy which partitions to work on, and which to drop. A hold on all partitions (doubt about the
    membership) and the operator's pauses also apply to those that are added later.

    The poll loop calls `note_poll` in each round. If it has not done so for most of the session timeout, `suspect`
    holds all partitions until `Membership.confirm` has found out whether this process is still a member. It does so,
    too, if the broker has not confirmed for so long that it is that others may have its partitions: until
    `trust_again`, or a rebalance.

    `confirmation`: see `TransportConsumer`.
    """

    def __init__(
        self, parts: SessionParts, wake: Callable[[], None], confirmation: Callable[[], Confirmation | None]
    ) -> None:
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
        self._load = ThreadLoad()
        self._max_poll_messages = parts.settings.max_poll_messages
        self._shared = PartitionParts(
            low_mark=self._low_mark(),
            most_span=NOTE_SPAN - self._max_poll_messages,
            max_bytes=parts.settings.max_buffered_bytes,
            enough=self._controls.enough,
            hungry=self._hungry,
            has_room=wake,
            work_done=self.work_done,
            delay_of=parts.delay_of,
        )
        self._confirmation = confirmation
        self.away_limit = float("inf") if parts.session_timeout is None else parts.session_timeout * TRUSTED_SHARE
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
        self._shared = self._shared._replace(low_mark=self._low_mark(), enough=self._controls.enough)
        for state in self.states.values():
            state.set_most_left(self._shared.low_mark, self._shared.enough)

    def _hungry(self, running: int) -> bool:
        """Whether a partition with so many `running` calls may have more messages than are usually `enough`."""
        return self.strategy.hungry(running, len(self.states), busy=self._load.share() >= BUSY)

    def _low_mark(self) -> int:
        return self._controls.max_buffered - self._max_poll_messages

    # --- trust in our membership

    def note_poll(self, now: float) -> None:
        """The process is awake: it is trusted to be a member until `trusted_until`. `now` is on the monotonic clock."""
        self.polled_at = now
        self._trust()

    def _trust(self) -> None:
        confirmation, self.trusted_until = self._confirmation(), self.polled_at + self.away_limit
        if confirmation is not None:
            self.trusted_until = min(self.trusted_until, confirmation.until)

    @property
    def doubtful(self) -> bool:
        """Nobody knows whether this process is still a member of the group: it stood still, or the broker is silent."""
        return "doubt" in self._holds

    def trust_again(self, now: float) -> bool:
        """Lifts the doubt if the broker was silent, and has said now that we are a member.

        False: it has not, or that was not the doubt. `now` is on the monotonic clock.
        """
        if not self.cut_off or now > self.trusted_until:
            return False
        if self._confirmation() is not None:  # else the group has taken the partitions
            logger.warning("%s: the coordinator of its group answers again: handlers go on", self._name)
        self.lift("doubt")
        return True

    def note_silence(self, now: float) -> None:
        """It is the broker's silence that makes the membership doubtful, if it has been silent for too long.

        Then no commit needs to ask: the next answer to a heartbeat tells. `now` is on the monotonic clock.
        """
        confirmation = self._confirmation()
        if confirmation is not None and now > confirmation.until:
            self.cut_off, self.doubted_at = True, confirmation.at

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
        self.doubted_at, said, ends = self.polled_at, "the process stood still", "a commit confirms it"
        if now <= self.polled_at + self.away_limit:
            self.note_silence(now)
            said, ends = "the coordinator of its group has not answered", "it does"
        logger.warning(
            "%s: %s for %.1f s: its membership is in doubt, no handler starts until %s",
            *(self._name, said, now - self.doubted_at, ends),
        )
        self.hold("doubt")
        self.wake()
        return True

"""One membership in a consumer group, from connecting to leaving: its life, and its poll loop.

The rest is in its five components: `Assignment` (the partitions, and what may start on them), `Placement` (where each
is read from), `Intake` (what is taken in), `Committer` (what is committed, and when) and `Membership` (what happens
when the group moves partitions).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Iterable, Mapping
from datetime import datetime
from time import monotonic

from ..bell import Bell, shared_moment
from ..clock import utc_now
from ..exceptions import TransportError, WorkerDiedError
from ..messages import TopicPartition
from ..observation.reasons import Reason, ReasonCode
from ..settings import AthomicSettings
from ..transports.base import Confirmation, TopicInfo, TransportConsumer
from .assignment import Assignment
from .commits import Committer
from .intake import FEW, Intake
from .membership import Membership
from .partitions import PartitionState
from .parts import SessionParts
from .placement import Passage, Placement

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""After so long the poll loop looks by itself. Its bell rings for whatever it looks for, except for messages that it
left because the thread was busy, or others ran: nobody tells when that is over, unless a message is concluded.
"""
POLLS = 4
"""So many polls, at least, come within each time after which somebody would miss them."""
DOUBT_SECONDS = 0.2
"""The pause between two questions whether this process is still a member of its group."""
POSITIONS_SECONDS = 0.2
"""While many messages come, and where offsets without a message lie behind one that is not done, positions are compared
with what is done so often."""
CLOSE_SECONDS = 0.4
"""How long a closing session waits for its poll loop to end."""
REBALANCE_MARGIN_SECONDS = 10.0
"""Seconds that it may take to notice a rebalance, to join and to be assigned, besides the drain and the requests."""
CLOSE_RESERVE = 0.3
"""Share of the time for closing that is reserved for the last commit and for leaving the group."""


class ConsumerSession:
    """Consumes as one member of the group. Used once: the service builds a new session when this one breaks.

    What the section "status" holds may be read from another thread.
    """

    def __init__(self, parts: SessionParts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._counters = parts.counters
        self._connected: TransportConsumer | None = None
        self._bell = Bell()  # rings when the poll loop has something to do: messages came, a partition has room, ...
        client, wake = self.client, self._bell.ring
        self._assignment = Assignment(parts, wake, self._confirmation)
        self._strategy = self._assignment.strategy
        self._committer = Committer(parts, self._assignment, client, lambda: self._placement.look_soon())
        self._placement = Placement(parts, self._assignment, self._committer, client, wake)
        self._intake = Intake(parts, self._assignment, self._placement, client, self._bell)
        self._membership = Membership(
            parts, self._assignment, self._committer, self._placement, client, wake, self._intake.arrived
        )
        self._positions_noted_at = 0.0  # on the monotonic clock
        self._intake_ends = 0.0  # on the monotonic clock: until then fetches follow each other at once
        self._longest_wait = longest_wait(parts.settings, self._assignment.away_limit)
        self._ended = asyncio.Event()
        self._started = False
        self._progress_at = monotonic()
        self._held_since: Mapping[TopicPartition, datetime] = {}

    # --- running

    async def run(self) -> None:
        """Consumes until `close` is called. Raises `TransportError`, or what killed a worker."""
        self._started = True
        self._counters.timings.set_clock()
        try:
            followed = await self._parts.ensure_topics()
            self._connected = self._parts.connect(self._membership, followed)
            await self._connected.start()
            self._assignment.note_poll(monotonic())
            beside = [
                asyncio.create_task(self._committer.run(), name=f"{self._parts.name}-commit"),
                asyncio.create_task(
                    self._placement.watch_topics(self._membership.joined), name=f"{self._parts.name}-topics"
                ),
                asyncio.ensure_future(self._parts.follow(self._connected, followed, self._placement.hear)),
            ]
            for helper in beside:
                helper.add_done_callback(lambda _: self._bell.ring())
            try:
                while not self._assignment.closing:
                    self._bell.clear()  # who rings from now on is heard, at the latest in the next round
                    found = await self._poll()
                    self._raise_if_broken(beside)
                    await self._rest(found)
            finally:
                self._bell.close()
                beside += [self._placement.attempt] if self._placement.attempt is not None else []
                for helper in beside:
                    helper.cancel()
                await asyncio.wait(beside)
        finally:
            self._ended.set()

    def _raise_if_broken(self, helpers: Iterable[asyncio.Future[None]]) -> None:
        failure = self._strategy.failure
        if isinstance(failure, Exception):
            raise failure
        if failure is not None:  # SystemExit would end the event loop, a cancellation would look like ours
            raise WorkerDiedError(f"the handler raised {type(failure).__name__}") from failure
        for helper in helpers:
            if helper.done():
                helper.result()
        limit = self._settings.stall_timeout
        if self.without_partitions_since is not None:
            limit = max(limit, longest_rebalance(self._settings))
        if monotonic() - self.progress_at > limit:
            raise TransportError(f"no progress for {limit:g} s although there is something to consume")

    async def _poll(self) -> int:
        """One round: looks after the membership and the positions, and takes messages in.

        Returns how many came if there may be more; 0: somebody rings when there are.
        """
        now, intake = monotonic(), self._intake
        intake.check()
        self._assignment.suspect(now)
        self._assignment.note_poll(now)
        if self._assignment.doubtful and not self._assignment.trust_again(now) and not self._assignment.cut_off:
            await self._membership.confirm()
        if self._placement.unplaced:
            self._placement.try_again(now)
        wanted, most = intake.wanted(now), self._parts.share.intake(self._settings.max_poll_messages)
        self.client().poll(wanted)
        found = intake.take(wanted, most)
        came, intake.came = intake.came, False
        if not found or now - self._positions_noted_at > POSITIONS_SECONDS:
            intake.looks_soon = self._note_positions(wanted, now) and came
        else:
            intake.looks_soon = True
        if came:
            intake.trickles = found < FEW
        self._note_progress(wanted, came)
        return found if found >= most else 0  # if there is more than that, the bell has rung

    async def _rest(self, found: int) -> None:
        """Lets others have the event loop, until there is something to do, if nothing was `found`."""
        if not found:
            await self._bell.wait(self._patience(monotonic()))
        elif monotonic() >= self._intake_ends:
            await self._let_workers_in()

    def _patience(self, now: float) -> float:
        """How many seconds the poll loop waits at most if nobody rings."""
        usual = POSITIONS_SECONDS if self._intake.looks_soon else POLL_SECONDS
        patience = shared_moment(now, min(usual, self._longest_wait)) - now
        if self._assignment.doubtful:
            patience = min(patience, DOUBT_SECONDS)
        if self._placement.pending:
            patience = min(patience, self._placement.next_attempt_in(now))
        return patience

    async def _let_workers_in(self) -> None:
        """Gives the event loop a turn: a fetch that finds messages at once does not."""
        began = monotonic()
        await asyncio.sleep(0)
        now = monotonic()
        self._intake_ends = now + self._parts.share.intake_seconds(now, turn=now - began)

    def _note_progress(self, wanted: Collection[TopicPartition], fetched: bool) -> None:
        held = self.client().held()  # by the transport, because it cannot read the next message; not a `Hold`
        if held or self._held_since:
            moment = utc_now()
            self._held_since = {place: self._held_since.get(place, moment) for place in held}
        if fetched or self._membership.draining or self._has_nothing_to_do(wanted, held):
            self._progress_at = monotonic()

    def _has_nothing_to_do(self, wanted: Iterable[TopicPartition], held: Collection[TopicPartition]) -> bool:
        if not self.joined.is_set() or self._placement.pending:
            return False
        if not self._assignment.states and self.client().assignment():
            return False
        return not any(self._lags(place) for place in wanted if place not in held)

    def _lags(self, topic_partition: TopicPartition) -> bool:
        client = self.client()
        position, end = client.position(topic_partition), client.end_offset(topic_partition)
        return position is not None and end is not None and position < end

    def _note_positions(self, wanted: Iterable[TopicPartition], now: float) -> bool:
        """Call it when all that was fetched has been accepted.

        If nothing of a partition is outstanding, the offsets before its position hold no message for a consumer, only
        transaction markers, aborted messages and gaps left by compaction. These offsets are committed, too. True: there
        are such offsets behind a message that is outstanding.
        """
        self._positions_noted_at, left = now, False
        client, states = self.client(), self._assignment.states
        for place in client.misplaced():
            if (state := states.get(place)) is not None:
                self._placement.lose(state)
        for place in wanted:
            state, position = states.get(place), client.position(place)
            if state is None or position is None or position == state.unfinished:
                continue
            if state.buffered:
                left |= state.skips_to(position)
            elif place not in self._placement.unplaced and state.tracker.advance(position):  # reading `tracker` settles
                self._committer.expect_work()
        return left

    # --- what the service calls

    def apply_pauses(self) -> None:
        """The pauses have changed: nothing new is fetched or started where one is; running handlers may finish."""
        self._assignment.apply_pauses()
        self._bell.ring()

    def apply_concurrency(self) -> None:
        """More or fewer calls may run at once; those that run go on."""
        self._assignment.apply_concurrency()
        self._bell.ring()

    async def seek(self, place: TopicPartition, offset: int) -> Passage:
        """See `Placement.seek`."""
        return await self._placement.seek(place, offset)

    def passage(self, place: TopicPartition) -> Passage | None:
        """How far a partition is; None if it is not assigned here."""
        return self._placement.passage(place)

    async def close(self, timeout: float) -> None:
        """Lets running handlers finish, commits, and leaves the group, all within `timeout` seconds.

        Messages that are not finished in time are not committed. Never raises.
        """
        end = monotonic() + timeout
        states = self._assignment.close()
        self._bell.ring()
        await self._assignment.drain(states, timeout * (1 - CLOSE_RESERVE))
        await self._strategy.close(min(1.0, timeout * 0.1))
        if self._started:
            await _within(self._ended.wait(), CLOSE_SECONDS)
        try:
            await self._committer.commit(states, max(0.1, (end - monotonic()) / 2))
        except TransportError as error:
            logger.warning("%s: the last commit failed, some messages will repeat: %s", self._parts.name, error)
        self._assignment.revoke_all()
        self._membership.close()
        if self._connected is not None:
            await self._connected.stop(max(0.1, end - monotonic()))

    def settled(self) -> bool:
        """Nothing is left to fetch, to conclude or to commit, as far as this client has heard.

        Only for the consumers' event loop: it passes concluded offsets to the trackers.
        """
        complete = self.joined.is_set() and not self._membership.moving and not self._placement.unplaced
        return (complete and self._strategy.settled()) and all(
            state.tracker.settled and not self._lags(topic_partition) for topic_partition, state in self.states.items()
        )

    # --- status

    @property
    def joined(self) -> asyncio.Event:
        """Set when the group has given us partitions for the first time, perhaps none."""
        return self._membership.joined

    @property
    def states(self) -> Mapping[TopicPartition, PartitionState]:
        """The partitions that are read, or will be, with the state of each."""
        return self._assignment.states

    @property
    def topics(self) -> Mapping[str, TopicInfo | None] | None:
        """The topics that are followed, as the broker knew them when it was last asked; None before that."""
        return self._placement.topics

    @property
    def last_message_at(self) -> float | None:
        """When messages were taken in last, in seconds since the epoch."""
        return self._intake.last_message_at

    @property
    def full_since(self) -> Mapping[TopicPartition, float]:
        """Partitions that have no room for more, and since when; on the monotonic clock."""
        return self._intake.full_since

    @property
    def polled_at(self) -> float:
        """When the poll loop last began a round, or partitions last came or went; on the monotonic clock."""
        return self._assignment.polled_at

    @property
    def progress_at(self) -> float:
        """The last time messages came, there was nothing to come, or partitions moved; on the monotonic clock."""
        return max(self._progress_at, self._membership.changed_at)

    @property
    def without_partitions_since(self) -> float | None:
        """When the group took our partitions, on the monotonic clock; None while we have what it gave us."""
        return self._membership.without_partitions_since

    def oldest_start(self) -> float | None:
        """When the longest of the running calls of the handler began, on the monotonic clock; None: none runs."""
        return self._strategy.oldest_start()

    def oldest_arrival(self) -> float | None:
        """When the message was fetched that has waited for its turn longest; as `PartitionState.oldest_arrival`."""
        arrivals = [state.oldest_arrival for state in list(self.states.values())]
        return min((arrival for arrival in arrivals if arrival is not None), default=None)

    @property
    def absent_since(self) -> Mapping[str, datetime]:
        """Since when topics are missing; "" stands for all of a pattern."""
        return self._placement.absent_since

    @property
    def doubted_at(self) -> float | None:
        """Since when it is in doubt whether we are a member of the group, on the monotonic clock; None: it is not."""
        return self._assignment.doubted_at

    @property
    def cut_off(self) -> bool:
        """It is in doubt because the broker does not answer, and not because this process stood still."""
        return self._assignment.cut_off

    @property
    def evicted_at(self) -> float | None:
        """When we found that the group had put us out, on the monotonic clock; None: we are in, as far as we know."""
        return self._membership.evicted_at

    def problems(self) -> list[Reason]:
        """What an operator should look at although consumption goes on."""
        known = [
            problem
            for problem in (self._placement.problem, self._committer.problem, self._membership.warning)
            if problem
        ]
        if self._connected is None:
            return known
        held = [
            Reason(
                code=ReasonCode.PARTITION_UNREADABLE,
                message=f"{place} {reason}",
                since=self._held_since.get(place),
            )
            for place, reason in self._connected.held().items()
        ]
        twins = [Reason(code=ReasonCode.STATIC_ID_TWICE, message=said) for said in self._connected.troubles()]
        return [*known, *held, *twins]

    def _confirmation(self) -> Confirmation | None:
        return self._connected.confirmation() if self._connected is not None else None

    def client(self) -> TransportConsumer:
        """Raises `TransportError` before there is one; there is one as soon as there are partitions."""
        if self._connected is None:
            raise TransportError("not connected yet")
        return self._connected


def longest_wait(settings: AthomicSettings, away_limit: float) -> float:
    """How many seconds may pass between two polls, so that nobody takes a quiet consumer for a broken one.

    `away_limit`: see `Assignment`.
    """
    return min(away_limit, settings.health.poll_late, settings.stall_timeout / 2) / POLLS


def longest_rebalance(settings: AthomicSettings) -> float:
    """How long a rebalance may take, in seconds: all members wait for the one whose handlers run longest.

    After the rebalance timeout (`drain_timeout`, one commit, a margin) the group goes on without that one. Then the
    members read the committed offsets.
    """
    return settings.drain_timeout + 2 * settings.request_timeout + REBALANCE_MARGIN_SECONDS


async def _within(work: Awaitable[object], timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await work
    except TimeoutError:
        pass

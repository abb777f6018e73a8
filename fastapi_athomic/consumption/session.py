"""One membership in a consumer group, from connecting to leaving: fetch, dispatch, commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, time

from ..exceptions import CommitFailedError, TopicNotFoundError, TransportError, WorkerDiedError
from ..loop.fairness import LoopShare
from ..loop.load import ThreadLoad
from ..messages import RawMessage, TopicPartition
from ..observation.counters import Counters
from ..settings import AthomicSettings
from ..transports.base import CommittedOffset, RebalanceListener, TopicInfo, TransportConsumer
from .offsets import NOTE_SPAN, Stamp, encode_note
from .partitions import PartitionParts, PartitionState, WorkDone
from .positions import Lost, Start, StartingPoints, report
from .strategies import ConsumptionStrategy, Guard

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""How long a poll waits for messages; also how soon a stop or a resumed partition is noticed."""
SOON = 0.001
"""Seconds: what was taken in together is done together, so a commit waits so long for more; `commit_interval` is taken
to be no shorter."""
COMMIT_PAUSE = 0.005
"""Seconds between two commits at least: each costs about 0.3 ms of CPU."""
BUSY = 0.8
"""A thread that computes for more than this share of its time has none to spare: what commits cost, handlers lack."""
PAUSE_WHILE_BUSY = 3
"""Of `commit_interval`, then."""
PREPARE_SECONDS = 5.0
"""Until it is looked again whether what was missing is there."""
TOPICS_SECONDS = 5.0
"""How often the broker is asked whether the topics are still there, and still the same."""
REBALANCE_MARGIN_SECONDS = 10.0
"""Seconds that noticing a rebalance, joining and being assigned may take, beside the drain and the requests."""
CLOSE_RESERVE = 0.3
"""Share of the time for closing that is kept for the last commit and for leaving the group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParts:
    """What a session is built from."""

    name: str
    connect: Callable[[RebalanceListener, frozenset[str]], TransportConsumer]  # a member that follows also these topics
    make_strategy: Callable[[Guard], ConsumptionStrategy]
    ensure_topics: Callable[[], Awaitable[frozenset[str]]]  # makes the sources ready; what else is to be followed now
    follow: Callable[[TransportConsumer, frozenset[str]], Awaitable[None]]  # lets it follow those that come and go
    prepare: Callable[[Collection[str]], Awaitable[None]]  # makes ready what the topics' messages will need
    delay_of: Callable[[str], Callable[[RawMessage], float] | None]  # of a retry topic: when a message is due
    forget: Callable[[Collection[TopicPartition]], None]  # another member has these partitions now
    starting_points: StartingPoints
    settings: AthomicSettings
    counters: Counters
    share: LoopShare
    max_buffered: int  # messages per partition
    session_timeout: float | None  # seconds after which the broker evicts a silent member; None: it never does


class ConsumerSession:
    """A `RebalanceListener` to the transport, which tells it its partitions, and a `Guard` to the strategy."""

    def __init__(self, parts: SessionParts, *, paused: bool) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._counters = parts.counters
        self._connected: TransportConsumer | None = None
        self._strategy = parts.make_strategy(self)
        self._states: dict[TopicPartition, PartitionState] = {}
        self._unplaced: dict[TopicPartition, Lost | None] = {}  # ours, but from where they are read is not known yet
        self._assignments = 0  # counts what was assigned and revoked
        self._positions_noted_at = self._placed_at = 0.0  # on the monotonic clock
        self._placing: asyncio.Task[None] | None = None
        self._look_at_topics = asyncio.Event()
        self.topics: Mapping[str, TopicInfo | None] | None = None  # that are followed, as the broker knows them
        self._paused = paused
        self._closing = False
        self._draining = False  # partitions are being given up: what lies in them is for others
        self._doubtful = False  # we were away too long to know whether we still belong
        self._away_limit = float("inf") if parts.session_timeout is None else parts.session_timeout * 0.7
        self._work_seen = asyncio.Event()  # there is, or will be, something to commit
        self._call = asyncio.Event()  # messages have come, a full partition has room again, or the session ends
        self._intake_ends = 0.0  # on the monotonic clock: fetches that find messages follow each other until then
        self._work_done = WorkDone()
        self._shared = PartitionParts(
            low_mark=parts.max_buffered - parts.settings.max_poll_messages,
            max_bytes=parts.settings.max_buffered_bytes,
            has_room=self._call.set,
            work_done=self._work_done,
            delay_of=parts.delay_of,
        )
        self._commit_lock = asyncio.Lock()
        self._done_at_commit = self._counters.done  # messages, at the last commit
        self._load = ThreadLoad()
        self._moving = False  # our partitions have been called back
        self._preparing: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._started = False
        self.joined = asyncio.Event()  # the group has given us our partitions, perhaps none
        self._note_poll(monotonic())
        self.without_partitions_since: float | None = monotonic()  # None: the group has given us ours
        self.progress_at = monotonic()  # the last time messages came, or there was nothing to come
        self.last_message_at: float | None = None  # seconds since the epoch
        self.warning: str | None = None  # something that does not stop consumption
        self.position_problem: str | None = None  # why partitions cannot be read yet

    # --- running

    async def run(self) -> None:
        """Consumes until `close`. Raises `TransportError`, or what killed a worker."""
        self._started = True
        self._counters.timings.set_clock()
        try:
            followed = await self._parts.ensure_topics()
            self._connected = self._parts.connect(self, followed)
            await self._connected.start()
            self._note_poll(monotonic())
            beside = [
                asyncio.create_task(self._commit_regularly(), name=f"{self._parts.name}-commit"),
                asyncio.create_task(self._watch_topics(), name=f"{self._parts.name}-topics"),
                asyncio.ensure_future(self._parts.follow(self._connected, followed)),
            ]
            try:
                while not self._closing:
                    await self._poll()
                    self._raise_if_broken(beside)
            finally:
                beside += [self._placing] if self._placing is not None else []
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

    async def _poll(self) -> None:
        now = monotonic()
        self.suspect(now)
        self._note_poll(now)
        if self._doubtful:
            await self._confirm_membership()
        self._call.clear()
        if self._unplaced:
            self._place_again(now)
        wanted = [
            place for place, state in self._states.items() if self._has_room(state) and place not in self._unplaced
        ]
        some_are_full = len(wanted) < len(self._states)
        patience = 0.0 if some_are_full else POLL_SECONDS
        fetched = await self.client.fetch(wanted, patience, self._intake())
        for topic_partition, messages in fetched.items():
            if messages:
                self._accept(topic_partition, messages)
        if not fetched or now - self._positions_noted_at > POLL_SECONDS:
            self._note_positions(wanted, now)
        self._note_progress(wanted, bool(fetched))
        if not fetched and (some_are_full or not wanted):
            await self._wait_for_call()
        elif not fetched or monotonic() >= self._intake_ends:
            await self._let_workers_in()

    async def _let_workers_in(self) -> None:
        """A fetch that finds messages at once does not do that by itself."""
        began = monotonic()
        await asyncio.sleep(0)
        now = monotonic()
        self._intake_ends = now + self._parts.share.intake_seconds(now, turn=now - began)

    def _intake(self) -> int:
        """How many messages are taken in at once: fewer while the event loop is late."""
        return self._parts.share.intake(self._settings.max_poll_messages)

    async def _wait_for_call(self) -> None:
        """While partitions are full nobody waits in the poll: one of them may get room before messages come."""
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._call.wait()
        except TimeoutError:
            pass

    def _has_room(self, state: PartitionState) -> bool:
        return (
            not state.paused
            and not state.revoked
            and state.buffered <= state.low_mark
            and state.tracker.span < NOTE_SPAN - self._settings.max_poll_messages
        )

    def _accept(self, topic_partition: TopicPartition, messages: Sequence[RawMessage]) -> None:
        state = self._states.get(topic_partition)
        if state is None or state.revoked:
            return
        if messages[0].offset <= state.high_offset:
            logger.warning("%s: offsets of %s went back to %d", self._parts.name, topic_partition, messages[0].offset)
            state = self._replace(state)
        new = state.receive(messages)
        self._counters.received += len(messages)
        self._counters.redelivered += len(messages) - len(new)
        self.last_message_at = time()
        self._strategy.accept(state, new)
        self._work_seen.set()

    def _replace(self, state: PartitionState) -> PartitionState:
        """The partition was reset behind our back: what runs of the old one is fenced."""
        self._fence([state])
        fresh = self._states[state.topic_partition] = self._new_state(state.topic_partition, None, state.stamp)
        return fresh

    def _new_state(
        self,
        topic_partition: TopicPartition,
        committed: int | None,
        stamp: Stamp,
        skip: frozenset[int] = frozenset(),
    ) -> PartitionState:
        state = PartitionState(topic_partition, self._shared, committed=committed, stamp=stamp, skip=skip)
        if self._paused:
            state.hold("paused")
        if self._doubtful:
            state.hold("doubt")
        if self._closing:
            state.leave()
        return state

    def _note_progress(self, wanted: Collection[TopicPartition], fetched: bool) -> None:
        settled = self.joined.is_set() and not self._unplaced and (self._states or not self.client.assignment())
        held = self.client.held()
        lagging = any(self._lags(place) for place in wanted if place not in held)
        if fetched or self._draining or (settled and not lagging):
            self.progress_at = monotonic()

    def _lags(self, topic_partition: TopicPartition) -> bool:
        position, end = self.client.position(topic_partition), self.client.end_offset(topic_partition)
        return position is not None and end is not None and position < end

    def _note_positions(self, wanted: Iterable[TopicPartition], now: float) -> None:
        """To be called when all that was fetched has been accepted.

        Where nothing of a partition is outstanding, what lies before its position is nothing that anybody will be
        given: the ends of transactions, aborted ones, what was compacted away. That is committed, too.
        """
        self._positions_noted_at = now
        for place in self.client.misplaced():
            if (state := self._states.get(place)) is not None:
                reached = max(state.high_offset + 1, state.unfinished or 0)
                self._unplaced.setdefault(place, Lost(reached, state.stamp.topic_id))
        for place in wanted:
            state, position = self._states.get(place), self.client.position(place)
            if state is None or position is None or state.buffered or place in self._unplaced:
                continue
            if state.tracker.advance(position):
                self._work_seen.set()

    # --- positions

    async def _place(self) -> None:
        """Takes the positions of the partitions that have none, and lets them be fetched. What fails is tried again."""
        assignments, unplaced = self._assignments, dict(self._unplaced)

        def still_ours() -> bool:
            return assignments == self._assignments and not self._closing

        take = self._parts.starting_points.take
        try:
            starts, self.topics = await take(self.client, unplaced, self._settings.request_timeout, still_ours)
        except CommitFailedError as error:
            logger.info("%s: the first commit was refused, a rebalance is on its way: %s", self._parts.name, error)
            return
        except TransportError as error:
            self.position_problem = f"cannot begin to read {_listed(unplaced)}: {error}"
            logger.warning("%s: %s; it is tried again", self._parts.name, self.position_problem)
            return
        self.position_problem = None
        for place, start in starts.items():
            if still_ours() and place in self._unplaced:
                await self._begin(place, start)
        self._call.set()

    async def _begin(self, place: TopicPartition, start: Start) -> None:
        old = self._states.get(place)
        if old is None or not start.goes_on:
            self._fence([old] if old is not None else [])
            fresh = self._new_state(place, start.committed.offset, start.stamp, start.skip)
            self._states[place] = fresh  # before the first message can come
            self._reopen(fresh)
        try:
            await self.client.seek(place, start.committed.offset)
        except TransportError as error:  # it was taken from us just now, and a rebalance will tell
            logger.info("%s: %s", self._parts.name, error)
            return
        self._counters.lost_to_retention += start.dropped
        report(self._parts.name, place, start)
        del self._unplaced[place]

    def _place_beside(self) -> asyncio.Task[None]:
        if self._placing is not None:
            self._placing.cancel()
        self._placing = asyncio.create_task(self._place(), name=f"{self._parts.name}-positions")
        return self._placing

    def _place_again(self, now: float) -> None:
        if self._placing is not None and not self._placing.done():
            return
        if self._placing is not None and not self._placing.cancelled():
            self._placing.result()
        if now - self._placed_at > POLL_SECONDS:
            self._placed_at = now
            self._place_beside()

    async def _watch_topics(self) -> None:
        while True:
            try:
                async with asyncio.timeout(TOPICS_SECONDS):
                    await self._look_at_topics.wait()
            except TimeoutError:
                pass
            self._look_at_topics.clear()
            if self.joined.is_set():
                await self._look()

    async def _look(self) -> None:
        try:
            self.topics = topics = await self.client.topics(self._settings.request_timeout)
        except TransportError as error:
            logger.debug("%s: %s", self._parts.name, error)
            return
        gone = {place: state for place, state in self._states.items() if _is_another(topics.get(place.topic), state)}
        for topic in {place.topic for place in gone}:
            states = [state for place, state in gone.items() if place.topic == topic]
            logger.warning(
                "%s: topic %s was deleted and made anew: %d messages of the old one that are in hand are dropped, "
                "handlers that run may end, nothing of it is committed",
                *(self._parts.name, topic, sum(state.buffered for state in states)),
            )
            self._fence(states)
        for place, state in gone.items():
            del self._states[place]
            self._unplaced[place] = Lost(state.unfinished or 0, state.stamp.topic_id)
        self._parts.forget(gone)
        self._call.set()

    # --- membership

    def _note_poll(self, now: float) -> None:
        self.polled_at, self.trusted_until = now, now + self._away_limit

    def suspect(self, now: float) -> bool:
        """True when no new work may start.

        We were frozen for about a session's length, and do not know whether we still belong.
        """
        if not self._doubtful and now > self.trusted_until:
            logger.warning("%s: away for %.1f s, membership is in doubt", self._parts.name, now - self.polled_at)
            self._doubtful = True
            for state in self._states.values():
                state.hold("doubt")
        return self._doubtful

    async def _confirm_membership(self) -> None:
        """A commit tells: the broker takes it from members only."""
        states = list(self._states.values())
        offsets = {
            state.topic_partition: CommittedOffset(offset, state.tracker.note())
            for state in states
            if (offset := state.tracker.resume_offset) is not None
        }
        try:
            if offsets:
                await self.client.commit(offsets, self._settings.request_timeout)
        except CommitFailedError:
            logger.warning("%s: the group went on without us, buffered messages are dropped", self._parts.name)
            self._fence(states)
            self._states.clear()
            self._unplaced.clear()
        except TransportError as error:
            logger.warning("%s: membership still in doubt: %s", self._parts.name, error)
            return
        self._doubtful = False
        for state in self._states.values():
            state.lift("doubt")
            self._reopen(state)

    def _reopen(self, state: PartitionState) -> None:
        if state.open:
            self._strategy.reopen(state)

    def on_arrival(self) -> None:
        self._call.set()

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self._counters.rebalances += 1
        self._assignments += 1
        self._fence(self._states.values())
        self._states.clear()
        self._unplaced = dict.fromkeys(sorted(partitions))
        self._doubtful = False
        if partitions:
            await asyncio.wait([self._place_beside()])
        else:
            self._look_at_topics.set()
        self.progress_at = now = monotonic()
        self._note_poll(now)
        self.without_partitions_since = None
        self._moving = False
        self.joined.set()
        self._call.set()
        self._prepare(partitions)
        logger.info("%s: assigned %s", self._parts.name, ", ".join(map(str, sorted(partitions))) or "nothing")

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        self._moving = True
        self._assignments += 1
        self._unplaced.clear()
        states = [self._states[tp] for tp in partitions if tp in self._states]
        self._shut(states)
        self._draining = True
        try:
            await self._drain(states, self._settings.drain_timeout)
            await self._commit(states, self._settings.request_timeout)
        except TransportError as error:
            logger.warning("%s: last commit of revoked partitions failed: %s", self._parts.name, error)
        finally:
            self._draining = False
        self._fence(states)
        for state in states:
            self._states.pop(state.topic_partition, None)
        self._parts.forget(partitions)
        self.progress_at = self.without_partitions_since = now = monotonic()
        self._note_poll(now)

    def _prepare(self, partitions: Iterable[TopicPartition]) -> None:
        topics = {partition.topic for partition in partitions}
        if self._preparing is not None:
            self._preparing.cancel()
        if topics:
            self._preparing = asyncio.create_task(self._prepare_topics(topics), name=f"{self._parts.name}-prepare")

    async def _prepare_topics(self, topics: Collection[str]) -> None:
        while True:
            try:
                await self._parts.prepare(topics)
                self.warning = None
                return
            except TransportError as error:
                if self.warning != str(error):
                    logger.warning("%s: %s", self._parts.name, error)
                self.warning = str(error)
            await asyncio.sleep(PREPARE_SECONDS)

    # --- commits

    async def _commit_regularly(self) -> None:
        sent = answered = 0.0  # when the last one was, on the monotonic clock
        while True:
            await self._work_seen.wait()
            await self._commit_due(sent, answered)
            sent = monotonic()
            try:
                await self._commit(list(self._states.values()), self._settings.request_timeout)
            except TopicNotFoundError as error:
                logger.info("%s: a topic was deleted: %s", self._parts.name, error)
                self._look_at_topics.set()
                await asyncio.sleep(POLL_SECONDS)
            except CommitFailedError as error:
                logger.info("%s: commit refused, a rebalance is on its way: %s", self._parts.name, error)
                await asyncio.sleep(POLL_SECONDS)
            except TransportError as error:
                logger.warning("%s: commit failed, it will be tried again: %s", self._parts.name, error)
                await asyncio.sleep(POLL_SECONDS)
            answered = monotonic()
            if all(state.tracker.settled for state in self._states.values()):
                self._work_seen.clear()

    async def _commit_due(self, sent: float, answered: float) -> None:
        """Returns when something is done and `commit_interval` has passed since the last commit was `sent`.

        Sooner when `commit_count` messages are done, later in a busy thread. Never at once after the last one.
        """
        interval = max(self._settings.commit_interval, SOON)
        if self._load.share() > BUSY:
            await asyncio.sleep(interval * PAUSE_WHILE_BUSY)
            return
        if (pause := answered + min(interval, COMMIT_PAUSE) - monotonic()) > 0:
            await asyncio.sleep(pause)
        if not self._done_since_commit:
            await self._work_done.wait(min(interval, POLL_SECONDS))
        end, step = max(sent + interval, monotonic() + SOON), min(max(interval / 10, SOON), COMMIT_PAUSE)
        while (left := end - monotonic()) > 0:
            if self._done_since_commit >= self._settings.commit_count:
                return
            await asyncio.sleep(min(left, step))

    @property
    def _done_since_commit(self) -> int:
        return self._counters.done - self._done_at_commit

    async def _commit(self, states: Iterable[PartitionState], timeout: float) -> None:
        async with self._commit_lock:
            due = {}
            for state in states:
                if not state.revoked and (offset := state.tracker.due()) is not None:
                    due[state] = offset
            self._done_at_commit = self._counters.done
            if not due:
                return
            await self.client.commit({state.topic_partition: offset for state, offset in due.items()}, timeout)
            self._counters.commits += 1
            for state, offset in due.items():
                state.tracker.committed_as(offset)

    # --- seeking

    async def seek(self, place: TopicPartition, offset: int) -> None:
        """Goes on at `offset`, and commits that; what runs may finish before, for up to `drain_timeout` seconds.

        Raises `TransportError` when the partition is not assigned here, or the commit failed; all is as it was then.
        """
        state = self._states.get(place)
        if state is None:
            ours = ", ".join(map(str, sorted(self._states))) or "none"
            raise TransportError(f"{place} is not assigned to this process (assigned are: {ours}): seek where it is")
        state.hold("seek")
        try:
            await self._drain([state], self._settings.drain_timeout)
            async with self._commit_lock:
                await self._go_to(state, offset)
        finally:
            state.lift("seek")
            self._reopen(state)
        self._parts.forget([place])
        self._call.set()
        logger.warning("%s: %s goes on at offset %d, as asked for", self._parts.name, place, offset)

    async def _go_to(self, state: PartitionState, offset: int) -> None:
        place = state.topic_partition
        committed = CommittedOffset(offset, encode_note(0, state.stamp, offset))
        await self.client.commit({place: committed}, self._settings.request_timeout)
        if self._states.get(place) is not state:
            raise TransportError(f"{place} was taken from this process meanwhile")
        self._fence([state])
        self._unplaced.pop(place, None)
        await self.client.seek(place, offset)
        fresh = self._states[place] = self._new_state(place, offset, state.stamp)
        self._reopen(fresh)

    # --- closing

    def pause(self) -> None:
        self._paused = True
        for state in self._states.values():
            state.hold("paused")

    def resume(self) -> None:
        self._paused = False
        for state in self._states.values():
            state.lift("paused")
            self._reopen(state)
        self._call.set()

    async def close(self, timeout: float) -> None:
        """Lets what runs finish, commits, leaves.

        All within `timeout` seconds. What is cut off is not committed. Never raises.
        """
        end = monotonic() + timeout
        self._closing = True
        self._call.set()
        states = list(self._states.values())
        self._shut(states)
        await self._drain(states, timeout * (1 - CLOSE_RESERVE))
        await self._strategy.close(min(1.0, timeout * 0.1))
        if self._started:
            await _within(self._ended.wait(), POLL_SECONDS * 2)
        try:
            await self._commit(states, max(0.1, (end - monotonic()) / 2))
        except TransportError as error:
            logger.warning("%s: last commit failed, some messages will repeat: %s", self._parts.name, error)
        self._fence(states)
        self._states.clear()
        if self._preparing is not None:
            self._preparing.cancel()
        if self._connected is not None:
            await self._connected.stop(max(0.1, end - monotonic()))

    def _shut(self, states: Iterable[PartitionState]) -> None:
        for state in states:
            if not state.revoked:
                state.leave()
            self._strategy.release(state)

    def _fence(self, states: Iterable[PartitionState]) -> None:
        for state in states:
            state.revoke()
            self._strategy.release(state)

    async def _drain(self, states: Sequence[PartitionState], timeout: float) -> None:
        await _within(asyncio.gather(*(state.drained() for state in states)), timeout)
        cut_off = sum(state.running for state in states)
        if cut_off:
            self._counters.abandoned += cut_off
            logger.warning("%s: %d still running after %.1f s are given up", self._parts.name, cut_off, timeout)

    # --- looking

    def oldest_start(self) -> float | None:
        return self._strategy.oldest_start()

    def settled(self) -> bool:
        """As far as this client has heard, nothing is left to fetch, to conclude or to commit."""
        settled = self.joined.is_set() and not self._moving and not self._unplaced
        return settled and all(
            state.tracker.settled and not self._lags(topic_partition) for topic_partition, state in self._states.items()
        )

    @property
    def states(self) -> dict[TopicPartition, PartitionState]:
        return self._states

    def troubles(self) -> list[str]:
        """What somebody should look at though consumption goes on."""
        if self._connected is None:
            return []
        held = [f"{partition} {reason}" for partition, reason in self._connected.held().items()]
        return [*held, *self._connected.troubles()]

    @property
    def client(self) -> TransportConsumer:
        """There is one as soon as there are partitions."""
        if self._connected is None:
            raise TransportError("not connected yet")
        return self._connected


def _is_another(topic: TopicInfo | None, state: PartitionState) -> bool:
    known = state.stamp.topic_id
    return topic is not None and bool(topic.id and known) and topic.id != known


def _listed(places: Iterable[TopicPartition]) -> str:
    return ", ".join(map(str, places))


def longest_rebalance(settings: AthomicSettings) -> float:
    """Seconds. All members wait for the one that drains longest, and that is no fault of theirs.

    After the rebalance timeout (drain, commit, margin) the group goes on without it; then commits are read.
    """
    return settings.drain_timeout + 2 * settings.request_timeout + REBALANCE_MARGIN_SECONDS


async def _within(work: Awaitable[object], timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await work
    except TimeoutError:
        pass

"""Seeks partitions to their starting points: when they are assigned, lose their position, or an operator seeks.

The module `positions` decides; this one carries it out, and tries again until it works. It also notices when a topic
was deleted and created again: its partitions are read from their beginning then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from ..clock import utc_now
from ..exceptions import CommitFailedError, ControlRefusedError, TransportError
from ..messages import TopicPartition
from ..observation.reasons import Reason, ReasonCode, lasting
from ..rights import missing_right
from ..transports.base import CommittedOffset, TopicCounts, TopicInfo, TransportConsumer
from .assignment import Assignment
from .commits import Committer
from .notes import encode_note
from .partitions import PartitionStage, PartitionState
from .parts import SessionParts
from .positions import Lost, Start, report

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
"""Pause between two attempts to place partitions."""
TOPICS_SECONDS = 5.0
"""Seconds between two questions to the broker whether the topics of a pattern still exist, and are still the same.

For topics that are named `TopicWatch` asks, once for all handlers.
"""


class Passage(NamedTuple):
    """How far a partition is: what a seek leaves behind."""

    position: int  # the lowest offset that is not concluded
    done_above: frozenset[int]  # offsets above it that are concluded


class Placement:
    """Seeks each partition to the offset from which it is read, and gives it a new state if its log is a new one.

    `unplaced` holds partitions that are ours, but must not be fetched yet: where to read from is not known. The poll
    loop reads it; `Membership` clears it when the process was evicted from the group, and reads `generation` to know
    whether a rebalance came meanwhile.
    """

    def __init__(
        self,
        parts: SessionParts,
        assignment: Assignment,
        committer: Committer,
        client: Callable[[], TransportConsumer],
        wake: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._name = parts.name
        self._settings = parts.settings
        self._assignment = assignment
        self._committer = committer
        self._client = client
        self._wake = wake  # lets the poll loop see at once that there is something to fetch
        self.unplaced: dict[TopicPartition, Lost | None] = {}
        self.attempt: asyncio.Task[None] | None = None  # at placing what is unplaced: under way, or the last one
        self._attempted_at = 0.0  # on the monotonic clock
        self.generation = 0  # counts assignments and revocations: what began before the last one has no effect
        self._sought: set[TopicPartition] = set()  # by an operator, now
        self._look_at_topics = asyncio.Event()
        self.topics: Mapping[str, TopicInfo | None] | None = None  # those followed, as the broker knows them
        self.absent_since: Mapping[str, datetime] = {}  # topics that do not exist; "": there is none at all
        self.problem: Reason | None = None  # why partitions cannot be read yet

    # --- partitions without a position: just assigned, or their position was lost

    def give(self, partitions: Iterable[TopicPartition]) -> asyncio.Task[None] | None:
        """The group has given us these partitions, and no others. Returns the first attempt to place them, if any."""
        self.generation += 1
        self.unplaced = dict.fromkeys(sorted(partitions))
        return self._place_beside() if self.unplaced else None

    def withdraw(self) -> None:
        """The group takes partitions back: an attempt that is under way has no effect any more."""
        self.generation += 1
        self.unplaced.clear()

    def lose(self, state: PartitionState) -> None:
        """The log no longer has the position of this partition, as the client found out."""
        reached = max(state.high_offset + 1, state.unfinished or 0)
        self.unplaced.setdefault(state.topic_partition, Lost(reached, state.stamp.topic_id))

    def try_again(self, now: float) -> None:
        """Starts another attempt, unless one is under way or has just been made.

        Raises the error that ended the previous attempt, unless it was a `TransportError`: those are logged.
        """
        if self.attempt is not None and not self.attempt.done():
            return
        if self.attempt is not None and not self.attempt.cancelled():
            self.attempt.result()
        if not self.next_attempt_in(now):
            self._attempted_at = now
            self._place_beside()

    def next_attempt_in(self, now: float) -> float:
        """Seconds until `try_again` may start another attempt. Infinite while one is under way: its end wakes."""
        if self.attempt is not None and not self.attempt.done():
            return float("inf")
        return max(0.0, self._attempted_at + RETRY_SECONDS - now)

    def _place_beside(self) -> asyncio.Task[None]:
        """Starts an attempt in a task of its own, and cancels one that is under way."""
        if self.attempt is not None:
            self.attempt.cancel()
        self.attempt = asyncio.create_task(self._place(), name=f"{self._name}-positions")
        self.attempt.add_done_callback(lambda _: self._wake())
        return self.attempt

    async def _place(self) -> None:
        """One attempt: finds the positions of the unplaced partitions, and lets these be fetched."""
        generation, unplaced = self.generation, dict(self.unplaced)

        def still_ours() -> bool:
            return generation == self.generation and not self._assignment.closing

        take = self._parts.starting_points.take
        try:
            starts, topics = await take(self._client(), unplaced, self._settings.request_timeout, still_ours)
            self._note_topics(topics)
        except CommitFailedError as error:
            logger.info("%s: the first commit was refused, a rebalance is on its way: %s", self._name, error)
            return
        except TransportError as error:
            if not self._assignment.closing:  # else its client has been closed
                self._tell(f"cannot begin to read {_listed(unplaced)}: {error}")
            return
        self._tell(self._denial(unplaced))
        placed: dict[TopicPartition, Start] = {}
        try:
            for place, start in starts.items():
                if still_ours() and place in self.unplaced and await self._place_one(place, start):
                    placed[place] = start  # noqa: PERF403 - what is placed is told even if this is cut off
        finally:
            report(self._name, placed)
        self._wake()

    def _tell(self, problem: str | None) -> None:
        if problem is not None and (self.problem is None or problem != self.problem.message):
            logger.warning("%s: %s; it will be tried again", self._name, problem)
        self.problem = lasting(self.problem, ReasonCode.POSITION_UNKNOWN, problem)

    def _denial(self, places: Iterable[TopicPartition]) -> str | None:
        """What health says about partitions that are ours, but must not be read."""
        denied = sorted(filter(self._is_denied, places))
        topics = ", ".join(dict.fromkeys(place.topic for place in denied))
        return f"cannot read {_listed(denied)}: {missing_right('Read', 'Topic', topics)}" if denied else None

    def _is_denied(self, place: TopicPartition) -> bool:
        info = (self.topics or {}).get(place.topic)
        return info is not None and "Read" in info.denied

    @property
    def pending(self) -> bool:
        """A partition that is ours and may be read has no position yet."""
        return not all(map(self._is_denied, self.unplaced))

    async def _place_one(self, place: TopicPartition, start: Start) -> bool:
        """Gives one partition a new state, unless it goes on in its old log, and has the client read from its start.

        False: the partition has just been taken from us.
        """
        old = self._assignment.states.get(place)
        if old is None or not start.goes_on:
            self._assignment.revoke([old] if old is not None else [])
            fresh = self._assignment.add(place, start.committed.offset, start.stamp, start.skip)
            self._assignment.reopen_if_open(fresh)  # before the first message can come
        try:
            await self._client().seek(place, start.committed.offset)
        except TransportError as error:  # it was just taken from us: a rebalance is on its way
            logger.info("%s: %s", self._name, error)
            return False
        self._parts.counters.lost_to_retention += start.dropped
        self.unplaced.pop(place, None)  # gone already if the group has just taken it
        return True

    # --- topics that are deleted

    def look_soon(self) -> None:
        """Makes `watch_topics` look at once: a topic may have been deleted."""
        self._look_at_topics.set()

    def hear(self, said: TopicCounts) -> None:
        """The broker has been asked for the topics of all handlers: looks at ours if they are not as they were."""
        known = self.topics if self._parts.named else None
        if known is not None and not all(said.fits(topic, info) for topic, info in known.items()):
            self.look_soon()

    async def watch_topics(self, joined: asyncio.Event) -> None:
        """Looks at the topics when they may have changed, once the session has `joined`, until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(None if self._parts.named else TOPICS_SECONDS):
                    await self._look_at_topics.wait()
            except TimeoutError:
                pass
            self._look_at_topics.clear()
            if joined.is_set():
                await self._look()

    def _note_topics(self, topics: Mapping[str, TopicInfo | None]) -> None:
        absent = [topic for topic, info in topics.items() if info is None] if topics else [""]
        now = utc_now()
        self.absent_since = {topic: self.absent_since.get(topic, now) for topic in absent}
        self.topics = topics

    async def _look(self) -> None:
        try:
            topics = await self._client().topics(self._settings.request_timeout)
            self._note_topics(topics)
        except TransportError as error:
            logger.debug("%s: %s", self._name, error)
            return
        states = self._assignment.states
        gone = {place: state for place, state in states.items() if _is_another(topics.get(place.topic), state)}
        for topic in {place.topic for place in gone}:
            of_topic = [state for place, state in gone.items() if place.topic == topic]
            logger.warning(
                "%s: topic %s was deleted and made anew: %d messages of the old one are dropped; handlers that run "
                "may finish, but nothing of the old topic is committed",
                *(self._name, topic, sum(state.buffered for state in of_topic)),
            )
            self._assignment.revoke(of_topic)
        self._assignment.remove(gone)
        for place, state in gone.items():
            self.unplaced[place] = Lost(state.unfinished or 0, state.stamp.topic_id)
        self._parts.forget(gone)
        if self.unplaced:
            self._wake()

    # --- seeking

    async def seek(self, place: TopicPartition, offset: int) -> Passage:
        """Continues reading at `offset`, and commits it. Running handlers first get `drain_timeout` seconds to finish.

        Returns how far the partition was when it was left.

        Raises `TransportError` if the partition is not assigned here, is taken from here meanwhile, or the commit
        failed; `ControlRefusedError` if another seek is under way in it. Unless it is taken, nothing has changed then.
        """
        assignment = self._assignment
        state = assignment.states.get(place)
        if state is None or state.stage is PartitionStage.LEAVING:
            ours = ", ".join(map(str, sorted(assignment.states))) or "none"
            raise ControlRefusedError(
                f"{place} is not assigned to this process (assigned are: {ours}): seek where it is"
            )
        if place in self._sought:
            raise ControlRefusedError(f"another seek is under way in {place}: look where it goes first")
        generation = self.generation
        state.hold("seek")
        self._sought.add(place)
        try:
            await assignment.drain([state], self._settings.drain_timeout)
            async with self._committer.lock:
                passage = await self._go_to(state, offset, generation)
        finally:
            self._sought.discard(place)
            state.lift("seek")
            assignment.reopen_if_open(state)
        self._wake()
        logger.warning("%s: %s continues at offset %d, as requested through `seek`", self._name, place, offset)
        return passage

    def passage(self, place: TopicPartition) -> Passage | None:
        """How far the partition is; None if it is not assigned here, or not placed yet."""
        state = self._assignment.states.get(place)
        if state is None or state.stage is PartitionStage.LEAVING or place in self.unplaced:
            return None
        return self._passage(state)

    def _passage(self, state: PartitionState) -> Passage:
        tracker = state.tracker  # reading it settles
        position = tracker.resume_offset
        if position is None:
            position = self._client().position(state.topic_partition) or 0
        return Passage(position, tracker.done_above())

    async def _go_to(self, state: PartitionState, offset: int, generation: int) -> Passage:
        place = state.topic_partition
        committed = CommittedOffset(offset, encode_note(0, state.stamp, offset))
        self._check_ours(state, generation)
        await self._client().commit({place: committed}, self._settings.request_timeout)
        self._check_ours(state, generation)
        passage = self._passage(state)
        self._assignment.revoke([state])
        self._assignment.remove([place])
        self._parts.forget([place])
        self.unplaced[place] = None  # until the client has sought; if that fails, it is read from the commit
        await self._place_one(place, Start(committed=committed, stamp=state.stamp, cause="committed"))
        return passage

    def _check_ours(self, state: PartitionState, generation: int) -> None:
        place = state.topic_partition
        if generation != self.generation or self._assignment.states.get(place) is not state:
            raise TransportError(f"{place} was taken from this process meanwhile")


def _is_another(topic: TopicInfo | None, state: PartitionState) -> bool:
    known = state.stamp.topic_id
    return topic is not None and bool(topic.id and known) and topic.id != known


def _listed(places: Iterable[TopicPartition]) -> str:
    return ", ".join(map(str, places))

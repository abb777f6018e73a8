"""A member of the consumer group: what it does when partitions come and go, and when it may have been evicted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from time import monotonic

from ..exceptions import CommitFailedError, NotAuthorizedError, TransportError
from ..messages import TopicPartition
from ..observation.reasons import Reason, ReasonCode, lasting
from ..transports.base import CommittedOffset, TransportConsumer
from .assignment import Assignment
from .commits import Committer
from .parts import SessionParts
from .placement import Placement

logger = logging.getLogger(__name__)

PREPARE_SECONDS = 5.0
"""Seconds until the next attempt to prepare topics, if one failed."""


class Membership:
    """The `RebalanceListener` that the transport tells what the group decides.

    Carries out what each decision requires. When partitions are revoked: start nothing new, let running handlers
    finish, commit, fence. When they are assigned: place them (find their positions) before anything is fetched.
    """

    def __init__(
        self,
        parts: SessionParts,
        assignment: Assignment,
        committer: Committer,
        placement: Placement,
        client: Callable[[], TransportConsumer],
        wake: Callable[[], None],
        arrived: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._name = parts.name
        self._settings = parts.settings
        self._assignment = assignment
        self._committer = committer
        self._placement = placement
        self._client = client
        self._wake = wake
        self._arrived = arrived
        self._preparing: asyncio.Task[None] | None = None
        self.joined = asyncio.Event()  # the group has given us partitions for the first time, perhaps none
        self.moving = False  # the group has taken our partitions, and not given us any since
        self.draining = False  # `on_revoked` waits for running handlers: to fetch nothing is no lack of progress then
        self.evicted_at: float | None = None  # when the group was found to have put us out; None: we are in
        self.changed_at = monotonic()  # the last time that partitions came or went
        self.without_partitions_since: float | None = monotonic()  # None: we have what the group gave us
        self.warning: Reason | None = None  # why topics could not be prepared; that does not stop consumption

    # --- what the transport reports

    def on_arrival(self) -> None:
        """The client has received messages, or met an error."""
        self._arrived()

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """The group has given us these partitions, and no others. Returns after the first attempt to place them."""
        self._parts.counters.rebalances += 1
        self._assignment.revoke_all()
        self._assignment.lift("doubt")
        placing = self._placement.give(partitions)
        if placing is not None:
            await asyncio.wait([placing])
        else:
            self._placement.look_soon()
        self._note_change()
        self.without_partitions_since = self.evicted_at = None
        self.moving = False
        self.joined.set()
        self._wake()
        self._prepare(partitions)
        logger.info("%s: assigned %s", self._name, ", ".join(map(str, sorted(partitions))) or "nothing")

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """The group takes these partitions. Returns when what ran is finished and committed, or its time is up."""
        self.moving = True
        self._placement.withdraw()
        states = [self._assignment.states[tp] for tp in partitions if tp in self._assignment.states]
        self._assignment.leave(states)
        self.draining = True
        try:
            await self._assignment.drain(states, self._settings.drain_timeout)
            await self._committer.commit(states, self._settings.request_timeout)
        except TransportError as error:
            logger.warning("%s: last commit of revoked partitions failed: %s", self._name, error)
            if isinstance(error, CommitFailedError):  # the group has not waited, or a heartbeat has told of the end
                self.evicted_at = monotonic()
        finally:
            self.draining = False
        self._assignment.revoke(states)
        self._assignment.remove([state.topic_partition for state in states])
        self._parts.forget(partitions)
        self.without_partitions_since = self._note_change()

    def _note_change(self) -> float:
        self.changed_at = now = monotonic()
        self._assignment.note_poll(now)
        return now

    # --- doubt about our membership

    async def confirm(self) -> None:
        """Finds out by a commit whether this process is still a member: the broker accepts it from members only."""
        assignment, generation = self._assignment, self._placement.generation
        offsets = {  # reading `tracker` settles
            state.topic_partition: CommittedOffset(offset, state.tracker.note())
            for state in assignment.states.values()
            if (offset := state.tracker.resume_offset) is not None
        }
        try:
            if offsets:
                await self._client().commit(offsets, self._settings.request_timeout)
        except CommitFailedError:
            if generation != self._placement.generation:
                self.evicted_at = monotonic() if self.moving else None
                return  # a rebalance came meanwhile, and decides what is ours
            logger.warning(
                "%s: was evicted from its group meanwhile: what had been fetched is dropped, other members have the "
                "partitions",
                self._name,
            )
            assignment.revoke_all()
            self._placement.unplaced.clear()
            self.evicted_at = monotonic()
        except NotAuthorizedError as error:
            if not error.topics or error.topics >= {place.topic for place in offsets}:  # it did not look at the group
                logger.warning("%s: membership still in doubt: %s", self._name, error)
                return
        except TransportError as error:
            logger.warning("%s: membership still in doubt, as the broker did not confirm it: %s", self._name, error)
            assignment.note_silence(monotonic())
            return
        assignment.lift("doubt")

    # --- the DLQ and retry topics of our partitions

    def _prepare(self, partitions: Iterable[TopicPartition]) -> None:
        topics = {partition.topic for partition in partitions}
        self.close()
        if topics:
            self._preparing = asyncio.create_task(self._prepare_topics(topics), name=f"{self._name}-prepare")

    async def _prepare_topics(self, topics: Collection[str]) -> None:
        while True:
            try:
                await self._parts.prepare(topics)
                self.warning = None
                return
            except TransportError as error:
                if self.warning is None or self.warning.message != str(error):
                    logger.warning("%s: %s", self._name, error)
                self.warning = lasting(self.warning, ReasonCode.FAILURE_TOPICS_UNUSABLE, str(error))
            await asyncio.sleep(PREPARE_SECONDS)

    def close(self) -> None:
        """Stops preparing topics."""
        if self._preparing is not None:
            self._preparing.cancel()

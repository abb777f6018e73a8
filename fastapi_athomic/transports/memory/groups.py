"""Consumer groups: their members, which partitions each one has, and what was committed.

A rebalance goes like this. Each member is called, gives up its partitions, and waits; when the last one has given up,
a new generation begins, the partitions are distributed, and each member is called again to take its share. Nothing here
takes a lock: the broker holds its own around each call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from ...exceptions import CommitFailedError, TopicNotFoundError
from ...messages import TopicPartition
from ..base import CommittedOffset, ConsumerConfig
from .topics import Topics

logger = logging.getLogger(__name__)


class Member:
    """What the broker knows about one member of a group, and how it calls it.

    The given functions run on the event loop that creates this object. `Group` sets `generation` and `assigned`
    in rebalances, and `followed`.
    """

    def __init__(self, config: ConsumerConfig, call: Callable[[], None], arrived: Callable[[], None]) -> None:
        self.config = config
        self.followed = frozenset(config.followed)  # topics besides those of the config
        self.loop = asyncio.get_running_loop()
        self.generation = -1  # -1: not a member
        self.assigned: frozenset[TopicPartition] = frozenset()
        self._thread = threading.get_ident()
        self._call = call
        self._arrived = arrived

    def call(self) -> bool:
        """Tells the member that its group has something for it to do. False if its event loop is closed."""
        return self._on_its_loop(self._call)

    def arrived(self) -> None:
        """Tells the member that there are new messages."""
        self._on_its_loop(self._arrived)

    def _on_its_loop(self, function: Callable[[], None]) -> bool:
        if threading.get_ident() == self._thread and not self.loop.is_closed():
            function()
            return True
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop was closed, and the member never left
            return False
        return True

    def follows(self, topic: str) -> bool:
        """Whether the member's subscription includes the topic."""
        pattern = self.config.pattern
        if pattern is not None:
            return bool(pattern.fullmatch(topic))
        return topic in self.config.topics or topic in self.followed


class Assignment(NamedTuple):
    """What a member has to do: give up all its partitions, or take those that were assigned to it."""

    generation: int
    partitions: frozenset[TopicPartition] | None  # None: give up


class Group:
    """One consumer group. `topics` are the broker's: their partitions are distributed, their logs get watchers.

    Others may read its attributes; only its methods change them.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self.generation = 0
        self.preparing = False  # a rebalance waits for members to give up their partitions
        self.members: dict[Member, None] = {}
        self.given_up: set[Member] = set()  # members that wait for their new partitions
        self.committed: dict[TopicPartition, CommittedOffset] = {}

    def task_of(self, member: Member) -> Assignment | None:
        """What the member has to do now; None: nothing, until the others have given up their partitions."""
        if member in self.members and self.preparing and member in self.given_up:
            return None
        outside = member not in self.members or self.preparing
        return Assignment(member.generation, None if outside else member.assigned)

    def join(self, member: Member) -> None:
        """Adds the member, and begins a rebalance."""
        self.members[member] = None
        self.rebalance()

    def leave(self, member: Member) -> None:
        """Removes the member, and begins a rebalance."""
        if member in self.members:
            self._remove(member)
            self.rebalance()

    def follow(self, member: Member, topics: Collection[str]) -> None:
        """The member follows these topics besides those of its config, and no others."""
        changed = member.followed ^ frozenset(topics)
        member.followed = frozenset(topics)
        if member in self.members and member.config.pattern is None and changed:
            self.rebalance()

    def give_up(self, member: Member) -> None:
        """The member has given up its partitions and waits for new ones. One that was evicted joins again."""
        if member not in self.members:
            self.members[member] = None
            self.rebalance()
        self.given_up.add(member)
        self._complete()

    def evict_laggards(self) -> None:
        """Completes the rebalance without the members that have not given up their partitions."""
        for member in [member for member in self.members if self.preparing and member not in self.given_up]:
            logger.warning(
                "a member of group %s has not given up its partitions in time and is evicted", member.config.group_id
            )
            self._remove(member)
            member.call()
        self._complete()

    def rebalance(self) -> None:
        """Takes all partitions away from the members, and assigns them again when all have given them up."""
        if not self.preparing:
            self.preparing = True
            self.given_up.clear()
        for member in list(self.members):
            if member not in self.given_up and not member.call():
                self._remove(member)
        self._complete()

    def _remove(self, member: Member) -> None:
        self.members.pop(member, None)
        self.given_up.discard(member)
        self._unwatch(member)
        member.generation, member.assigned = -1, frozenset()

    def _complete(self) -> None:
        if not self.preparing or not self.given_up.issuperset(self.members):
            return
        self.preparing = False
        self.generation += 1
        for member, partitions in self._distribute(list(self.members)).items():
            self._unwatch(member)
            member.generation, member.assigned = self.generation, frozenset(partitions)
            for partition in partitions:
                if (log := self._topics.log(partition)) is not None:
                    log.watchers[member] = None
            member.call()

    def _unwatch(self, member: Member) -> None:
        for partition in member.assigned:
            if (log := self._topics.log(partition)) is not None:
                log.watchers.pop(member, None)

    def _distribute(self, members: list[Member]) -> dict[Member, list[TopicPartition]]:
        """As evenly as the subscriptions allow."""
        given: dict[Member, list[TopicPartition]] = {member: [] for member in members}
        for topic in sorted(self._topics):
            interested = [member for member in members if member.follows(topic)]
            for partition in range(len(self._topics[topic]) if interested else 0):
                poorest = min(interested, key=lambda member: len(given[member]))
                given[poorest].append(TopicPartition(topic, partition))
        return given

    # --- offsets

    def commit(self, member: Member, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Commits as a member of the current generation; else raises `CommitFailedError`.

        As on Kafka, the offsets of existing topics are committed even if others raise `TopicNotFoundError`.
        """
        if member not in self.members or member.generation != self.generation:
            raise CommitFailedError(f"group {member.config.group_id} went on without this member")
        known = {place: offset for place, offset in offsets.items() if self._topics.log(place) is not None}
        self.committed.update(known)
        if len(known) < len(offsets):
            raise TopicNotFoundError("a topic that was committed for does not exist")

    def forget_topics(self, topics: Collection[str]) -> None:
        """Drops what was committed for topics that were deleted."""
        for place in [place for place in self.committed if place.topic in topics]:
            del self.committed[place]

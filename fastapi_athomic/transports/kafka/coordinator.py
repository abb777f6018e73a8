"""aiokafka's coordinator as the membership of one consumer: how soon it hears of a rebalance, and how it joins.

A member hears of a rebalance only in the answer to a heartbeat, and the whole group stands still until the last one
has heard. So heartbeats are frequent while there is something to do, and rare while there is not.

It also gives way to a member that joined later with the same id (static membership, KIP-345). The private parts of
aiokafka that are used here are listed in the folder's `__init__`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from math import ceil
from time import monotonic
from typing import Any
from weakref import WeakSet

from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance, GroupCoordinator
from aiokafka.errors import (
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    RequestTimedOutError,
    UnknownMemberIdError,
)
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

from ...bell import Bell, apart, shared_moment
from ...messages import TopicPartition
from ..base import CommittedOffset, Confirmation
from .client_log import client_context
from .group_wire import CommitQuestion, HeartbeatQuestion, Member
from .static_membership import twin_of
from .wire import Question

logger = logging.getLogger(__name__)

FENCED_INSTANCE_ID = 82
"""Kafka's error code: another member has joined with the same `group_instance_id`."""
JOIN_AGAIN = frozenset({RebalanceInProgressError.errno, UnknownMemberIdError.errno, IllegalGenerationError.errno})
"""Kafka's error codes with which an attempt to join fails although the next one can succeed at once."""
SHORTEST_HEARTBEAT = 0.1
"""Seconds between two heartbeats of a member while it works. Each costs about 0.15 ms of CPU."""
SPARE_HEARTBEAT = 1.0
"""Seconds between two heartbeats of a member without partitions: the others may be busy, and wait for it."""
HEARTBEATS_A_SECOND = 50
"""Of all members of a process that work, together: with more than five of them, each sends fewer."""

_working: WeakSet[GroupMembership] = WeakSet()
"""The members in this process that have had something to do lately."""


class GroupMembership(GroupCoordinator):  # type: ignore[misc]  # aiokafka is not typed
    """A coordinator whose heartbeats follow the load, that joins again at once, and that gives way to its twin.

    While messages come, so do heartbeats, every `SHORTEST_HEARTBEAT` seconds. After the last message each waits for as
    long again as it has been quiet, up to `heartbeat_interval`; up to `SPARE_HEARTBEAT` without partitions.

    The member that is fenced because another has joined with its `group_instance_id` stays in the group without an id:
    so the fencing ends and both work; only messages that were in flight are handled twice. (aiokafka 0.14 does not know
    that error: it would join again with the same id, fence the other one, and so on without end.) A member that lost
    its membership (its session timed out, say) asks to join under its former member id: the response says whether
    another member has the id now.
    """

    _on_twin: Callable[[str], None]
    _group_instance_id: str | None
    _former_member_id = ""
    _worked_at = float("-inf")  # on the monotonic clock
    _confirmed_at = float("-inf")  # when it last sent what was answered as to a member; on the monotonic clock
    _synced_at = float("-inf")  # when it last asked for its partitions; on the monotonic clock
    _broker_assigns = False  # as the last JoinGroup said: nobody was made the leader, who would assign
    _rests = False  # the next heartbeat is not due soon
    _called: Bell  # rings when there is something to do again
    _may_join_at_once = False  # the last attempt failed, but not because the broker is not ready
    _joined_at_once = False  # so it was for the attempt before: this time it takes a pause

    @classmethod
    def take_over(cls, coordinator: GroupCoordinator, on_twin: Callable[[str], None]) -> None:
        """Turns the coordinator that aiokafka's consumer has created into one of these, before it joins the group.

        `on_twin` is called with the id when another process uses it too.
        """
        coordinator.__class__ = cls
        coordinator._on_twin = on_twin
        coordinator._called = Bell()

    # --- heartbeats

    def note_traffic(self) -> None:
        """Messages have come, or were done: from now on it matters how soon this member hears of a rebalance."""
        self._worked_at = monotonic()
        if self._rests:
            self._called.ring()

    def _heartbeat_pause(self, last: float) -> float:
        """Seconds between the last heartbeat, sent at `last`, and the next one, as things are now."""
        longest, quiet = self._longest_pause(), last - self._worked_at
        if quiet > longest:
            _working.discard(self)
        else:
            _working.add(self)
        if self._rejoin_needed_fut.done():  # it has heard; these only tell the broker that it is still there
            return longest
        return heartbeat_pause(quiet, len(_working), longest)

    def _longest_pause(self) -> float:
        usual = float(self._heartbeat_interval_ms / 1000)
        return usual if self._subscription.assigned_partitions() else min(usual, SPARE_HEARTBEAT)

    async def _wait_until_due(self, last: float, latest: float) -> None:
        """Returns when a heartbeat is due, if the last one was sent at `last`. Times are on the monotonic clock."""
        while (due := min(shared_moment(last, self._heartbeat_pause(last)), latest)) > (now := monotonic()):
            self._called.clear()
            self._rests = due > shared_moment(last, heartbeat_pause(0.0, len(_working), self._longest_pause()))
            try:
                await self._called.wait(due - now)
            finally:
                self._rests = False

    async def _heartbeat_routine(self) -> None:
        """Like aiokafka's, but for the pauses."""
        answered = sent = self._confirmed_at  # for a while nothing was sent: the partitions have been placed since
        retry = self._retry_backoff_ms / 1000
        latest = float("inf")
        while self.member_id != JoinGroupRequest.UNKNOWN_MEMBER_ID:
            try:
                await self._wait_until_due(sent, latest)
                await self.ensure_coordinator_known()
                sent = monotonic()
                latest = float("inf")
                if await self._beat():
                    answered = monotonic()
                    self._confirm(sent)
                else:
                    latest = monotonic() + retry
            except asyncio.CancelledError:
                break
            if monotonic() - answered > self._session_timeout_ms / 1000:
                logger.error("group %s: no heartbeat was answered within the session timeout", self.group_id)
                self.coordinator_dead()  # it is looked up again
            idle = self._subscription.fetcher_idle_time
            if idle >= self._max_poll_interval:
                await self._maybe_leave_group()
            latest = min(latest, monotonic() + self._max_poll_interval - idle)

    async def _beat(self) -> bool:
        """One heartbeat: whether it was answered. What is out of the ordinary is aiokafka's, which asks once more."""
        try:
            if await self._ask_open(HeartbeatQuestion):
                return True
        except KafkaError as error:
            logger.info("group %s: a heartbeat was not answered: %s", self.group_id, error)
            return False
        return bool(await self._do_heartbeat())

    async def commit_open(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> bool:
        """Commits with one request, if all that it takes is at hand. False: it is not, or not all were accepted."""
        if self._commit_lock.locked():
            return False
        self.note_traffic()
        sent = monotonic()
        try:
            accepted = await self._ask_open(partial(CommitQuestion, offsets=offsets))
        except KafkaError as error:
            logger.info("group %s: a commit was not answered: %s", self.group_id, error)
            return False
        if accepted and not self._broker_assigns:  # there, a commit does not prolong the session
            self._confirm(sent)
        return accepted

    async def _ask_open(self, question: Callable[[Member], Question]) -> bool:
        """Whether the coordinator says that all is well. False also if it cannot be asked at once.

        Raises `KafkaError`: it does not answer, so it is looked for again.
        """
        node = self.coordinator_id
        if node is None or self.generation < 0:
            return False
        try:
            answer = self._client.ask_open(node, question(Member(self.group_id, self.generation, self.member_id)))
            return answer is not None and bool(await answer)
        except (TimeoutError, KafkaError) as error:
            client_context().run(self.coordinator_dead)  # aiokafka logs that
            if isinstance(error, KafkaError):
                raise
            raise RequestTimedOutError from error

    def _confirm(self, sent: float) -> None:
        """What was sent then was answered as to a member."""
        self._confirmed_at = max(self._confirmed_at, sent)

    def confirmation(self) -> Confirmation:
        """The last one. Until its session or a rebalance has timed out since, the group waits for this member."""
        lasts = min(self._session_timeout_ms, self._rebalance_timeout_ms) / 1000
        return Confirmation(self._confirmed_at, self._confirmed_at + lasts)

    async def _do_commit_offsets(self, assignment: Any, offsets: Any) -> None:
        self.note_traffic()
        await super()._do_commit_offsets(assignment, offsets)

    async def close(self) -> None:
        _working.discard(self)
        await super().close()
        self._called.close()

    # --- joining

    async def _do_rejoin_group(self, subscription: Any) -> bool:
        """Like aiokafka's, which takes a pause after each attempt that failed, whatever the reason."""
        if self._former_member_id:
            self.member_id, self._former_member_id = self._former_member_id, ""
        given = await self._join(subscription)
        if not subscription.active:
            return False
        if given is None:
            self._joined_at_once = self._may_join_at_once and not self._joined_at_once
            if not self._joined_at_once:
                await asyncio.sleep(self._retry_backoff_ms / 1000)
            return False
        self._joined_at_once = False
        self._confirm(self._synced_at)
        protocol, assignment = given
        await self._on_join_complete(self.generation, self.member_id, protocol, assignment)
        return True

    async def _join(self, subscription: Any) -> tuple[str, bytes] | None:
        """One attempt: the protocol of the group, and what it assigns to us."""
        self._may_join_at_once = False
        attempt = CoordinatorGroupRebalance(
            self,
            self.group_id,
            self.coordinator_id,
            subscription,
            self._assignors,
            self._session_timeout_ms,
            self._retry_backoff_ms,
        )
        return await attempt.perform_group_join()  # type: ignore[no-any-return]

    async def _send_req(self, request: Any) -> Any:
        if isinstance(request, SyncGroupRequest):
            self._synced_at = monotonic()
        response = await super()._send_req(request)
        code = getattr(response, "error_code", None)
        if isinstance(request, JoinGroupRequest | SyncGroupRequest):
            self._may_join_at_once = code in JOIN_AGAIN
        if code == FENCED_INSTANCE_ID and self._group_instance_id is not None:
            self._give_way(self._group_instance_id)
            raise KafkaError("fenced: another member has the same group_instance_id")
        return response

    # --- twins

    def reset_generation(self) -> None:
        if self._group_instance_id is not None and self.generation > 0:
            self._former_member_id = self.member_id
        super().reset_generation()

    def _give_way(self, instance_id: str) -> None:
        logger.error("group %s: %s", self.group_id, twin_of(instance_id))
        self._on_twin(instance_id)
        self._group_instance_id = None
        self._former_member_id = ""
        self.reset_generation()


def heartbeat_pause(quiet: float, working: int, longest: float) -> float:
    """Seconds from one heartbeat to the next. `working`: so many members of this process have something to do.

    `quiet`: how many seconds before the first of the two there was something last; negative if it was after it.
    """
    step = apart(working / HEARTBEATS_A_SECOND)
    spread = ceil(working / (HEARTBEATS_A_SECOND * step)) * step  # a shorter one would end at an earlier shared moment
    return min(longest, max(SHORTEST_HEARTBEAT, spread, quiet))

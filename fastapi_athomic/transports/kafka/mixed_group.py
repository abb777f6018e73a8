"""A member of ours in a group whose other members use the new protocol of Apache Kafka 4 (KIP-848).

The broker lets members of both protocols into one group, and assigns by itself then: to each member about as many
partitions as to the others, over all topics together. Who alone consumes its retry and redrive topics has its share
with those, and would get no partition of the source.

So in such a group we are two members: one consumes the sources, the other the rest. To the consumer they are one: both
join, leave and are revoked together. The private parts of aiokafka that are used here are listed in the folder's
`__init__`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from copy import copy
from typing import Any

from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.coordinator.protocol import ConsumerProtocol, ConsumerProtocolMemberAssignment
from aiokafka.protocol.group import JoinGroupRequest

from .coordinator import GroupMembership
from .group_wire import Member
from .shared_client import MemberClient
from .wire import Question

logger = logging.getLogger(__name__)


class MixedMembership(GroupMembership):
    """A membership that becomes two where the broker assigns."""

    _is_source: Callable[[str], bool]
    _new_client: Callable[[], MemberClient]
    _side: SideMembership | None = None  # the member for the other topics

    @classmethod
    def take_over_with(
        cls,
        coordinator: GroupCoordinator,
        on_twin: Callable[[str], None],
        is_source: Callable[[str], bool],
        new_client: Callable[[], MemberClient],
    ) -> None:
        """Like `take_over`. `is_source` must not change its mind about a topic; a second member has a `new_client`."""
        cls.take_over(coordinator, on_twin)
        coordinator._is_source = is_source
        coordinator._new_client = new_client

    async def _join(self, subscription: Any) -> tuple[str, bytes] | None:
        sources = {topic for topic in subscription.topics if self._is_source(topic)}
        others = set(subscription.topics) - sources
        if self._side is None or not (sources and others):
            await self._end_side()
            given = await super()._join(subscription)
            if given is None or not (self._broker_assigns and sources and others):
                return given
            logger.info("group %s: the broker assigns; a second member takes %s", self.group_id, sorted(others))
            self._side = SideMembership.beside(self)
        given = await self._join_both(self._side, _Part(subscription, sources), _Part(subscription, others))
        if self._broker_assigns:
            return given
        await self._end_side()
        self._may_join_at_once = True
        return None

    async def _join_both(self, side: SideMembership, sources: _Part, others: _Part) -> tuple[str, bytes] | None:
        ours, its = await asyncio.gather(super()._join(sources), side._join(others))
        if ours is None or its is None:
            self._may_join_at_once = all(
                member._may_join_at_once for member, given in ((self, ours), (side, its)) if given is None
            )
            self.request_rejoin()
            return None
        protocol, assignment = ours
        return protocol, together(assignment, its[1])

    async def _end_side(self) -> None:
        side, self._side = self._side, None
        if side is not None:
            await side.end()

    def let_side_go(self) -> None:
        """Closing was broken off: the second member does not leave, its session times out."""
        if self._side is not None:
            self._side._client.leave()

    async def _maybe_leave_group(self) -> None:
        await self._end_side()
        await super()._maybe_leave_group()

    async def _do_heartbeat(self) -> bool:
        answers = [bool(await super()._do_heartbeat())]
        if self._side is not None:
            answers.append(await self._side._do_heartbeat())
        return all(answers)

    async def _ask_open(self, question: Callable[[Member], Question]) -> bool:
        return self._side is None and await super()._ask_open(question)

    async def _do_commit_offsets(self, assignment: Any, offsets: Any) -> None:
        side = self._side
        if side is None:
            await super()._do_commit_offsets(assignment, offsets)
            return
        ours = {place: offset for place, offset in offsets.items() if self._is_source(place.topic)}
        its = {place: offset for place, offset in offsets.items() if place not in ours}
        commits = super()._do_commit_offsets(assignment, ours), side._do_commit_offsets(assignment, its)
        for failure in await asyncio.gather(*commits, return_exceptions=True):  # one does not keep the other from it
            if failure is not None:
                raise failure

    async def _send_req(self, request: Any) -> Any:
        response = await super()._send_req(request)
        if isinstance(request, JoinGroupRequest) and not response.error_code:
            self._broker_assigns = not response.leader_id
        return response


class SideMembership(GroupMembership):
    """The second member: a copy of the first one with an identity of its own.

    It joins, sends heartbeats and commits only when the first one has it do so. It has no `group_instance_id`: that
    would have to differ from the first one's.
    """

    _main: MixedMembership

    @classmethod
    def beside(cls, main: MixedMembership) -> SideMembership:
        side: Any = copy(main)
        side.__class__ = cls
        side._main = main
        side._group_instance_id = None
        side.generation, side.member_id = -1, JoinGroupRequest.UNKNOWN_MEMBER_ID
        side._client = main._new_client()
        return side  # type: ignore[no-any-return]

    async def end(self) -> None:
        """Leaves the group, for good."""
        try:
            await self._maybe_leave_group()
        finally:
            self._client.leave()

    @property
    def coordinator_id(self) -> Any:
        return self._main.coordinator_id

    @coordinator_id.setter
    def coordinator_id(self, value: Any) -> None:
        """The first member looks for it."""

    def coordinator_dead(self) -> None:
        self._main.coordinator_dead()

    def request_rejoin(self) -> None:
        self._main.request_rejoin()


class _Part:
    """Some topics of a subscription, as aiokafka wants it for a join."""

    def __init__(self, whole: Any, topics: set[str]) -> None:
        self._whole = whole
        self.topics = topics

    @property
    def active(self) -> bool:
        """As the whole one."""
        return bool(self._whole.active)


def together(one: bytes, other: bytes) -> bytes:
    """Two assignments as one, as the broker encodes them."""
    first, second = (ConsumerProtocol.ASSIGNMENT.decode(each) for each in (one, other))
    return ConsumerProtocolMemberAssignment(  # type: ignore[no-any-return]
        first.version, [*first.assignment, *second.assignment], first.user_data
    ).encode()

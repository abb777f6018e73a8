"""Two members as one. What it is for, tests/integration/test_mixed_groups.py tells."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocol, ConsumerProtocolMemberAssignment

from fastapi_athomic.bell import Bell
from fastapi_athomic.transports.base import CommittedOffset
from fastapi_athomic.transports.kafka.coordinator import GroupMembership
from fastapi_athomic.transports.kafka.mixed_group import MixedMembership, SideMembership, together


def test_two_assignments_are_one() -> None:
    sources = ConsumerProtocolMemberAssignment(0, [("t", [0, 2])], b"").encode()
    others = ConsumerProtocolMemberAssignment(0, [("t.retry", [1]), ("t.redrive", [3])], b"").encode()
    both = ConsumerProtocol.ASSIGNMENT.decode(together(sources, others))
    assert both.partitions() == [
        TopicPartition("t", 0),
        TopicPartition("t", 2),
        TopicPartition("t.retry", 1),
        TopicPartition("t.redrive", 3),
    ]


SOURCE, RETRY = TopicPartition("t", 0), TopicPartition("t.retry", 0)


@pytest.fixture
def both() -> MixedMembership:
    """A member that is two."""
    main: Any = object.__new__(MixedMembership)
    main._is_source = lambda topic: topic == "t"
    main._side = object.__new__(SideMembership)
    return main  # type: ignore[no-any-return]


async def test_who_is_two_members_asks_as_both(both: MixedMembership) -> None:
    """The first one alone would commit what the second one has."""
    both._commit_lock = asyncio.Lock()
    both._called = Bell()
    assert not await both.commit_open({SOURCE: CommittedOffset(1), RETRY: CommittedOffset(1)})


async def test_a_commit_that_fails_keeps_the_other_member_from_nothing(
    both: MixedMembership, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = list[TopicPartition]()

    async def commit(_: object, __: object, offsets: dict[TopicPartition, int]) -> None:
        if SOURCE in offsets:
            raise ValueError
        committed.extend(offsets)

    monkeypatch.setattr(GroupMembership, "_do_commit_offsets", commit)
    with pytest.raises(ValueError):  # noqa: PT011 - that one
        await both._do_commit_offsets(None, {SOURCE: 1, RETRY: 1})
    assert committed == [RETRY]


async def test_a_commit_that_takes_too_long_is_broken_off_for_both(
    both: MixedMembership, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a stop would wait for the second one, whose broker is away."""
    begun, ended = asyncio.Semaphore(0), list[TopicPartition]()

    async def hangs(_: object, __: object, offsets: dict[TopicPartition, int]) -> None:
        begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            ended.extend(offsets)

    monkeypatch.setattr(GroupMembership, "_do_commit_offsets", hangs)
    committing = asyncio.create_task(both._do_commit_offsets(None, {SOURCE: 1, RETRY: 1}))
    await begun.acquire()
    await asyncio.sleep(0)
    committing.cancel()
    _, going_on = await asyncio.wait({committing}, timeout=5)
    assert not going_on
    assert committing.cancelled()
    assert ended == [SOURCE, RETRY]

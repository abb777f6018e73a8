"""What a member of a group takes out of its buffers at once."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest

from fastapi_athomic import RawMessage
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.transports.kafka.group_member import GroupMember

PLACE = TopicPartition("t", 0)


class Buffered:
    """A `Reading` that gives out a few messages at once, as one does whose batch takes long to unpack."""

    wanted = False

    def __init__(self, member: Any, left: int, at_once: int) -> None:
        self._member, self._left, self._at_once = member, left, at_once

    def take(self, limit: int) -> list[RawMessage]:
        count = min(limit, self._left, self._at_once)
        self._left -= count
        if not self._left:
            del self._member.ready[PLACE]
        return [RawMessage("t", 0, 0, 0, None, b"", ())] * count


@pytest.mark.parametrize(
    ("left", "limit", "count", "told"),
    [(10, 100, 4, 1), (4, 100, 4, 0), (10, 4, 4, 0), (0, 100, 0, 0)],
    ids=["more are left", "that was all", "as many as were asked for", "nothing yet"],
)
def test_who_gets_fewer_than_there_are_is_told_of_the_rest(left: int, limit: int, count: int, told: int) -> None:
    """The poll loop waits after a round that brought fewer than it asked for."""
    rung: list[bool] = []
    member: Any = GroupMember.__new__(GroupMember)
    member._hooks = SimpleNamespace(on_arrival=lambda: rung.append(True))
    member._readings = {PLACE: Buffered(member, left, 4)}
    member.ready = OrderedDict({PLACE: member._readings[PLACE]})
    assert len(member.take([PLACE], limit).get(PLACE, [])) == count
    assert len(rung) == told

"""The conversation with the state store, without a consumer around it."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_athomic.observation.counters import Counters
from fastapi_athomic.observation.gauges import SequenceGauge
from fastapi_athomic.sequencing.aggregates import Aggregate
from fastapi_athomic.sequencing.assignment import Assignment
from fastapi_athomic.sequencing.calls import Agenda
from fastapi_athomic.sequencing.holdings import Holdings
from fastapi_athomic.sequencing.ledger import Ledger, LedgerParts
from fastapi_athomic.stores.base import Call, Claim, Member, Reply
from fastapi_athomic.stores.memory import MemoryStateStore

MEMBER = Member(group_id="g", name="we", lease=10.0)


class InterruptedStore(MemoryStateStore):
    """Calls `meanwhile` once, while the first call is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Any = lambda: None

    async def call(self, member: Member, call: Call) -> Reply:
        reply = await super().call(member, call)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return reply


async def test_p10_a_lease_that_is_lost_while_others_are_given_back_does_not_stop_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastapi_athomic.sequencing.ledger.CALL_AGGREGATES", 1)
    store = InterruptedStore()
    held = await _hold(store, b"a", b"b", b"c")
    agenda, assignment, gauge = Agenda(0.1), Assignment(), SequenceGauge(gap_timeout=60.0)
    holdings = Holdings(MEMBER, agenda, assignment, gauge)
    holdings.aggregates.update(held)
    ledger = Ledger(
        LedgerParts(
            store=store,
            member=MEMBER,
            on_gap="wait",
            gauge=gauge,
            counters=Counters(),
            assignment=assignment,
            agenda=agenda,
            holdings=holdings,
            dispatch=lambda aggregate: None,
            found=lambda aggregate, waiting: None,
            duplicate=lambda aggregate, item: None,
        )
    )
    store.meanwhile = held[b"b"].give_up_lease
    await ledger.close(5.0)
    other = Member(group_id="g", name="other", lease=10.0)
    claims = (await store.call(other, Call(claims=[b"a", b"b", b"c"]))).claimed
    assert [claim is not None for claim in claims] == [True, False, True], "all that were still ours"


async def _hold(store: MemoryStateStore, *keys: bytes) -> dict[bytes, Aggregate]:
    claims = (await store.call(MEMBER, Call(claims=list(keys)))).claimed
    held = {key: Aggregate(key, 0) for key in keys}
    for key, claim in zip(keys, claims, strict=True):
        assert isinstance(claim, Claim)
        held[key].grant(claim, valid_until=float("inf"))
    return held


async def test_p17_who_forgets_an_aggregate_twice_keeps_the_one_that_came_with_its_key_meanwhile() -> None:
    """The answer to a call, or the end of a silence, may be about an aggregate that was forgotten by then."""
    holdings = Holdings(MEMBER, Agenda(0.1), Assignment(), SequenceGauge(gap_timeout=60.0))
    forgotten = holdings.aggregate(b"a")
    holdings.keep_idle(forgotten)
    assert not holdings.aggregates
    present = holdings.aggregate(b"a")
    holdings.keep_idle(forgotten)
    assert holdings.aggregates == {b"a": present}

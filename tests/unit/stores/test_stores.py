"""What a state store means, the same in memory and in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import redis

from fastapi_athomic import StateStoreError
from fastapi_athomic.stores.base import Call, Claim, Drop, Member, Park, Parked, Reply, Scan, StateStore, Take, Write
from fastapi_athomic.stores.memory import MemoryStateStore, store_named
from fastapi_athomic.stores.redis import RedisStateStore
from tests.support.processes import free_port

LEASE = 10.0
ODD_KEYS = [b"", b"\x00\xff\r\n", b"a b", b"{x}:y", "key é".encode(), b"k" * 2_000]


class Clock:
    """Goes when it is told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Table:
    """A store with two members of one group, and a clock."""

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self.store, self.clock = store, clock
        group = uuid4().hex
        limits: dict[str, Any] = {"lease": LEASE, "room_per_aggregate": 5, "room_per_group": 8}
        self.ann = Member(group_id=group, name="ann", **limits)
        self.bob = Member(group_id=group, name="bob", **limits)

    async def ask(self, member: Member, **questions: Any) -> Reply:
        return await self.store.call(member, Call(**questions))

    async def claim(self, member: Member, key: bytes = b"a") -> Claim:
        (claim,) = (await self.ask(member, claims=[key])).claimed
        assert claim is not None
        return claim

    async def park(self, member: Member, *numbers: int, key: bytes = b"a") -> list[Parked]:
        reply = await self.ask(member, parks=[Park(key, number, b"m%d" % number) for number in numbers])
        return list(reply.parked)

    async def look(self, key: bytes = b"a", take: Take = Take.ANY) -> list[tuple[int, bytes]]:
        """What waits; takes the lease away from whoever has it."""
        self.clock.now += 2 * LEASE
        claim = await self.claim(self.ann, key)
        reply = await self.ask(self.ann, writes=[Write(key, claim.token, take=take, release=True)])
        return list(reply.waiting[key].messages) if key in reply.waiting else []


@pytest.fixture(params=["memory", "redis"])
async def table(request: pytest.FixtureRequest) -> AsyncIterator[Table]:
    clock = Clock()
    if request.param == "memory":
        yield Table(MemoryStateStore(clock), clock)
        return
    store = RedisStateStore(request.getfixturevalue("redis_server").url, prefix=uuid4().hex, clock=clock)
    yield Table(store, clock)
    await store.close()


async def test_an_aggregate_belongs_to_one_member_at_a_time(table: Table) -> None:
    first = await table.claim(table.ann)
    assert first.last == 0
    assert (await table.ask(table.bob, claims=[b"a", b"b"])).claimed == [None, Claim(first.token + 1, 0)]
    assert (await table.claim(table.ann)).token > first.token, "who has it may claim it anew"


async def test_a_lease_ends_by_the_clock_and_is_renewed_by_writes(table: Table) -> None:
    claim = await table.claim(table.ann)
    table.clock.now += LEASE - 1
    assert (await table.ask(table.ann, writes=[Write(b"a", claim.token)])).written == [True]
    table.clock.now += LEASE - 1
    assert (await table.ask(table.bob, claims=[b"a"])).claimed == [None]
    table.clock.now += 2
    assert (await table.claim(table.bob)).token > claim.token


async def test_a_lost_lease_changes_nothing(table: Table) -> None:
    lost = await table.claim(table.ann)
    await table.park(table.ann, 2)
    table.clock.now += LEASE + 1
    taken = await table.claim(table.bob)
    writes = [Write(b"a", lost.token, last=7, release=True)]
    assert (await table.ask(table.ann, writes=writes, drops=[Drop(b"a", 2)])).written == [False]
    reply = await table.ask(table.bob, writes=[Write(b"a", taken.token, last=1)])
    assert reply.written == [True]
    assert reply.waiting[b"a"].messages == [(2, b"m2")]


async def test_a_lease_that_ended_and_that_nobody_wanted_still_counts(table: Table) -> None:
    claim = await table.claim(table.ann)
    table.clock.now += 2 * LEASE
    assert (await table.ask(table.ann, writes=[Write(b"a", claim.token, last=3)])).written == [True]
    assert (await table.ask(table.bob, claims=[b"a"])).claimed == [None]


async def test_a_token_counts_for_its_owner_only(table: Table) -> None:
    claim = await table.claim(table.ann)
    assert (await table.ask(table.bob, writes=[Write(b"a", claim.token, last=9)])).written == [False]


async def test_a_release_lets_the_next_one_in(table: Table) -> None:
    claim = await table.claim(table.ann)
    await table.ask(table.ann, writes=[Write(b"a", claim.token, last=4, release=True)])
    assert await table.claim(table.bob) == Claim(claim.token + 1, 4)
    assert (await table.ask(table.ann, writes=[Write(b"a", claim.token)])).written == [False]


async def test_the_last_one_done_never_goes_back(table: Table) -> None:
    claim = await table.claim(table.ann)
    for last in (5, 3):
        assert (await table.ask(table.ann, writes=[Write(b"a", claim.token, last=last)])).written == [True]
    table.clock.now += LEASE + 1
    assert (await table.claim(table.bob)).last == 5


async def test_what_waits_comes_in_order_without_a_gap_and_stays_until_it_is_done(table: Table) -> None:
    claim = await table.claim(table.ann)
    assert await table.park(table.ann, 5, 2, 3) == [Parked.PARKED] * 3
    reply = await table.ask(table.ann, writes=[Write(b"a", claim.token)])
    assert reply.waiting[b"a"].lowest == 2
    assert reply.waiting[b"a"].messages == [], "1 is missing"
    reply = await table.ask(table.ann, writes=[Write(b"a", claim.token, last=1)])
    assert reply.waiting[b"a"].messages == [(2, b"m2"), (3, b"m3")]
    reply = await table.ask(table.ann, writes=[Write(b"a", claim.token, last=2, known=3)])
    assert reply.waiting[b"a"].messages == [], "3 is known"
    reply = await table.ask(table.ann, writes=[Write(b"a", claim.token, last=2, take=Take.NOTHING)])
    assert reply.waiting == {}
    assert await table.look() == [(3, b"m3"), (5, b"m5")]


async def test_a_claim_tells_what_can_go_on(table: Table) -> None:
    await table.park(table.bob, 1, 2, 4)
    reply = await table.ask(table.ann, claims=[b"a", b"b"])
    assert reply.waiting[b"a"].messages == [(1, b"m1"), (2, b"m2")]
    assert b"b" not in reply.waiting


async def test_late_and_double_messages_do_not_wait(table: Table) -> None:
    claim = await table.claim(table.ann)
    await table.ask(table.ann, writes=[Write(b"a", claim.token, last=2)])
    assert await table.park(table.bob, 2, 4, 4) == [Parked.LATE, Parked.PARKED, Parked.DOUBLE]


async def test_rooms_are_bounded_each_and_together(table: Table) -> None:
    assert await table.park(table.ann, *range(2, 8)) == [Parked.PARKED] * 5 + [Parked.FULL]
    assert await table.park(table.ann, *range(2, 6), key=b"b") == [Parked.PARKED] * 3 + [Parked.FULL]
    claim = await table.claim(table.ann)
    await table.ask(table.ann, writes=[Write(b"a", claim.token, last=6)])
    assert await table.park(table.ann, 5, key=b"b") == [Parked.PARKED], "what is done makes room"


async def test_a_drop_removes_one(table: Table) -> None:
    claim = await table.claim(table.ann)
    await table.park(table.ann, 2, 4)
    await table.ask(table.ann, writes=[Write(b"a", claim.token)], drops=[Drop(b"a", 2)])
    assert await table.look() == [(4, b"m4")]


async def test_equal_messages_with_different_numbers_are_two(table: Table) -> None:
    await table.ask(table.ann, parks=[Park(b"a", 2, b"same"), Park(b"a", 3, b"same")])
    assert await table.look() == [(2, b"same"), (3, b"same")]


async def test_the_holder_hears_of_what_others_park(table: Table) -> None:
    await table.claim(table.ann)
    await table.claim(table.ann, b"b")
    reply = await table.ask(table.bob, parks=[Park(b"a", 1, b"m")])
    assert reply.knocked == []
    assert (await table.ask(table.ann)).knocked == [b"a"]
    assert (await table.ask(table.ann)).knocked == [], "once"


async def test_who_parks_hears_that_nobody_holds_it(table: Table) -> None:
    reply = await table.ask(table.bob, parks=[Park(b"a", 1, b"m"), Park(b"b", 2, b"m")])
    assert reply.knocked == [b"a"], "b still waits for 1"


async def test_a_scan_tells_of_gaps_and_of_what_nobody_looks_after(table: Table) -> None:
    async def scan(member: Member, start: int = 0) -> Any:
        overview = (await table.ask(member, scan=Scan(30.0, 10, start))).overview
        assert overview is not None
        return overview

    await table.park(table.ann, 3, key=b"gap")
    await table.park(table.ann, 1, key=b"ready")
    held = await table.claim(table.bob, b"held")
    await table.park(table.ann, 1, 2, key=b"held")
    table.clock.now += 8
    found = await scan(table.ann)
    assert (found.ready, found.overdue, found.gaps, found.overdue_count) == ([b"ready"], [], 1, 0)
    assert (found.parked, found.waiting, found.oldest_gap) == (4, 3, 8.0)
    assert sorted((await scan(table.bob)).ready) == [b"held", b"ready"]
    table.clock.now += 30
    found = await scan(table.ann)
    assert (sorted(found.ready), found.overdue, found.overdue_count) == ([b"held", b"ready"], [b"gap"], 1)
    assert (await scan(table.ann, start=9)).overdue == []
    assert held.last == 0


async def test_a_gap_is_as_old_as_the_first_that_waits_for_it_and_progress_makes_it_new(table: Table) -> None:
    claim = await table.claim(table.ann)
    await table.park(table.ann, 5)
    table.clock.now += 4
    await table.park(table.ann, 4)
    reply = await table.ask(table.ann, writes=[Write(b"a", claim.token)])
    assert (reply.waiting[b"a"].lowest, reply.waiting[b"a"].seconds) == (4, 4.0)
    reply = await table.ask(table.ann, writes=[Write(b"a", claim.token, last=2)])
    assert reply.waiting[b"a"].seconds == 0.0


async def test_any_bytes_are_a_key_and_a_message(table: Table) -> None:
    message = bytes(range(256)) * 3
    reply = await table.ask(table.ann, parks=[Park(key, 2, message + key) for key in ODD_KEYS[:4]], claims=ODD_KEYS)
    assert reply.parked == [Parked.PARKED] * 4
    writes = [
        Write(key, claim.token, last=1) for key, claim in zip(ODD_KEYS, reply.claimed, strict=True) if claim is not None
    ]
    reply = await table.ask(table.ann, writes=writes)
    assert {key: waiting.messages for key, waiting in reply.waiting.items()} == {
        key: [(2, message + key)] for key in ODD_KEYS[:4]
    }


async def test_thousands_of_aggregates_in_one_call_and_great_numbers(table: Table) -> None:
    keys = [b"k%d" % number for number in range(2_500)]
    claims = (await table.ask(table.ann, claims=keys)).claimed
    great = 2**53 - 2
    writes = [Write(key, claim.token, last=great) for key, claim in zip(keys, claims, strict=True) if claim is not None]
    reply = await table.ask(table.ann, writes=writes, parks=[Park(keys[-1], great + 1, b"m")])
    assert reply.written == [True] * 2_500
    assert reply.waiting[keys[-1]].messages == [(great + 1, b"m")]
    table.clock.now += LEASE + 1
    assert {(await table.claim(table.bob, key)).last for key in keys[::500]} == {great}


async def test_an_unknown_aggregate_begins_where_the_member_says(table: Table) -> None:
    zero = Member(group_id=uuid4().hex, name="zero", lease=LEASE, before_first=-1)
    await table.ask(zero, parks=[Park(b"a", 0, b"m")])
    assert (await table.ask(zero, claims=[b"a"])).waiting[b"a"].messages == [(0, b"m")]


async def test_groups_do_not_know_of_each_other(table: Table) -> None:
    await table.claim(table.ann)
    other = Member(group_id=uuid4().hex, name="other", lease=LEASE)
    assert (await table.ask(other, claims=[b"a"])).claimed != [None]


async def test_a_call_may_be_asked_again(table: Table) -> None:
    """After an error nobody knows whether it was done."""
    claim = await table.claim(table.ann)
    call = Call(writes=[Write(b"a", claim.token, last=1)], parks=[Park(b"a", 3, b"m3")])
    assert (await table.store.call(table.ann, call)).parked == [Parked.PARKED]
    again = await table.store.call(table.ann, call)
    assert (again.written, again.parked) == ([True], [Parked.DOUBLE])
    assert await table.look() == [(3, b"m3")]


async def test_a_store_can_be_used_again_after_it_was_closed(table: Table) -> None:
    await table.park(table.ann, 2)
    await table.store.close()
    assert await table.look() == [(2, b"m2")]


async def test_redis_may_forget_the_script(redis_server: Any) -> None:
    table = Table(RedisStateStore(redis_server.url, prefix=uuid4().hex, clock=Clock()), Clock())
    await table.claim(table.ann)
    with redis.Redis.from_url(redis_server.url) as client:
        client.script_flush()
    assert (await table.ask(table.bob, claims=[b"a"])).claimed == [None]
    await table.store.close()


async def test_leases_end_by_the_servers_clock(redis_server: Any) -> None:
    store = RedisStateStore(redis_server.url, prefix=uuid4().hex)
    table = Table(store, Clock())
    assert (await table.claim(table.ann)).token == 1
    assert (await table.ask(table.bob, claims=[b"a"])).claimed == [None]
    short = Member(group_id=table.ann.group_id, name="short", lease=0.0)
    await table.claim(short, b"b")
    assert (await table.claim(table.bob, b"b")).token == 3
    await store.close()


async def test_a_redis_that_is_away_is_named_without_its_credentials() -> None:
    store = RedisStateStore(f"redis://ann:s3cret@127.0.0.1:{free_port()}/0")
    with pytest.raises(StateStoreError) as caught:
        await Table(store, Clock()).claim(Member(group_id="g", name="m", lease=1.0))
    assert str(caught.value) == "the state store cannot be reached: ConnectionError"
    await store.close()


def test_apps_share_a_store_by_the_name_of_their_broker() -> None:
    shared = store_named("shared")
    assert store_named("shared") is shared
    assert store_named("") is not store_named("")

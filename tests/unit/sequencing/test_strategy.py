"""Ordered consumption when it is not alone, with the state in memory and clocks that go when they are told."""

from __future__ import annotations

from time import monotonic
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    RateLimit,
    RawMessage,
    RetryPolicy,
    StateStoreError,
    ordered_consumer,
)
from fastapi_athomic.sequencing.packing import pack
from fastapi_athomic.stores.base import Call, Claim, Member, Park, Reply, Write
from fastapi_athomic.stores.memory import MemoryStateStore
from tests.support.apps import Gate, Record, eventually, new_app, running, sentences
from tests.support.clock import set_clock

LEASE = 10.0


class Clock:
    """The real one, and what it is put forward by."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return monotonic() + self.ahead


class Thief:
    """Another member of the group, which takes an aggregate as soon as it can."""

    def __init__(self, store: MemoryStateStore) -> None:
        self._store = store
        self._member = Member(group_id="g", name="thief", lease=LEASE)

    async def claim(self) -> Claim | None:
        return (await self._store.call(self._member, Call(claims=[b"a"]))).claimed[0]

    async def park(self, number: int) -> None:
        value = b'{"order": "a", "number": %d}' % number
        message = pack(RawMessage("t", 0, 99, 0, None, value, ()))
        await self._store.call(self._member, Call(parks=[Park(b"a", number, message)]))

    async def work(self, last: int) -> None:
        """Takes it, gets as far as `last`, and gives it back."""
        claim = await self.claim()
        assert claim is not None
        writes = [Write(b"a", claim.token, last=last, release=True)]
        assert (await self._store.call(self._member, Call(writes=writes))).written == [True]


class Shop:
    """An app with one aggregate, whose handler waits at a gate for the numbers in `held_up`."""

    def __init__(self, store: Any, **options: Any) -> None:
        self.record, self.begun, self.gate = Record(), Record(), Gate()
        self.held_up: set[int] = set()
        self.fails: set[int] = set()

        @ordered_consumer(
            "t", group_id="g", handler_id="h", aggregate_key_field="order", sequence_id_field="number", **options
        )
        async def handle(message: dict[str, Any]) -> None:
            self.begun.note(message["number"])
            if message["number"] in self.fails:
                raise RuntimeError("broken")
            if message["number"] in self.held_up:
                await self.gate.wait()
            self.record.note(message["number"])

        settings = AthomicSettings(broker_url=f"memory://{uuid4().hex}", shutdown_timeout=2.0)
        self.athomic: Athomic = new_app(settings, handle)
        self.athomic._store = store

    async def publish(self, *numbers: int) -> None:
        for number in numbers:
            await self.athomic.publish("t", {"order": "a", "number": number}, partition=0)

    @property
    def strategy(self) -> Any:
        session: Any = self.athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]
        return session._strategy

    @property
    def status(self) -> Any:
        return self.athomic.consumers()[0]


class LazyStore(MemoryStateStore):
    """Answers or fails as it is told, and keeps what was asked."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock or Clock())
        self.away = False
        self.asked: list[Call] = []
        self.failed = 0
        self.answers = Gate()
        self.answers.set()

    def forget(self) -> None:
        self._groups.clear()

    async def call(self, member: Member, call: Call) -> Reply:
        if self.away:
            self.failed += 1
            raise StateStoreError("the state store cannot be reached: ConnectionError")
        self.asked.append(call)
        await self.answers.wait()
        return await super().call(member, call)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the store, and of the process: nothing is idle by it for long enough to be given back."""
    found = Clock()
    monkeypatch.setattr("fastapi_athomic.sequencing.holdings.IDLE", 1e9)
    set_clock(monkeypatch, found, "sequencing")
    return found


async def test_p17_what_was_handled_under_a_lost_lease_is_judged_by_what_the_new_holder_did(clock: Clock) -> None:
    store = MemoryStateStore(clock)
    shop = Shop(store)
    shop.held_up = {2}
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.athomic.drain()
        await shop.publish(2, 3)
        await shop.begun.count(2)
        clock.ahead += LEASE + 1
        await Thief(store).work(last=2)
        shop.gate.set()
        await shop.record.count(3)
        await shop.athomic.drain()
        assert shop.status.counters.duplicates == 1, "2 was concluded by the word of the store"
    assert shop.record.seen == [1, 2, 3]


async def test_p17_a_process_that_was_frozen_asks_before_it_goes_on(clock: Clock) -> None:
    store = MemoryStateStore(clock)
    shop = Shop(store)
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.athomic.drain()
        clock.ahead += LEASE + 1
        await Thief(store).work(last=2)
        await shop.publish(2, 3)
        await shop.record.count(2)
        await shop.athomic.drain()
    assert shop.record.seen == [1, 3], "2 was done by the other"


async def test_p17_what_was_handled_and_not_noted_is_handled_again_when_the_thief_did_nothing(clock: Clock) -> None:
    store = MemoryStateStore(clock)
    shop = Shop(store)
    shop.held_up = {2}
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.athomic.drain()
        await shop.publish(2, 3)
        await shop.begun.count(2)
        clock.ahead += LEASE + 1
        assert await Thief(store).claim() is not None
        shop.gate.set()
        await shop.athomic.drain()
        assert shop.record.seen == [1, 2], "3 waits in the store for the thief, and so does 2"
        assert shop.status.counters.parked == 2
        clock.ahead += LEASE + 1
        await shop.record.count(4)
    assert shop.record.seen == [1, 2, 2, 3]


async def test_p17_who_holds_an_aggregate_hears_of_what_others_park(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.sequencing.survey.SCAN_SECONDS", 1e9)
    monkeypatch.setattr("fastapi_athomic.sequencing.holdings.IDLE", 1e9)
    store = MemoryStateStore()
    shop = Shop(store, gap_timeout=1e9)
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.athomic.drain()
        await Thief(store).park(2)
        await shop.record.count(2)
    assert shop.record.seen == [1, 2]


async def test_p17_a_lone_message_waits_for_no_company(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("survey.SCAN_SECONDS", "ledger.TICK_SECONDS"):
        monkeypatch.setattr(f"fastapi_athomic.sequencing.{name}", 1e9)
    shop = Shop(MemoryStateStore(), gap_timeout=1e12)
    async with running(shop.athomic):
        shop.strategy._agenda._linger = 1e9
        await shop.publish(1)
        await shop.record.count(1)
        await shop.athomic.drain()


async def test_p17_a_blocked_message_is_tried_again_only_after_a_rest(clock: Clock) -> None:
    store = MemoryStateStore(clock)
    retry = RetryPolicy(max_attempts=2, delay=0, max_delay=30)
    shop = Shop(store, on_failure="block", retry=retry)
    shop.fails = {1}
    async with running(shop.athomic):
        await shop.publish(1, 2)
        await shop.athomic.drain()
        for number in (3, 4):
            await shop.publish(number)
            await shop.athomic.drain()
        assert shop.begun.seen == [1, 1], "two attempts, and then it rests"
        assert (shop.status.ordered.blocked, shop.status.counters.parked) == (1, 4)
        clock.ahead += 31
        await shop.begun.count(3)
        await eventually(lambda: shop.status.counters.failed == 3)
        shop.fails.clear()
        clock.ahead += 31
        await shop.record.count(4)
        await eventually(lambda: shop.status.ordered.blocked == 0)
    assert shop.record.seen == [1, 2, 3, 4]
    assert shop.begun.seen == [1, 1, 1, 1, 2, 3, 4], "one attempt after each rest"


async def test_p17_nothing_is_committed_before_the_store_has_taken_note() -> None:
    store = LazyStore()
    shop = Shop(store)
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.athomic.drain()
        shop.held_up = {2}
        await shop.publish(2, 4)
        await shop.begun.count(2)
        store.away = True
        shop.gate.set()
        await eventually(lambda: shop.status.health.status == "degraded")
        assert sentences(shop.status.health) == ["the state store cannot be reached: ConnectionError"]
        assert shop.status.assignment[0].committed == 1
        store.away = False
        await shop.athomic.drain()
        assert shop.status.assignment[0].committed == 3
        await eventually(lambda: shop.status.health.status == "healthy")
        assert (shop.record.seen, shop.status.counters.parked) == ([1, 2], 1)


async def test_p17_nothing_starts_while_the_store_is_away() -> None:
    store = LazyStore()
    shop = Shop(store)
    shop.held_up = {2}
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.athomic.drain()
        await shop.publish(2, 3, 4, 5)
        await shop.begun.count(2)
        store.away = True
        await eventually(lambda: store.failed)
        shop.gate.set()
        await shop.record.count(2)
        failed = store.failed
        await eventually(lambda: store.failed > failed + 1)
        assert shop.begun.seen == [1, 2], "who takes the aggregate over would handle 3, 4 and 5 once more"
        store.away = False
        await shop.athomic.drain()
        assert shop.record.seen == [1, 2, 3, 4, 5]


async def test_p17_what_waits_for_the_store_is_not_settled() -> None:
    """A message from the waiting room has its offset committed: nobody else knows that it is still to be handled."""
    store = LazyStore()
    shop = Shop(store)
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.athomic.drain()
        assert shop.strategy.settled()
        store.away = True
        await eventually(lambda: store.failed)
        await shop.publish(2)
        await eventually(lambda: not shop.strategy.settled())
        assert shop.begun.seen == [1]
        store.away = False
        await shop.athomic.drain()
        assert shop.record.seen == [1, 2]


async def test_p17_little_starts_while_the_store_is_slow(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    store = LazyStore(clock)
    shop = Shop(store)
    shop.held_up = {2, 3}
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.athomic.drain()
        await shop.publish(2, 3, 4)
        await shop.begun.count(2)
        store.answers.clear()
        asked = len(store.asked)
        await eventually(lambda: len(store.asked) > asked)
        shop.gate.set()
        shop.gate.clear()
        await shop.begun.count(3)  # it is not waited for at once
        clock.ahead += 1.5
        shop.gate.set()
        await shop.record.count(3)
        await eventually(lambda: shop.strategy._agenda.lanes == 0)  # no worker is left to start one
        assert shop.begun.seen == [1, 2, 3]
        store.answers.set()
        await shop.athomic.drain()
        assert shop.record.seen == [1, 2, 3, 4]
    (said,) = [record.message for record in caplog.records if "to answer" in record.message]
    assert said.startswith("group g: the state store took 1.5 s to answer")


async def test_p10_a_stop_ends_with_the_store_away() -> None:
    clock = Clock()
    store = LazyStore(clock)
    shop = Shop(store)
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.athomic.drain()
        shop.held_up = {2}
        await shop.publish(2)
        await shop.begun.count(2)
        store.away = True
        shop.gate.set()
        await shop.record.count(2)
    assert len(shop.record.seen) == 2
    assert shop.athomic.consumers() == [], "it has ended"
    store.away = False
    clock.ahead += LEASE + 1  # it could not be given back
    async with running(shop.athomic):
        await shop.record.count(3)
        await shop.athomic.drain()
    assert shop.record.seen == [1, 2, 2], "what the store had not noted was not committed"


async def test_p17_a_store_that_lost_its_newest_data_is_told_again() -> None:
    store = LazyStore()
    shop = Shop(store)
    async with running(shop.athomic):
        await shop.publish(1, 2)
        await shop.athomic.drain()
        store.forget()
        await shop.publish(3)
        await shop.record.count(3)
        await shop.athomic.drain()
    claim = await Thief(store).claim()
    assert claim is not None
    assert claim.last == 3


async def test_p17_a_store_that_is_away_at_the_start_is_waited_for() -> None:
    store = LazyStore()
    store.away = True
    shop = Shop(store)
    async with running(shop.athomic):
        await shop.publish(1)
        await eventually(lambda: shop.status.health.status == "degraded")
        assert shop.record.seen == []
        store.away = False
        await shop.record.count(1)


async def test_p07_an_aggregate_waits_while_its_dead_letter_cannot_be_written() -> None:
    shop = Shop(MemoryStateStore(), retry=RetryPolicy(max_attempts=1))
    shop.fails = {1}
    async with running(shop.athomic):
        broker: Any = shop.athomic._transport.broker  # type: ignore[attr-defined]
        broker.refuse("t.g.dlq")
        await shop.publish(1, 2)
        await eventually(lambda: "waits: dead letter to t.g.dlq refused" in str(shop.status.health.reasons))
        assert shop.begun.seen == [1], "the handler is not called again"
        assert shop.status.assignment[0].committed == 0
        broker.allow("t.g.dlq")
        await shop.athomic.drain()
        await eventually(lambda: shop.status.health.status == "healthy")
        assert shop.status.counters.dead_lettered == 1
    assert shop.record.seen == [2]


async def test_p17_a_clean_stop_gives_the_leases_back() -> None:
    store = MemoryStateStore()
    shop = Shop(store)
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.record.count(1)
        assert await Thief(store).claim() is None
    claim = await Thief(store).claim()
    assert claim is not None
    assert claim.last == 1


async def test_p17_a_stop_that_cuts_a_message_off_gives_its_lease_back_too() -> None:
    store = MemoryStateStore()
    shop = Shop(store)
    shop.held_up = {1}
    async with running(shop.athomic):
        await shop.publish(1)
        await shop.begun.count(1)
    claim = await Thief(store).claim()
    assert claim is not None
    assert claim.last == 0


async def test_p16_what_has_nothing_to_do_is_given_back_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_athomic.sequencing.holdings.IDLE", 0.0)
    store = MemoryStateStore()
    shop = Shop(store)
    async with running(shop.athomic):
        await shop.publish(1, 3)
        await shop.record.count(1)
        await eventually(lambda: not shop.strategy._holdings.aggregates)
        assert await Thief(store).claim() is not None


async def test_p17_a_backlog_costs_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was handled while a call was on its way goes together into the next."""
    monkeypatch.setattr("fastapi_athomic.sequencing.calls.PATIENCE", 60.0)  # the store's, who waits for the handler

    class SlowStore(LazyStore):
        """Answers when 125 messages were handled for each call; the last ones may wait for an answer to be taken in.

        After that it answers at once, and how many calls a slow machine makes of the last ones says nothing.
        """

        def __init__(self) -> None:
            super().__init__()
            self.told: dict[bytes, int] = {}  # the last number of each aggregate
            self.handled: list[int] = []  # how many were, at each call
            self.untold: list[int] = []  # how many of them the call did not tell

        async def call(self, member: Member, call: Call) -> Reply:
            self.told.update((write.key, write.last) for write in call.writes if write.last is not None)
            if call.writes and (handled := len(shop.record.seen)) > 50:
                self.handled.append(handled)
                self.untold.append(handled - sum(self.told.values()))
                await shop.record.count(min(5_000, 50 + 125 * len(self.handled)))
            return await super().call(member, call)

    store = SlowStore()
    shop = Shop(store)
    messages = [{"order": f"o{number % 50}", "number": number // 50 + 1} for number in range(5_050)]
    async with running(shop.athomic):
        await shop.athomic.publish_many("t", messages[:50])
        await shop.athomic.drain()
        await shop.athomic.publish_many("t", messages[50:])
        await shop.record.count(5_050)
        await shop.athomic.drain()
    assert sum(store.told.values()) == 5_050
    assert max(store.untold) == 0
    assert sum(handled < 5_000 for handled in store.handled) <= 5_000 / 125, "one call at a time"


async def test_a_session_that_ends_takes_what_waits_for_its_rate_limit_with_it() -> None:
    """The limit goes on with the next session, and must neither count nor wake what is gone."""
    shop = Shop(LazyStore(), rate_limit=RateLimit(messages_per_second=0.001, burst=1))
    async with running(shop.athomic):
        await shop.publish(1, 2)
        service = shop.athomic.manager().consumers["h"]  # type: ignore[union-attr]
        await eventually(lambda: shop.status.rate_limit.waiting == 1)
        before, limits = shop.strategy, service.controls.limits
        service.pause()  # the next session has nothing that could wait
        await service.restart()
        await eventually(lambda: service.ready and shop.strategy is not before)
        assert shop.status.rate_limit.waiting == 0
        assert len(limits.watchers) == 1, "that of the session that runs"

"""Rate limits and circuit breakers at work, for every kind of consumption: counted by what begins, not by time.

Their clock stands still until a test puts it forward. Limits are so high, and pauses so short, that the gate looks
every few milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from time import monotonic
from typing import Any

import pytest

from fastapi_athomic import (
    Actor,
    Athomic,
    AthomicSettings,
    CircuitBreaker,
    ConfigurationError,
    ControlEvent,
    HandlerTuning,
    RateLimit,
    RetryPolicy,
    subscribe_to,
)
from fastapi_athomic.observation.status import HealthStatus
from fastapi_athomic.operation_settings import HealthSettings
from tests.support.apps import Record, eventually, new_app, owned, running
from tests.support.clock import set_clock

from .steered import KINDS, Steered

ORDERS = ["a", "b", "c"]
MILLISECOND = 0.001
CASES = [(kind, "loop") for kind in KINDS] + [("partition", "thread"), ("ordered", "thread")]
FIRST = {**dict.fromkeys(KINDS, 4), "batch": 1}
"""So many begin with four tokens, at least: the next batch may need more than are left."""
ALL = pytest.mark.parametrize(("kind", "isolation"), CASES)
SINGLE = pytest.mark.parametrize(("kind", "isolation"), [case for case in CASES if case[0] != "batch"])


class Clock:
    """Stands still. Knows how often it was asked, so a test knows that somebody has looked and let nothing pass."""

    def __init__(self) -> None:
        self.now, self.asked = 1000.0, 0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            self.asked += 1
            return self.now

    def forward(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds + 1e-9

    async def looked(self, app: Steered | None = None) -> None:
        """Somebody has looked several times. With an `app` also if nothing waits there, so that nobody looks."""
        before = self.asked
        await asyncio.sleep(0)  # what is to happen then happens, also if nothing waits
        await eventually(lambda: self.asked > before + 20 or (app is not None and not waiting(app.athomic)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fastapi_athomic.consumption.session.POLL_SECONDS", 0.01)  # tests wait until it has looked
    set_clock(monkeypatch, clock, "consumption.bucket", "consumption.breaker")
    return clock


def waiting(athomic: Athomic) -> int:
    return athomic.manager().consumers["h"].controls.limits.waiting  # type: ignore[union-attr]


async def lift(athomic: Athomic, clock: Clock) -> None:
    """The limit is as good as none."""
    await athomic.set_rate("h", 1e6)
    clock.forward(1)


def limit(burst: int, rate: float = 1 / MILLISECOND) -> RateLimit:
    return RateLimit(messages_per_second=rate, burst=burst)


def in_order(app: Steered, kind: str) -> dict[str, list[int]]:
    return {order: sorted(seen) if kind == "none" else seen for order, seen in app.by_order().items()}


# --- the rate limit


@SINGLE
async def test_as_many_messages_begin_as_there_are_tokens(kind: str, isolation: str, clock: Clock) -> None:
    app = Steered(kind, isolation=isolation, rate_limit=limit(5))
    async with running(app.athomic) as athomic:
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 9), partition=n)
        begun = 5
        await app.record.count(begun)
        for tokens in (1, 3, 5):
            await clock.looked()
            assert len(app.record.seen) == begun
            clock.forward(tokens * MILLISECOND)
            begun += tokens
            await app.record.count(begun)
        clock.forward(1)
        await clock.looked()
        assert len(app.record.seen) == begun + 5, "no more than the burst"
        clock.forward(1)
        await athomic.drain()
    assert in_order(app, kind) == {order: list(range(1, 9)) for order in ORDERS}


async def test_a_batch_takes_a_token_for_each_message(clock: Clock) -> None:
    app = Steered("batch", rate_limit=limit(6))
    async with running(app.athomic) as athomic:
        await athomic.pause("h")
        await app.publish("a", range(1, 13), partition=0)
        await athomic.resume("h")
        await app.record.count(4)
        for tokens, begun in ((1, 4), (1, 8), (3, 8), (1, 12)):
            await clock.looked(app)
            clock.forward(tokens * MILLISECOND)
            await app.record.count(begun)
            await clock.looked(app)
            assert len(app.record.seen) == begun
        await athomic.drain()
    assert app.by_order() == {"a": list(range(1, 13))}


async def test_who_waits_for_a_token_is_served_in_turn(clock: Clock) -> None:
    app = Steered("partition", rate_limit=limit(1))
    async with running(app.athomic) as athomic:
        await athomic.pause("h")
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 5), partition=n)
        await athomic.resume("h")
        for begun in range(1, 13):
            await app.record.count(begun)
            await clock.looked(app)
            clock.forward(MILLISECOND)
        await athomic.drain()
    seen = [order for order, _ in app.record.seen]
    for end in range(1, 12):
        turns = [seen[:end].count(order) for order in ORDERS]
        assert max(turns) - min(turns) <= 2, "no partition takes the tokens of others; the first may be quick"


async def test_each_attempt_takes_a_token(clock: Clock) -> None:
    app = Steered(rate_limit=limit(2), retry=RetryPolicy(max_attempts=3, delay=0))
    app.error = ValueError()
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 2))
        await app.record.count(2)
        await clock.looked()
        assert app.record.seen == [("a", 1)] * 2
        clock.forward(MILLISECOND)
        await app.record.count(3)
        await athomic.drain()
        assert athomic.consumers()[0].counters.dead_lettered == 1


@ALL
async def test_nobody_is_blamed_for_messages_that_wait(
    kind: str, isolation: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Steered(
        kind,
        isolation=isolation,
        rate_limit=limit(4),
        health=HealthSettings(queue_late=30, back_pressure=30),
        max_buffered_messages=10,
        max_poll_messages=5,
        stuck_after=30.0,
    )
    async with running(app.athomic) as athomic:
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 31), partition=n)
        await app.record.count(FIRST[kind])
        await clock.looked()
        later = Clock()
        later.now = monotonic()
        service: Any = athomic.manager().consumers["h"]  # type: ignore[union-attr]
        session = service.life.session
        set_clock(monkeypatch, later, "consumption.session", "consumption.account")
        for _ in range(5):  # as if the limit had held messages back for longer than `stall_timeout`
            later.forward(40)
            await later.looked()
        (status,) = athomic.consumers()
        assert (status.oldest_in_flight_seconds, status.restarts, status.state) == (None, 0, "running")
        assert service.life.session is session
        assert status.health.reasons == [], "it was asked for"
        assert status.rate_limit is not None
        assert (status.rate_limit.messages_per_second, status.rate_limit.burst) == (1 / MILLISECOND, 4)
        assert status.rate_limit.waiting > 0
        assert [each.running for each in session.states.values()] == [0, 0, 0]
        await lift(athomic, clock)
        await athomic.drain()
        (status,) = athomic.consumers()
        assert status.health.status is HealthStatus.HEALTHY
    assert in_order(app, kind) == {order: list(range(1, 31)) for order in ORDERS}


@ALL
async def test_a_rebalance_and_a_stop_need_no_tokens_and_commit_what_is_done(
    kind: str, isolation: str, clock: Clock
) -> None:
    shop: dict[str, Any] = {"state_store_url": "memory://"} if kind == "ordered" else {}
    app = Steered(kind, isolation=isolation, rate_limit=limit(4), **shop)
    second = app.again()
    async with running(app.athomic) as athomic:
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 9), partition=n)
        await app.record.count(FIRST[kind])
        await clock.looked()
        async with running(second):
            await eventually(
                lambda: len(owned(second, "t")) + len(owned(athomic, "t")) == 3 and bool(owned(second, "t"))
            )
            await clock.looked()
            begun = len(app.record.seen)
            assert begun <= 8, "each process has a limit of its own"
            await lift(second, clock)
            await lift(athomic, clock)
            await second.drain()
            await athomic.drain()
    assert in_order(app, kind).keys() == set(ORDERS)
    assert sorted(app.record.seen) == [(order, number) for order in ORDERS for number in range(1, 9)]


@ALL
async def test_what_waits_at_a_stop_is_left_for_the_next_run(kind: str, isolation: str, clock: Clock) -> None:
    app = Steered(kind, isolation=isolation, rate_limit=limit(4))
    async with running(app.athomic):
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 9), partition=n)
        await app.record.count(FIRST[kind])
        await clock.looked()
        begun = list(app.record.seen)
    assert app.record.seen == begun
    async with running(app.again()) as athomic:
        await lift(athomic, clock)
        await athomic.drain()
    assert in_order(app, kind) == {order: list(range(1, 9)) for order in ORDERS}


@ALL
async def test_the_rate_changes_while_messages_wait(kind: str, isolation: str, clock: Clock) -> None:
    app = Steered(kind, isolation=isolation)
    async with running(app.athomic) as athomic:
        assert athomic.consumers()[0].rate_limit is None
        assert (await athomic.set_rate("h", 1000, burst=4)).in_force == {"messages_per_second": 1000, "burst": 4}
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 9), partition=n)
        await app.record.count(FIRST[kind])
        await clock.looked()
        assert FIRST[kind] <= len(app.record.seen) <= 4
        unlimited = (await athomic.set_rate("h", None)).in_force
        assert unlimited == {"messages_per_second": None, "burst": None}, "as in code: no limit"
        await athomic.drain()
        assert athomic.consumers()[0].rate_limit is None
        assert len(app.record.seen) == 24
        with pytest.raises(
            ConfigurationError, match=r"^RateLimit: messages_per_second must be a number above 0, not 0"
        ):
            await athomic.set_rate("h", 0)
        with pytest.raises(ConfigurationError, match=r"(?m)^burst needs messages_per_second$"):
            await athomic.set_rate("h", None, burst=3)
    assert in_order(app, kind) == {order: list(range(1, 9)) for order in ORDERS}


async def test_the_settings_have_the_last_word_over_code_and_the_operator_over_both(clock: Clock) -> None:
    app = Steered(rate_limit=limit(4), handler_tuning={"h": HandlerTuning(rate_limit=1000, burst=2)})
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 9))
        await app.record.count(2)
        await clock.looked()
        assert len(app.record.seen) == 2
        assert (await athomic.set_rate("h", 1e6)).in_force == {"messages_per_second": 1e6, "burst": 1e6}
        await athomic.restart("h")
        await athomic.wait_until_ready()
        assert (await athomic.set_rate("h", None)).in_force == {"messages_per_second": 1000, "burst": 2}
        await athomic.set_rate("h", 1e6)
        clock.forward(1)
        await athomic.drain()


# --- the circuit breaker

PAUSE = 0.01


def breaker(**options: Any) -> CircuitBreaker:
    return CircuitBreaker(**{"exceptions": (ConnectionError,), "pause": PAUSE, **options})


def state(app: Steered) -> str | None:
    found = app.athomic.consumers()[0].breaker
    return found.state if found is not None else None


@ALL
async def test_while_the_dependency_fails_one_message_is_tried_after_each_pause(
    kind: str, isolation: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastapi_athomic.control")
    app = Steered(
        kind, isolation=isolation, concurrency=1, breaker=breaker(), retry=RetryPolicy(max_attempts=3, delay=0)
    )
    events: list[ControlEvent] = []
    app.athomic.on_control(events.append)
    app.error = ConnectionRefusedError()
    async with running(app.athomic) as athomic:
        await athomic.pause("h")
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 9), partition=n)
        await athomic.resume("h")
        await eventually(lambda: state(app) == "open")
        begun = len(app.record.seen)
        assert app.calls == 3
        for pauses in (1, 2, 4):
            clock.forward((pauses - 0.5) * PAUSE)
            await clock.looked()
            assert len(app.record.seen) == begun, "the pause is not over"
            clock.forward(0.5 * PAUSE)
            begun += 1
            await app.record.count(begun)
            await eventually(lambda: state(app) == "open")
        health = athomic.consumers()[0].health
        assert health.status is HealthStatus.DEGRADED
        assert "its circuit breaker is open since" in str(health.reasons)
        with pytest.raises(TimeoutError, match="h: its circuit breaker is open since"):
            await athomic.drain(0.1)
        app.error = None
        clock.forward(8 * PAUSE)
        await athomic.drain()
        (status,) = athomic.consumers()
        assert (status.counters.dead_lettered, status.counters.processed) == (0, 24)
        assert (status.restarts, status.health.status) == (0, HealthStatus.HEALTHY)
        assert state(app) == "closed"
        await eventually(lambda: len([event for event in events if event.action == "breaker"]) == 9)
    changes = [(event.details["state"], event.actor) for event in events if event.action == "breaker"]
    assert changes == [
        ("open", "breaker"),
        *([("half_open", "breaker"), ("open", "breaker")] * 3),
        ("half_open", "breaker"),
        ("closed", "breaker"),
    ]
    assert "h: breaker (state closed), by breaker" in caplog.text
    handled = app.record.seen[begun:]
    assert sorted(handled) == [(order, number) for order in ORDERS for number in range(1, 9)], (
        "each once, after it closed"
    )
    if kind != "none":
        assert [[n for each, n in handled if each == order] for order in ORDERS] == [list(range(1, 9))] * 3


@ALL
async def test_half_open_exactly_one_message_runs_and_the_others_wait_for_it(
    kind: str, isolation: str, clock: Clock
) -> None:
    app = Steered(kind, isolation=isolation, breaker=breaker(failures=1))
    app.error = ConnectionError()
    async with running(app.athomic) as athomic:
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 9), partition=n)
        await eventually(lambda: state(app) == "open" and app.active == 0)
        begun = len(app.record.seen)
        app.error = None
        app.gate.clear()
        clock.forward(PAUSE)
        await eventually(lambda: app.active == 1)
        await asyncio.gather(*(app.publish(order, range(9, 11), partition=n) for n, order in enumerate(ORDERS)))
        assert (len(app.record.seen), app.active, state(app)) == (begun + 1, 1, "half_open")
        app.gate.set()
        await athomic.drain()
        assert athomic.consumers()[0].counters.dead_lettered == 0
    handled = app.record.seen[begun:]
    assert sorted(handled) == sorted((order, number) for order in ORDERS for number in range(1, 11))
    if kind != "none":
        assert [[n for each, n in handled if each == order] for order in ORDERS] == [list(range(1, 11))] * 3


@pytest.mark.parametrize("kind", KINDS)
async def test_other_errors_neither_open_it_nor_keep_it_half_open(kind: str, clock: Clock) -> None:
    app = Steered(kind, breaker=breaker(failures=1), retry=RetryPolicy(max_attempts=1))
    app.error = ValueError()
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 4), partition=0)
        await athomic.drain()
        assert (state(app), athomic.consumers()[0].counters.dead_lettered) == ("closed", 3)
        app.error = ConnectionError()
        await app.publish("b", range(1, 4), partition=1)
        await eventually(lambda: state(app) == "open" and app.active == 0)
        app.error = ValueError()
        clock.forward(PAUSE)
        await athomic.drain()
        assert athomic.consumers()[0].counters.dead_lettered == 6
        assert state(app) == "half_open", "nothing was proved"
        app.error = None
        await app.publish("b", range(4, 6), partition=1)
        await athomic.drain()
        assert state(app) == "closed"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_failure_that_opens_it_uses_up_no_attempt(kind: str, clock: Clock) -> None:
    app = Steered(kind, breaker=breaker(failures=1), retry=RetryPolicy(max_attempts=2, delay=0))
    app.errors = [ConnectionError(), ConnectionError(), ValueError()]
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 2))
        for pauses, calls in ((1, 1), (2, 2)):
            await eventually(lambda calls=calls: app.calls == calls and state(app) == "open")  # type: ignore[misc]
            clock.forward(pauses * PAUSE)
        await athomic.drain()
        (status,) = athomic.consumers()
        assert (status.counters.processed, status.counters.dead_lettered) == (1, 0)
    assert app.record.seen == [("a", 1)] * 4


@pytest.mark.parametrize("kind", KINDS)
async def test_a_probe_that_waits_for_another_attempt_makes_way_for_the_next(kind: str, clock: Clock) -> None:
    app = Steered(kind, concurrency=1, breaker=breaker(failures=1), retry=RetryPolicy(delay=3600, max_delay=3600))
    app.errors = [ConnectionError(), ValueError()]
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 2), partition=0)
        await eventually(lambda: state(app) == "open" and waiting(athomic) == 1)
        await app.publish("b", range(1, 2), partition=1)
        await eventually(lambda: athomic.consumers()[0].counters.received == 2)
        clock.forward(PAUSE)
        await app.record.until(lambda seen: seen == [("a", 1), ("a", 1), ("b", 1)])
        await eventually(lambda: state(app) == "closed")


async def test_a_message_from_a_retry_topic_is_held_as_well(clock: Clock) -> None:
    policy = RetryPolicy(max_attempts=1, retry_topics=(0.05,))
    app = Steered("none", concurrency=1, breaker=breaker(failures=2), retry=policy)
    app.error = ConnectionError()
    async with running(app.athomic) as athomic:
        await app.publish("a", range(1, 2))
        await eventually(lambda: state(app) == "open")
        (status,) = athomic.consumers()
        assert (status.counters.deferred, status.counters.dead_lettered) == (1, 0)
        app.error = None
        clock.forward(PAUSE)
        await athomic.drain()
        (status,) = athomic.consumers()
        assert (status.counters.processed, status.counters.dead_lettered) == (1, 0)


@ALL
async def test_an_operator_opens_and_closes_a_breaker_that_code_does_not_know(
    kind: str, isolation: str, clock: Clock
) -> None:
    app = Steered(kind, isolation=isolation)
    events: list[ControlEvent] = []
    app.athomic.on_control(events.append)
    ann = Actor(name="ann", reason="the bank is down")
    async with running(app.athomic) as athomic:
        assert state(app) is None
        await athomic.set_breaker("h", "open", actor=ann)
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 9), partition=n)
        await eventually(lambda: athomic.consumers()[0].counters.received == 24)
        clock.forward(1e6)
        assert (state(app), app.record.seen) == ("open", [])
        assert "was opened by an operator" in str(athomic.consumers()[0].health.reasons)
        await athomic.restart("h")
        await athomic.wait_until_ready()
        await eventually(lambda: athomic.consumers()[0].counters.received >= 48)
        assert len(athomic.manager().consumers["h"].controls.limits.watchers) == 1, "the old session is gone"  # type: ignore[union-attr]
        assert app.record.seen == []
        await athomic.set_breaker("h", "closed")
        await athomic.drain()
        assert state(app) is None
        refusal = r"(?m)^state must be 'open', 'closed' or 'auto', not 'half_open'$"
        with pytest.raises(ConfigurationError, match=refusal):
            await athomic.set_breaker("h", "half_open")  # type: ignore[arg-type]
    assert [(event.action, event.actor, event.details) for event in events if event.action == "breaker"] == [
        ("breaker", "ann", {"state": "open"}),
        ("breaker", "app", {"state": "closed"}),
    ]
    assert in_order(app, kind) == {order: list(range(1, 9)) for order in ORDERS}


@SINGLE
async def test_an_operator_has_one_message_decide(kind: str, isolation: str, clock: Clock) -> None:
    app = Steered(kind, isolation=isolation, breaker=breaker(failures=1, pause=1e6, max_pause=1e6))
    app.error = ConnectionError()
    async with running(app.athomic) as athomic:
        await athomic.set_breaker("h", "open")
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 5), partition=n)
        await eventually(lambda: athomic.consumers()[0].counters.received == 12)
        assert app.record.seen == []
        for tried in (1, 2):
            await athomic.set_breaker("h", "auto")
            await app.record.count(tried)
            await eventually(lambda: state(app) == "open" and app.active == 0)
            assert len(app.record.seen) == tried
        app.error = None
        await athomic.set_breaker("h", "auto")
        await athomic.drain()
        assert state(app) == "closed"
        assert athomic.consumers()[0].counters.dead_lettered == 0


@ALL
async def test_partitions_move_while_the_breaker_is_open(kind: str, isolation: str, clock: Clock) -> None:
    shop: dict[str, Any] = {"state_store_url": "memory://"} if kind == "ordered" else {}
    app = Steered(kind, isolation=isolation, breaker=breaker(failures=1, pause=1e6, max_pause=1e6), **shop)
    app.error = ConnectionError()
    second = app.again()
    async with running(app.athomic) as athomic:
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 9), partition=n)
        await eventually(lambda: state(app) == "open" and app.active == 0)
        begun = len(app.record.seen)
        app.error = None
        async with running(second):
            await eventually(lambda: bool(owned(second, "t")))
            await second.drain()
            assert state(app) == "open", "that of the other process knows nothing of it"
            await athomic.set_breaker("h", "closed")
            await athomic.drain()
            assert athomic.consumers()[0].counters.dead_lettered == 0
    assert sorted(app.record.seen[begun:]) == [(order, number) for order in ORDERS for number in range(1, 9)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_rate_limit_and_a_breaker_together(kind: str, clock: Clock) -> None:
    app = Steered(kind, concurrency=1, rate_limit=limit(4), breaker=breaker(failures=1))
    app.error = ConnectionError()
    async with running(app.athomic) as athomic:
        for n, order in enumerate(ORDERS):
            await app.publish(order, range(1, 9), partition=n)
        await eventually(lambda: state(app) == "open" and app.active == 0)
        app.error = None
        begun = len(app.record.seen)
        clock.forward(PAUSE)
        tokens = 5
        await eventually(lambda: len(app.record.seen) > begun)
        while len(app.record.seen) < begun + 24:
            await clock.looked(app)
            assert len(app.record.seen) <= begun + tokens
            clock.forward(MILLISECOND)
            tokens += 1
        await athomic.drain()
    handled = app.record.seen[begun:]
    assert sorted(handled) == [(order, number) for order in ORDERS for number in range(1, 9)]


async def test_the_last_calls_that_get_through_do_not_hide_that_all_others_fail() -> None:
    """A server goes away while calls to it are under way: they succeed, one after the other."""
    under_way, record = {name: asyncio.Event() for name in ("a", "b", "c")}, Record()
    breaker = CircuitBreaker(exceptions=(ConnectionError,), failures=3, pause=60)

    @subscribe_to("t", group_id="g", handler_id="h", ordering="none", concurrency=5, breaker=breaker)
    async def call(message: str) -> None:
        record.note(message)
        if message in under_way:
            await under_way[message].wait()
        else:
            raise ConnectionError

    async with running(new_app(AthomicSettings(), call)) as athomic:
        await athomic.publish_many("t", [*under_way])
        await record.count(3)
        (consumer,) = athomic.manager().consumers.values()  # type: ignore[union-attr]
        for number, event in enumerate(under_way.values()):
            await athomic.publish("t", f"fails {number}")
            await record.count(4 + number)
            event.set()
            await eventually(lambda number=number: athomic.consumers()[0].counters.processed == number + 1)  # type: ignore[misc]
        await eventually(lambda: consumer.controls.limits.breaker.state == "open")

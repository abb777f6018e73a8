"""Lanes, workers, buffers and commits under every order of what is ready, on `memory://`.

Where one waits for another's word, a poll or a pause that would set a lost word right in the end is made so long that
it shows on the clock.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from inspect import CORO_CREATED, getcoroutinestate
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import Athomic, AthomicSettings, RetryPolicy, ordered_consumer, subscribe_to
from fastapi_athomic.loop.load import ThreadLoad
from fastapi_athomic.messages import RawMessage, TopicPartition
from fastapi_athomic.operation_settings import HealthSettings
from fastapi_athomic.settings import MemorySettings
from fastapi_athomic.transports.memory.transport import broker_named
from tests.support.apps import Record, new_app, running
from tests.support.interleaving import run_shuffled, with_seeds
from tests.unit.test_timers import timers

OPTIONS: list[dict[str, Any]] = [
    {},
    {"ordering": "key"},
    {"ordering": "none"},
    {"batch_size": 7, "batch_linger_ms": 50},
]
LONG = 100_000.0
"""Seconds after which somebody would look by himself."""
KEYS = 5


class PoisonError(Exception):
    pass


class Scenario:
    """A handler that takes its time and fails as it likes, and what it has seen."""

    def __init__(self, random: Random, options: dict[str, Any], count: int) -> None:
        self.random = random
        self.count = count
        self.partitions = random.randint(1, 4)
        self.options = options | {"concurrency": random.choice([1, 2, 3, 20])}
        self.handled = list[int]()
        self.wrong = set[str]()
        self.failures: Counter[int] = Counter()
        self.poison = {number for number in range(count) if random.random() < 0.03}
        self.flaky = {number: random.randint(1, 2) for number in range(count) if random.random() < 0.1}
        self.rest = random.choice([0, 1, 4])
        self.athomic: Athomic

    def handler(self) -> Callable[..., Coroutine[Any, Any, None]]:
        async def handle(number: int) -> None:
            await self.fail(number)
            await self.take(number)

        async def handle_batch(numbers: list[int]) -> None:
            for number in numbers:
                await self.fail(number)
            for number in numbers:
                await self.take(number)

        handler = handle_batch if "batch_size" in self.options else handle
        retry = RetryPolicy(max_attempts=3, delay=self.random.choice([0.0, 0.3]), jitter=0.0)
        return subscribe_to("t", group_id="g", handler_id="h", retry=retry, **self.options)(handler)

    async def take(self, number: int) -> None:
        for _ in range(self.random.randint(0, self.rest)):
            await asyncio.sleep(0)
            self.look()
        self.handled.append(number)

    async def fail(self, number: int) -> None:
        if number in self.poison or self.failures[number] < self.flaky.get(number, 0):
            self.failures[number] += 1
            await asyncio.sleep(self.random.choice([0, 0.01]))
            raise PoisonError

    def settings(self, **options: Any) -> AthomicSettings:
        few = self.random.choice([5, 20, 125])
        return AthomicSettings(
            broker_url=f"memory://{uuid4().hex}",
            max_poll_messages=few,
            max_buffered_messages=few * self.random.choice([1, 2, 5]),
            max_buffered_bytes=self.random.choice([20, 16_777_216]),
            stall_timeout=LONG * 10,
            stuck_after=LONG * 10,
            memory=MemorySettings(partitions=self.partitions),
            **options,
        )

    @property
    def session(self) -> Any:
        return self.athomic.manager().consumers["h"].life.session  # type: ignore[union-attr]

    def look(self) -> None:
        """What holds at any time."""
        if self.athomic.manager() is None:  # of the run before
            return
        session = self.session
        pool = session._strategy.pool
        starting = sum(getcoroutinestate(worker.task.get_coro()) == CORO_CREATED for worker in pool.workers)
        if pool.waiting and any(not waiter.done() for waiter in pool._idle):
            self.wrong.add("a lane waits although a worker is idle")
        if len(pool._ready) > starting and len(pool.workers) < pool.size:
            self.wrong.add("a lane waits although a worker could be started")
        running = sum(state.running for state in session.states.values())
        if not 0 <= running <= pool.size:
            self.wrong.add(f"{running} run, of {pool.size} at most")

    async def publish(self) -> None:
        number = 0
        while number < self.count:
            for _ in range(self.random.randint(1, 40)):
                if number < self.count:
                    await self.athomic.publish("t", number, key=str(number % KEYS))
                    number += 1
            await asyncio.sleep(self.random.choice([0, 0, 0.05]))

    def check(self) -> None:
        """Nothing lost, nothing twice, order held, everything committed."""
        assert not self.wrong, self.wrong
        broker: Any = self.athomic._transport.broker  # type: ignore[attr-defined]
        letters = [json.loads(message.value or b"") for message in self.log(broker, "t.g.dlq")]
        assert sorted(self.handled + letters) == list(range(self.count)), "lost, or handled twice"
        if "batch_size" in self.options:  # whose messages share their attempts
            assert self.poison.issubset(letters)
        else:
            assert sorted(letters) == sorted(self.poison)
            if self.options.get("ordering") != "none":
                for key in range(KEYS):
                    numbers = [number for number in self.handled if number % KEYS == key]
                    assert numbers == sorted(numbers), "out of order"
        committed = broker.committed("g")
        for place in (TopicPartition("t", number) for number in range(self.partitions)):
            end = broker.log(place).end
            assert (committed[place].offset if place in committed else 0) == end, "not all is committed"

    def log(self, broker: Any, topic: str) -> list[RawMessage]:
        logs = (broker.log(TopicPartition(topic, number)) for number in range(self.partitions))
        return [message for log in logs if log is not None for message in log.messages]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@with_seeds(5)
def test_p01_p02_every_order_of_what_is_ready_loses_and_delays_nothing(options: dict[str, Any], random: Random) -> None:
    """All who wait are woken: nobody finds out by looking for himself, which takes `LONG`."""
    scenario = Scenario(random, options, 150)
    handler = scenario.handler()
    interval, count = random.choice([(0.0, 10), (0.01, 10), (LONG, 1)])
    patient = HealthSettings(poll_late=2 * LONG)
    settings = scenario.settings(commit_interval=interval, commit_count=count, health=patient)

    async def live(patch: pytest.MonkeyPatch) -> None:
        async with running(new_app(settings, handler)) as scenario.athomic:
            for looks in ("session.POLL_SECONDS", "commits.LOOK_SECONDS", "placement.RETRY_SECONDS"):
                patch.setattr(f"fastapi_athomic.consumption.{looks}", LONG)
            if interval == LONG:  # a busy thread commits by the interval only
                patch.setattr(ThreadLoad, "share", lambda _: 0.0)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await scenario.publish()
            await scenario.athomic.drain(timeout=300)
            assert loop.time() - began < LONG / 10, "somebody was not woken"
            scenario.check()
            patch.undo()
            await scenario.athomic.publish("t", 0)  # ends the last poll, which is a long one

    _run(live, random)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@with_seeds(5)
def test_p04_every_order_with_rebalances_and_pauses_loses_nothing(options: dict[str, Any], random: Random) -> None:
    scenario = Scenario(random, options, 150)
    handler = scenario.handler()
    settings = scenario.settings(commit_interval=random.choice([0.0, 0.01, 1.0]))

    async def disturb() -> None:
        service = scenario.athomic.manager().consumers["h"]  # type: ignore[union-attr]
        broker: Any = scenario.athomic._transport.broker  # type: ignore[attr-defined]
        while True:
            await asyncio.sleep(random.choice([0, 0, 0.01, 0.2]))
            disturbance = random.choice([service.pause, service.resume, lambda: broker.rebalance("g")])
            disturbance()
            if disturbance == service.pause:
                await asyncio.sleep(random.choice([0, 0.1]))
                service.resume()

    async def live(patch: pytest.MonkeyPatch) -> None:
        async with running(new_app(settings, handler)) as scenario.athomic:
            disturbing = asyncio.create_task(disturb())
            await scenario.publish()
            await asyncio.sleep(random.random())
            disturbing.cancel()
            scenario.athomic.manager().consumers["h"].resume()  # type: ignore[union-attr]
            await scenario.athomic.drain(timeout=300)
            scenario.check()

    _run(live, random)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@with_seeds(3)
def test_p03_every_order_with_stops_and_starts_repeats_nothing(options: dict[str, Any], random: Random) -> None:
    scenario = Scenario(random, options, 100)
    handler = scenario.handler()
    settings = scenario.settings(commit_interval=random.choice([0.0, 0.01, 1.0]))
    broker = broker_named(settings.broker_address)  # which lives on between the runs

    async def live(patch: pytest.MonkeyPatch) -> None:
        async with running(new_app(settings, handler)) as scenario.athomic:
            await scenario.publish()
        for _ in range(3):
            async with running(new_app(settings, handler)) as scenario.athomic:
                await asyncio.sleep(random.choice([0, 0.001, 0.01, 0.3]))
        async with running(new_app(settings, handler)) as scenario.athomic:
            await scenario.athomic.drain(timeout=300)
            scenario.check()
            assert scenario.athomic._transport.broker is broker  # type: ignore[attr-defined]

    _run(live, random)


PAUSE = 400.0
"""Seconds: longer than every timer of the package."""


@with_seeds(1)
def test_p18_fault_01_after_a_pause_longer_than_every_timer_the_next_message_is_like_the_first(random: Random) -> None:
    """With handlers of every kind. The clock is put forward to whatever somebody waits for: everybody's time passes."""
    assert max(timers().values()) < PAUSE
    record = Record()

    def handlers() -> Iterator[Any]:
        for options in [*OPTIONS, {"aggregate_key_field": "key", "sequence_id_field": "number"}, {"sync": True}]:
            yield _noting(record, dict(options))

    async def live(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("fastapi_athomic.handling.threads.IDLE_SECONDS", 0.001)  # of a clock that nobody puts forward
        made = list(handlers())
        async with running(new_app(AthomicSettings(broker_url=f"memory://{uuid4().hex}"), *made)) as athomic:
            for number in range(1, 4):
                await athomic.publish("t", {"number": number, "key": "a"}, key="a")
                await record.count(number * len(made))
                assert record.seen[-len(made) :] == [number] * len(made)
                await athomic.drain()
                await asyncio.sleep(PAUSE)
                assert {str(consumer.health.status) for consumer in athomic.consumers()} == {"healthy"}
            assert {consumer.restarts for consumer in athomic.consumers()} == {0}

    _run(live, random)


def _noting(record: Record, options: dict[str, Any]) -> Any:
    async def handle(message: dict[str, Any]) -> None:
        record.note(message["number"])

    async def handle_batch(messages: list[dict[str, Any]]) -> None:
        for message in messages:
            record.note(message["number"])

    def handle_in_thread(message: dict[str, Any]) -> None:
        record.note(message["number"])

    sync = options.pop("sync", False)
    handler: Any = handle_in_thread if sync else handle_batch if "batch_size" in options else handle
    decorate: Any = ordered_consumer if "sequence_id_field" in options else subscribe_to
    name = uuid4().hex
    return decorate("t", group_id=name, handler_id=name, **options)(handler)


def _run(live: Callable[[pytest.MonkeyPatch], Coroutine[Any, Any, None]], random: Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadLoad, "share", lambda _: random.choice([0.0, 0.0, 1.0]))
        run_shuffled(live(patch), random)

"""P1, P2: a rate limit and a circuit breaker hold messages back, and lose, repeat and misorder none."""

from __future__ import annotations

import pytest

from fastapi_athomic import CircuitBreaker, RateLimit, RawMessage, subscribe_to
from fastapi_athomic.subscriptions import Ordering
from tests.support.apps import Record, new_app, running

from .brokers import Broker
from .test_delivery import Event, event, eventually_committed, numbers

COUNT, OUTAGE = 90, 12


@pytest.mark.parametrize("ordering", ["partition", "key"])
async def test_p01_p02_an_outage_behind_a_breaker_costs_no_message_and_no_order(
    broker: Broker, topic: str, ordering: Ordering
) -> None:
    """The dependency fails `OUTAGE` times: more often than any message has attempts, so only the breaker saves them."""
    await broker.create_topic(topic, 3)
    await broker.produce(topic, [event(number, f"k{number % 3}", number % 3) for number in numbers(COUNT)])
    record, failures = Record(), 0

    @subscribe_to(
        topic,
        group_id=topic,
        handler_id="h",
        ordering=ordering,
        concurrency=3,
        rate_limit=RateLimit(messages_per_second=300, burst=10),
        breaker=CircuitBreaker(exceptions=(ConnectionError,), failures=2, pause=0.02, max_pause=0.05),
    )
    async def handle(message: Event, raw: RawMessage) -> None:
        nonlocal failures
        if len(record.seen) >= COUNT // 3 and failures < OUTAGE:
            failures += 1
            raise ConnectionError
        record.note((raw.partition, message.number))

    async with running(new_app(broker.settings(), handle)) as athomic:
        await record.count(COUNT)
        await athomic.drain()
        (status,) = athomic.consumers()
        assert (status.counters.processed, status.counters.dead_lettered) == (COUNT, 0)
        assert status.breaker is not None
        assert status.breaker.state == "closed"
    await eventually_committed(broker, topic, COUNT)
    assert failures == OUTAGE
    for partition in range(3):
        in_order = [number for place, number in record.seen if place == partition]
        assert in_order == [number for number in numbers(COUNT) if number % 3 == partition]

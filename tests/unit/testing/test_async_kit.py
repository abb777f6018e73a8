"""The async kit: the same in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fastapi_athomic import AthomicSettings, ConfigurationError
from fastapi_athomic.testing import AsyncTestKit, UnexpectedFailuresError
from tests.support.kit_shop import Invoice, Order, Shop, app_that_ends_badly


@pytest.fixture(scope="module", params=["loop", "thread"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(AthomicSettings(isolation=request.param))


async def test_from_a_route_to_what_a_handler_returned_and_published(shop: Shop) -> None:
    async with AsyncTestKit(shop.app) as kit:
        response = await kit.client.post("/orders", json={"number": 7})
        assert response.status_code == 200
        assert (await kit.client.get("/opened")).json() is True, "the state of the lifespan"
        await kit.publish("orders", Order(number=8), key="8")
        await kit.drain()
        assert sorted(each.result.order for each in kit.handled(shop.bill)) == [7, 8]
        assert kit.published("invoices")[0].decode(Invoice).order in (7, 8)


async def test_failures_retries_and_letters(shop: Shop) -> None:
    async with AsyncTestKit(shop.app) as kit:
        kit.fail(shop.bill, times=3)
        handled = await kit.deliver(shop.bill, Order(number=1))
        assert (handled.outcome, handled.attempts) == ("dead_lettered", 3)
        assert len(await kit.dead_letters(shop.bill)) == 1
        kit.fail(shop.ship)
        await kit.publish("parcels", Order(number=1))
        await kit.clock.advance(1)
        assert len(kit.deferred(shop.ship)) == 1
        await kit.drain()
        assert kit.handled(shop.ship)[0].attempts == 2


async def test_a_failure_that_nobody_expected_fails_the_test(shop: Shop) -> None:
    with pytest.raises(UnexpectedFailuresError, match="no money"):
        async with AsyncTestKit(shop.app) as kit:
            await kit.publish("orders", Order(number=1, customer="broke"))
    with pytest.raises(ZeroDivisionError) as caught:
        async with AsyncTestKit(shop.app) as kit:
            await kit.deliver(shop.bill, b"{")
            raise ZeroDivisionError
    assert "PayloadDecodeError" in caught.value.__notes__[0]


async def test_it_may_be_left_in_another_task_than_it_was_entered_in(shop: Shop) -> None:
    kit = AsyncTestKit(shop.app)
    await asyncio.create_task(kit.__aenter__())
    await kit.publish("orders", Order(number=1))
    await asyncio.create_task(kit.__aexit__(None, None, None))
    assert len(kit.handled(shop.bill)) == 1


async def test_a_timeout_says_what_is_waited_for(shop: Shop) -> None:
    paused = {"handler_tuning": {"bill": {"paused": True}}}
    async with AsyncTestKit(shop.app, strict=False, settings=paused) as kit:
        await kit.publish("orders", Order(number=1))
        with pytest.raises(TimeoutError, match="bill is paused"):
            await kit.drain(0.05)


async def test_the_tests_own_error_is_not_hidden_by_an_app_that_does_not_end_well() -> None:
    with pytest.raises(KeyError, match="the test") as raised:
        async with AsyncTestKit(app_that_ends_badly()):
            raise KeyError("the test")
    assert "OSError: the pool is gone" in raised.value.__notes__[0]
    with pytest.raises(OSError, match="the pool is gone"):
        async with AsyncTestKit(app_that_ends_badly()):
            pass


def test_another_kind_of_event_loop_is_told(shop: Shop) -> None:
    entering = AsyncTestKit(shop.app).__aenter__()
    with pytest.raises(ConfigurationError, match="an event loop of asyncio"):
        entering.send(None)


async def test_outside_its_block_a_kit_tells_and_does_nothing(shop: Shop) -> None:
    kit = AsyncTestKit(shop.app)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: kit.publish("orders", Order(number=1)),
        lambda: kit.deliver(shop.bill, Order(number=1)),
        kit.drain,
        kit.dead_letters,
        lambda: kit.clock.advance(1),
        kit.broker.disconnect,
        lambda: kit.broker.create_topic("orders"),
        lambda: kit.broker.rebalance(shop.bill),
        lambda: kit.broker.redeliver(shop.bill),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="the kit is not open"):
            await call()
    async with kit:
        await kit.publish("orders", Order(number=1))
    for call in calls:
        with pytest.raises(ConfigurationError, match="the kit is not open"):
            await call()
    assert "time" not in vars(asyncio.get_running_loop())

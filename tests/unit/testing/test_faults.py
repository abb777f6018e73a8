"""What a test does to the broker: the app goes through it as it would in the cluster."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    ConfigurationError,
    ControlRefusedError,
    PublishError,
    RawMessage,
    RetryPolicy,
    include_athomic,
    ordered_consumer,
    subscribe_to,
)
from fastapi_athomic.testing import AsyncTestKit, TestKit, rebalances
from fastapi_athomic.testing.bench import Bench
from fastapi_athomic.testing.faults import AsyncBrokerFaults

ONCE = RetryPolicy(max_attempts=1)


class Step(BaseModel):
    order: str
    number: int


@pytest.fixture(params=["loop", "thread"])
def settings(request: pytest.FixtureRequest) -> AthomicSettings:
    return AthomicSettings(isolation=request.param)


def new_app(settings: AthomicSettings, *handlers: Callable[..., Any]) -> FastAPI:
    app = FastAPI()
    include_athomic(app, settings, handlers=handlers)
    return app


def simple() -> Callable[..., Any]:
    @subscribe_to("t", group_id="g", handler_id="h", retry=ONCE)
    async def handle(message: str) -> str:
        if message == "bad":
            raise RuntimeError("bad")
        return message

    return handle


def values(kit: Any) -> list[str]:
    return [handled.message for handled in kit.handled("h")]


def test_while_the_broker_is_away_publishing_fails_and_later_all_goes_on(settings: AthomicSettings) -> None:
    with TestKit(new_app(settings, simple()), settings={"publish_timeout": 0.1}) as kit:
        kit.broker.disconnect()
        with pytest.raises(PublishError):
            kit.publish("t", "lost")
        with pytest.raises(TimeoutError, match="the broker is disconnected"):
            kit.drain(0.1)
        kit.clock.advance(20)
        health = kit.client.get("/consumers/health").json()
        assert [reason["code"] for reason in health["reasons"]] == ["broker_unreachable"]
        kit.broker.reconnect()
        kit.clock.advance(20)
        kit.publish("t", "x")
        kit.drain()
        assert values(kit) == ["x"]
        assert kit.client.get("/consumers/health").json()["status"] == "healthy"


def test_what_was_handled_while_the_broker_was_away_is_committed_later(settings: AthomicSettings) -> None:
    with TestKit(new_app(settings, simple())) as kit:
        kit.publish("t", "x")
        kit.broker.disconnect()
        kit.clock.advance(60)
        kit.broker.reconnect()
        kit.drain()
        assert values(kit) == ["x"]
        committed = kit.client.get("/consumers/h").json()["assignment"]
        assert sum(partition["committed"] or 0 for partition in committed) == 1


def test_a_slow_broker_takes_its_time_and_too_long_is_an_error(settings: AthomicSettings) -> None:
    with TestKit(new_app(settings, simple()), settings={"publish_timeout": 0.5}) as kit:
        kit.broker.slow(0.2)
        begun = kit.clock.now
        kit.publish("t", "x")
        assert (kit.clock.now - begun).total_seconds() >= 0.2
        kit.broker.slow(60)
        with pytest.raises(PublishError, match=r"the broker has not answered within 0\.[45]\d* s"):
            kit.publish("t", "y")
        kit.broker.slow(5)
        kit.drain()
        assert values(kit) == ["x"]
        kit.broker.slow(0)
        kit.publish("t", "z")
        kit.drain()
        assert values(kit) == ["x", "z"]


@pytest.mark.parametrize("seconds", [-1, float("nan"), None])
def test_a_broker_is_slow_by_a_number_of_seconds(seconds: Any) -> None:
    with TestKit(new_app(AthomicSettings())) as kit, pytest.raises(ConfigurationError, match="seconds must be"):
        kit.broker.slow(seconds)


def test_a_topic_that_takes_nothing_holds_up_dead_letters_until_it_does(settings: AthomicSettings) -> None:
    with TestKit(new_app(settings, simple()), settings={"publish_timeout": 0.2}) as kit, kit.expect_failures():
        kit.broker.refuse("t.g.dlq")
        with pytest.raises(PublishError):
            kit.publish("t.g.dlq", b"x")
        kit.publish("t", "bad")
        with pytest.raises(TimeoutError):
            kit.drain(0.3)
        assert kit.handled() == []
        kit.broker.allow("t.g.dlq")
        kit.drain()
        [handled] = kit.handled()
        assert handled.outcome == "dead_lettered"
        assert len(kit.dead_letters("h")) == 1


def test_the_end_of_a_kit_mends_the_broker(settings: AthomicSettings) -> None:
    with TestKit(new_app(settings, simple())) as kit:
        kit.expect_failures()
        kit.publish("t", "bad")
        kit.broker.refuse("t.g.dlq")
        kit.broker.slow(3600)
        kit.broker.disconnect()
    assert [handled.outcome for handled in kit.handled()] == ["dead_lettered"]


async def test_a_topic_is_created(settings: AthomicSettings) -> None:
    async with AsyncTestKit(new_app(settings, simple())) as kit:
        await kit.broker.create_topic("other", 7)
        assert {(await kit.publish("other", b"x")).partition for _ in range(7)} == set(range(7))
        await kit.broker.create_topic("one more")
        for wrong in (0, -1, True, 1.5):
            with pytest.raises(ConfigurationError, match="partitions must be a whole number above 0, or None, not"):
                await kit.broker.create_topic("other", wrong)  # type: ignore[arg-type]


# --- rebalances


async def test_a_rebalance_takes_partitions_away_and_gives_them_back(settings: AthomicSettings) -> None:
    async with AsyncTestKit(new_app(settings, simple())) as kit:
        await kit.publish("t", "x")
        before = assigned(kit.athomic)
        rebalances = kit.athomic.consumers()[0].counters.rebalances
        await kit.broker.rebalance("h")
        assert assigned(kit.athomic) == before
        assert kit.athomic.consumers()[0].counters.rebalances == rebalances + 2
        await kit.publish("t", "y")
        await kit.drain()
        assert sorted(values(kit)) == ["x", "y"]


def assigned(athomic: Athomic) -> set[tuple[str, int]]:
    return {(place.topic, place.partition) for place in athomic.consumers()[0].assignment}


def test_what_runs_finishes_before_its_partition_goes(settings: AthomicSettings) -> None:
    began, may_end = Event(), Event()

    @subscribe_to("t", group_id="g")
    def slow(message: str) -> None:
        began.set()
        may_end.wait(20)

    with TestKit(new_app(settings, slow)) as kit:
        kit.publish("t", "x")
        assert began.wait(20)
        may_end.set()
        kit.broker.rebalance(slow)
        kit.drain()
        assert len(kit.handled()) == 1, "it was committed on the way"


def test_a_call_that_does_not_end_holds_up_a_rebalance_and_is_told(settings: AthomicSettings) -> None:
    began, may_end = Event(), Event()

    @subscribe_to("t", group_id="g")
    def slow(message: str) -> None:
        began.set()
        may_end.wait(20)

    with pytest.MonkeyPatch.context() as patch, TestKit(new_app(settings, slow)) as kit:
        patch.setattr(rebalances, "MARGIN_SECONDS", -19.5)
        kit.publish("t", "x")
        assert began.wait(20)
        with pytest.raises(TimeoutError, match=r"group g has not finished its rebalances within 0\.5 s"):
            kit.broker.rebalance(slow)
        may_end.set()


# --- redeliveries


def test_the_last_message_comes_again_as_after_a_crash(settings: AthomicSettings) -> None:
    with TestKit(new_app(settings, simple())) as kit:
        for value in ("a", "b", "c"):
            kit.publish("t", value, partition=0)
        kit.drain()
        kit.broker.redeliver("h")
        kit.drain()
        assert values(kit) == ["a", "b", "c", "c"]
        kit.broker.redeliver("h", kit.handled()[1])
        kit.drain()
        assert values(kit) == ["a", "b", "c", "c", "b", "c"]
        kit.broker.redeliver("h", kit.published("t")[0])
        kit.drain()
        assert values(kit)[6:] == ["a", "b", "c"]


def test_a_batch_comes_again(settings: AthomicSettings) -> None:
    batches: list[list[str]] = []

    @subscribe_to("t", group_id="g", batch_size=2, batch_linger_ms=1000)
    async def both(messages: list[str]) -> None:
        batches.append(messages)

    with TestKit(new_app(settings, both)) as kit:
        for value in ("a", "b", "c", "d"):
            kit.publish("t", value, partition=0)
        kit.drain()
        kit.broker.redeliver(both)
        kit.drain()
    assert batches == [["a", "b"], ["c", "d"], ["c", "d"]]


def test_what_came_by_a_retry_topic_comes_by_it_again(settings: AthomicSettings) -> None:
    topics: list[str] = []

    @subscribe_to("t", group_id="g", retry=RetryPolicy(max_attempts=1, retry_topics=(600,), allow_reordering=True))
    async def later(message: RawMessage) -> None:
        topics.append(message.topic)
        if len(topics) == 1:
            raise RuntimeError("not yet")

    with TestKit(new_app(settings, later)) as kit, kit.expect_failures():
        kit.publish("t", "x")
        kit.drain()
        kit.broker.redeliver(later)
        kit.drain()
    assert topics == ["t", "t.g.retry.600s", "t.g.retry.600s"]


def test_an_ordered_consumer_does_nothing_twice(settings: AthomicSettings) -> None:
    seen: list[int] = []

    @ordered_consumer("t", group_id="g", aggregate_key_field="order", sequence_id_field="number", handler_id="o")
    async def ordered(message: Step) -> None:
        seen.append(message.number)

    with TestKit(new_app(settings, ordered)) as kit:
        for number in (1, 2):
            kit.publish("t", Step(order="a", number=number), partition=0)
        kit.drain()
        kit.broker.redeliver(ordered, kit.handled()[0])
        kit.drain()
        assert seen == [1, 2]
        assert kit.client.get("/consumers/o").json()["counters"]["skipped"] == 2


def test_what_cannot_come_again_is_told() -> None:
    with TestKit(new_app(AthomicSettings(), simple())) as kit:
        with pytest.raises(ConfigurationError, match="h has not handled anything yet that could come again"):
            kit.broker.redeliver("h")
        with pytest.raises(ControlRefusedError, match=r"cannot go on at offset 9"):
            kit.broker.redeliver("h", RawMessage("t", 0, 9, 0, None, None, ()))


@pytest.mark.parametrize("fault", ["disconnect", "reconnect", "slow", "refuse", "allow"])
async def test_a_broker_that_others_use_is_not_disturbed(fault: str) -> None:
    faults = AsyncBrokerFaults(Bench(new_app(AthomicSettings()), broker="kafka://localhost:9"))
    arguments: tuple[Any, ...] = {"slow": (1,), "refuse": ("t",), "allow": ("t",)}.get(fault, ())
    with pytest.raises(ConfigurationError, match=f"kit.broker.{fault} needs memory://"):
        await getattr(faults, fault)(*arguments)

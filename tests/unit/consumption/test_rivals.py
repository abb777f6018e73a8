"""Two handlers of one group on one topic would each get a part of its messages."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from fastapi_athomic import AthomicSettings, ConfigurationError, RetryPolicy, ordered_consumer, subscribe_to
from fastapi_athomic.consumption.rivals import Rivals
from fastapi_athomic.settings import HandlerTuning
from fastapi_athomic.subscriptions import subscriptions_of
from tests.support.apps import eventually, new_app, running

Handler = Callable[..., Any]
MEMORY = AthomicSettings()


def handler(topic: Any, handler_id: str, group_id: str = "g", **options: Any) -> Handler:
    async def handle(message: dict[str, Any]) -> None: ...

    return subscribe_to(topic, group_id=group_id, handler_id=handler_id, **options)(handle)


def ordered(topic: str, handler_id: str) -> Handler:
    async def handle(message: dict[str, Any]) -> None: ...

    decorate = ordered_consumer(
        topic, group_id="g", handler_id=handler_id, aggregate_key_field="id", sequence_id_field="number"
    )
    return decorate(handle)


async def start(*handlers: Handler, settings: AthomicSettings = MEMORY) -> None:
    async with running(new_app(settings, *handlers)):
        pass


RIVALS = {
    "one topic": (handler("t", "one"), handler("t", "two")),
    "one topic of several": (handler(["a", "t"], "one"), handler(["t", "b"], "two")),
    "a pattern and a topic": (handler(re.compile("t|u"), "one"), handler("t", "two")),
    "a topic and a pattern": (handler("t", "one"), handler(re.compile("."), "two")),
    "an ordered consumer": (ordered("t", "one"), handler("t", "two")),
}


@pytest.mark.parametrize("handlers", RIVALS.values(), ids=RIVALS)
async def test_both_places_the_group_and_the_topic_are_named(handlers: tuple[Handler, Handler]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await start(*handlers)
    said, place = str(caught.value), r"<locals>.handle \(tests\.unit\.consumption\.test_rivals, line \d+\)"
    assert re.match(rf"handlers one, \w+\.{place}, and two, \w+\.{place}, both consume t in group g: ", said)
    assert "each would get a part of its messages; give each a group_id of its own, or make one handler of both" in said


async def test_one_function_with_two_subscriptions() -> None:
    one = handler("t", "one")
    with pytest.raises(ConfigurationError, match=r"one, .* and two, .* both consume t in group g"):
        await start(subscribe_to("t", group_id="g", handler_id="two")(one))


async def test_one_pattern_twice() -> None:
    with pytest.raises(ConfigurationError, match=r"both consume orders\\..\* in group g"):
        await start(handler(re.compile(r"orders\..*"), "one"), handler(re.compile(r"orders\..*"), "two"))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("returning", ["t.g.retry.10s", "t.g.redrive"])
async def test_the_retry_and_redrive_topics_of_another_handler(returning: str, order: int) -> None:
    retry = RetryPolicy(retry_topics=(10,), allow_reordering=True)
    handlers = [handler("t", "one", retry=retry), handler(returning, "two")]
    with pytest.raises(ConfigurationError, match=f"both consume {returning} in group g"):
        await start(*handlers[::order])


NO_RIVALS = {
    "two groups": (handler("t", "one"), handler("t", "two", group_id="h")),
    "two topics": (handler("t", "one"), handler("u", "two")),
    "a pattern that matches not the whole name": (handler(re.compile("t"), "one"), handler("tt", "two")),
    "a DLQ, which a pattern leaves out": (handler(re.compile(".*"), "one"), handler("t.h.dlq", "two")),
}


@pytest.mark.parametrize("handlers", NO_RIVALS.values(), ids=NO_RIVALS)
async def test_these_do_not_share(handlers: tuple[Handler, Handler]) -> None:
    await start(*handlers)


async def test_one_that_is_switched_off_takes_nothing() -> None:
    off = AthomicSettings(handler_tuning={"two": HandlerTuning(enabled=False)})
    await start(handler("t", "one"), handler("t", "two"), settings=off)


async def test_two_patterns_are_named_when_a_topic_shows_that_both_match_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fastapi_athomic")
    async with running(
        new_app(MEMORY, handler(re.compile("shop-.*"), "one"), handler(re.compile(".*-eu"), "two"))
    ) as athomic:
        await athomic.publish("shop-us", {})
        await athomic.publish("shop-eu", {})
        await eventually(lambda: "both consume" in caplog.text)
        await athomic.drain()
    (line,) = [record.getMessage() for record in caplog.records if "both consume" in record.getMessage()]
    assert re.match("handlers (one and two|two and one) both consume shop-eu in group g, because both patterns", line)
    assert "give each a group_id of its own" in line


def test_each_new_session_finds_the_same_topics_and_says_nothing_new(caplog: pytest.LogCaptureFixture) -> None:
    rivals = Rivals()
    for _ in range(2):
        for one in (handler(re.compile("a.*"), "one"), handler(re.compile(".*b"), "two")):
            rivals.take(subscriptions_of(one)[0], "ab")
    assert len(caplog.records) == 1

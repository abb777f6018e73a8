"""The settings that hold for a consumer, as its status shows them."""

from __future__ import annotations

import re
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    CircuitBreaker,
    PayloadPipeline,
    RateLimit,
    RawMessage,
    RetryPolicy,
    ordered_consumer,
    subscribe_to,
)
from fastapi_athomic.observation.effective import EffectiveSettings
from fastapi_athomic.payload.compression import Gzip
from fastapi_athomic.settings import HandlerTuning, RetryTuning
from tests.support.apps import new_app


class Order(BaseModel):
    number: int


async def effective(athomic: Athomic) -> EffectiveSettings:
    (consumer,) = (await athomic.check()).consumers.values()
    return consumer.status().settings


async def test_options_of_the_decorator_and_of_the_settings_are_shown() -> None:
    retry = RetryPolicy(max_attempts=4, delay=0.1, max_elapsed=60, retry_topics=(5, 60))

    @subscribe_to("t", group_id="g", handler_id="h", ordering="none", concurrency=7, timeout=3.5, retry=retry)
    async def handle(order: Order) -> None: ...

    found = await effective(new_app(AthomicSettings(max_buffered_messages=200, isolation="thread"), handle))
    assert found.target_type == "Order"
    assert (found.ordering, found.concurrency, found.timeout, found.batch_size) == ("none", 7, 3.5, None)
    assert (found.retry.policy, found.retry.max_attempts, found.retry.delay) == ("RetryPolicy", 4, 0.1)
    assert (found.retry.max_delay, found.retry.max_elapsed, found.retry.retry_topics) == (30, 60, [5, 60])
    assert (found.max_buffered_messages, found.isolation) == (200, "thread")
    assert (found.dlq, found.payloads) == ("{topic}.{group_id}.dlq", {"t": "json"})
    assert found.sequencing is None


async def test_limits_are_shown_as_code_and_tuning_say() -> None:
    breaker = CircuitBreaker(exceptions=(ConnectionError, TimeoutError), pause=400)
    limit = RateLimit(messages_per_second=2.5)

    @subscribe_to("t", group_id="g", handler_id="h", rate_limit=limit, breaker=breaker)
    async def handle(order: Order) -> None: ...

    found = await effective(new_app(AthomicSettings(), handle))
    assert found.rate_limit is not None
    assert (found.rate_limit.messages_per_second, found.rate_limit.burst) == (2.5, 3)
    assert found.breaker is not None
    assert found.breaker.exceptions == ["ConnectionError", "TimeoutError"]
    assert (found.breaker.failures, found.breaker.window) == (3, 60)
    assert (found.breaker.pause, found.breaker.max_pause) == (400, 400)
    tuning = HandlerTuning(rate_limit=0, breaker=False)
    found = await effective(new_app(AthomicSettings(handler_tuning={"h": tuning}), handle))
    assert (found.rate_limit, found.breaker) == (None, None)


async def test_what_the_tuning_says_holds() -> None:
    @subscribe_to("t", group_id="g", handler_id="h", concurrency=7)
    async def handle(order: Order) -> None: ...

    tuning = HandlerTuning(concurrency=2, timeout=9, retry=RetryTuning(max_attempts=1))
    found = await effective(new_app(AthomicSettings(handler_tuning={"h": tuning}), handle))
    assert (found.concurrency, found.timeout, found.retry.max_attempts) == (2, 9, 1)


async def test_of_an_ordered_consumer_the_fields_of_the_order_are_shown() -> None:
    @ordered_consumer(
        "t", group_id="g", handler_id="h", aggregate_key_field="number", sequence_id_field="number", on_gap="skip"
    )
    async def handle(order: Order) -> None: ...

    found = await effective(new_app(AthomicSettings(), handle))
    assert found.ordering == "sequence"
    assert found.sequencing is not None
    assert (found.sequencing.aggregate_key_field, found.sequencing.on_gap, found.sequencing.gap_timeout) == (
        "number",
        "skip",
        60.0,
    )


def delay(attempt: int, error: BaseException) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dlq": False}, {"dlq": None}),
        ({"dlq": "letters"}, {"dlq": "letters"}),
        ({"payload": PayloadPipeline([Gzip()])}, {"payloads": {"t": "json+gzip"}}),
        ({"target_type": RawMessage}, {"payloads": {"t": "as it came"}, "target_type": "RawMessage"}),
        ({"target_type": dict[str, Order]}, {"target_type": f"dict[str, {__name__}.Order]"}),
    ],
)
async def test_single_options(options: Any, expected: dict[str, Any]) -> None:
    @subscribe_to("t", group_id="g", handler_id="h", **options)
    async def handle(order: Any) -> None: ...

    found = await effective(new_app(AthomicSettings(), handle))
    assert found.model_dump(include=set(expected)) == expected


async def test_a_delay_that_a_function_decides_is_not_a_number() -> None:
    @subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(delay=delay))
    async def handle(order: Order) -> None: ...

    assert (await effective(new_app(AthomicSettings(), handle))).retry.delay is None


async def test_topics_of_a_pattern_have_a_placeholder() -> None:
    @subscribe_to(re.compile("orders-.*"), group_id="g", handler_id="h")
    async def handle(order: Annotated[Order, Field(description="what was ordered")]) -> None: ...

    assert (await effective(new_app(AthomicSettings(), handle))).payloads == {"<topic>": "json"}

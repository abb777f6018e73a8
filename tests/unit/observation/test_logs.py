from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from fastapi_athomic import AthomicSettings, MessageFilter, RetryPolicy, include_athomic, set_context
from fastapi_athomic.complaints import BURST
from tests.support.apps import Record, running

logger = logging.getLogger("app")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(MessageFilter())
    return caplog


async def test_a_record_of_the_handler_says_which_message_it_is_about(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider())
    athomic, done = include_athomic(FastAPI(), AthomicSettings()), Record()

    @athomic.subscribe_to("t", group_id="g", handler_id="single")
    async def single(message: str) -> None:
        logger.warning("single")
        done.note(1)

    @athomic.subscribe_to("t", group_id="b", handler_id="batch", batch_size=5, batch_linger_ms=1)
    async def batch(messages: list[str]) -> None:
        logger.warning("batch")
        done.note(1)

    async with running(athomic):
        set_context(request_id="req-1")
        await athomic.publish("t", "x", partition=2)
        await done.count(2)
        logger.warning("outside")
    by_text: dict[str, Any] = {record.message: record for record in log.records}
    for name in ("single", "batch"):
        record = by_text[name]
        assert (record.handler, record.topic, record.partition, record.offset) == (name, "t", 2, 0)
        assert record.request_id == "req-1"
        assert len(record.trace_id) == 32
        assert len(record.span_id) == 16
    outside = by_text["outside"]
    assert (outside.handler, outside.topic, outside.trace_id) == (None, None, None)


async def test_one_line_per_failure_and_no_flood(log: pytest.LogCaptureFixture) -> None:
    athomic = include_athomic(FastAPI(), AthomicSettings())

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=2, delay=0))
    async def handle(message: str) -> None:
        raise LookupError("s3cret")

    async with running(athomic):
        await athomic.publish_many("t", ["s3cret payload"] * 100, key=lambda _: "s3cret key")
        await athomic.drain()
    errors: list[Any] = [record for record in log.records if record.levelno >= logging.ERROR]
    assert len(errors) == BURST, "of a hundred alike"
    assert all((record.handler, record.topic) == ("h", "t") for record in errors)
    assert "s3cret payload" not in log.text
    assert "s3cret key" not in log.text


async def unavailable() -> AsyncIterator[None]:
    await failing()
    yield


async def failing() -> None:
    raise LookupError("no such customer")


async def test_a_failure_is_logged_in_words_with_the_line_that_it_came_from(log: pytest.LogCaptureFixture) -> None:
    athomic = include_athomic(FastAPI(), AthomicSettings())
    retry = RetryPolicy(max_attempts=1)

    @athomic.subscribe_to("a", group_id="g", handler_id="async", retry=retry)
    async def fail(message: str) -> None:
        raise LookupError("no such customer")

    @athomic.subscribe_to("b", group_id="g", handler_id="sync", retry=retry)
    def fail_in_a_thread(message: str) -> None:
        raise LookupError("no such customer")

    @athomic.subscribe_to("c", group_id="g", handler_id="dependency", retry=retry)
    async def depend(message: str, needed: Annotated[None, Depends(unavailable)]) -> None: ...

    @athomic.subscribe_to("d", group_id="g", handler_id="decode", retry=retry)
    async def decode(message: int) -> None: ...

    async with running(athomic):
        for topic in "abcd":
            await athomic.publish(topic, "s3cret", partition=1)
        await athomic.drain()
    errors: list[Any] = [record for record in log.records if record.levelno >= logging.ERROR]
    lines = {record.handler: record.getMessage() for record in errors}
    for handler, name in (("async", "fail"), ("sync", "fail_in_a_thread"), ("dependency", "unavailable")):
        assert "(partition 1, offset 0) failed (stage handler, attempt 1, in " in lines[handler]
        end = r"line \d+\): LookupError: no such customer; it went to the DLQ topic \w\.g\.dlq$"
        assert re.search(rf"test_logs\.\S*{name}, {end}", lines[handler])
    assert lines["decode"].startswith(
        "decode: a message of d (partition 1, offset 0) failed (stage decode, attempt 1):"
    )
    assert "s3cret" not in log.text

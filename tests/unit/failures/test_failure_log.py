"""What operators see of a failure: in the log, with its traceback once, and as the last error in the status."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel, SecretStr

from fastapi_athomic import Athomic, AthomicSettings, BatchItemError, RawMessage, RetryPolicy, subscribe_to
from fastapi_athomic import complaints as complaints_module
from fastapi_athomic.complaints import BURST
from fastapi_athomic.decorators import ordered_consumer
from fastapi_athomic.failures.failure_log import TRACEBACK_SECONDS
from fastapi_athomic.observation.status import ConsumerStatus
from fastapi_athomic.settings import MemorySettings
from tests.support.apps import Record, eventually, new_app, running

SECRET = "pl4nted-s3cret"
ONCE = RetryPolicy(max_attempts=1)


class FraudError(Exception): ...


class Order(BaseModel):
    number: int
    shop: str = "s"


class Desk:
    """An app with the handler `h` of the group `g` on the topic `t`, and its log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "fastapi_athomic")
        self._caplog = caplog
        self.error: Callable[[], BaseException] = lambda: FraudError("card refused")
        self.record = Record()

    def handler(self, target: Any = str, **options: Any) -> Any:
        async def handle(message: Any) -> None:
            self.record.note(message)
            raise self.error()

        handle.__annotations__["message"] = target
        return subscribe_to("t", group_id="g", handler_id="h", **{"retry": ONCE, **options})(handle)

    @asynccontextmanager
    async def open(self, handler: Any, **settings: Any) -> AsyncIterator[Athomic]:
        memory = MemorySettings(partitions=1)
        async with running(
            new_app(AthomicSettings(broker_url=f"memory://{uuid4().hex}", memory=memory, **settings), handler)
        ) as athomic:
            yield athomic

    async def fail(self, handler: Any, *values: Any, key: str | bytes | None = None, **settings: Any) -> ConsumerStatus:
        async with self.open(handler, **settings) as athomic:
            for value in values or ("x",):
                await athomic.publish("t", value, key=key)
            await athomic.drain()
            return athomic.consumers()[0]

    @property
    def told(self) -> list[logging.LogRecord]:
        """The lines about failures."""
        return [record for record in self._caplog.records if " failed (stage " in record.getMessage()]

    def line(self, level: int) -> str:
        (line,) = [record.getMessage() for record in self.told if record.levelno == level]
        return line

    @property
    def levels(self) -> list[int]:
        return [record.levelno for record in self.told]

    @property
    def with_traceback(self) -> list[int]:
        """The levels of the lines that have one."""
        return [record.levelno for record in self.told if record.exc_info is not None]

    @property
    def text(self) -> str:
        """As the log's handlers write it, tracebacks included."""
        return self._caplog.text


@pytest.fixture
def desk(caplog: pytest.LogCaptureFixture) -> Desk:
    return Desk(caplog)


# --- the sentence and the traceback


async def test_a_dead_letter_is_one_error_with_its_traceback(desk: Desk) -> None:
    await desk.fail(desk.handler(retry=RetryPolicy(max_attempts=3, delay=0)))
    assert desk.levels == [logging.INFO, logging.INFO, logging.ERROR]
    assert desk.with_traceback == [logging.ERROR], "once per message"
    for level, end in (
        (logging.INFO, "it is tried again in 0.00 s"),
        (logging.ERROR, "it went to the DLQ topic t.g.dlq"),
    ):
        pattern = (
            r"h: a message of t \(partition 0, offset 0\) failed \(stage handler, attempt \d, "
            rf"in {__name__}\.\S*handle, line \d+\): {__name__}\.FraudError: card refused; {end}"
        )
        assert all(re.fullmatch(pattern, line.getMessage()) for line in desk.told if line.levelno == level)
    assert "Traceback (most recent call last)" in desk.text
    assert "raise self.error()" in desk.text
    assert all((line.handler, line.topic, line.offset) == ("h", "t", 0) for line in desk.told)  # type: ignore[attr-defined]


async def test_an_exception_that_is_false_has_its_traceback_too(desk: Desk) -> None:
    class NoProblemsError(Exception):
        def __len__(self) -> int:
            return 0

    desk.error = NoProblemsError
    await desk.fail(desk.handler())
    assert "raise self.error()" in desk.text


async def test_a_retry_topic_is_a_warning_with_the_traceback_and_names_the_first_place(desk: Desk) -> None:
    retry = RetryPolicy(max_attempts=1, retry_topics=(0.001,), allow_reordering=True)
    await desk.fail(desk.handler(retry=retry))
    assert desk.levels == desk.with_traceback == [logging.WARNING, logging.ERROR]
    assert desk.line(logging.WARNING).endswith("; it went to the retry topic t.g.retry.0.001s")
    assert "(partition 0, offset 0; at first t, partition 0, offset 0) failed" in desk.line(logging.ERROR)
    assert "attempt 2, " in desk.line(logging.ERROR)


async def test_a_message_that_is_skipped_is_an_error_with_its_traceback(desk: Desk) -> None:
    await desk.fail(desk.handler(dlq=False))
    assert desk.line(logging.ERROR).endswith("; it is skipped, as the handler has no DLQ topic")
    assert desk.with_traceback == [logging.ERROR]


async def test_p15_the_key_is_told_only_where_it_may_be(desk: Desk) -> None:
    await desk.fail(desk.handler(), key="o-17")
    assert "o-17" not in desk.text
    await desk.fail(desk.handler(), key="o-17", trace_message_keys=True)
    await desk.fail(desk.handler(), key=b"\xff\n", trace_message_keys=True)
    _, text, base64 = [record.getMessage() for record in desk.told]
    assert "(partition 0, offset 0, key o-17) failed" in text
    assert "key base64:/wo=) failed" in base64


async def test_a_decode_error_names_step_field_and_kind(desk: Desk) -> None:
    await desk.fail(desk.handler(Order), {"number": SECRET})
    assert desk.line(logging.ERROR) == (
        "h: a message of t (partition 0, offset 0) failed (stage decode, attempt 1): "
        "fastapi_athomic.exceptions.PayloadDecodeError: step json: the payload is not a valid Order: number: "
        "int_parsing (Input should be a valid integer, unable to parse string as an integer); "
        "it went to the DLQ topic t.g.dlq"
    )
    assert SECRET not in desk.text


async def test_a_new_kind_of_error_is_told_with_its_traceback_in_the_midst_of_a_flood(desk: Desk) -> None:
    count = 3 * BURST
    kinds = iter([*[FraudError] * count, TimeoutError])
    desk.error = lambda: next(kinds)("x")
    await desk.fail(desk.handler(), *["x"] * (count + 1))
    lines = [record.getMessage() for record in desk.told]
    assert len(lines) == len(desk.with_traceback) == BURST + 1
    assert "TimeoutError: x; it went to the DLQ topic t.g.dlq" in lines[-1]


async def test_how_many_were_held_back_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(complaints_module, "monotonic", lambda: now)
    async with desk.open(desk.handler()) as athomic:
        await athomic.publish_many("t", ["x"] * (BURST + 5))
        await athomic.drain()
        now = complaints_module.INTERVAL
        await athomic.publish("t", "x")
        await athomic.drain()
    assert desk.told[-1].getMessage().endswith("it went to the DLQ topic t.g.dlq (5 more like it were not logged)")


async def test_what_is_retried_for_ever_shows_its_traceback_at_once_and_again_after_a_while(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(complaints_module, "monotonic", lambda: now)
    async with desk.open(desk.handler(retry=RetryPolicy(max_attempts=0, delay=0.001, jitter=0))) as athomic:
        await athomic.publish("t", "x")
        await desk.record.count(5)
        assert desk.levels[:4] == [logging.WARNING, logging.INFO, logging.INFO, logging.INFO]
        assert desk.with_traceback == [logging.WARNING], "with the level that is shown where nothing is set up"
        now = TRACEBACK_SECONDS
        await eventually(lambda: desk.with_traceback == [logging.WARNING] * 2)


async def test_each_message_that_is_retried_for_ever_shows_its_first_traceback(desk: Desk) -> None:
    retry = RetryPolicy(max_attempts=0, delay=3_600, max_delay=3_600)
    async with desk.open(desk.handler(retry=retry, ordering="none")) as athomic:
        await athomic.publish_many("t", ["x", "y"])
        await eventually(lambda: len(desk.told) == 2)
    assert desk.with_traceback == [logging.WARNING] * 2


async def test_a_policy_of_ones_own_may_have_no_end_and_shows_the_traceback_too(desk: Desk) -> None:
    class Own(RetryPolicy):
        def decide(self, *args: Any, **options: Any) -> Any:
            return super().decide(*args, **options)

    await desk.fail(desk.handler(retry=Own(max_attempts=2, delay=0)))
    assert desk.with_traceback == [logging.WARNING, logging.ERROR]


async def test_a_partition_that_waits_for_its_dlq_shows_why_at_once_and_not_twice(desk: Desk) -> None:
    async with desk.open(desk.handler()) as athomic:
        broker: Any = athomic._transport.broker  # type: ignore[attr-defined]
        broker.refuse("t.g.dlq")
        await athomic.publish("t", "x")
        await eventually(lambda: desk.told)
        assert re.search(r"FraudError: card refused; t\[0\] waits: dead letter to t\.g\.dlq refused", desk.line(40))
        assert desk.with_traceback == [logging.ERROR]
        broker.allow("t.g.dlq")
        await athomic.drain()
    assert desk.told[-1].getMessage().endswith("it went to the DLQ topic t.g.dlq")
    assert len(desk.with_traceback) == 1


async def test_a_retry_topic_that_cannot_be_written_is_not_called_a_dead_letter(desk: Desk) -> None:
    retry = RetryPolicy(max_attempts=1, retry_topics=(10,), allow_reordering=True)
    async with desk.open(desk.handler(retry=retry)) as athomic:
        broker: Any = athomic._transport.broker  # type: ignore[attr-defined]
        broker.refuse("t.g.retry.10s")
        await athomic.publish("t", "x")
        await eventually(lambda: desk.told)
        assert "t[0] waits: message to the retry topic t.g.retry.10s refused" in desk.told[0].getMessage()
        await eventually(lambda: "message to the retry topic t.g.retry.10s refused" in str(athomic.health()))


async def test_what_cannot_be_described_is_not_done_twice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> str:
        raise LookupError

    monkeypatch.setattr("fastapi_athomic.outcomes.FailureContext.in_words", broken)
    async with desk.open(desk.handler()) as athomic:
        await athomic.publish("t", "x")
        await athomic.drain()
        assert await athomic.dead_letters("h").count() == 1
    assert (
        "h: a failure that cannot be described (LookupError) at <RawMessage t[0]@0>; it went to the DLQ topic t.g.dlq"
        in desk.text
    )


# --- batches and ordered consumers


async def test_a_batch_is_told_when_it_is_tried_again_and_when_it_is_halved(desk: Desk) -> None:
    handler = desk.handler(list[str], batch_size=4, batch_linger_ms=1_000, retry=RetryPolicy(max_attempts=2, delay=0))
    status = await desk.fail(handler, *"abcd")
    lines = [record.getMessage() for record in desk.told]
    assert lines[0].startswith("h: a batch of 4 messages of t (partition 0, offset 0) failed (stage handler, attempt 1")
    assert lines[0].endswith("; it is tried again in 0.00 s")
    assert lines[1].endswith("; it is halved, to find the message to blame and to handle the others")
    assert lines[2].startswith("h: a batch of 2 messages of t (partition 0, offset 0) failed (stage handler, attempt 2")
    assert desk.levels.count(logging.ERROR) == 4
    assert desk.with_traceback == [logging.WARNING, *[logging.ERROR] * 4], "the batch's, and that of each message"
    assert status.last_error is not None
    assert status.last_error.count == status.counters.failed


async def test_the_message_that_a_batch_handler_names_is_the_one_that_is_told(desk: Desk) -> None:
    desk.error = lambda: BatchItemError(1, "no such customer")
    handler = desk.handler(list[str], batch_size=3, batch_linger_ms=1_000)
    await desk.fail(handler, *"abc")
    first, *_ = [record.getMessage() for record in desk.told]
    assert "a message of t (partition 0, offset 1) failed" in first
    assert "BatchItemError: no such customer; it went to the DLQ topic t.g.dlq" in first


async def test_a_message_that_blocks_its_aggregate_is_told_with_its_traceback_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_athomic.sequencing.attempts.SHORTEST_REST", 0.01)

    @ordered_consumer(
        "t",
        group_id="g",
        handler_id="h",
        aggregate_key_field="shop",
        sequence_id_field="number",
        on_failure="block",
        retry=RetryPolicy(max_attempts=2, delay=0, max_delay=0.01),
    )
    async def handle(order: Order) -> None:
        desk.record.note(order)
        raise FraudError("card refused")

    async with desk.open(handle, state_store_url=SecretStr(f"memory://{uuid4().hex}")) as athomic:
        await athomic.publish("t", Order(number=1))
        await desk.record.count(4)
        assert desk.levels[:3] == [logging.INFO, logging.ERROR, logging.ERROR]
        blocks = desk.told[1].getMessage()
        assert (
            f"{__name__}.FraudError: card refused; it blocks its aggregate, and is tried again every 0.01 s" in blocks
        )
        assert desk.with_traceback == [logging.ERROR]


async def test_what_fails_after_its_partition_was_revoked_is_told_too(desk: Desk) -> None:
    class Revoked:
        revoked = True

    manager, _, _ = new_app(AthomicSettings(), desk.handler())._assemble()
    session: Any = manager.consumers["h"].life._new_session()
    message = RawMessage("t", 0, 7, 0, None, b"x", ())
    assert await session._strategy._processor.process(message, 1, 0.0, Revoked()) is None
    assert desk.line(logging.INFO).endswith("; its partition was revoked meanwhile, and the new owner handles it")
    assert desk.with_traceback == []


# --- what must not be shown


@pytest.mark.parametrize("exposed", [True, False])
async def test_p15_inputs_of_a_handlers_own_validation_error_are_shown_nowhere(desk: Desk, exposed: bool) -> None:
    def wrong() -> BaseException:
        try:
            Order.model_validate({"number": SECRET})
        except ValueError as error:
            wrapped = FraudError(f"words: {error}")
            wrapped.__cause__ = error
            return wrapped
        raise AssertionError

    desk.error = wrong
    async with desk.open(desk.handler(), expose_error_messages=exposed, dlq_traceback=True) as athomic:
        await athomic.publish("t", "x")
        await athomic.drain()
        (status,) = athomic.consumers()
        (letter,) = await athomic.dead_letters("h").browse()
    shown = [desk.text, status.model_dump_json(), str(letter), letter.headers.text("athomic-error-traceback") or ""]
    for place in shown:
        assert SECRET not in place
        assert "FraudError" in place
        assert ("words: 1 validation error for Order: number: int_parsing" in place) is exposed
    assert "direct cause" in shown[0]
    assert "direct cause" in shown[-1]


async def test_p15_one_setting_keeps_the_texts_of_exceptions_out(desk: Desk) -> None:
    desk.error = lambda: FraudError(SECRET)
    status = await desk.fail(
        desk.handler(retry=RetryPolicy(max_attempts=2, delay=0)), expose_error_messages=False, dlq_traceback=True
    )
    assert re.search(
        r"attempt 2, in \S+handle, line \d+\): \S+FraudError; it went to the DLQ topic t\.g\.dlq", desk.text
    )
    assert "Traceback (most recent call last)" in desk.text
    assert SECRET not in desk.text
    assert status.last_error is not None
    assert status.last_error.message is None


# --- the status


async def test_the_last_error_says_what_where_when_and_how_often(desk: Desk) -> None:
    before = datetime.now(UTC)
    status = await desk.fail(desk.handler(retry=RetryPolicy(max_attempts=3, delay=0)), "x", "y")
    last = status.last_error
    assert last is not None
    assert (last.type, last.message, last.stage) == (f"{__name__}.FraudError", "card refused", "handler")
    assert (last.topic, last.partition, last.offset, last.count) == ("t", 0, 1, 6)
    assert before <= last.at <= datetime.now(UTC)
    assert last.at.tzinfo is UTC
    assert status.last_restart_reason is None


async def test_the_last_five_failures_are_kept_the_newest_first(desk: Desk) -> None:
    status = await desk.fail(desk.handler(retry=RetryPolicy(max_attempts=3, delay=0)), "x", "y")
    assert [(each.offset, each.count) for each in status.last_errors] == [(1, 6), (1, 5), (1, 4), (0, 3), (0, 2)]
    assert status.last_error == status.last_errors[0]


async def test_an_attempt_in_place_is_a_last_error_already(desk: Desk) -> None:
    async with desk.open(desk.handler(retry=RetryPolicy(max_attempts=0, delay=3_600, max_delay=3_600))) as athomic:
        await athomic.publish("t", "x")
        await eventually(lambda: athomic.consumers()[0].last_error)
        last = athomic.consumers()[0].last_error
        assert last is not None
        assert (last.count, last.message) == (1, "card refused")


# --- the decision


async def test_a_policy_is_asked_once_for_each_failure(desk: Desk) -> None:
    asked = []

    class Own(RetryPolicy):
        def decide(self, error: BaseException, *, attempt: int, **options: Any) -> Any:
            asked.append(attempt)
            return super().decide(error, attempt=attempt, **options)

    await desk.fail(desk.handler(retry=Own(max_attempts=2, delay=0)))
    assert asked == [1, 2]


async def test_a_failure_that_cannot_be_judged_shows_the_traceback_of_what_went_wrong(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk.open(desk.handler()) as athomic:
        producer: Any = athomic._transport.producer
        send = producer.send

        async def broken(messages: Any, timeout: float) -> Any:
            if messages[0].topic == "t.g.dlq" and " waits: " not in desk.text:
                raise ZeroDivisionError("by a fault of ours")
            return await send(messages, timeout)

        monkeypatch.setattr(producer, "send", broken)
        await athomic.publish("t", "x")
        await athomic.drain()
    assert "h: t[0] waits: its failure could not be judged: ZeroDivisionError\nTraceback" in desk.text
    assert "ZeroDivisionError: by a fault of ours" in desk.text

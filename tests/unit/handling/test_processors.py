"""What counts as an attempt, whatever a handler raises, and what concludes nothing. On `memory://`.

Each app has a neighbour beside the handler in question, whose handlings are counted (promise P21).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel, field_validator

from fastapi_athomic import (
    Athomic,
    AthomicSettings,
    DeliveryAttempt,
    MessageHeaders,
    PayloadPipeline,
    RawMessage,
    RetryPolicy,
    include_athomic,
)
from fastapi_athomic.consumption.partitions import PartitionState, WorkDone
from fastapi_athomic.exceptions import HandlerTimeoutError
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.retry import RetryDecision
from tests.support.apps import Gate, Record, eventually, running

PLACE = TopicPartition("t", 0)
ATTEMPTS = RetryPolicy(max_attempts=3, delay=0)


class Panic(BaseException):
    """As pyo3's `PanicException` derives from `BaseException`."""


class Step(BaseModel):
    shop: str = "s"
    number: int
    poison: str = ""


async def cancelled() -> None:
    """Awaits a task that somebody else has cancelled."""
    task = asyncio.create_task(asyncio.Event().wait())
    task.cancel()
    await task


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def cancels_itself_and_fails() -> None:
    """Its cancellation is still to come when it has failed already."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    raise LookupError


def raising(error: BaseException | type[BaseException]) -> Callable[[], Any]:
    async def fail() -> None:
        raise error

    return fail


GROUP = BaseExceptionGroup("both", [ValueError("a"), Panic("b")])
POISONS: dict[str, Callable[[], Any]] = {
    "panic": raising(Panic("at the disco")),
    "exit": raising(SystemExit(1)),
    "memory": raising(MemoryError),
    "generator": raising(GeneratorExit),
    "stop": raising(StopIteration),
    "stop-async": raising(StopAsyncIteration),
    "group": raising(GROUP),
    "cancelled": cancelled,
    "cancels-itself": cancels_itself,
    "cancels-itself-and-fails": cancels_itself_and_fails,
}


def new_app(neighbour: Record, **settings: Any) -> Athomic:
    """With a neighbour that handles the same topic for another group."""
    athomic = include_athomic(FastAPI(), AthomicSettings(memory={"partitions": 1}, **settings))  # type: ignore[arg-type]

    @athomic.subscribe_to("t", group_id="neighbour", handler_id="neighbour")
    async def handle(step: Step) -> None:
        neighbour.note(step.number)

    return athomic


def letters(athomic: Athomic) -> list[RawMessage]:
    broker: Any = athomic._transport.broker  # type: ignore[attr-defined]
    log = broker.log(TopicPartition("t.g.dlq", 0))
    return log.messages if log is not None else []


def committed(athomic: Athomic) -> int:
    broker: Any = athomic._transport.broker  # type: ignore[attr-defined]
    found = broker.committed("g").get(PLACE)
    return found.offset if found is not None else 0


def batch_of_poisons() -> list[Step]:
    """Each between good ones of the same order."""
    steps = [[Step(number=0, poison=name), Step(number=0)] for name in POISONS]
    numbered = [Step(number=1), *[step for pair in steps for step in pair]]
    return [step.model_copy(update={"number": number}) for number, step in enumerate(numbered, 1)]


async def check_attempts(
    athomic: Athomic, attempts: Record, done: Record, neighbour: Record, steps: list[Step] | None = None
) -> list[MessageHeaders]:
    """`attempts` has the poison and the number of each attempt. Gives the headers of the dead letters."""
    steps = steps or [Step(number=1), Step(number=2, poison="x"), Step(number=3)]
    bad = [step.poison for step in steps if step.poison]
    async with running(athomic):
        await athomic.publish_many("t", steps, key=lambda _: "k")
        await eventually(lambda: len(letters(athomic)) == len(bad))
        await athomic.drain()
        health = athomic.health()
        status = next(status for status in athomic.consumers() if status.id == "h")
    for poison in bad:
        assert [n for name, n in attempts.seen if name == poison] == [1, 2, 3], f"{poison}: and never 1 again"
    assert sorted(done.seen) == [step.number for step in steps if not step.poison]
    assert neighbour.seen == [step.number for step in steps]
    assert status.restarts == 0
    assert health is not None
    assert health.status == "healthy"
    headers = [MessageHeaders(letter.headers) for letter in letters(athomic)]
    assert {said.text("athomic-attempts") for said in headers} == {"3"}
    return headers


# --- fault 4: whatever is raised is an attempt


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
async def test_p21_fault_04_whatever_a_handler_raises_is_an_attempt(
    ordering: Any, caplog: pytest.LogCaptureFixture
) -> None:
    attempts, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour)

    @athomic.subscribe_to("t", group_id="g", handler_id="h", ordering=ordering, retry=ATTEMPTS)
    async def handle(step: Step, attempt: DeliveryAttempt) -> None:
        if step.poison:
            attempts.note((step.poison, attempt.number))
            await POISONS[step.poison]()
        done.note(step.number)

    headers = await check_attempts(athomic, attempts, done, neighbour, batch_of_poisons())
    assert {said.text("athomic-error-stage") for said in headers} == {"handler"}
    assert "could not be judged" not in caplog.text, "no cancellation strikes the writing of a letter"


async def test_p21_fault_04_of_batches_too() -> None:
    attempts, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour)

    @athomic.subscribe_to("t", group_id="g", handler_id="h", batch_size=2, batch_linger_ms=50, retry=ATTEMPTS)
    async def handle(steps: list[Step], attempt: DeliveryAttempt) -> None:
        poison = next((step.poison for step in steps if step.poison), None)
        if poison is not None:
            if len([name for name, _ in attempts.seen if name == poison]) < 3:  # afterwards it is halved
                attempts.note((poison, attempt.number))
            await POISONS[poison]()
        for step in steps:
            done.note(step.number)

    await check_attempts(athomic, attempts, done, neighbour, batch_of_poisons())


async def test_p21_fault_04_of_ordered_handlers_too() -> None:
    attempts, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour)

    @athomic.ordered_consumer(
        "t",
        group_id="g",
        handler_id="h",
        aggregate_key_field="shop",
        sequence_id_field="number",
        retry=ATTEMPTS,
    )
    async def handle(step: Step, attempt: DeliveryAttempt) -> None:
        if step.poison:
            attempts.note((step.poison, attempt.number))
            await POISONS[step.poison]()
        done.note(step.number)

    await check_attempts(athomic, attempts, done, neighbour, batch_of_poisons())


@pytest.mark.parametrize("error", [Panic, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_p21_fault_04_in_threads_too(error: type[BaseException]) -> None:
    """A `KeyboardInterrupt` is none of Ctrl-C's there."""
    attempts, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour)

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=ATTEMPTS)
    def handle(step: Step, attempt: DeliveryAttempt) -> None:
        if step.poison:
            attempts.note((step.poison, attempt.number))
            raise error
        done.note(step.number)

    await check_attempts(athomic, attempts, done, neighbour)


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("at", ["before", "after"])
async def test_p21_fault_04_in_dependencies_too(at: str, sync: bool) -> None:
    attempts, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour)
    raised = {"panic": Panic, "exit": SystemExit, "generator": GeneratorExit, "cancelled": asyncio.CancelledError}

    def poison_of(raw: RawMessage, attempt: DeliveryAttempt) -> str:
        poison = Step.model_validate_json(raw.value or b"").poison
        if poison:
            attempts.note((poison, attempt.number))
        return poison

    async def resource(raw: RawMessage, attempt: DeliveryAttempt) -> AsyncIterator[str]:
        poison = poison_of(raw, attempt)
        if poison and at == "before":
            await POISONS[poison]()
        yield "resource"
        if poison:
            await POISONS[poison]()

    def sync_resource(raw: RawMessage, attempt: DeliveryAttempt) -> Iterator[str]:
        poison = poison_of(raw, attempt)
        if poison and at == "before":
            raise raised[poison]
        yield "resource"
        if poison:
            raise raised[poison]

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=ATTEMPTS)
    async def handle(step: Step, given: str = Depends(sync_resource if sync else resource)) -> None:
        if not step.poison:
            done.note(step.number)

    steps = [step for step in batch_of_poisons() if step.poison in ("", *raised)]
    await check_attempts(athomic, attempts, done, neighbour, steps)


class Picky(Step):
    @field_validator("poison")
    @classmethod
    def check(cls, poison: str) -> str:
        if poison:
            raise Panic("s3cret")
        return poison


class PanickingStep:
    name = "picky"

    def encode(self, data: bytes) -> bytes:
        return data

    def decode(self, data: bytes) -> bytes:
        if b'"poison":"x"' in data:
            raise Panic("s3cret")
        return data


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("target", "payload"), [(Picky, None), (Step, PayloadPipeline([PanickingStep()]))], ids=["validator", "step"]
)
async def test_p21_fault_04_what_decoding_raises_goes_to_the_dlq_at_once(
    target: Any, payload: PayloadPipeline | None, batch: bool
) -> None:
    done, neighbour = Record(), Record()
    athomic = new_app(neighbour)
    options: dict[str, Any] = {"batch_size": 3, "batch_linger_ms": 1} if batch else {}

    @athomic.subscribe_to("t", group_id="g", handler_id="h", target_type=target, payload=payload, **options)
    async def handle(step: Any) -> None:
        for one in step if batch else [step]:
            done.note(one.number)

    async with running(athomic):
        await athomic.publish_many("t", [Step(number=1), Step(number=2, poison="x"), Step(number=3)])
        await done.count(2)
        await athomic.drain()
    assert (done.seen, neighbour.seen) == ([1, 3], [1, 2, 3])
    (letter,) = letters(athomic)
    headers = MessageHeaders(letter.headers)
    assert headers.text("athomic-error-stage") == "decode"
    assert "s3cret" not in (headers.text("athomic-error-message") or "")
    assert "Panic" in (headers.text("athomic-error-message") or "")


def panics(attempt: int, error: BaseException) -> float:
    raise Panic


DELAYS: dict[str, Any] = {"text": lambda *_: "5", "nothing": lambda *_: None, "panic": panics}


@pytest.mark.parametrize("name", DELAYS)
async def test_p21_fault_04_a_delay_function_that_gives_nonsense_costs_nothing(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_athomic.retry.DEFAULT_DELAY", 0.0, raising=False)
    attempts, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour)

    @athomic.subscribe_to(
        "t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=3, delay=DELAYS[name], max_delay=1)
    )
    async def handle(step: Step, attempt: DeliveryAttempt) -> None:
        if step.poison:
            attempts.note((step.poison, attempt.number))
            raise LookupError
        done.note(step.number)

    await check_attempts(athomic, attempts, done, neighbour)
    assert "h: RetryPolicy: the delay function" in caplog.text


class Undecided(RetryPolicy):
    def decide(self, error: BaseException, **circumstances: Any) -> RetryDecision:
        return None  # type: ignore[return-value]


class Panicking(RetryPolicy):
    def decide(self, error: BaseException, **circumstances: Any) -> RetryDecision:
        raise Panic


NOTHING: Any = Decimal(0)


@pytest.mark.parametrize("policy", [Undecided(), Panicking(), RetryPolicy(delay=NOTHING)])
async def test_p21_fault_04_no_message_waits_for_ever_for_a_policy_that_does_not_decide(
    policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_athomic.failures.dlq.DEFAULT_POLICY", ATTEMPTS, raising=False)
    attempts, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour)

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=policy)
    async def handle(step: Step, attempt: DeliveryAttempt) -> None:
        if step.poison:
            attempts.note((step.poison, attempt.number))
            raise LookupError
        done.note(step.number)

    await check_attempts(athomic, attempts, done, neighbour)


class Touchy(type):
    def __instancecheck__(cls, instance: object) -> bool:
        raise Panic


class TouchyError(Exception, metaclass=Touchy): ...


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise Panic


async def test_p21_fault_04_errors_that_cannot_be_looked_at_are_attempts(caplog: pytest.LogCaptureFixture) -> None:
    attempts, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour)
    retry = RetryPolicy(max_attempts=3, delay=0, fatal=(TouchyError,))

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=retry)
    async def handle(step: Step, attempt: DeliveryAttempt) -> None:
        if step.poison:
            attempts.note((step.poison, attempt.number))
            raise UnspeakableError
        done.note(step.number)

    (headers,) = await check_attempts(athomic, attempts, done, neighbour)
    assert headers.text("athomic-error-message") == ""
    assert "h: RetryPolicy: retry_on or fatal raised Panic" in caplog.text


async def test_p21_fault_04_what_breaks_the_writing_of_a_letter_costs_no_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The letter is written again, and the handler is not called again."""
    attempts, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour)
    sending: Any = athomic._transport.producer
    send, broken = sending.send, Record()

    async def send_with_a_fault(messages: Any, timeout: float) -> Any:
        if messages[0].topic == "t.g.dlq" and not broken.seen:
            broken.note(messages)
            raise asyncio.CancelledError
        return await send(messages, timeout)

    monkeypatch.setattr(sending, "send", send_with_a_fault)

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=ATTEMPTS)
    async def handle(step: Step, attempt: DeliveryAttempt) -> None:
        if step.poison:
            attempts.note((step.poison, attempt.number))
            raise LookupError
        done.note(step.number)

    await check_attempts(athomic, attempts, done, neighbour)
    assert len(broken.seen) == 1


@pytest.mark.parametrize("due", [b"9" * 400, b"99999999999999999"])
async def test_p21_fault_04_a_due_time_that_makes_no_sense_is_due(due: bytes) -> None:
    done = Record()
    athomic = new_app(Record())

    @athomic.subscribe_to("t", group_id="g", handler_id="h", ordering="none", retry=RetryPolicy(retry_topics=(60,)))
    async def handle(step: Step) -> None:
        done.note(step.number)

    async with running(athomic):
        headers = {"athomic-retry-due": due, "athomic-original-partition": b"9" * 30, "athomic-original-offset": b"1"}
        await athomic.publish("t.g.retry.60s", Step(number=1), headers=headers)
        await done.count(1)


async def test_p21_fault_04_a_handler_that_cancels_itself_and_returns_is_done_with() -> None:
    """Its cancellation comes when the next message is handled, or while its task waits for one."""
    done, neighbour = Record(), Record()
    athomic = new_app(neighbour)

    @athomic.subscribe_to("t", group_id="g", handler_id="h", ordering="key", concurrency=2, retry=ATTEMPTS)
    async def handle(step: Step) -> None:
        done.note(step.number)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async with running(athomic):
        for number in range(20):
            await athomic.publish("t", Step(number=number), key=str(number % 3))
            await done.count(number + 1)
        await athomic.drain()
        assert [status.restarts for status in athomic.consumers()] == [0, 0]
    assert letters(athomic) == []
    assert done.seen == neighbour.seen == list(range(20))


def processor_of(athomic: Athomic) -> tuple[Any, Any]:
    """The processor and the strategy as the factory wires them, without a session around them."""
    manager, _, _ = athomic._assemble()
    session: Any = manager.consumers["h"]._new_session(False)
    return session._strategy._processor, session._strategy


async def test_fault_04_an_interrupt_in_the_main_thread_is_for_the_process() -> None:
    athomic = new_app(Record())

    @athomic.subscribe_to("t", group_id="g", handler_id="h")
    async def handle(step: Step) -> None:
        raise KeyboardInterrupt

    processor, strategy = processor_of(athomic)
    with pytest.raises(KeyboardInterrupt):
        await processor.process(RawMessage("t", 0, 0, 0, None, b'{"number": 1}', ()), 1)
    await strategy.close(1)


async def test_p21_fault_04_an_interrupt_elsewhere_is_an_attempt() -> None:
    attempts, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour, isolation="thread")

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=ATTEMPTS)
    async def handle(step: Step, attempt: DeliveryAttempt) -> None:
        if step.poison:
            attempts.note((step.poison, attempt.number))
            raise KeyboardInterrupt
        done.note(step.number)

    await check_attempts(athomic, attempts, done, neighbour)


@pytest.mark.parametrize("options", [{}, {"ordering": "key"}, {"batch_size": 1}])
async def test_p10_fault_04_the_end_of_the_event_loop_is_no_attempt(options: dict[str, Any]) -> None:
    """It cancels all tasks, and waits for them."""
    athomic, ended = new_app(Record()), Record()
    begun = threading.Event()

    async def handle(steps: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.note("cut off")

    athomic.subscribe_to("t", group_id="g", handler_id="h", target_type=Step, **options)(handle)

    async def left_behind() -> tuple[int, int]:
        _, strategy = processor_of(athomic)
        state = PartitionState(PLACE, 0, low_mark=0, has_room=lambda: None, work_done=WorkDone())
        strategy.accept(state, state.receive([RawMessage("t", 0, 0, 0, None, b'{"number": 1}', ())]))
        await eventually(begun.is_set)
        return len(state.concluded), strategy._counters.failed

    assert await asyncio.to_thread(asyncio.run, left_behind()) == (0, 0)
    assert ended.seen == ["cut off"]
    assert letters(athomic) == []


# --- fault 10: what returns after our cancellation concludes nothing


WAYS: dict[str, dict[str, Any]] = {
    "partition": {},
    "key": {"ordering": "key"},
    "none": {"ordering": "none"},
    "batch": {"batch_size": 1},
    "timed": {"timeout": 60},
    "ordered": {"aggregate_key_field": "shop", "sequence_id_field": "number"},
}


def subscribe(athomic: Athomic, handler: Callable[..., Any], options: dict[str, Any]) -> None:
    decorate: Any = athomic.ordered_consumer if "sequence_id_field" in options else athomic.subscribe_to
    retry = RetryPolicy(max_attempts=1)
    decorate("t", group_id="g", handler_id="h", retry=retry, **{"target_type": Step, **options})(handler)


@pytest.mark.parametrize(
    ("way", "then"),
    [
        *((way, "returns") for way in WAYS),
        ("key", "fails"),
        ("batch", "fails"),
        ("ordered", "fails"),
        ("none", "exits"),
    ],
)
async def test_p10_fault_10_what_a_cancelled_handler_does_then_concludes_nothing(way: str, then: str) -> None:
    begun, done, neighbour = Record(), Record(), Record()
    athomic = new_app(neighbour, shutdown_timeout=0.3)

    async def handle(given: Any) -> None:
        begun.note(given)
        if len(begun.seen) > 1:
            done.note(given)
            return
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if then != "returns":
            raise LookupError if then == "fails" else SystemExit

    subscribe(athomic, handle, WAYS[way])
    async with running(athomic):
        await athomic.publish("t", Step(number=1), key="k")
        await begun.count(1)
        await neighbour.count(1)
    assert committed(athomic) == 0
    assert letters(athomic) == []
    async with running(athomic):
        await done.count(1)
        await athomic.drain()
        assert committed(athomic) == 1
    assert len(begun.seen) == 2


@pytest.mark.parametrize("way", ["partition", "batch"])
async def test_p10_fault_10_a_thread_that_returns_after_we_gave_up_concludes_nothing(way: str) -> None:
    begun, go_on = Record(), threading.Event()
    athomic = new_app(Record(), shutdown_timeout=0.3)

    def handle(given: Any) -> None:
        begun.note(given)
        go_on.wait()

    subscribe(athomic, handle, WAYS[way])
    async with running(athomic):
        await athomic.publish("t", Step(number=1))
        await begun.count(1)
        consumer = athomic.manager().consumers["h"]  # type: ignore[union-attr]
        stopping = asyncio.create_task(consumer.stop(0.3))
        await eventually(lambda: consumer.counters.abandoned)
        go_on.set()
        await stopping
    assert committed(athomic) == 0
    async with running(athomic):
        await begun.count(2)


@pytest.mark.parametrize(("way", "then"), [("partition", "returns"), ("batch", "fails"), ("ordered", "returns")])
async def test_p10_fault_10_a_handler_that_swallows_its_timeout_has_timed_out(way: str, then: str) -> None:
    attempts = Record()
    athomic = new_app(Record())

    async def handle(given: Any, attempt: DeliveryAttempt) -> None:
        attempts.note(attempt.number)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if then == "fails":
                raise LookupError from None

    options = {**WAYS[way], "timeout": 0.02}
    decorate: Any = athomic.ordered_consumer if way == "ordered" else athomic.subscribe_to
    retry = RetryPolicy(max_attempts=2, delay=0)
    decorate("t", group_id="g", handler_id="h", retry=retry, **{"target_type": Step, **options})(handle)
    async with running(athomic):
        await athomic.publish("t", Step(number=1))
        await eventually(lambda: letters(athomic))
        await athomic.drain()
        assert athomic.consumers()[1].counters.processed == 0
    assert attempts.seen == [1, 2]
    headers = MessageHeaders(letters(athomic)[0].headers)
    assert headers.text("athomic-error-stage") == "timeout"
    assert (headers.text("athomic-error-type") or "").endswith(HandlerTimeoutError.__name__)


async def test_p04_fault_10_what_fails_after_the_revoke_is_judged_by_the_new_owner() -> None:
    """No dead letter of a message that somebody else handles."""
    athomic, gate = new_app(Record()), Gate()

    @athomic.subscribe_to("t", group_id="g", handler_id="h", retry=RetryPolicy(max_attempts=1))
    async def handle(step: Step) -> None:
        await gate.wait()
        raise LookupError

    _, strategy = processor_of(athomic)
    state = PartitionState(PLACE, 0, low_mark=0, has_room=lambda: None, work_done=WorkDone())
    strategy.accept(state, state.receive([RawMessage("t", 0, 0, 0, None, b'{"number": 1}', ())]))
    await eventually(lambda: state.running)
    state.open, state.revoked = False, True
    strategy.release(state)
    gate.set()
    await state.drained()
    assert letters(athomic) == []
    assert (state.concluded, strategy._counters.failed) == ([], 0)
    await strategy.close(1)

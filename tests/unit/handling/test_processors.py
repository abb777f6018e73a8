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
from fastapi_athomic.consumption.partitions import PartitionParts, PartitionState, WorkDone
from fastapi_athomic.exceptions import HandlerTimeoutError
from fastapi_athomic.messages import TopicPartition
from fastapi_athomic.retry import RetryDecision
from tests.support.apps import Gate, Record, eventually, running

PLACE = TopicPartition("t", 0)
MESSAGE = RawMessage("t", 0, 0, 0, None, b'{"number": 1}', ())
ATTEMPTS = RetryPolicy(max_attempts=3, delay=0)
ORDERED = {"aggregate_key_field": "shop", "sequence_id_field": "number"}


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


def raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    async def fail(*_: object) -> None:
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


def subscribe(athomic: Athomic, handler: Callable[..., Any], **options: Any) -> None:
    """As handler "h" of group "g", plain or ordered as the options say."""
    decorate: Any = athomic.ordered_consumer if "sequence_id_field" in options else athomic.subscribe_to
    decorate("t", group_id="g", handler_id="h", **{"target_type": Step, **options})(handler)


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


async def fail_as_named(poison: str) -> None:
    await POISONS[poison]()


class Tries:
    """An app whose handler "h" fails on poison, three attempts at a message, and its neighbour."""

    def __init__(self, **settings: Any) -> None:
        self.attempts, self.done, self.neighbour = Record(), Record(), Record()
        self.athomic = new_app(self.neighbour, **settings)

    def subscribe(self, handler: Callable[..., Any], **options: Any) -> None:
        subscribe(self.athomic, handler, **{"retry": ATTEMPTS, **options})

    def fail_with(self, fail: Callable[[str], Any], **options: Any) -> None:
        """Subscribes a handler that awaits `fail` with the name of each poison."""

        async def handle(step: Step, attempt: DeliveryAttempt) -> None:
            if step.poison:
                self.note_attempt(step.poison, attempt)
                await fail(step.poison)
            self.done.note(step.number)

        self.subscribe(handle, **options)

    def note_attempt(self, poison: str, attempt: DeliveryAttempt) -> None:
        self.attempts.note((poison, attempt.number))

    async def check(self, steps: list[Step] | None = None) -> list[MessageHeaders]:
        """Poison has been tried three times, all else is done. Gives the headers of the dead letters."""
        steps = steps or [Step(number=1), Step(number=2, poison="x"), Step(number=3)]
        bad = [step.poison for step in steps if step.poison]
        async with running(self.athomic):
            await self.athomic.publish_many("t", steps, key=lambda _: "k")
            await eventually(lambda: len(letters(self.athomic)) == len(bad))
            await self.athomic.drain()
            health = self.athomic.health()
            status = next(status for status in self.athomic.consumers() if status.id == "h")
        for poison in bad:
            assert [n for name, n in self.attempts.seen if name == poison] == [1, 2, 3], f"{poison}: and never 1 again"
        assert sorted(self.done.seen) == [step.number for step in steps if not step.poison]
        assert self.neighbour.seen == [step.number for step in steps]
        assert status.restarts == 0
        assert health is not None
        assert health.status == "healthy"
        headers = [MessageHeaders(letter.headers) for letter in letters(self.athomic)]
        assert {said.text("athomic-attempts") for said in headers} == {"3"}
        return headers


# --- fault 4: whatever is raised is an attempt


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
async def test_p21_fault_04_whatever_a_handler_raises_is_an_attempt(
    ordering: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tries = Tries()
    tries.fail_with(fail_as_named, ordering=ordering)
    headers = await tries.check(batch_of_poisons())
    assert {said.text("athomic-error-stage") for said in headers} == {"handler"}
    assert "could not be judged" not in caplog.text, "no cancellation strikes the writing of a letter"


async def test_p21_fault_04_of_batches_too() -> None:
    tries = Tries()

    async def handle(steps: list[Step], attempt: DeliveryAttempt) -> None:
        poison = next((step.poison for step in steps if step.poison), None)
        if poison is not None:
            if len([name for name, _ in tries.attempts.seen if name == poison]) < 3:  # afterwards it is halved
                tries.note_attempt(poison, attempt)
            await POISONS[poison]()
        for step in steps:
            tries.done.note(step.number)

    tries.subscribe(handle, batch_size=2, batch_linger_ms=50)
    await tries.check(batch_of_poisons())


async def test_p21_fault_04_of_ordered_handlers_too() -> None:
    tries = Tries()
    tries.fail_with(fail_as_named, **ORDERED)
    await tries.check(batch_of_poisons())


@pytest.mark.parametrize("error", [Panic, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_p21_fault_04_in_threads_too(error: type[BaseException]) -> None:
    """A `KeyboardInterrupt` is none of Ctrl-C's there."""
    tries = Tries()

    def handle(step: Step, attempt: DeliveryAttempt) -> None:
        if step.poison:
            tries.note_attempt(step.poison, attempt)
            raise error
        tries.done.note(step.number)

    tries.subscribe(handle)
    await tries.check()


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("at", ["before", "after"])
async def test_p21_fault_04_in_dependencies_too(at: str, sync: bool) -> None:
    tries = Tries()
    raised = {"panic": Panic, "exit": SystemExit, "generator": GeneratorExit, "cancelled": asyncio.CancelledError}

    def poison_of(raw: RawMessage, attempt: DeliveryAttempt) -> str:
        poison = Step.model_validate_json(raw.value or b"").poison
        if poison:
            tries.note_attempt(poison, attempt)
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

    async def handle(step: Step, given: str = Depends(sync_resource if sync else resource)) -> None:
        if not step.poison:
            tries.done.note(step.number)

    tries.subscribe(handle)
    steps = [step for step in batch_of_poisons() if step.poison in ("", *raised)]
    await tries.check(steps)


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


async def test_a_batch_handlers_decode_error_is_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    athomic = new_app(Record())

    @athomic.subscribe_to("t", group_id="g", handler_id="h", batch_size=3, batch_linger_ms=1)
    async def handle(steps: list[Step]) -> None: ...

    async with running(athomic):
        await athomic.publish("t", {"number": "no number"})
        await athomic.drain()
    (line,) = [record for record in caplog.records if record.exc_info and record.getMessage().startswith("h: ")]
    assert "step json: the payload is not a valid Step" in line.getMessage()
    assert line.exc_info is not None
    assert line.exc_info[1] is not None
    assert line.exc_info[1].__context__ is None, "no second traceback with the same sentence"


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
    tries = Tries()
    tries.fail_with(raising(LookupError), retry=RetryPolicy(max_attempts=3, delay=DELAYS[name], max_delay=1))
    await tries.check()
    assert "h: RetryPolicy: the delay function" in caplog.text


class Undecided(RetryPolicy):
    def decide(self, error: BaseException, **circumstances: Any) -> RetryDecision:
        return None  # type: ignore[return-value]


class Panicking(RetryPolicy):
    def decide(self, error: BaseException, **circumstances: Any) -> RetryDecision:
        raise Panic


NOTHING: Any = lambda *_: Decimal(0)  # noqa: E731


@pytest.mark.parametrize("policy", [Undecided(), Panicking(), RetryPolicy(delay=NOTHING)])
async def test_p21_fault_04_no_message_waits_for_ever_for_a_policy_that_does_not_decide(
    policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_athomic.failures.dlq.DEFAULT_POLICY", ATTEMPTS, raising=False)
    tries = Tries()
    tries.fail_with(raising(LookupError), retry=policy)
    await tries.check()


class Touchy(type):
    def __instancecheck__(cls, instance: object) -> bool:
        raise Panic


class TouchyError(Exception, metaclass=Touchy): ...


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise Panic


async def test_p21_fault_04_errors_that_cannot_be_looked_at_are_attempts(caplog: pytest.LogCaptureFixture) -> None:
    tries = Tries()
    tries.fail_with(raising(UnspeakableError), retry=RetryPolicy(max_attempts=3, delay=0, fatal=(TouchyError,)))
    (headers,) = await tries.check()
    assert headers.text("athomic-error-message") == f"(its text cannot be told: {__name__}.Panic)"
    assert "h: RetryPolicy: retry_on or fatal raised Panic" in caplog.text


async def test_p21_fault_04_what_breaks_the_writing_of_a_letter_costs_no_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The letter is written again, and the handler is not called again."""
    tries = Tries()
    sending: Any = tries.athomic._transport.producer
    send, broken = sending.send, Record()

    async def send_with_a_fault(messages: Any, timeout: float) -> Any:
        if messages[0].topic == "t.g.dlq" and not broken.seen:
            broken.note(messages)
            raise asyncio.CancelledError
        return await send(messages, timeout)

    monkeypatch.setattr(sending, "send", send_with_a_fault)
    tries.fail_with(raising(LookupError))
    await tries.check()
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


def strategy_of(athomic: Athomic) -> Any:
    """As the factory wires it, without a session around it."""
    manager, _, _ = athomic._assemble()
    session: Any = manager.consumers["h"].life._new_session()
    return session._strategy


def given_a_message(strategy: Any) -> PartitionState:
    """The strategy has taken in `MESSAGE`, of this partition."""
    state = PartitionState(PLACE, PartitionParts(low_mark=0, has_room=lambda: None, work_done=WorkDone()), committed=0)
    strategy.accept(state, state.receive([MESSAGE]))
    return state


async def test_fault_04_an_interrupt_in_the_main_thread_is_for_the_process() -> None:
    athomic = new_app(Record())

    @athomic.subscribe_to("t", group_id="g", handler_id="h")
    async def handle(step: Step) -> None:
        raise KeyboardInterrupt

    strategy = strategy_of(athomic)
    with pytest.raises(KeyboardInterrupt):
        await strategy._processor.process(MESSAGE, 1)
    await strategy.close(1)


async def test_p21_fault_04_an_interrupt_elsewhere_is_an_attempt() -> None:
    tries = Tries(isolation="thread")
    tries.fail_with(raising(KeyboardInterrupt))
    await tries.check()


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

    subscribe(athomic, handle, **options)

    async def left_behind() -> tuple[int, int]:
        strategy = strategy_of(athomic)
        state = given_a_message(strategy)
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
    "ordered": ORDERED,
}
ONCE = RetryPolicy(max_attempts=1)


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

    subscribe(athomic, handle, retry=ONCE, **WAYS[way])
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

    subscribe(athomic, handle, retry=ONCE, **WAYS[way])
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

    subscribe(athomic, handle, retry=RetryPolicy(max_attempts=2, delay=0), timeout=0.02, **WAYS[way])
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

    strategy = strategy_of(athomic)
    state = given_a_message(strategy)
    await eventually(lambda: state.running)
    state.revoke()
    strategy.release(state)
    gate.set()
    await state.drained()
    assert letters(athomic) == []
    assert (state.concluded, strategy._counters.failed) == ([], 0)
    await strategy.close(1)

"""Message processors: open the scope, decode, call the handler, wrap what happened."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..exceptions import BatchItemError, HandlerTimeoutError
from ..failures.dlq import DLQHandler, Judgement
from ..loop.cancellation import Owner, forget_cancellation, is_interrupt
from ..messages import DeliveryAttempt, RawMessage
from ..outcomes import ConsumptionOutcome, FailureContext, Stage
from ..propagation.headers import HeadersOrchestrator, Scope
from ..retry import RetryDecision
from .injection import HandlerPlan
from .plans import Call, Delivery
from .timeouts import limited

Decode = Callable[[bytes | None], Any]
Judge = Callable[[FailureContext], Awaitable[Judgement]]


class Fence(Protocol):
    """What a processor asks a partition: whether somebody else has it meanwhile."""

    @property
    def revoked(self) -> bool: ...


DECODE, HANDLER = Stage.DECODE, Stage.HANDLER  # to look an enum's member up is slow in Python 3.11
COMPLETED = ConsumptionOutcome()
"""Of all handlers that return nothing: what never changes needs to be there only once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorParts:
    """What a processor is built from."""

    handler_id: str
    group_id: str
    plan: HandlerPlan
    decode: Decode | None  # None: the handler takes raw messages
    orchestrator: HeadersOrchestrator
    dlq_handler: DLQHandler
    max_attempts: int
    timeout: float | None  # seconds per attempt


class _Processor:
    """Whatever a handler, a dependency or a payload step raises is a failure of the message, and counts as an attempt.

    That goes for `BaseException`, too: a panic of a Rust extension, `SystemExit`, a `CancelledError` of a task that
    somebody else cancelled. Three things are none: what still comes after `closed` was set, the end of the event loop,
    and a `KeyboardInterrupt` in the main thread, which is for the process.
    """

    def __init__(self, parts: ProcessorParts) -> None:
        self.closed = False  # handlers are being cancelled by us: what still comes from them concludes nothing
        self._owner = Owner()
        self._parts = parts
        self._plan = parts.plan
        self._decode = parts.decode
        self._orchestrator = parts.orchestrator
        self._dlq_handler = parts.dlq_handler
        self._call: Call = parts.plan.call if parts.timeout is None else limited(parts.plan.call, parts.timeout)

    def decide(self, failure: FailureContext) -> RetryDecision:
        return self._dlq_handler.decide(failure)

    async def move(self, failure: FailureContext) -> Judgement:
        """Writes a dead letter (or a message for a retry topic) that is due, in the message's own scope."""
        scope = self._orchestrator.open(failure.message, failure.attempt)
        try:
            return await self._safely(self._dlq_handler.move, failure)
        finally:
            self._orchestrator.close(scope, failure.error)

    async def _safely(self, judge: Judge, failure: FailureContext) -> Judgement:
        """The attempt is not forgotten where judging breaks off: the dead letter is tried again, not the handler."""
        await forget_cancellation()
        try:
            return await judge(failure)
        except BaseException as error:
            if self._ended_by(error):
                raise
            return self._dlq_handler.hold(failure, f"its failure could not be judged: {type(error).__name__}")

    def _ended_by(self, error: BaseException) -> bool:
        """Whether this is no error of the message: we gave it up, or the event loop or the process ends."""
        return self.closed or is_interrupt(error) or self._owner.ends

    def _failure(
        self, message: RawMessage, error: BaseException, stage: Stage, attempt: int, first_failed_at: float
    ) -> FailureContext:
        now = time.time()
        origin = self._dlq_handler.returns.origin(message)
        return FailureContext(
            message=message,
            origin=origin,
            error=error,
            stage=stage,
            attempt=origin.attempts + attempt,
            handler_id=self._parts.handler_id,
            group_id=self._parts.group_id,
            first_failed_at=origin.first_failed_at or first_failed_at or now,
            failed_at=now,
        )

    def _delivery(self, message: RawMessage, attempt: int, messages: Sequence[RawMessage] | None = None) -> Delivery:
        returns = self._dlq_handler.returns
        before = returns.origin(message).attempts if returns.is_retry(message.topic) else 0
        return Delivery(message, DeliveryAttempt(before + attempt, self._parts.max_attempts), messages)


class SingleMessageProcessor(_Processor):
    """One message to one call of the handler."""

    def __init__(self, parts: ProcessorParts) -> None:
        super().__init__(parts)
        self._direct = parts.plan.direct if parts.timeout is None else None

    async def process(
        self, message: RawMessage, attempt: int, first_failed_at: float = 0.0, fence: Fence | None = None
    ) -> ConsumptionOutcome | Judgement | None:
        """None: another member has the partition since (`fence`), and judges for itself what failed here.

        `first_failed_at` is in seconds since the epoch, 0 if it has not failed.

        Raises only what is no error of the message: our own cancellation, the end of the event loop or the process.
        """
        stage = Stage.HEADERS
        error: BaseException | None = None
        scope: Scope | None = None
        try:
            scope = self._orchestrator.open(message, attempt)
            stage = DECODE
            value = message if self._decode is None else self._decode(message.value)
            stage = HANDLER
            if self._direct is not None:
                result = await self._direct(value)
                return COMPLETED if result is None else ConsumptionOutcome(result)
            return ConsumptionOutcome(await self._call(value, self._delivery(message, attempt)))
        except BaseException as caught:
            error = caught
            if self._ended_by(caught):
                raise
            if fence is not None and fence.revoked:
                return None
            failure = self._failure(message, caught, _stage(stage, caught), attempt, first_failed_at)
            return await self._safely(self._dlq_handler.handle, failure)
        finally:
            if scope is not None:
                self._orchestrator.close(scope, error)


class OrderedMessageProcessor(SingleMessageProcessor):
    """Decodes first, to know where in its sequence a message stands, and handles it when its turn comes."""

    def decode(self, message: RawMessage) -> Any:
        """In the message's context and trace, but without a span of its own. Raises what the pipeline raises."""
        if self._decode is None:
            return message
        scope = self._orchestrator.open_reading(message)
        try:
            return self._decode(message.value)
        finally:
            self._orchestrator.close(scope, None)

    def is_redriven(self, message: RawMessage) -> bool:
        """Somebody sent it back from the DLQ."""
        return self._dlq_handler.returns.source_of(message.topic) != message.topic

    def refusal(
        self, message: RawMessage, error: BaseException, stage: Stage = Stage.DECODE, first_failed_at: float = 0.0
    ) -> FailureContext:
        """Of a message that does not get as far as the handler; for `move`."""
        return self._failure(message, error, stage, 1, first_failed_at)

    async def handle(
        self, message: RawMessage, value: Any, attempt: int, first_failed_at: float, *, hold: bool
    ) -> ConsumptionOutcome | Judgement | FailureContext:
        """As `process`, with a value that is decoded; it is decoded again if a handler may have changed it.

        With `hold`, a message whose attempts are used up is not moved to the DLQ: its failure is given back.
        """
        stage = Stage.HEADERS
        error: BaseException | None = None
        scope: Scope | None = None
        try:
            scope = self._orchestrator.open(message, attempt)
            stage = DECODE
            if attempt > 1 and self._decode is not None:
                value = self._decode(message.value)
            stage = HANDLER
            if self._direct is not None:
                result = await self._direct(value)
                return COMPLETED if result is None else ConsumptionOutcome(result)
            return ConsumptionOutcome(await self._call(value, self._delivery(message, attempt)))
        except BaseException as caught:
            error = caught
            if self._ended_by(caught):
                raise
            failure = self._failure(message, caught, _stage(stage, caught), attempt, first_failed_at)
            if hold and not self.decide(failure).again:
                return failure
            return await self._safely(self._dlq_handler.handle, failure)
        finally:
            if scope is not None:
                self._orchestrator.close(scope, error)


@dataclass(slots=True)
class BatchReport:
    """What became of the messages of one batch."""

    handled: Sequence[RawMessage] = ()
    undecodable: list[FailureContext] = field(default_factory=list)
    failure: FailureContext | None = None  # of the first message of `left`
    left: list[RawMessage] = field(default_factory=list)  # decoded, not handled
    blamed: bool = False  # the handler said that the first of `left` is to blame


class BatchMessageProcessor(_Processor):
    """Several messages of one partition to one call of the handler."""

    async def process(self, messages: Sequence[RawMessage], attempt: int, first_failed_at: float = 0.0) -> BatchReport:
        """Raises only what is no error of a message: our own cancellation, the end of the event loop or the process."""
        error: BaseException | None = None
        scope: Scope | None = None
        try:
            scope = self._orchestrator.open_batch(messages, attempt)
            report, decoded, values = self._decode_all(messages, attempt)
            if values:
                error = await self._handle(report, decoded, values, attempt, first_failed_at)
            return report
        except BaseException as fatal:
            error = fatal
            if scope is not None or self._ended_by(fatal):
                raise
            failure = self._failure(messages[0], fatal, Stage.HEADERS, attempt, first_failed_at)
            return BatchReport(failure=failure, left=list(messages))
        finally:
            if scope is not None:
                self._orchestrator.close(scope, error)

    def _decode_all(
        self, messages: Sequence[RawMessage], attempt: int
    ) -> tuple[BatchReport, list[RawMessage], list[Any]]:
        report = BatchReport()
        decode = self._decode
        if decode is None:
            return report, list(messages), list(messages)
        try:
            return report, list(messages), [decode(message.value) for message in messages]
        except BaseException as error:
            if self._ended_by(error):
                raise
            return self._decode_each(decode, report, messages, attempt)

    def _decode_each(
        self, decode: Decode, report: BatchReport, messages: Sequence[RawMessage], attempt: int
    ) -> tuple[BatchReport, list[RawMessage], list[Any]]:
        """Some cannot be decoded."""
        decoded: list[RawMessage] = []
        values: list[Any] = []
        for message in messages:
            try:
                values.append(decode(message.value))
                decoded.append(message)
            except BaseException as error:
                if self._ended_by(error):
                    raise
                report.undecodable.append(self._failure(message, error, Stage.DECODE, attempt, 0.0))
        return report, decoded, values

    async def _handle(
        self, report: BatchReport, decoded: list[RawMessage], values: list[Any], attempt: int, first_failed_at: float
    ) -> BaseException | None:
        try:
            await self._call(values, self._delivery(decoded[0], attempt, decoded))
        except BaseException as error:
            if self._ended_by(error):
                raise
            await forget_cancellation()
            blamed = isinstance(error, BatchItemError) and 0 <= error.index < len(decoded)
            index = error.index if isinstance(error, BatchItemError) and blamed else 0
            report.handled, report.left, report.blamed = decoded[:index], decoded[index:], blamed
            stage = _stage(HANDLER, error)
            report.failure = self._failure(decoded[index], error, stage, attempt, first_failed_at)
            return error
        report.handled = decoded
        return None


def _stage(reached: Stage, error: BaseException) -> Stage:
    return Stage.TIMEOUT if isinstance(error, HandlerTimeoutError) else reached

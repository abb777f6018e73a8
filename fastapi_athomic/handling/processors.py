"""Processors: they open a message's scope, decode it, call the handler, and turn an error into a judgement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import time
from typing import Any, NamedTuple, Protocol, cast

from ..exceptions import BatchItemError, HandlerTimeoutError, PayloadDecodeError, PayloadUnavailableError
from ..failures.dlq import DLQHandler, Judgement, Verdict
from ..loop.cancellation import Owner, forget_cancellation, is_interrupt
from ..messages import DeliveryAttempt, RawMessage
from ..outcomes import ConsumptionOutcome, FailureContext, Stage
from ..payload.steps import Decoder, Later
from ..propagation.headers import HeadersOrchestrator, Scope
from ..retry import RetryDecision
from .injection import HandlerPlan
from .patience import GONE, Failed, Patience
from .plans import Call, Delivery
from .timeouts import limited

Judge = Callable[[FailureContext], Awaitable[Judgement]]


class Fence(Protocol):
    """What a processor needs to know of a message's partition (`PartitionState` of `consumption` is one)."""

    @property
    def revoked(self) -> bool:
        """Whether the partition was taken away while the message ran. Another member may have it now."""
        ...


DECODE, HANDLER = Stage.DECODE, Stage.HANDLER  # looking up the member of an enum is slow in Python 3.11
COMPLETED = ConsumptionOutcome()
"""The outcome of every handler that returns nothing. It never changes, so one object serves for all."""


def _no_hint(message: RawMessage) -> str:
    return ""


class ProcessorParts(NamedTuple):
    """What a processor is built from."""

    handler_id: str
    group_id: str
    plan: HandlerPlan
    decode: Decoder | None  # None: the handler takes raw messages
    patience: Patience
    orchestrator: HeadersOrchestrator
    dlq_handler: DLQHandler
    max_attempts: int
    timeout: float | None  # seconds per attempt
    keyed: bool = False  # `decode` gives pairs of the value and the keys that the handler asks for
    hint: Callable[[RawMessage], str] = _no_hint  # for the end of a decode error


class _Processor:
    """Base of the processors: what counts as a failure of a message, and how it is judged.

    Whatever a handler, a dependency or a payload step raises is a failure of the message, and counts as an attempt.
    That includes any `BaseException`: a panic of a Rust extension, `SystemExit`, the `CancelledError` of a task that
    somebody else cancelled. Three things are no failure of the message, and are raised to the caller: anything after
    `closed` was set, the end of the event loop, and a `KeyboardInterrupt` in the main thread (Ctrl-C).

    The strategy sets `closed` in its own `close`, just before it cancels the handlers. It tells the `log` what becomes
    of failures that it deals with itself.
    """

    def __init__(self, parts: ProcessorParts) -> None:
        self.closed = False  # the strategy is closing: whatever handlers do now, nothing may be concluded
        self._owner = Owner()
        self._parts = parts
        self._plan = parts.plan
        self._decode = parts.decode
        self.keyed = parts.keyed
        self.patience = parts.patience
        self._waiting = parts.patience.waiting
        self._orchestrator = parts.orchestrator
        self._dlq_handler = parts.dlq_handler
        self.log = parts.dlq_handler.log
        self._call: Call = parts.plan.call if parts.timeout is None else limited(parts.plan.call, parts.timeout)

    def decide(self, failure: FailureContext) -> RetryDecision:
        """What the retry policy says about a failure. Nothing is done yet."""
        return self._dlq_handler.decide(failure)

    async def move(self, failure: FailureContext) -> Judgement:
        """Writes a failed message to its retry topic or the DLQ, in the message's own scope."""
        scope = self._orchestrator.open(failure.message, failure.attempt)
        try:
            return await self._safely(self._dlq_handler.move, failure)
        finally:
            self._orchestrator.close(scope, failure.error)

    async def _safely(self, judge: Judge, failure: FailureContext) -> Judgement:
        """Judges a failure. If that fails, only the dead letter is tried again later; the handler is not called."""
        await forget_cancellation()
        try:
            return await judge(failure)
        except BaseException as error:
            if self.ended_by(error):
                raise
            return self._dlq_handler.hold(failure, error)

    def ended_by(self, error: BaseException) -> bool:
        """Whether this error is no failure of the message: we cancelled the call, or the event loop or process ends."""
        return self.closed or is_interrupt(error) or self._owner.ends

    def _waits_for(self, message: RawMessage, error: PayloadUnavailableError, attempt: int) -> Judgement:
        """What becomes of a message whose payload needs something that is away: the same attempt again, after a pause.

        Not a failure of the message: nothing is counted, logged or written.
        """
        delay = self.patience.note(message, error)
        return Judgement(Verdict.WAITS, self._failure(message, error, DECODE, attempt, 0.0), delay)

    def _explained(self, message: RawMessage, error: BaseException) -> None:
        """Adds to a decode error what the message tells about it. The message waits for nothing any more."""
        if self._waiting:
            self.patience.arrived(message)
        if not isinstance(error, PayloadDecodeError) or str(error).startswith("the key"):
            return
        if hint := self._parts.hint(message):
            error.args = (f"{error}{hint}",)

    def _failure(
        self, message: RawMessage, error: BaseException, stage: Stage, attempt: int, first_failed_at: float
    ) -> FailureContext:
        now = time()
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

    def _delivery(
        self,
        message: RawMessage,
        attempt: int,
        messages: Sequence[RawMessage] | None = None,
        keys: Sequence[Any] = (),
    ) -> Delivery:
        returns = self._dlq_handler.returns
        before = returns.origin(message).attempts if returns.is_retry(message.topic) else 0
        return Delivery(message, DeliveryAttempt(before + attempt, self._parts.max_attempts), messages, keys)


class SingleMessageProcessor(_Processor):
    """Handles one message per call of the handler."""

    def __init__(self, parts: ProcessorParts) -> None:
        super().__init__(parts)
        self._direct = parts.plan.direct if parts.timeout is None else None

    async def process(
        self, message: RawMessage, attempt: int, first_failed_at: float = 0.0, fence: Fence | None = None
    ) -> ConsumptionOutcome | Judgement | None:
        """One attempt at a message: gives what the handler returned, or what becomes of the message that failed.

        None: its partition was revoked meanwhile (`fence`), and it failed, or what it needs was still waited for; the
        new owner handles the message.

        `attempt` counts from 1. `first_failed_at` is in seconds since the epoch, 0 if the message has not failed.

        Raises only what is no failure of the message: our own cancellation, the end of the event loop or the process.
        """
        stage = Stage.HEADERS
        error: BaseException | None = None
        scope: Scope | None = None
        try:
            scope = self._orchestrator.open(message, attempt)
            stage = DECODE
            value = message if self._decode is None else self._decode(message)
            if type(value) is Later or self._waiting:
                value = await self._there(message, value)
                if value is GONE:
                    return None
            stage = HANDLER
            if self._direct is not None:
                result = await self._direct(value)
                return COMPLETED if result is None else ConsumptionOutcome(result)
            keys: Sequence[Any] = ()
            if self.keyed:
                value, keys = cast(Any, value)
            return ConsumptionOutcome(await self._call(value, self._delivery(message, attempt, None, keys)))
        except BaseException as caught:
            error = caught
            if self.ended_by(caught):
                raise
            if stage is DECODE:
                if isinstance(caught, PayloadUnavailableError):
                    return self._waits_for(message, caught, attempt)
                self._explained(message, caught)
            failure = self._failure(message, caught, _stage(stage, caught), attempt, first_failed_at)
            if fence is not None and fence.revoked:
                self.log.fenced(failure)
                return None
            return await self._safely(self._dlq_handler.handle, failure)
        finally:
            if scope is not None:
                self._orchestrator.close(scope, error)

    async def _there(self, message: RawMessage, value: Any) -> Any:
        """The value, waited for by one attempt if it is a `Later`."""
        if isinstance(value, Later):
            value = await self.patience.of(message, value)
        self.patience.arrived(message)
        return value


class OrderedMessageProcessor(SingleMessageProcessor):
    """Decodes a message when it arrives, to read its sequence number, and handles it when its turn comes."""

    def decode(self, message: RawMessage) -> Any:
        """The value of a message, or a `Later`, decoded in its context and trace, without a span.

        Raises what the pipeline raises; but for `PayloadUnavailableError`: then it gives a `Later`.
        """
        if self._decode is None:
            return message
        scope = self._orchestrator.open_reading(message)
        try:
            return self._decode(message)
        except PayloadUnavailableError:
            return Later(partial(self._decode_later, self._decode, message))
        finally:
            self._orchestrator.close(scope, None)

    async def _decode_later(self, decode: Decoder, message: RawMessage) -> Any:
        value = decode(message)
        return await value if isinstance(value, Later) else value

    def is_redriven(self, message: RawMessage) -> bool:
        """Whether the message was sent back from the DLQ (redriven)."""
        return self._dlq_handler.returns.source_of(message.topic) != message.topic

    def refusal(
        self, message: RawMessage, error: BaseException, stage: Stage = Stage.DECODE, first_failed_at: float = 0.0
    ) -> FailureContext:
        """The failure of a message that does not get as far as the handler; to be given to `move`."""
        if stage is DECODE:
            self._explained(message, error)
        return self._failure(message, error, stage, 1, first_failed_at)

    async def handle(
        self, message: RawMessage, value: Any, attempt: int, first_failed_at: float, *, hold: bool
    ) -> ConsumptionOutcome | Judgement | FailureContext | None:
        """As `process`, for a message that has been decoded already. A retry decodes it anew: a handler may change it.

        With `hold`, a message that has used up its attempts does not go to the DLQ: its failure is returned, and the
        caller keeps the message (this is no `Hold` of a partition). None: its partition was taken away while it was
        waited for.

        The body repeats that of `process`: shared code would cost every message of either kind one more call.
        """
        stage = Stage.HEADERS
        error: BaseException | None = None
        scope: Scope | None = None
        try:
            scope = self._orchestrator.open(message, attempt)
            stage = DECODE
            if attempt > 1 and self._decode is not None:
                value = self._decode(message)
            if type(value) is Later or self._waiting:
                value = await self._there(message, value)
                if value is GONE:
                    return None
            stage = HANDLER
            if self._direct is not None:
                result = await self._direct(value)
                return COMPLETED if result is None else ConsumptionOutcome(result)
            keys: Sequence[Any] = ()
            if self.keyed:
                value, keys = cast(Any, value)
            return ConsumptionOutcome(await self._call(value, self._delivery(message, attempt, None, keys)))
        except BaseException as caught:
            error = caught
            if self.ended_by(caught):
                raise
            if stage is DECODE:
                if isinstance(caught, PayloadUnavailableError):
                    return self._waits_for(message, caught, attempt)
                self._explained(message, caught)
            failure = self._failure(message, caught, _stage(stage, caught), attempt, first_failed_at)
            if hold and not self.decide(failure).again:
                return failure
            return await self._safely(self._dlq_handler.handle, failure)
        finally:
            if scope is not None:
                self._orchestrator.close(scope, error)


@dataclass(slots=True)
class BatchReport:
    """The result of one call of a batch handler: which messages are handled, and what happened to the others."""

    handled: Sequence[RawMessage] = ()
    undecodable: list[FailureContext] = field(default_factory=list)  # for `move`
    failure: FailureContext | None = None  # of the first message of `left`
    left: list[RawMessage] = field(default_factory=list)  # decoded, not handled
    blamed: bool = False  # the handler named the message to blame (`BatchItemError`): it is the first of `left`
    waits: float | None = None  # nothing was done, as something is away that payloads need: seconds to the next attempt
    gone: bool = False  # nothing was done, as the partition was taken away meanwhile


class BatchMessageProcessor(_Processor):
    """Handles several messages of one partition per call of the handler."""

    async def process(self, messages: Sequence[RawMessage], attempt: int, first_failed_at: float = 0.0) -> BatchReport:
        """One attempt at a batch. `attempt` and `first_failed_at` are as with single messages.

        Raises only what is no failure of a message: our own cancellation, the end of the event loop or the process.
        """
        error: BaseException | None = None
        scope: Scope | None = None
        try:
            scope = self._orchestrator.open_batch(messages, attempt)
            report, decoded, values = await self._decode_all(messages, attempt)
            if values:
                error = await self._handle(report, decoded, values, attempt, first_failed_at)
            return report
        except BaseException as fatal:
            error = fatal
            if scope is not None or self.ended_by(fatal):
                raise
            failure = self._failure(messages[0], fatal, Stage.HEADERS, attempt, first_failed_at)
            return BatchReport(failure=failure, left=list(messages))
        finally:
            if scope is not None:
                self._orchestrator.close(scope, error)

    async def _decode_all(
        self, messages: Sequence[RawMessage], attempt: int
    ) -> tuple[BatchReport, list[RawMessage], list[Any]]:
        decode = self._decode
        if decode is None:
            return BatchReport(), list(messages), list(messages)
        values: list[Any] = []
        if not self._waiting:
            try:
                values = [decode(message) for message in messages]
            except BaseException as error:
                if self.ended_by(error):
                    raise
            else:
                if Later not in set(map(type, values)):
                    return BatchReport(), list(messages), values
        # outside the except block, as the same error would be shown twice in the traceback, as its own cause
        values = await self.patience.of_all(messages, values or self._decode_each(decode, messages))
        return self._sorted_out(messages, values, attempt)

    def _decode_each(self, decode: Decoder, messages: Sequence[RawMessage]) -> list[Any]:
        """The values, each perhaps a `Later`, with errors in place of those that cannot be decoded."""
        values: list[Any] = []
        for message in messages:
            try:
                values.append(decode(message))
            except BaseException as error:
                if self.ended_by(error):
                    raise
                values.append(Failed(error))
        return values

    def _sorted_out(
        self, messages: Sequence[RawMessage], values: Sequence[Any], attempt: int
    ) -> tuple[BatchReport, list[RawMessage], list[Any]]:
        """What can be handled, and in the report what cannot. Nothing can, if something is away."""
        report, decoded, found = BatchReport(), list[RawMessage](), list[Any]()
        for message, value in zip(messages, values, strict=True):
            error = value.error if isinstance(value, Failed) else None
            if error is None:
                decoded.append(message)
                found.append(value)
            elif isinstance(error, PayloadUnavailableError):
                report.waits = max(report.waits or 0.0, self.patience.note(message, error))
            else:
                self._explained(message, error)
                report.undecodable.append(self._failure(message, error, DECODE, attempt, 0.0))
        report.gone = any(value is GONE for value in found)
        if report.waits is not None or report.gone:
            return BatchReport(waits=report.waits, gone=report.gone), [], []
        if self._waiting:
            for message in decoded:
                self.patience.arrived(message)
        return report, decoded, found

    async def _handle(
        self, report: BatchReport, decoded: list[RawMessage], values: list[Any], attempt: int, first_failed_at: float
    ) -> BaseException | None:
        keys: Sequence[Any] = ()
        if self.keyed:
            values, keys = [value for value, _ in values], [of_message for _, of_message in values]
        try:
            await self._call(values, self._delivery(decoded[0], attempt, decoded, keys))
        except BaseException as error:
            if self.ended_by(error):
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

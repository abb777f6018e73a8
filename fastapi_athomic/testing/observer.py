"""What looks on for a test kit: composed around each handler and the publisher when the app starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ..checks import did_you_mean
from ..discovery import Discovered
from ..exceptions import BatchItemError, ConfigurationError, HandlerNotFoundError
from ..failures.dlq import Judgement, Verdict
from ..handling.plans import Delivery
from ..handling.processors import ProcessorParts
from ..handling.timeouts import limited
from ..messages import MessageHeaders, OutgoingMessage, PublishedMessage, RawMessage
from ..outcomes import FailureContext
from ..propagation.context import get_context
from ..subscriptions import Subscription
from ..transports.base import Transport, TransportProducer
from .expectations import Expectations
from .hints import on_stranger
from .injected import Injections
from .records import Decode, Deferred, Failure, Handled, Identity, Outcome, Published, Records, identity
from .wrapped import WrappedTransport

_diverting: ContextVar[list[OutgoingMessage] | None] = ContextVar("athomic_diverting", default=None)
"""Takes what is published in place of the broker."""

Handler = Callable[..., Any] | str
"""A handler: its function, or its id."""


@contextmanager
def diverted() -> Iterator[list[OutgoingMessage]]:
    """What is published inside the `with` block is encoded, comes into this list, and goes nowhere else."""
    taken: list[OutgoingMessage] = []
    token = _diverting.set(taken)
    try:
        yield taken
    finally:
        _diverting.reset(token)


class HandlerWatch:
    """Sees one handler at work: it is its `Witness`, and stands between the processor and the handler."""

    def __init__(self, handler_id: str, observer: KitObserver) -> None:
        self.handler_id = handler_id
        self.records, self._injections = observer.records, observer.injections
        self._expectations, self._now = observer.expectations, observer.now
        self.handler: Discovered  # set once it is wired, as is `parts`
        self.parts: ProcessorParts

    def wired(self, handler: Discovered, parts: ProcessorParts) -> ProcessorParts:
        """What the handler's processors are built from, with this watch in between."""
        self.handler = handler
        call, timeout = parts.plan.call, parts.timeout
        self._inner = call if timeout is None else limited(call, timeout)  # nothing completes after its timeout
        batch = handler.subscription.batch_size is not None
        plan = parts.plan._replace(call=self._call_batch if batch else self._call, direct=None)
        self.parts = parts._replace(plan=plan, timeout=None)
        return self.parts

    def asks_for_payloads(self) -> bool:
        """Whether something away from here, such as a schema registry, is being asked for what a payload needs."""
        return self.parts.patience.is_asking

    # --- failures

    def failed(self, failure: FailureContext) -> None:
        self.records.note_attempt(identity(self.handler_id, failure.origin), failure.attempt)
        wanted = self._injections.is_ours(failure.error)
        expected = wanted or self._expectations.cover(self.handler_id, failure.error)
        self.records.failures.append(Failure(failure, expected))

    def settled(self, judgement: Judgement) -> None:
        failure = judgement.failure
        which = identity(self.handler_id, failure.origin)
        if judgement.verdict is Verdict.DEFERRED:
            self.records.put_off(which, self._deferred(which, failure))
        else:
            outcome: Outcome = "dead_lettered" if judgement.verdict is Verdict.DEAD_LETTERED else "skipped"
            self._conclude(which, failure.message, outcome, error=failure.error)

    def _deferred(self, which: Identity, failure: FailureContext) -> Deferred:
        later = self.parts.dlq_handler.decide(failure).later or 0.0
        return Deferred(
            handler_id=self.handler_id,
            topic=which.topic,
            partition=which.partition,
            offset=which.offset,
            message=self.records.seen(which).message,
            attempts=failure.attempt,
            error=failure.error,
            due_at=failure.failed_at + later,
            now=self._now,
        )

    # --- calls

    async def _call(self, value: Any, delivery: Delivery) -> Any:
        which = self._which(delivery.message)
        self.records.note(which, value, delivery.attempt.number)
        result = await self._run(value, delivery)
        self._conclude(which, delivery.message, "completed", result)
        return result

    async def _call_batch(self, values: Any, delivery: Delivery) -> Any:
        messages, number = delivery.messages or (), self.records.next_call(self.handler_id)
        for message, value in zip(messages, values, strict=True):
            which = self._which(message)
            self.records.note(which, value, self.records.seen(which).attempts + 1, number)
        try:
            result = await self._run(values, delivery)
        except BatchItemError as error:
            if 0 <= error.index < len(messages):
                self._conclude_all(messages[: error.index])
            raise
        self._conclude_all(messages, result)
        return result

    async def _run(self, value: Any, delivery: Delivery) -> Any:
        injected = self._injections.next_of(self.handler_id)
        if injected is not None and injected.before:
            self._injections.fail(injected)
        result = await self._inner(value, delivery)
        if injected is not None:
            self._injections.fail(injected)
        return result

    def _conclude_all(self, messages: Sequence[RawMessage], result: Any = None) -> None:
        for message in messages:
            self._conclude(self._which(message), message, "completed", result)

    def _which(self, message: RawMessage) -> Identity:
        return identity(self.handler_id, self.parts.dlq_handler.returns.origin(message))

    def _conclude(
        self,
        which: Identity,
        message: RawMessage,
        outcome: Outcome,
        result: Any = None,
        error: BaseException | None = None,
    ) -> None:
        seen = self.records.seen(which)
        handled = Handled(
            handler_id=self.handler_id,
            topic=which.topic,
            partition=which.partition,
            offset=which.offset,
            key=message.key,
            message=seen.message,
            raw=message,
            headers=MessageHeaders(message.headers),
            outcome=outcome,
            attempts=seen.attempts,
            result=result,
            error=error,
            context=get_context(),
            batch=seen.batch,
        )
        self.records.conclude(which, handled)


class KitObserver:
    """See `Observer`. One for each run of an app in a kit."""

    def __init__(self, decode: Decode, now: Callable[[], float]) -> None:
        """`decode`: of what was published. `now`: seconds since the epoch, by the clock that the app goes by."""
        self.records = Records()
        self.injections = Injections()
        self.expectations = Expectations()
        self.decode, self.now = decode, now
        self.watches: dict[str, HandlerWatch] = {}

    def witness(self, subscription: Subscription) -> HandlerWatch:
        watch = self.watches[subscription.handler_id] = HandlerWatch(subscription.handler_id, self)
        return watch

    def processing(self, handler: Discovered, parts: ProcessorParts) -> ProcessorParts:
        return self.watches[handler.subscription.handler_id].wired(handler, parts)

    def publishing(self, transport: Transport) -> Transport:
        return _PublishingTransport(transport, self.records, self.decode)

    # --- which handler is meant

    def subscriptions(self) -> list[Subscription]:
        """Those of all handlers that the app has started."""
        return [watch.handler.subscription for watch in self.watches.values()]

    def ids(self, handler: Handler) -> frozenset[str]:
        """The ids of a handler: several, if its function has several subscriptions.

        Raises:
            HandlerNotFoundError: the app has no such handler.
        """
        if isinstance(handler, str):
            found = {handler} & self.watches.keys()
        else:
            found = {name for name, watch in self.watches.items() if watch.handler.function == handler}
        if not found:
            raise HandlerNotFoundError(self._not_found(handler))
        return frozenset(found)

    def one(self, handler: Handler) -> HandlerWatch:
        """The one handler that is meant.

        Raises:
            HandlerNotFoundError: the app has no such handler.
            ConfigurationError: the function has several subscriptions.
        """
        ids = self.ids(handler)
        if len(ids) > 1:
            raise ConfigurationError(f"that function is several handlers, name one of them: {', '.join(sorted(ids))}")
        return self.watches[next(iter(ids))]

    def _not_found(self, handler: Handler) -> str:
        known = ", ".join(sorted(self.watches)) or "none"
        if isinstance(handler, str):
            return f"no handler of the app has the id {handler!r}{did_you_mean(handler, self.watches)}; it has: {known}"
        name = getattr(handler, "__qualname__", type(handler).__name__)
        return f"{name} is no handler of the app; it has: {known}{on_stranger(handler)}"


class _PublishingTransport(WrappedTransport):
    """Remembers what is published through it."""

    def __init__(self, inner: Transport, records: Records, decode: Decode) -> None:
        super().__init__(inner)
        self._records, self._decode = records, decode

    @property
    def producer(self) -> TransportProducer:
        return _PublishingProducer(self.inner.producer, self._records, self._decode)


@dataclass(frozen=True, slots=True)
class _PublishingProducer:
    inner: TransportProducer
    records: Records
    decode: Decode

    async def send(self, messages: Sequence[OutgoingMessage], timeout: float) -> list[PublishedMessage | Exception]:
        if (taken := _diverting.get()) is not None:
            taken.extend(messages)
            return [PublishedMessage(message.topic, message.partition or 0, -1) for message in messages]
        results = await self.inner.send(messages, timeout)
        for message, result in zip(messages, results, strict=True):
            self._note(message, result)
        return results

    async def send_alone(self, message: OutgoingMessage, timeout: float) -> PublishedMessage | Exception:
        result = await self.inner.send_alone(message, timeout)
        self._note(message, result)
        return result

    def _note(self, message: OutgoingMessage, result: PublishedMessage | Exception) -> None:
        if isinstance(result, Exception):
            return
        published = Published(
            topic=message.topic,
            partition=result.partition,
            offset=result.offset,
            key=message.key,
            value=message.value,
            headers=MessageHeaders(message.headers),
            reader=self.decode,
        )
        self.records.published.append(published)

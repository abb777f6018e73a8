"""An orchestrator: makes the span, context and lineage of a message current, and the headers of what is published.

A processor calls `open` before it decodes a message and `close` when it has finished with it, in the same task; the
handler runs between the two. `close` also undoes what the handler changed in the current context or trace.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import Token
from functools import partial
from typing import Any, Protocol

from opentelemetry import context as trace_contexts
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import Link, Span

from ..complaints import Complaints
from ..messages import Headers, PublishedMessage, RawMessage
from .context import (
    EMPTY,
    ContextAdapter,
    ExecutionContext,
    Messages,
    apply_context,
    current_messages,
    undo_context,
)
from .lineage import PARENT, ROOT, RUN, JobRun, Lineage, LineageAdapter
from .telemetry import MessagingTelemetryAdapter
from .trace_headers import NO_CONTEXT, TRACE_HEADERS, UnreadContext

logger = logging.getLogger(__name__)

MAX_TOPICS = 100
"""Most topics that a handler publishes to that are remembered."""


def _attaching() -> tuple[Callable[[Context], Token[Context]], Callable[[Token[Context]], None]]:
    """OpenTelemetry's `attach` and `detach`, without their two frames around a context variable.

    Private in OpenTelemetry 1.x; with another runtime context, the public functions are used.
    """
    runtime = trace_contexts._RUNTIME_CONTEXT
    if type(runtime) is ContextVarsRuntimeContext:
        return runtime._current_context.set, runtime._current_context.reset
    return trace_contexts.attach, trace_contexts.detach


attach, detach = _attaching()

LINEAGE_HEADERS = frozenset((RUN, PARENT, ROOT))

Scope = tuple[Token[Any], Token[Context], Span | None, Messages | None]
"""What `close` needs: how to restore context and trace, the span, and the messages if this is their first attempt.

A plain tuple: one is made per message.
"""


class Open(Protocol):
    """Makes a message's span, context and lineage current. `attempt` counts from 1; `links` are added to its span."""

    def __call__(self, message: RawMessage, /, attempt: int = 1, links: Sequence[Link] = ()) -> Scope: ...


class PublishScope:
    """A publish under way: the headers to send, and its span if there is one."""

    __slots__ = ("headers", "span")

    def __init__(self, headers: Headers, span: Span | None) -> None:
        self.headers = headers
        self.span = span


class HeadersOrchestrator:
    """Runs the adapters over headers. No header makes it fail: an adapter that raises is left out, with a log line.

    It costs half a microsecond per message: context and lineage are parsed only when something asks for them.
    `published_topics` are those that the handler has published to while it handled messages.
    """

    def __init__(
        self,
        telemetry: MessagingTelemetryAdapter,
        lineage: LineageAdapter | None,
        context: ContextAdapter,
        handler_id: str = "",
    ) -> None:
        self._telemetry = telemetry
        self._trace_headers = telemetry.trace_headers
        self._tracing = telemetry.enabled
        self.open: Open = self._open_span if telemetry.enabled else self.open_reading
        self._lineage = lineage
        self._context = context
        self._complaints = Complaints(burst=1)
        self.handler_id = handler_id
        self.published_topics: set[str] = set()

    # --- consuming

    def open_reading(self, message: RawMessage, attempt: int = 1, links: Sequence[Link] = ()) -> Scope:
        """`open` without a span. Used as `open` when there is no SDK, and for a message that is handled later."""
        received = (self, message, None)
        if not message.headers:
            return apply_context(received), attach(NO_CONTEXT), None, None
        parent = UnreadContext()
        parent.unread = received
        return apply_context(received), attach(parent), None, None

    def open_batch(self, messages: Sequence[RawMessage], attempt: int = 1, links: Sequence[Link] = ()) -> Scope:
        """`open` for a batch. It has one span; its context and lineage are what all its messages have in common."""
        if self._tracing:
            return self._open_span(messages, attempt, links)
        return apply_context((self, messages, None)), attach(NO_CONTEXT), None, None

    def _open_span(self, messages: Messages, attempt: int = 1, links: Sequence[Link] = ()) -> Scope:
        span: Span | None = None
        current = NO_CONTEXT
        try:
            span, current = self._telemetry.start(messages, attempt, links)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._complain(self._telemetry, error)
        return apply_context((self, messages, None)), attach(current), span, messages if attempt == 1 else None

    def close(self, scope: Scope, error: BaseException | None) -> None:
        """Ends the span, and restores what was current before `open`. Never raises."""
        context, trace_context, span, first_attempt_of = scope
        try:
            undo_context(context)
        except ValueError:  # an abandoned coroutine: the garbage collector closes it in some other context
            logger.debug("the scope of an abandoned handler was closed in another context")
        else:
            detach(trace_context)  # after a ValueError above it would log an error with a traceback
        if span is not None:
            self._finish(span, error, first_attempt_of)

    # --- publishing

    def inject(self, headers: Headers = ()) -> Headers:
        """Adds the headers of the current trace, context and lineage. The given ones stay as they are, and win."""
        return self._inject(headers, None)

    def open_publish(self, topic: str, headers: Headers, value: bytes | None, count: int | None = None) -> PublishScope:
        """Starts the span of a publish. The scope has the headers to send.

        `count` is the number of messages of a batch, None for a single message.
        """
        received = current_messages()
        if received is not None:
            received[0].note_published(topic)
        span: Span | None = None
        if self._tracing:
            try:
                span = self._telemetry.start_publish(topic, value, count)
            except Exception as error:
                self._complain(self._telemetry, error)
        return PublishScope(self._inject(headers, span), span)

    def published(self, scope: PublishScope, result: PublishedMessage) -> None:
        """Records on the span where the broker put the message."""
        if scope.span is not None:
            self._telemetry.published(scope.span, result)

    def close_publish(self, scope: PublishScope, error: BaseException | None) -> None:
        """Ends the span of the publish. Never raises."""
        if scope.span is not None:
            self._finish(scope.span, error, None)

    def _inject(self, given: Headers, span: Span | None) -> Headers:
        taken = {name for name, _ in given}
        for belonging_together in (TRACE_HEADERS, LINEAGE_HEADERS):  # not one from the caller and another from us
            if not taken.isdisjoint(belonging_together):
                taken |= belonging_together
        added = self._outgoing(self._telemetry, partial(self._trace_headers.outgoing, span))
        added += self._outgoing(self._context, self._context.outgoing)
        if self._lineage is not None:
            added += self._outgoing(self._lineage, self._lineage.outgoing)
        return given + tuple(header for header in added if header[0] not in taken)

    def _outgoing(self, adapter: object, headers: Callable[[], Headers]) -> Headers:
        try:
            return headers()
        except Exception as error:
            self._complain(adapter, error)
            return ()

    @property
    def lineage_run(self) -> JobRun | None:
        """The handler's own run; None if lineage is off."""
        return self._lineage.run if self._lineage is not None else None

    def note_published(self, topic: str) -> None:
        """The handler has published to this topic while it handled messages."""
        if len(self.published_topics) < MAX_TOPICS:
            self.published_topics.add(topic)

    # --- reading headers that something asks for (`TraceReader`, `HeadersReader`)

    def read_trace(self, message: RawMessage) -> Context:
        nothing = attach(NO_CONTEXT)  # a propagator may look at the current context, which is what is being read
        try:
            return self._trace_headers.remote_context(message.headers)
        except Exception as error:
            self._complain(self._telemetry, error)
            return NO_CONTEXT
        finally:
            detach(nothing)

    def read_context(self, messages: Messages) -> ExecutionContext:
        try:
            return self._context.read(messages)
        except Exception as error:
            self._complain(self._context, error)
            return EMPTY

    def read_lineage(self, messages: Messages) -> Lineage | None:
        if self._lineage is None:
            return None
        try:
            return self._lineage.read(messages)
        except Exception as error:
            self._complain(self._lineage, error)
            return None

    def _complain(self, adapter: object, error: BaseException) -> None:
        """Logs the type of the error only: its text may contain header values."""
        name = type(adapter).__name__
        unsaid = self._complaints.due(name)
        if unsaid is not None:
            logger.warning(
                "%s failed and is left out: %s (%d more since the last such warning)",
                name,
                type(error).__name__,
                unsaid,
            )

    def _finish(self, span: Span, error: BaseException | None, first_attempt_of: Messages | None) -> None:
        try:
            self._telemetry.finish(span, error, first_attempt_of)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:
            self._complain(self._telemetry, problem)

"""The spans of messages, through the OpenTelemetry API, with the app's own tracer provider.

They follow the messaging conventions (https://opentelemetry.io/docs/specs/semconv/messaging/): `send {topic}` around
a publish, and `process {topic}` around the handling of a message, as a child of the producer's span. A batch is one
span, with a link per message. Without an SDK there are no spans, but what a handler publishes still carries on the
trace that came with the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TracerProvider

from ..error_text import presentable, summary, type_name
from ..messages import FAILURE_TRACE, REDRIVES, Headers, PublishedMessage, RawMessage
from .context import Messages
from .trace_headers import NO_CONTEXT, SPAN_KEY, TraceHeaders, read_w3c

FIRST_ATTEMPTS = 1_000
"""Most messages between two attempts whose first span is remembered, so that the next one can link to it."""

# The names in opentelemetry-semantic-conventions 0.66. That package warns that they may still change, and importing it
# takes longer than repeating them.
SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
OFFSET = "messaging.kafka.offset"
KEY = "messaging.kafka.message.key"
TOMBSTONE = "messaging.kafka.message.tombstone"
GROUP = "messaging.consumer.group.name"
CLIENT_ID = "messaging.client.id"
BODY_SIZE = "messaging.message.body.size"
MESSAGE_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"

_name = itemgetter(0)

MessageId = tuple[str, int, int]


class MessagingTelemetryAdapter:
    """Makes the spans of one consumer, or of the app's publishing.

    `enabled` is false without an SDK: no spans are made. `trace_headers` are those of its propagator.

    Args:
        tracer_provider: None without an SDK. See `resolve_tracer_provider`.
        propagator: None: the global one.
        system: `messaging.system`, the scheme of the transport.
        record_keys: put message keys on spans. They may be personal data, so it is off by default.
        expose_errors: record what exceptions say, not only their types and the places they passed through.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        propagator: TextMapPropagator | None = None,
        *,
        system: str = "kafka",
        client_id: str = "",
        group_id: str = "",
        record_keys: bool = False,
        expose_errors: bool = True,
    ) -> None:
        self.trace_headers = TraceHeaders(propagator)
        self._remote_context = self.trace_headers.remote_context
        self._common = {SYSTEM: system} | ({CLIENT_ID: client_id} if client_id else {})
        self._group = {GROUP: group_id} if group_id else {}
        self._record_keys = record_keys
        self._expose_errors = expose_errors
        self._spans_of_topics: dict[str, tuple[str, dict[str, Any]]] = {}
        self._first_attempts: dict[MessageId, SpanContext] = {}
        self._tracer = _tracer(tracer_provider)
        self.enabled = not isinstance(self._tracer, trace.NoOpTracer | trace.ProxyTracer)

    # --- consuming

    def start(self, messages: Messages, attempt: int = 1, links: Sequence[Link] = ()) -> tuple[Span, Context]:
        """Starts the span of a message or a batch; returns it and the context in which it is current.

        Only if `enabled`. The span of a message is a child of the producer's span. That of a batch is a root, with a
        link to the producer's span of each message; the SDK keeps the last 128 links (`OTEL_SPAN_LINK_COUNT_LIMIT`).
        """
        if attempt > 1:
            links = (*links, *self._link_to_first_attempt(messages))
        if isinstance(messages, RawMessage):
            return self._start_single(messages, links)
        return self._start_batch(messages, links)

    def _start_single(self, message: RawMessage, links: Sequence[Link]) -> tuple[Span, Context]:
        topic, partition, offset, _, key, value, headers = message
        name, common = self._spans_of_topics.get(topic) or self._span_of_topic(topic)
        parent = NO_CONTEXT
        if headers:
            parent = self._remote_context(headers)
            if REDRIVES in map(_name, headers):
                parent, links = self._as_links(parent, headers, links)
        attributes = {**common, PARTITION: str(partition), OFFSET: offset}
        if value is None:
            attributes[TOMBSTONE] = True
        else:
            attributes[BODY_SIZE] = len(value)
        if self._record_keys and key is not None:
            attributes[KEY] = key.decode("utf-8", "replace")
        span = self._tracer.start_span(name, parent, SpanKind.CONSUMER, attributes, links)
        return span, Context({**parent, SPAN_KEY: span})

    def _as_links(self, parent: Context, headers: Headers, links: Sequence[Link]) -> tuple[Context, Sequence[Link]]:
        """A redrive begins a new trace: the message's first trace, and the span in which it failed, become links."""
        failure = tuple(("traceparent", value) for name, value in headers if name == FAILURE_TRACE)
        for context in (parent, read_w3c(failure)):
            span = trace.get_current_span(context).get_span_context()
            if span.is_valid:
                links = (*links, Link(span))
        return trace.set_span_in_context(trace.INVALID_SPAN, parent), links

    def _start_batch(self, messages: Sequence[RawMessage], links: Sequence[Link]) -> tuple[Span, Context]:
        name, attributes = self._span_of_topic(messages[0].topic)
        span = self._tracer.start_span(name, NO_CONTEXT, SpanKind.CONSUMER, attributes, links)
        if span.is_recording():
            span.set_attributes({MESSAGE_COUNT: len(messages), PARTITION: str(messages[0].partition)})
            span_context = self.trace_headers.span_context
            for message in messages:
                producer = span_context(message.headers)
                if producer.is_valid:
                    span.add_link(producer)
        return span, trace.set_span_in_context(span, NO_CONTEXT)

    def finish(self, span: Span, error: BaseException | None, first_attempt_of: Messages | None = None) -> None:
        """Ends the span. An error is recorded as the conventions say: an event `exception`, `error.type`, the status.

        https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/ and
        https://opentelemetry.io/docs/specs/semconv/general/recording-errors/. `first_attempt_of` are the messages if
        this was their first attempt: later ones will link to it.
        """
        try:
            if error is not None and span.is_recording():
                if first_attempt_of is not None:
                    self._remember(first_attempt_of, span.get_span_context())
                self._record_error(span, error)
        finally:
            span.end()

    # --- publishing

    def start_publish(self, topic: str, value: bytes | None, count: int | None = None) -> Span:
        """Starts the span of a publish, as a child of the current one. Only if `enabled`.

        `count` is the number of messages of a batch (which may be 1), None for a single message.
        """
        attributes = self._attributes("send", topic)
        span = self._tracer.start_span(f"send {topic}", None, SpanKind.PRODUCER, attributes)
        if not span.is_recording():
            return span
        if count is not None:
            span.set_attribute(MESSAGE_COUNT, count)
        else:
            span.set_attributes(_of_value(value))
        return span

    @staticmethod
    def published(span: Span, result: PublishedMessage) -> None:
        """Records where the broker put the message."""
        if span.is_recording():
            span.set_attributes({PARTITION: str(result.partition), OFFSET: result.offset})

    # --- parts

    def _record_error(self, span: Span, error: BaseException) -> None:
        exposed = self._expose_errors
        span.set_attribute(ERROR_TYPE, type_name(error))
        span.set_status(StatusCode.ERROR, summary(error, exposed=exposed))
        span.record_exception(presentable(error, exposed=exposed))

    def _span_of_topic(self, topic: str) -> tuple[str, dict[str, Any]]:
        """The name of the `process` spans of a topic, and the attributes that all of them have."""
        known = self._spans_of_topics.get(topic)
        if known is None:
            known = self._spans_of_topics[topic] = (
                f"process {topic}",
                self._attributes("process", topic) | self._group,
            )
        return known

    def _attributes(self, operation: str, topic: str) -> dict[str, Any]:
        return self._common | {OPERATION_NAME: operation, OPERATION_TYPE: operation, DESTINATION: topic}

    def _link_to_first_attempt(self, messages: Messages) -> tuple[Link, ...]:
        first = self._first_attempts.get(_id(messages))
        return () if first is None else (Link(first),)

    def _remember(self, messages: Messages, span: SpanContext) -> None:
        while len(self._first_attempts) >= FIRST_ATTEMPTS:
            del self._first_attempts[next(iter(self._first_attempts))]
        self._first_attempts[_id(messages)] = span


def _id(messages: Messages) -> MessageId:
    message = messages if isinstance(messages, RawMessage) else messages[0]
    return message.topic, message.partition, message.offset


def _of_value(value: bytes | None) -> dict[str, Any]:
    return {TOMBSTONE: True} if value is None else {BODY_SIZE: len(value)}


def _tracer(provider: TracerProvider | None) -> trace.Tracer:
    """A tracer; one that does nothing without an SDK, or with one that is disabled (`OTEL_SDK_DISABLED`)."""
    return trace.NoOpTracer() if provider is None else provider.get_tracer("fastapi_athomic")

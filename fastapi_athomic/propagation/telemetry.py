"""Tracing through the OpenTelemetry API, with the app's own provider and propagators.

Spans follow the messaging conventions (https://opentelemetry.io/docs/specs/semconv/messaging/): `send {topic}` around
a publish, and `process {topic}` around the handling of a message, as the child of the producer's span; a batch is one
span with a link per message. Without an SDK no span is made, but the remote trace context still goes on with what a
handler publishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TracerProvider

from ..messages import FAILURE_TRACE, REDRIVES, Headers, PublishedMessage, RawMessage
from .context import Messages
from .trace_headers import NO_CONTEXT, SPAN_KEY, TraceHeaders, read_w3c

FIRST_ATTEMPTS = 1_000
"""Messages between two attempts whose first span is remembered, so that the next one can link to it."""

# The names are those of the conventions in opentelemetry-semantic-conventions 0.66; that package says itself that they
# may still move, and importing it costs more than writing them here.
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
    """The spans of one consumer, or of the app's publishing.

    Args:
        tracer_provider: None: there is no SDK, no spans are made. See `resolve_tracer_provider`.
        propagator: None: the global one.
        system: `messaging.system`, the scheme of the transport.
        record_keys: put message keys on spans. They may be personal data: off unless asked for.
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
    ) -> None:
        self.trace_headers = TraceHeaders(propagator)
        self._remote_context = self.trace_headers.remote_context
        self._common = {SYSTEM: system} | ({CLIENT_ID: client_id} if client_id else {})
        self._group = {GROUP: group_id} if group_id else {}
        self._record_keys = record_keys
        self._spans_of_topics: dict[str, tuple[str, dict[str, Any]]] = {}
        self._first_attempts: dict[MessageId, SpanContext] = {}
        self._tracer = _tracer(tracer_provider)
        self.enabled = not isinstance(self._tracer, trace.NoOpTracer | trace.ProxyTracer)

    # --- consuming

    def start(self, messages: Messages, attempt: int = 1, links: Sequence[Link] = ()) -> tuple[Span, Context]:
        """A started span, and the context in which it is current. Only where `enabled`.

        One message: the child of the producer's span. A batch: a root, with a link to the producer's span of each
        message; of more than 128 the SDK keeps the last, unless `OTEL_SPAN_LINK_COUNT_LIMIT` says otherwise.
        """
        if attempt > 1:
            links = (*links, *self._link_to_first_attempt(messages))
        if isinstance(messages, RawMessage):
            return self._start_single(messages, links)
        return self._start_batch(messages, links)

    def _start_single(self, message: RawMessage, links: Sequence[Link]) -> tuple[Span, Context]:
        topic, partition, offset, _, key, value, headers = message
        name, common = self._span_of_topic(topic)
        parent = self._remote_context(headers)
        if REDRIVES in map(_name, headers):
            parent, links = self._as_links(parent, headers, links)
        attributes = {**common, PARTITION: str(partition), OFFSET: offset, **_of_value(value)}
        if self._record_keys and key is not None:
            attributes[KEY] = key.decode("utf-8", "replace")
        span = self._tracer.start_span(name, parent, SpanKind.CONSUMER, attributes, links)
        return span, Context({**parent, SPAN_KEY: span})

    def _as_links(self, parent: Context, headers: Headers, links: Sequence[Link]) -> tuple[Context, Sequence[Link]]:
        """A redrive is a new story: the message's first trace and the span in which it failed become links."""
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
        """Ends the span. Of an error only the type is told: its text may hold payload."""
        if error is not None and span.is_recording():
            _record_error(span, error)
            if first_attempt_of is not None:
                self._remember(first_attempt_of, span.get_span_context())
        span.end()

    # --- publishing

    def start_publish(self, topic: str, value: bytes | None, count: int | None = None) -> Span:
        """A started span around a publish, the child of the current one. Only where `enabled`.

        `count` is the number of messages of a batch, also of a batch of one; None: it is a single message.
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
        if span.is_recording():
            span.set_attributes({PARTITION: str(result.partition), OFFSET: result.offset})

    # --- parts

    def _span_of_topic(self, topic: str) -> tuple[str, dict[str, Any]]:
        """Name of the spans of a topic, and the attributes that all of them have."""
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


def _record_error(span: Span, error: BaseException) -> None:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute(ERROR_TYPE, name)
    span.add_event("exception", {"exception.type": name})
    span.set_status(StatusCode.ERROR, kind.__name__)


def _tracer(provider: TracerProvider | None) -> trace.Tracer:
    """One that does nothing where there is no SDK.

    An SDK that is switched off (`OTEL_SDK_DISABLED`) gives such a one itself.
    """
    return trace.NoOpTracer() if provider is None else provider.get_tracer("fastapi_athomic")

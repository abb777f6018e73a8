"""Tracing through the OpenTelemetry API, with the app's own provider and propagators.

Spans follow the messaging conventions (https://opentelemetry.io/docs/specs/semconv/messaging/): `send {topic}` around
a publish, and `process {topic}` around the handling of a message, as the child of the producer's span; a batch is one
span with a link per message. Without an SDK no span is made, but the remote trace context still goes on with what a
handler publishes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Protocol

from fastapi import FastAPI
from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TracerProvider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..messages import FAILURE_TRACE, REDRIVES, Headers, PublishedMessage, RawMessage
from .context import Messages

TRACE_HEADERS = frozenset(("traceparent", "tracestate"))
NO_CONTEXT = Context()
_SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, NO_CONTEXT)))  # set_span_in_context copies, slower
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

_W3C = TraceContextTextMapPropagator()
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch
_FLAGS = tuple(map(TraceFlags, range(256)))
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
        self._propagator = propagator or propagate.get_global_textmap()
        self._fields = frozenset(self._propagator.fields)
        self._is_w3c = _is_w3c(self._propagator)
        self._common = {SYSTEM: system} | ({CLIENT_ID: client_id} if client_id else {})
        self._group = {GROUP: group_id} if group_id else {}
        self._record_keys = record_keys
        self._spans_of_topics: dict[str, tuple[str, dict[str, Any]]] = {}
        self._first_attempts: dict[MessageId, SpanContext] = {}
        self._tracer = _tracer(tracer_provider)
        self.enabled = not isinstance(self._tracer, trace.NoOpTracer | trace.ProxyTracer)

    # --- consuming

    def remote_context(self, headers: Headers) -> Context:
        """What the producer's headers say, without a span of our own.

        At a third of the propagators' price in the usual case: one well-formed `traceparent` and no other header for
        them, and they are W3C's.
        """
        if not self._is_w3c:
            return self._extract(headers)
        parent: bytes | None = None
        for name, raw in headers:
            if name in self._fields:
                if parent is not None or name != "traceparent" or raw is None:
                    return self._extract(headers)
                parent = raw
        if parent is None:
            return NO_CONTEXT
        found = _TRACEPARENT(parent)
        if found is None:
            return self._extract(headers)
        trace_id, span_id, flags = found.groups()
        span = SpanContext(int(trace_id, 16), int(span_id, 16), True, _FLAGS[int(flags, 16)])
        return Context({_SPAN_KEY: NonRecordingSpan(span)}) if span.is_valid else NO_CONTEXT

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
        parent = self.remote_context(headers)
        if REDRIVES in map(_name, headers):
            parent, links = self._as_links(parent, headers, links)
        attributes = {**common, PARTITION: str(partition), OFFSET: offset, **_of_value(value)}
        if self._record_keys and key is not None:
            attributes[KEY] = key.decode("utf-8", "replace")
        span = self._tracer.start_span(name, parent, SpanKind.CONSUMER, attributes, links)
        return span, Context({**parent, _SPAN_KEY: span})

    def _as_links(self, parent: Context, headers: Headers, links: Sequence[Link]) -> tuple[Context, Sequence[Link]]:
        """A redrive is a new story: the message's first trace and the span in which it failed become links."""
        failure = tuple(("traceparent", value) for name, value in headers if name == FAILURE_TRACE)
        for context in (parent, _W3C.extract(_carrier(failure, TRACE_HEADERS), NO_CONTEXT)):
            span = trace.get_current_span(context).get_span_context()
            if span.is_valid:
                links = (*links, Link(span))
        return trace.set_span_in_context(trace.INVALID_SPAN, parent), links

    def _start_batch(self, messages: Sequence[RawMessage], links: Sequence[Link]) -> tuple[Span, Context]:
        name, attributes = self._span_of_topic(messages[0].topic)
        span = self._tracer.start_span(name, NO_CONTEXT, SpanKind.CONSUMER, attributes, links)
        if span.is_recording():
            span.set_attributes({MESSAGE_COUNT: len(messages), PARTITION: str(messages[0].partition)})
            for message in messages:
                producer = self.span_context(message.headers)
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

    def outgoing(self, span: Span | None) -> Headers:
        """The headers that make what is published the child of `span`, or of the current span."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, None if span is None else trace.set_span_in_context(span))
        return tuple((name, value.encode()) for name, value in carrier.items())

    # --- parts

    def span_context(self, headers: Headers) -> SpanContext:
        """The producer's span; the invalid one where the headers make no sense."""
        try:
            return trace.get_current_span(self._extract(headers)).get_span_context()
        except Exception:  # a propagator of the user's; this runs inside the handler, which must not fail for it
            return trace.INVALID_SPAN_CONTEXT

    def _extract(self, headers: Headers) -> Context:
        carrier = _carrier(headers, self._fields)
        return self._propagator.extract(carrier, NO_CONTEXT) if carrier else NO_CONTEXT

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


class TraceReader(Protocol):
    """Reads what the headers of a message say of its trace, when somebody asks. Never raises."""

    def read_trace(self, message: RawMessage) -> Context: ...


class UnreadContext(Context):
    """The remote context of a message, which is read when something is first looked up in it.

    It is made for every message, and hardly any handler asks. `unread` is to be set at once: the reader, the message,
    and whatever else the maker has in that tuple.
    """

    __slots__ = ("unread",)
    unread: tuple[TraceReader, RawMessage, Any] | None

    def _read(self) -> UnreadContext:
        unread = self.unread
        if unread is not None:
            reader, message, _ = unread
            dict.update(self, reader.read_trace(message))
            self.unread = None
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return dict.get(self._read(), key, default)

    def __getitem__(self, key: str) -> Any:
        return dict.__getitem__(self._read(), key)

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self._read(), key)

    def __iter__(self) -> Iterator[str]:  # also tells dict(context) and {**context} not to look for themselves
        return dict.__iter__(self._read())

    def __len__(self) -> int:
        return dict.__len__(self._read())

    def __eq__(self, other: object) -> bool:
        return dict.__eq__(self._read(), other)

    def __ne__(self, other: object) -> bool:
        return dict.__ne__(self._read(), other)

    def __or__(self, other: Any) -> Any:
        return dict.__or__(self._read(), other)

    def __repr__(self) -> str:
        return dict.__repr__(self._read())

    def keys(self) -> Any:
        return dict.keys(self._read())

    def values(self) -> Any:
        return dict.values(self._read())

    def items(self) -> Any:
        return dict.items(self._read())

    def copy(self) -> dict[str, Any]:
        return dict.copy(self._read())


def _is_w3c(propagator: TextMapPropagator) -> bool:
    """The global default, or part of it: W3C trace context and baggage, neither of them somebody's own version."""
    members = propagator._propagators if type(propagator) is CompositePropagator else [propagator]
    kinds = [type(member) for member in members]
    return kinds.count(TraceContextTextMapPropagator) == 1 and set(kinds) <= {
        TraceContextTextMapPropagator,
        W3CBaggagePropagator,
    }


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


# --- reading headers


_STATE_KEY = r"[a-z][_0-9a-z\-*/]{0,255}|[a-z0-9][_0-9a-z\-*/]{0,240}@[a-z][_0-9a-z\-*/]{0,13}"
_STATE_MEMBER = re.compile(rf"(?:{_STATE_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_BAGGAGE_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_BAGGAGE_MEMBER = re.compile(rf"{_TOKEN}={_BAGGAGE_VALUE}(?:;{_TOKEN}(?:={_BAGGAGE_VALUE})?)*")
# The limits of W3C Trace Context 3.3.1.5 (a vendor must pass on 512 characters, 32 members) and W3C Baggage 3.3.2.
_MAX_TRACEPARENT, _MAX_STATE, _MAX_STATE_MEMBERS = 128, 512, 32
_MAX_BAGGAGE, _MAX_BAGGAGE_MEMBERS = 8_192, 64
_SPACE = " \t"


def _traceparent(text: str) -> str | None:
    return text if len(text) <= _MAX_TRACEPARENT else None


def _tracestate(text: str) -> str | None:
    members = [member for part in text.split(",") if (member := part.strip(_SPACE))]
    usable = (
        len(text) <= _MAX_STATE and len(members) <= _MAX_STATE_MEMBERS and all(map(_STATE_MEMBER.fullmatch, members))
    )
    return ",".join(members) if usable else None


def _baggage(text: str) -> str | None:
    if len(text) > _MAX_BAGGAGE:
        return None
    members = map(_without_spaces, text.split(",", _MAX_BAGGAGE_MEMBERS)[:_MAX_BAGGAGE_MEMBERS])
    return ",".join(member for member in members if _BAGGAGE_MEMBER.fullmatch(member))


def _without_spaces(member: str) -> str:
    """Without the optional white space around `;` and `=`. Linear in time: a pattern for it is quadratic."""
    properties = (part.partition("=") for part in member.split(";"))
    return ";".join(f"{name.strip(_SPACE)}{equals}{value.strip(_SPACE)}" for name, equals, value in properties)


_CHECKS: Mapping[str, Callable[[str], str | None]] = {
    "traceparent": _traceparent,
    "tracestate": _tracestate,
    "baggage": _baggage,
}


def _checked(name: str, raw: bytes) -> str | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    check = _CHECKS.get(name)
    return text if check is None else check(text)


def _carrier(headers: Headers, wanted: frozenset[str]) -> dict[str, list[str]]:
    """The wanted headers for the propagators; of several with one name the last usable one, as readers in Java take it.

    What is malformed is left out before a propagator sees it: OpenTelemetry's own would log its text, once per message.
    """
    carrier: dict[str, list[str]] = {}
    for name, raw in headers:
        if name in wanted and raw:
            text = _checked(name, raw)
            if text:
                carrier[name] = [text]
    return carrier


# --- the app's tracing


def resolve_tracer_provider(app: FastAPI | None = None, given: TracerProvider | None = None) -> TracerProvider | None:
    """The provider the app traces with: the given one, the app's own (`FastAPI(telemetry=...)`), the global one. None
    without an SDK.

    To be called when the app starts: what is found at import is often not the provider that will be set.
    """
    provider = given or _native_tracing(app).get("tracer_provider") or trace.get_tracer_provider()
    return None if isinstance(provider, trace.NoOpTracerProvider | trace.ProxyTracerProvider) else provider


def instrument_app(app: FastAPI, tracer_provider: TracerProvider | None = None, *, prefix: str = "/consumers") -> None:
    """Sees to it that HTTP requests are traced, once, and the plugin's own routes are not. To be called when the app
    starts.

    Nothing is done without an SDK, for an app that is instrumented already, and for one that traces itself, as
    FastAPI does since it has the argument `telemetry`. Else `FastAPIInstrumentor` is applied, if it is installed; it
    stays, so the next run finds it.
    """
    provider = resolve_tracer_provider(app, tracer_provider)
    if provider is None:
        return
    native = _native_tracing(app)
    if native:  # of an instrumented app too: FastAPI goes on tracing if that came after the stack was built
        _exclude_from_native(native, prefix)
    instrumented = getattr(app, "_is_instrumented_by_opentelemetry", False)
    if instrumented or (native and provider is resolve_tracer_provider(app)):
        return
    try:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    except ImportError:
        return
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls=_excluded_urls(app, prefix))
    # The lifespan that calls us runs inside the stack that was built before; requests are served by a new one.
    app.middleware_stack = app.build_middleware_stack()


def _native_tracing(app: FastAPI | None) -> dict[str, Any]:
    """The settings of FastAPI's own tracing.

    Empty in versions that have none. There is no public way to read them (0.165).
    """
    settings = getattr(app, "_telemetry", None)
    return settings if isinstance(settings, dict) else {}


def _exclude_from_native(settings: dict[str, Any], prefix: str) -> None:
    present = settings.get("exclude")
    if isinstance(present, _Excluding):  # an earlier run, or a second plugin
        present.prefixes.add(prefix)
    else:
        settings["exclude"] = _Excluding(prefix, present)


class _Excluding:
    """Whether a request is left out of FastAPI's telemetry: the plugin's routes, and what the app itself leaves out."""

    def __init__(self, prefix: str, others: Callable[[Mapping[str, Any]], bool] | None) -> None:
        self.prefixes = {prefix}
        self._others = others

    def __call__(self, scope: Mapping[str, Any]) -> bool:
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        own = any(path == prefix or path.startswith(f"{prefix}/") for prefix in self.prefixes)
        return own or (self._others is not None and bool(self._others(scope)))


def _excluded_urls(app: FastAPI, prefix: str) -> str:
    """A pattern for the plugin's routes, beside those that the operator left out by OpenTelemetry's environment
    variables.
    """
    own = rf"//[^/]+(?:{re.escape(app.root_path)})?{re.escape(prefix)}(?:/|$)"
    names = ("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS")
    others = next((value for name in names if (value := os.environ.get(name))), "")
    return ",".join(part for part in (own, others) if part)


def _tracer(provider: TracerProvider | None) -> trace.Tracer:
    """One that does nothing where there is no SDK.

    An SDK that is switched off (`OTEL_SDK_DISABLED`) gives such a one itself.
    """
    return trace.NoOpTracer() if provider is None else provider.get_tracer("fastapi_athomic")

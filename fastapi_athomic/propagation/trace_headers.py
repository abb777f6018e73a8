"""Trace headers become a trace context, and a span becomes trace headers. No span is made here.

The app's own propagator reads and writes them (W3C trace context and baggage, unless it says otherwise). Where no span
is made, they are read only when something looks into the current trace context.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..messages import Headers, RawMessage

TRACE_HEADERS = frozenset(("traceparent", "tracestate"))
EVENT_TRACE = "ce_traceparent"
"""Header of a CloudEvent: the trace in which it began."""
_EVENT = "ce_"
NO_CONTEXT = Context()
# the key under which `set_span_in_context` puts a span; that function itself copies the context
SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, NO_CONTEXT)))

_W3C = TraceContextTextMapPropagator()
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch
_FLAGS = tuple(map(TraceFlags, range(256)))


class TraceHeaders:
    """Reads and writes headers with a propagator. None: the global one, as it is now."""

    def __init__(self, propagator: TextMapPropagator | None = None) -> None:
        self._propagator = propagator or propagate.get_global_textmap()
        self._fields = frozenset(self._propagator.fields)
        self._is_w3c = _is_w3c(self._propagator)

    def remote_context(self, headers: Headers) -> Context:
        """The trace context that the producer sent; else that of a CloudEvent. Raises what the propagator raises.

        In the usual case (one well-formed `traceparent`, no other trace header, W3C propagators) this takes a third of
        the time that the propagators take.
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
            return _of_event(headers, NO_CONTEXT)
        found = _TRACEPARENT(parent)
        if found is None:
            return self._extract(headers)
        trace_id, span_id, flags = found.groups()
        span = SpanContext(int(trace_id, 16), int(span_id, 16), True, _FLAGS[int(flags, 16)])
        return Context({SPAN_KEY: NonRecordingSpan(span)}) if span.is_valid else NO_CONTEXT

    def outgoing(self, span: Span | None) -> Headers:
        """The headers that make what is published a child of `span`, or of the current span if None."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, None if span is None else trace.set_span_in_context(span))
        return tuple((name, value.encode()) for name, value in carrier.items())

    def span_context(self, headers: Headers) -> SpanContext:
        """The producer's span; the invalid one if the headers are malformed. Never raises."""
        try:
            return trace.get_current_span(self._extract(headers)).get_span_context()
        except Exception:  # from the app's own propagator, which must not fail the handler
            return trace.INVALID_SPAN_CONTEXT

    def _extract(self, headers: Headers) -> Context:
        carrier = _carrier(headers, self._fields)
        return _of_event(headers, self._propagator.extract(carrier, NO_CONTEXT) if carrier else NO_CONTEXT)


def read_w3c(headers: Headers) -> Context:
    """The trace context in W3C's headers, whatever propagator the app uses."""
    return _W3C.extract(_carrier(headers, TRACE_HEADERS), NO_CONTEXT)


def _of_event(headers: Headers, found: Context) -> Context:
    """Adds the trace in which a CloudEvent began, unless a header has said from where the message came.

    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/distributed-tracing.md
    """
    for name, _ in headers:
        if name == EVENT_TRACE and not trace.get_current_span(found).get_span_context().is_valid:
            own = tuple((name[len(_EVENT) :], raw) for name, raw in headers if name.startswith(_EVENT))
            return _W3C.extract(_carrier(own, TRACE_HEADERS), found)
    return found


class TraceReader(Protocol):
    """Reads the trace context of a message, for `UnreadContext`. `HeadersOrchestrator` is one."""

    def read_trace(self, message: RawMessage) -> Context:
        """The remote context. Never raises."""
        ...


class UnreadContext(Context):
    """The remote context of a message, which is read when something is first looked up in it.

    One is made for every message, and hardly any handler looks into it. `HeadersOrchestrator.open_reading` sets
    `unread` right after it has made one: the reader, the message, and whatever else that tuple holds. It is None once
    the headers have been read.
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

    def __iter__(self) -> Iterator[str]:  # with this, dict(context) and {**context} call our methods
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
    """Whether it is OpenTelemetry's W3C trace context, with or without baggage, and not a subclass of it.

    `_propagators` is private in OpenTelemetry 1.x, and there is no public way to list them.
    """
    members = propagator._propagators if type(propagator) is CompositePropagator else [propagator]
    kinds = [type(member) for member in members]
    return kinds.count(TraceContextTextMapPropagator) == 1 and set(kinds) <= {
        TraceContextTextMapPropagator,
        W3CBaggagePropagator,
    }


# --- what a propagator gets to see


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
    """Removes the optional white space around `;` and `=`, in linear time: a regular expression is quadratic."""
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
    """The wanted headers for the propagators; of several with one name the last usable one, as in Java (`lastHeader`).

    Malformed ones are left out: OpenTelemetry's propagators would log their text, for each message.
    """
    carrier: dict[str, list[str]] = {}
    for name, raw in headers:
        if name in wanted and raw:
            text = _checked(name, raw)
            if text:
                carrier[name] = [text]
    return carrier

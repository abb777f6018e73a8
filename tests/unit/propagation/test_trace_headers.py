"""Trace headers: what is read, by whom and when, and what is malformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator, default_getter, default_setter

from fastapi_athomic.propagation import trace_headers
from fastapi_athomic.propagation.trace_headers import TraceHeaders, UnreadContext
from tests.support.spans import (
    SPAN_ID,
    TRACE_ID,
    TRACEPARENT,
    Exported,
    current_span_id,
    message,
    orchestrator,
)

SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))


# --- without an SDK


def test_without_an_sdk_the_trace_goes_on_and_is_read_only_when_asked_for() -> None:
    tested = orchestrator(None)
    scope = tested.open(message(("traceparent", TRACEPARENT), ("tracestate", b"vendor=1")))
    context = get_current()
    assert isinstance(context, UnreadContext)
    before = context.unread
    sent = dict(tested.open_publish("next", (), b"").headers)
    assert (before is None, context.unread is None) == (False, True)
    tested.close(scope, LookupError())
    assert (sent["traceparent"], sent["tracestate"]) == (TRACEPARENT, b"vendor=1")
    assert not trace.get_current_span(context).is_recording()
    assert trace.get_current_span(context) is trace.get_current_span(context), "parsed once"
    assert get_current() == {}


@pytest.mark.parametrize(
    "look",
    [
        lambda context: context[SPAN_KEY],
        lambda context: context.get(SPAN_KEY),
        lambda context: dict(context)[SPAN_KEY],
        lambda context: {**context}[SPAN_KEY],
        lambda context: context.copy()[SPAN_KEY],
        lambda context: (context | {})[SPAN_KEY],
        lambda context: ({} | context)[SPAN_KEY],
        lambda context: dict(context.items())[SPAN_KEY],
        lambda context: SPAN_KEY in context and len(context) == 1 and next(iter(context.values())),
        lambda context: dict(zip(context.keys(), context.values(), strict=True))[SPAN_KEY],
        lambda context: context != {} and trace.get_current_span(context),
        lambda context: SPAN_KEY in repr(context) and trace.get_current_span(context),
        lambda context: trace.get_current_span(baggage.set_baggage("a", "b", context)),
    ],
)
def test_whoever_looks_into_an_unread_context_finds_the_producers_span(look: Callable[[Any], Any]) -> None:
    tested = orchestrator(None)
    scope = tested.open(message(("traceparent", TRACEPARENT)))
    span = look(get_current())
    tested.close(scope, None)
    assert span.get_span_context().span_id == SPAN_ID


def test_without_an_sdk_a_message_without_trace_does_not_take_over_a_bystanders() -> None:
    tested = orchestrator(None)
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(7, 7, is_remote=False))):
        scope = tested.open(message(("own", b"1")))
        assert current_span_id() == 0
        tested.close(scope, None)
        scope = tested.open_batch([message()])
        assert current_span_id() == 0
        tested.close(scope, None)
        assert current_span_id() == 7


# --- baggage and other propagators


@pytest.mark.parametrize("traced", [True, False])
def test_baggage_is_read_and_goes_on(exported: Exported, traced: bool) -> None:
    tested = orchestrator(exported.provider if traced else None)
    incoming = (("traceparent", TRACEPARENT), ("baggage", b"plan = gold ; p , city=Wien%20Mitte,broken,=,a=\x01"))
    scope = tested.open(message(*incoming))
    assert dict(baggage.get_all()) == {"plan": "gold;p", "city": "Wien Mitte"}
    sent = dict(tested.inject())
    tested.close(scope, None)
    assert b"city=Wien+Mitte" in (sent["baggage"] or b"")
    assert (sent["traceparent"] or b"")[:36] == TRACEPARENT[:36]
    assert dict(baggage.get_all()) == {}


def test_fault_17_of_several_headers_with_one_name_the_last_usable_one_counts(exported: Exported) -> None:
    """As Java's `lastHeader` has it; automatic instrumentation appends its own behind those that are there."""
    first = ("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"), ("tracestate", b"a=1"), ("baggage", b"a=1")
    last = ("traceparent", TRACEPARENT), ("tracestate", b"b=2"), ("baggage", b"b=2")
    unusable = ("traceparent", b"\xff"), ("tracestate", b"\x00"), ("baggage", b"\xff"), ("traceparent", None)
    tested = orchestrator(exported.provider)
    scope = tested.open(message(*first, *last, *unusable))
    assert dict(baggage.get_all()) == {"b": "2"}
    tested.close(scope, None)
    span = exported.only()
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (TRACE_ID, SPAN_ID)
    assert dict(span.parent.trace_state) == {"b": "2"}


def test_an_apps_own_propagator_is_used(exported: Exported) -> None:
    tested = orchestrator(exported.provider, propagator=W3CBaggagePropagator())
    scope = tested.open(message(("traceparent", TRACEPARENT), ("baggage", b"a=1")))
    assert baggage.get_baggage("a") == "1"
    assert [name for name, _ in tested.inject()] == ["baggage"]
    tested.close(scope, None)
    assert exported.only().parent is None


class Broken(TextMapPropagator):
    """A propagator that fails in whatever it does."""

    fields = {"x-broken"}  # noqa: RUF012 - a property in the base

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter) -> Context:
        raise LookupError("s3cret")

    def inject(self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter) -> None:
        raise LookupError("s3cret")


class Curious(Broken):
    """A propagator that looks at what is current while it reads."""

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter) -> Context:
        return baggage.set_baggage("seen", len(get_current()), context)


def test_a_propagator_may_look_at_what_is_current(caplog: pytest.LogCaptureFixture) -> None:
    tested = orchestrator(None, propagator=Curious())
    scope = tested.open(message(("x-broken", b"1")))
    assert baggage.get_baggage("seen") == 0
    tested.close(scope, None)
    assert not caplog.records


@pytest.mark.parametrize("traced", [True, False])
def test_a_propagator_that_fails_costs_the_span_and_not_the_message(
    exported: Exported, caplog: pytest.LogCaptureFixture, traced: bool
) -> None:
    tested = orchestrator(exported.provider if traced else None, propagator=Broken())
    for _ in range(10):
        broken = message(("x-broken", b"1"), ("x-tenant-id", b"acme"))
        tested.close(tested.open(broken), None)
        tested.close(tested.open_batch([broken]), None)
        assert tested.inject() == ()
    assert len(caplog.records) == 1
    assert "s3cret" not in caplog.text


def test_a_propagator_that_fails_later_does_not_fail_the_handler() -> None:
    """Without an SDK the trace is parsed when the handler asks for it."""

    class BrokenTrace(Broken):
        fields = {"traceparent"}  # noqa: RUF012

    tested = orchestrator(None, propagator=BrokenTrace())
    scope = tested.open(message(("traceparent", TRACEPARENT)))
    assert current_span_id() == 0
    tested.close(scope, None)


# --- malformed headers


@pytest.mark.parametrize(
    ("name", "raw", "usable"),
    [
        ("traceparent", TRACEPARENT, True),
        ("traceparent", b"0" * 129, False),
        ("traceparent", b"\xff", False),
        ("tracestate", b"a=1,b@c=2", True),
        ("tracestate", b"a=1, ,b=2", True),
        ("tracestate", b"a", False),
        ("tracestate", b"A=1", False),
        ("tracestate", b"a=\x01", False),
        ("tracestate", b",".join(b"k%d=1" % n for n in range(33)), False),
        ("tracestate", b"a=" + b"1" * 511, False),
        ("baggage", b"a=1", True),
        ("baggage", b"a=1;p;q=2", True),
        ("baggage", b"a", False),
        ("baggage", b"a=1" + b" " * 8_190, False),
        ("uber-trace-id", b"whatever", True),
    ],
)
def test_what_a_propagator_gets_to_see(name: str, raw: bytes, usable: bool) -> None:
    assert bool(trace_headers._carrier(((name, raw),), frozenset((name,)))) is usable


@pytest.mark.parametrize("count", [64, 65, 200])
def test_more_baggage_than_the_limit_is_cut(count: int) -> None:
    raw = b",".join(b"k%d=1" % n for n in range(count))
    (text,) = trace_headers._carrier((("baggage", raw),), frozenset(("baggage",)))["baggage"]
    assert text == ",".join(f"k{n}=1" for n in range(64))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("text", "read"), [("a=b{0}c", ""), ("a{0}={0}b", "a=b"), ("{0}a=b{0};{0}p", "a=b;p")])
def test_p12_white_space_in_baggage_is_taken_out_in_linear_time(
    text: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern does it in quadratic time: a quarter of a second for what fits into a header, minutes for this."""
    monkeypatch.setattr(trace_headers, "_MAX_BAGGAGE", 1_000_000)
    assert trace_headers._baggage(text.format(" \t" * 150_000)) == read


def test_a_malformed_trace_begins_a_new_one(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    tested = orchestrator(exported.provider)
    for raw in (b"", None, b"\xff", b"00-0-0-00", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"):
        tested.close(tested.open(message(("traceparent", raw), ("tracestate", b"\x00"), ("baggage", b"\xff"))), None)
    assert [span.parent for span in exported.get_finished_spans()] == [None] * 5
    assert caplog.records == []


# --- CloudEvents say in which trace they began

EVENT = ("ce_traceparent", TRACEPARENT)
OTHER = b"00-11111111111111111111111111111111-2222222222222222-01"


class B3(TextMapPropagator):
    """Reads nothing of W3C's."""

    @property
    def fields(self) -> set[str]:
        return {"b3"}

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter) -> Context:
        return context or Context()

    def inject(self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter) -> None: ...


@pytest.mark.parametrize("propagator", [None, B3()])
@pytest.mark.parametrize("more", [(), (("baggage", b"a=b"),), (("b3", b"x"),), (("traceparent", b"malformed"),)])
def test_the_trace_of_a_cloud_event_is_used_where_no_other_came(propagator: Any, more: Any) -> None:
    headers = (EVENT, ("ce_tracestate", b"vendor=1"), ("ce_id", b"1"), *more)
    tested = TraceHeaders(propagator)
    for context in (tested.remote_context(headers), trace.set_span_in_context(_span(tested, headers))):
        span = trace.get_current_span(context).get_span_context()
        assert (span.trace_id, span.span_id) == (TRACE_ID, SPAN_ID)
        assert span.trace_state["vendor"] == "1"


def test_the_trace_of_a_cloud_event_gives_way_to_that_of_the_message() -> None:
    for headers in ((EVENT, ("traceparent", OTHER)), (EVENT, ("traceparent", OTHER), ("tracestate", b"v=1"))):
        span = trace.get_current_span(TraceHeaders().remote_context(headers)).get_span_context()
        assert span.trace_id == int("1" * 32, 16)
    broken = TraceHeaders().remote_context((("ce_traceparent", b"\xff"), ("ce_id", b"1")))
    assert not trace.get_current_span(broken).get_span_context().is_valid


def _span(tested: TraceHeaders, headers: Any) -> trace.Span:
    return trace.NonRecordingSpan(tested.span_context(headers))

"""Spans by OpenTelemetry's messaging conventions, and whose business HTTP spans are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator, default_getter, default_setter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import Link, SpanKind, StatusCode

from fastapi_athomic.messages import PublishedMessage, RawMessage
from fastapi_athomic.propagation import telemetry
from fastapi_athomic.propagation.headers import ContextAdapter, HeadersOrchestrator
from fastapi_athomic.propagation.telemetry import (
    MessagingTelemetryAdapter,
    UnreadContext,
    instrument_app,
    resolve_tracer_provider,
)

SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))
TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01".encode()


class Exported(InMemorySpanExporter):
    """What the provider beside it exported."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self))

    def only(self) -> ReadableSpan:
        (span,) = self.get_finished_spans()
        return span

    def names(self) -> list[str]:
        return [span.name for span in self.get_finished_spans()]


@pytest.fixture
def exported() -> Iterator[Exported]:
    exported = Exported()
    yield exported
    exported.provider.shutdown()


def message(*headers: tuple[str, bytes | None], offset: int = 2, value: bytes | None = b"v" * 5) -> RawMessage:
    return RawMessage("orders", 1, offset, 3, b"s3cret-key", value, headers)


def orchestrator(provider: TracerProvider | None, **options: Any) -> HeadersOrchestrator:
    adapter = MessagingTelemetryAdapter(provider, group_id="billing", client_id="shop", **options)
    return HeadersOrchestrator(adapter, None, ContextAdapter())


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def current_span_id() -> int:
    return trace.get_current_span().get_span_context().span_id


# --- one message


def test_a_message_is_a_child_of_its_producers_span(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    scope = tested.open(message(("traceparent", TRACEPARENT), ("tracestate", b"vendor=1")))
    inside = current_span_id()
    tested.close(scope, None)
    span = exported.only()
    assert span.name == "process orders"
    assert span.kind is SpanKind.CONSUMER
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id, span.parent.is_remote) == (TRACE_ID, SPAN_ID, True)
    assert span.context.trace_id == TRACE_ID
    assert span.context.trace_state == {"vendor": "1"}
    assert inside == span.context.span_id, "the span is current in the handler"
    assert span.status.status_code is StatusCode.UNSET


def test_its_attributes_follow_the_conventions(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    tested.close(tested.open(message()), None)
    assert attributes_of(exported.only()) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "1",
        "messaging.kafka.offset": 2,
        "messaging.consumer.group.name": "billing",
        "messaging.client.id": "shop",
        "messaging.message.body.size": 5,
    }


def test_the_names_are_those_of_the_conventions_package() -> None:
    known = {value for name, value in vars(messaging_attributes).items() if name.startswith("MESSAGING_")}
    known.add(error_attributes.ERROR_TYPE)
    ours = {
        value
        for name, value in vars(telemetry).items()
        if name.isupper() and isinstance(value, str) and value.startswith(("messaging.", "error."))
    }
    assert len(ours) == 13
    assert ours <= known


def test_a_tombstone_has_no_size(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    tested.close(tested.open(message(value=None)), None)
    attributes = attributes_of(exported.only())
    assert attributes["messaging.kafka.message.tombstone"] is True
    assert "messaging.message.body.size" not in attributes


def test_p15_keys_are_on_spans_only_where_asked_for(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    tested.close(tested.open(message()), None)
    assert "s3cret" not in exported.only().to_json()
    exported.clear()
    tested = orchestrator(exported.provider, record_keys=True)
    tested.close(tested.open(message()), None)
    assert attributes_of(exported.only())["messaging.kafka.message.key"] == "s3cret-key"


def test_p15_an_error_is_its_type_without_its_words(exported: Exported) -> None:
    class OrderError(Exception):
        pass

    tested = orchestrator(exported.provider)
    for error in (LookupError("s3cret"), OrderError("s3cret"), asyncio.CancelledError("s3cret")):
        tested.close(tested.open(message()), error)
    builtin, own, cancelled = exported.get_finished_spans()
    assert builtin.status.status_code is StatusCode.ERROR
    assert attributes_of(builtin)["error.type"] == "LookupError"
    assert [event.name for event in builtin.events] == ["exception"]
    assert attributes_of(own)["error.type"] == f"{__name__}.{OrderError.__qualname__}"
    assert attributes_of(cancelled)["error.type"] == "asyncio.exceptions.CancelledError"
    assert not any("s3cret" in span.to_json() for span in (builtin, own, cancelled))


def test_a_retry_is_linked_to_the_first_attempt(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    for attempt in (1, 2, 3):
        tested.close(tested.open(message(("traceparent", TRACEPARENT)), attempt), LookupError())
    tested.close(tested.open(message(offset=9), 2), None)
    first, *others, stranger = exported.get_finished_spans()
    assert first.links == ()
    assert [[link.context.span_id for link in span.links] for span in others] == [[first.context.span_id]] * 2
    assert stranger.links == (), "the first attempt was made elsewhere"


def test_first_attempts_are_remembered_within_bounds(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "FIRST_ATTEMPTS", 2)
    tested = orchestrator(exported.provider)
    for offset in (1, 2, 3):
        tested.close(tested.open(message(offset=offset)), LookupError())
    exported.clear()
    for offset in (1, 2, 3):
        tested.close(tested.open(message(offset=offset), 2), None)
    assert [len(span.links) for span in exported.get_finished_spans()] == [0, 1, 1]


def test_links_can_be_given(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    failure = trace.SpanContext(1, 2, is_remote=True)
    tested.close(tested.open(message(), links=[Link(failure)]), None)
    assert [link.context for link in exported.only().links] == [failure]


def test_a_message_whose_producer_did_not_sample_is_not_sampled_either() -> None:
    exported = Exported(sampler=ParentBased(ALWAYS_OFF))
    tested = orchestrator(exported.provider)
    scope = tested.open(message(("traceparent", TRACEPARENT[:-1] + b"0")))
    sent = dict(tested.inject())
    tested.close(scope, LookupError())
    assert exported.names() == []
    assert (sent["traceparent"] or b"").startswith(TRACEPARENT[:36]), "the trace goes on all the same"
    assert (sent["traceparent"] or b"").endswith(b"-00")


# --- a batch


def test_a_batch_is_a_root_with_a_link_per_message(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    batch = [message(("traceparent", f"00-{n:032x}-{n:016x}-01".encode()), offset=n) for n in (1, 2)]
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(7, 7, is_remote=False))):  # that of a bystander
        tested.close(tested.open_batch([*batch, message(("traceparent", b"nonsense"))]), None)
    span = exported.only()
    assert span.parent is None
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(1, 1), (2, 2)]
    attributes = attributes_of(span)
    assert attributes["messaging.batch.message_count"] == 3
    assert attributes["messaging.destination.partition.id"] == "1"
    assert "messaging.kafka.offset" not in attributes


def test_a_batch_that_is_tried_again_is_linked_to_the_first_attempt(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    batch = [message(offset=1), message(offset=2)]
    tested.close(tested.open_batch(batch), LookupError())
    tested.close(tested.open_batch(batch, 2), None)
    first, second = exported.get_finished_spans()
    assert [link.context.span_id for link in second.links] == [first.context.span_id]


# --- publishing


def test_a_publish_is_a_span_and_its_context_travels(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    with exported.provider.get_tracer("app").start_as_current_span("route"):
        scope = tested.open_publish("orders", (("own", b"1"),), b"12345")
        tested.published(scope, PublishedMessage("orders", 3, 42))
        tested.close_publish(scope, None)
    send, route = exported.get_finished_spans()
    assert (send.name, send.kind) == ("send orders", SpanKind.PRODUCER)
    assert send.parent is not None
    assert send.parent.span_id == route.context.span_id
    assert attributes_of(send) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 42,
        "messaging.client.id": "shop",
        "messaging.message.body.size": 5,
    }
    expected = f"00-{send.context.trace_id:032x}-{send.context.span_id:016x}-".encode()
    assert (dict(scope.headers)["traceparent"] or b"").startswith(expected)
    assert scope.headers[0] == ("own", b"1")


def test_a_publish_in_a_handler_belongs_to_the_handler(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    handling = tested.open(message(("traceparent", TRACEPARENT)))
    tested.close_publish(tested.open_publish("next", (), b""), None)
    tested.close(handling, None)
    send, process = exported.get_finished_spans()
    assert send.parent is not None
    assert send.parent.span_id == process.context.span_id


@pytest.mark.parametrize("count", [1, 3])
def test_a_published_batch_is_counted(exported: Exported, count: int) -> None:
    tested = orchestrator(exported.provider)
    tested.close_publish(tested.open_publish("orders", (), None, count), None)
    attributes = attributes_of(exported.only())
    assert attributes["messaging.batch.message_count"] == count
    assert "messaging.kafka.message.tombstone" not in attributes


def test_a_refused_publish_is_an_error(exported: Exported) -> None:
    tested = orchestrator(exported.provider)
    tested.close_publish(tested.open_publish("orders", (), b""), TimeoutError())
    span = exported.only()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "TimeoutError"


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


class BrokenProvider(TracerProvider):
    """Its tracer's spans cannot be started."""

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        class Tracer:
            def start_span(self, *_: Any, **__: Any) -> Any:
                raise LookupError("s3cret")

        return Tracer()


def test_a_tracer_that_fails_costs_the_span_and_not_the_publish(caplog: pytest.LogCaptureFixture) -> None:
    tested = orchestrator(BrokenProvider())
    scope = tested.open_publish("orders", (("own", b"1"),), b"")
    tested.published(scope, PublishedMessage("orders", 0, 0))
    tested.close_publish(scope, None)
    assert scope.headers == (("own", b"1"),)
    assert "MessagingTelemetryAdapter failed" in caplog.text
    assert "s3cret" not in caplog.text


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
    assert bool(telemetry._carrier(((name, raw),), frozenset((name,)))) is usable


@pytest.mark.parametrize("count", [64, 65, 200])
def test_more_baggage_than_the_limit_is_cut(count: int) -> None:
    raw = b",".join(b"k%d=1" % n for n in range(count))
    (text,) = telemetry._carrier((("baggage", raw),), frozenset(("baggage",)))["baggage"]
    assert text == ",".join(f"k{n}=1" for n in range(64))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("text", "read"), [("a=b{0}c", ""), ("a{0}={0}b", "a=b"), ("{0}a=b{0};{0}p", "a=b;p")])
def test_p12_white_space_in_baggage_is_taken_out_in_linear_time(
    text: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern does it in quadratic time: a quarter of a second for what fits into a header, minutes for this."""
    monkeypatch.setattr(telemetry, "_MAX_BAGGAGE", 1_000_000)
    assert telemetry._baggage(text.format(" \t" * 150_000)) == read


def test_a_malformed_trace_begins_a_new_one(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    tested = orchestrator(exported.provider)
    for raw in (b"", None, b"\xff", b"00-0-0-00", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"):
        tested.close(tested.open(message(("traceparent", raw), ("tracestate", b"\x00"), ("baggage", b"\xff"))), None)
    assert [span.parent for span in exported.get_finished_spans()] == [None] * 5
    assert caplog.records == []


# --- what is abandoned


def test_a_scope_closed_in_another_context_logs_no_error(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    """The garbage collector closes an abandoned coroutine where it happens to run."""
    for provider in (None, exported.provider):
        tested = orchestrator(provider)
        tested.close(copy_context().run(tested.open, message()), GeneratorExit())
    assert caplog.records == []
    assert exported.only().status.status_code is StatusCode.ERROR


# --- HTTP


def app_of(root_path: str = "", **options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.root_path = root_path

    @app.get("/route")
    async def route() -> int:
        return current_span_id()

    @app.get("/plugin/health")
    async def health() -> None: ...

    @app.get("/pluginless")
    async def pluginless() -> None: ...

    return app


def instrumented(app: FastAPI, exported: Exported | None = None) -> FastAPI:
    """As the extension does it: inside the lifespan."""
    before = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with before(app) as state:
            instrument_app(app, exported.provider if exported else None, prefix="/plugin")
            yield state

    app.router.lifespan_context = lifespan
    return app


def server_spans(app: FastAPI, exported: Exported, root_path: str = "") -> list[str]:
    with TestClient(app, root_path=root_path) as client:
        for path in ("/route", "/plugin/health", "/pluginless"):
            assert client.get(root_path + path).status_code == 200  # as uvicorn hands it on
    return [span.name for span in exported.get_finished_spans() if span.kind is SpanKind.SERVER]


def test_without_an_sdk_nothing_is_touched() -> None:
    app = app_of()
    assert resolve_tracer_provider(app) is None
    instrument_app(app)
    assert app._telemetry["exclude"] is None
    assert not hasattr(app, "_is_instrumented_by_opentelemetry")


def test_the_provider_is_the_given_one_or_the_apps_or_the_global_one(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    global_one, given = TracerProvider(), TracerProvider()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", global_one)
    app = app_of(telemetry={"tracer_provider": exported.provider})
    assert resolve_tracer_provider(app, given) is given
    assert resolve_tracer_provider(app) is exported.provider
    assert resolve_tracer_provider(app_of()) is global_one
    assert resolve_tracer_provider() is global_one
    for provider in (global_one, given):
        provider.shutdown()


def test_fastapis_own_tracing_is_left_to_it_but_for_the_plugins_routes(exported: Exported) -> None:
    app = instrumented(app_of(telemetry={"tracer_provider": exported.provider}))
    assert server_spans(app, exported) == ["GET /route", "GET /pluginless"]
    exported.clear()
    assert server_spans(app, exported) == ["GET /route", "GET /pluginless"], "a second run of the app"
    assert not getattr(app, "_is_instrumented_by_opentelemetry", False)


def test_what_the_app_leaves_out_stays_left_out(exported: Exported) -> None:
    def exclude(scope: MutableMapping[str, Any]) -> bool:
        return bool(scope["path"] == "/route")

    app = instrumented(app_of(telemetry={"tracer_provider": exported.provider, "exclude": exclude}))
    assert server_spans(app, exported) == ["GET /pluginless"]


def test_two_plugins_leave_out_the_routes_of_both(exported: Exported) -> None:
    app = app_of(telemetry={"tracer_provider": exported.provider})
    instrument_app(app, prefix="/pluginless")
    assert server_spans(instrumented(app), exported) == ["GET /route"]


def test_an_app_behind_a_path_prefix_leaves_out_the_same_routes(exported: Exported) -> None:
    app = instrumented(app_of(telemetry={"tracer_provider": exported.provider}))
    names = server_spans(app, exported, "/behind")
    assert [name.removeprefix("GET ").removeprefix("/behind") for name in names] == ["/route", "/pluginless"]


@pytest.mark.parametrize("root_path", ["", "/behind"])
def test_with_another_provider_the_instrumentor_is_applied_once(
    exported: Exported, caplog: pytest.LogCaptureFixture, root_path: str
) -> None:
    app = instrumented(app_of(root_path=root_path), exported)
    assert server_spans(app, exported) == ["GET /route", "GET /pluginless"]
    exported.clear()
    assert server_spans(app, exported) == ["GET /route", "GET /pluginless"], "a second run of the app"
    assert caplog.records == [], "it would complain of a second time"
    FastAPIInstrumentor.uninstrument_app(app)


def test_the_operators_exclusions_count_too(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXCLUDED_URLS", "route$")
    app = instrumented(app_of(), exported)
    assert server_spans(app, exported) == ["GET /pluginless"]
    FastAPIInstrumentor.uninstrument_app(app)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_app_that_instruments_itself_has_one_span_per_request(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", exported.provider)
    app = app_of()
    if when == "before":
        FastAPIInstrumentor.instrument_app(app)
    with TestClient(instrumented(app)) as client:
        if when == "after":
            FastAPIInstrumentor.instrument_app(app)
        client.get("/route")
        client.get("/plugin/health")
    spans = [span.name for span in exported.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert spans.count("GET /route") == 1
    assert ("GET /plugin/health" in spans) == (when == "before"), "who instruments the app itself excludes by himself"
    FastAPIInstrumentor.uninstrument_app(app)


def test_the_route_is_in_the_span_that_the_next_publish_belongs_to(exported: Exported) -> None:
    app = instrumented(app_of(telemetry={"tracer_provider": exported.provider, "operation_spans": False}))
    with TestClient(app) as client:
        seen = client.get("/route", headers={"traceparent": TRACEPARENT.decode()}).json()
    span = exported.only()
    assert seen == span.context.span_id
    assert span.context.trace_id == TRACE_ID


def test_detached_tokens_are_in_order() -> None:
    """Scopes nest: what was attached before is there again."""
    token = attach(baggage.set_baggage("outside", "1"))
    tested = orchestrator(None)
    outer = tested.open(message(("traceparent", TRACEPARENT)))
    inner = tested.open(message())
    assert current_span_id() == 0
    tested.close(inner, None)
    assert current_span_id() == SPAN_ID
    tested.close(outer, None)
    assert baggage.get_baggage("outside") == "1"
    detach(token)

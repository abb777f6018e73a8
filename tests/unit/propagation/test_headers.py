"""The adapters together: no header can make a message fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fastapi_athomic import ExecutionContext, get_context, get_lineage, set_context
from fastapi_athomic.messages import Headers, RawMessage
from fastapi_athomic.propagation.context import ContextAdapter
from fastapi_athomic.propagation.headers import HeadersOrchestrator
from fastapi_athomic.propagation.lineage import PARENT, ROOT, RUN, JobRun, LineageAdapter, dataset_namespace
from fastapi_athomic.propagation.telemetry import MessagingTelemetryAdapter

TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def message(*headers: tuple[str, bytes | None]) -> RawMessage:
    return RawMessage("t", 1, 2, 3, b"k", b"v", headers)


@pytest.fixture(scope="module")
def provider() -> Iterator[TracerProvider]:
    provider = TracerProvider()
    yield provider
    provider.shutdown()


@pytest.fixture
def exporter(provider: TracerProvider) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def orchestrator(provider: TracerProvider | None = None) -> HeadersOrchestrator:
    lineage = LineageAdapter(job_name="job", dataset_namespace=dataset_namespace("kafka", "a:1,b:2"))
    return HeadersOrchestrator(MessagingTelemetryAdapter(provider, group_id="g"), lineage, ContextAdapter())


def trace_id() -> int:
    return trace.get_current_span().get_span_context().trace_id


@pytest.mark.parametrize("traced", [True, False])
def test_the_scope_has_trace_context_and_lineage_and_leaves_nothing(provider: TracerProvider, traced: bool) -> None:
    run = JobRun("ns", "producer/job", uuid4())
    tested = orchestrator(provider if traced else None)
    set_context(tenant_id="outside")
    scope = tested.open(message(("traceparent", TRACEPARENT), ("x-tenant-id", b"acme"), (RUN, run.encode())))
    assert trace_id() == 0x0AF7651916CD43DD8448EB211C80319C
    assert get_context() == ExecutionContext(tenant_id="acme")
    lineage = get_lineage()
    assert lineage is not None
    assert (lineage.parent, lineage.root) == (run, run)
    assert lineage.source == ("kafka://a:1", "t", 1, 2, 2)
    assert get_context() is get_context(), "it is parsed once"
    set_context(tenant_id="changed by the handler")
    assert get_lineage() == lineage, "who changes the context still handles the message"
    tested.close(scope, None)
    assert get_context() == ExecutionContext(tenant_id="outside")
    assert get_lineage() is None
    assert trace_id() == 0
    set_context(ExecutionContext())


@pytest.mark.parametrize("traced", [True, False])
def test_what_is_published_in_a_handler_carries_it_on(provider: TracerProvider, traced: bool) -> None:
    run, root = JobRun("ns", "producer", uuid4()), JobRun("ns", "first", uuid4())
    tested = orchestrator(provider if traced else None)
    incoming = (("traceparent", TRACEPARENT), ("x-tenant-id", b"acme"), (RUN, run.encode()), (ROOT, root.encode()))
    scope = tested.open(message(*incoming))
    sent = dict(tested.inject((("own", b"1"),)))
    tested.close(scope, None)
    assert sent["own"] == b"1"
    assert sent["x-tenant-id"] == b"acme"
    assert (sent["traceparent"] or b"")[:36] == TRACEPARENT[:36]
    assert sent[PARENT] == run.encode()
    assert sent[ROOT] == root.encode()
    assert JobRun.decode(sent[RUN]) not in (None, run, root)


def test_what_the_caller_gives_is_never_replaced() -> None:
    tested = orchestrator()
    set_context(tenant_id="acme")
    assert dict(tested.inject((("x-tenant-id", b"mine"),)))["x-tenant-id"] == b"mine"
    set_context(ExecutionContext())


def test_a_batch_has_what_all_its_messages_agree_on(provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    tested = orchestrator(provider)
    batch = [
        message(("traceparent", TRACEPARENT), ("x-tenant-id", b"acme"), ("x-user-id", user)) for user in (b"1", b"2")
    ]
    scope = tested.open_batch(batch)
    assert get_context() == ExecutionContext(tenant_id="acme")
    tested.close(scope, None)
    (span,) = exporter.get_finished_spans()
    assert [link.context.trace_id for link in span.links] == [0x0AF7651916CD43DD8448EB211C80319C] * 2


names = st.sampled_from(["traceparent", "tracestate", "baggage", "x-tenant-id", "x-context-a", RUN, PARENT, ROOT])
values = st.none() | st.binary() | st.just(TRACEPARENT) | st.text().map(lambda text: text.encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(headers=st.lists(st.tuples(names | st.text(), values)).map(tuple))
def test_no_header_can_make_a_message_fail_or_flood_the_log(
    provider: TracerProvider, caplog: pytest.LogCaptureFixture, headers: Headers
) -> None:
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    for tested in (orchestrator(), orchestrator(provider)):
        for is_batch in (False, True):
            batch = [message(*headers), message()]
            scope = tested.open_batch(batch) if is_batch else tested.open(batch[0])
            get_context()
            get_lineage()
            trace.get_current_span().get_span_context()
            tested.inject()
            tested.close(scope, None)
    assert caplog.records == []


def test_an_adapter_that_fails_is_left_out_and_complained_about_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ContextAdapter):
        def outgoing(self) -> Headers:
            raise LookupError("s3cret")

    tested = HeadersOrchestrator(MessagingTelemetryAdapter(), None, Broken())
    for _ in range(100):
        assert tested.inject((("own", b"1"),)) == (("own", b"1"),)
    (record,) = caplog.records
    assert record.getMessage().startswith("Broken failed and is left out: LookupError")
    assert "s3cret" not in caplog.text


@given(st.text(min_size=1), st.text(min_size=1), st.uuids())
def test_a_job_run_travels(namespace: str, name: str, run_id: object) -> None:
    run = JobRun(namespace, name, run_id)  # type: ignore[arg-type]
    try:
        encoded = run.encode()
    except UnicodeEncodeError:  # lone surrogates
        return
    decoded = JobRun.decode(encoded)
    assert decoded in (run, None)
    assert decoded == run or not (namespace + name).isprintable() or len(encoded) > 1_024


@pytest.mark.parametrize("raw", [None, b"", b"a/b", b"a/b/not-a-uuid", b"\xff/b/c", b"x" * 2_000, b"//" + b"0" * 32])
def test_a_job_run_that_makes_no_sense_is_none(raw: bytes | None) -> None:
    assert JobRun.decode(raw) is None


def test_without_a_propagator_of_ones_own_the_global_one_is_used() -> None:
    assert set(get_global_textmap().fields) >= {"traceparent", "tracestate", "baggage"}

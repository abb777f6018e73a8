"""Spans that were exported, and messages that belong to a trace."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fastapi_athomic.messages import RawMessage
from fastapi_athomic.propagation.context import ContextAdapter
from fastapi_athomic.propagation.headers import HeadersOrchestrator
from fastapi_athomic.propagation.telemetry import MessagingTelemetryAdapter

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


def message(*headers: tuple[str, bytes | None], offset: int = 2, value: bytes | None = b"v" * 5) -> RawMessage:
    return RawMessage("orders", 1, offset, 3, b"s3cret-key", value, headers)


def orchestrator(provider: TracerProvider | None, **options: Any) -> HeadersOrchestrator:
    adapter = MessagingTelemetryAdapter(provider, group_id="billing", client_id="shop", **options)
    return HeadersOrchestrator(adapter, None, ContextAdapter())


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def current_span_id() -> int:
    return trace.get_current_span().get_span_context().span_id

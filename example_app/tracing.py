"""Sends traces to where `OTEL_EXPORTER_OTLP_ENDPOINT` says (http://host:4318); without it nothing is traced.

`OTEL_SERVICE_NAME` and the other variables are OpenTelemetry's: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def set_up_tracing() -> None:
    """What any traced FastAPI app does; fastapi_athomic uses the provider that it finds."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)

"""Makes the `HeadersOrchestrator`s of an app: one for each handler, and one for what the app publishes."""

from __future__ import annotations

from opentelemetry.trace import TracerProvider

from ..settings import AthomicSettings
from .context import ContextAdapter
from .headers import HeadersOrchestrator
from .lineage import LineageAdapter, dataset_namespace, is_configured
from .telemetry import MessagingTelemetryAdapter


class Orchestrators:
    """For one run of an app. `scheme` and `address` are the broker's: spans and lineage name it by them."""

    def __init__(
        self, settings: AthomicSettings, tracer_provider: TracerProvider | None, *, scheme: str, address: str
    ) -> None:
        self._settings = settings
        self._tracer_provider = tracer_provider
        self._scheme = scheme
        self._dataset = dataset_namespace(scheme, address)
        reported = is_configured() if settings.lineage_events is None else settings.lineage_events
        self._writes_lineage = reported if settings.lineage_headers is None else settings.lineage_headers
        self._context = ContextAdapter(settings.context.max_value_length)

    def of_handler(self, handler_id: str, group_id: str, *, enable_lineage: bool) -> HeadersOrchestrator:
        """For what one handler consumes."""
        lineage = self._lineage(handler_id) if enable_lineage else None
        return HeadersOrchestrator(self._telemetry(group_id), lineage, self._context, handler_id)

    def of_publisher(self) -> HeadersOrchestrator:
        """For what the app publishes. Outside of handlers the client id is its job's name in lineage."""
        return HeadersOrchestrator(self._telemetry(""), self._lineage(self._settings.client_id), self._context)

    def _lineage(self, job_name: str) -> LineageAdapter:
        return LineageAdapter(job_name=job_name, dataset_namespace=self._dataset, writes_headers=self._writes_lineage)

    def _telemetry(self, group_id: str) -> MessagingTelemetryAdapter:
        return MessagingTelemetryAdapter(
            self._tracer_provider,
            system=self._scheme,
            client_id=self._settings.client_id,
            group_id=group_id,
            record_keys=self._settings.trace_message_keys,
            expose_errors=self._settings.expose_error_messages,
        )

"""The app's own tracing: its tracer provider, and that its HTTP requests are traced once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.trace import TracerProvider


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

"""The app's own tracing: which tracer provider it uses, and who makes the spans of its HTTP requests."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.trace import TracerProvider

logger = logging.getLogger(__name__)
_INSTRUMENTATION = "opentelemetry-instrumentation-fastapi"


def resolve_tracer_provider(app: FastAPI | None = None, given: TracerProvider | None = None) -> TracerProvider | None:
    """The tracer provider of the app: the given one, else the app's (`FastAPI(telemetry=...)`), else the global one.

    None without an SDK. Call it when the app starts: the provider is often set after import.
    """
    provider = given or _native_tracing(app).get("tracer_provider") or trace.get_tracer_provider()
    return None if isinstance(provider, trace.NoOpTracerProvider | trace.ProxyTracerProvider) else provider


def instrument_app(app: FastAPI, tracer_provider: TracerProvider | None = None, *, prefix: str = "/consumers") -> None:
    """Makes sure that each HTTP request has one server span, and this package's own routes have none.

    Call it when the app starts. It applies `FastAPIInstrumentor`, if that is installed, and leaves it applied for the
    app's next run; a warning says if it is installed but does not load. It applies nothing without an SDK, to an app
    that is instrumented already, and to one that traces itself, as FastAPI does since it has the argument `telemetry`.
    """
    provider = resolve_tracer_provider(app, tracer_provider)
    if provider is None:
        return
    native = _native_tracing(app)
    if native:  # also of an instrumented app: if that came after its stack was built, FastAPI goes on tracing
        _exclude_from_native(native, prefix)
    instrumented = getattr(app, "_is_instrumented_by_opentelemetry", False)
    if instrumented or (native and provider is resolve_tracer_provider(app)):
        return
    try:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    except ImportError as error:
        _warn_of_unusable_instrumentation(error)
        return
    # The lifespan that calls us runs inside the old middleware stack; requests need one with the instrumentation.
    app.middleware_stack = None  # earlier versions of the instrumentation add a middleware, which a started app refuses
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls=_excluded_urls(app, prefix))
    app.middleware_stack = app.build_middleware_stack()


def _warn_of_unusable_instrumentation(error: ImportError) -> None:
    """Nothing, if it is not installed: then it is not wanted."""
    try:
        installed = version(_INSTRUMENTATION)
    except PackageNotFoundError:
        return
    logger.warning(
        "HTTP requests have no spans: %s %s cannot be loaded (%s). Upgrade OpenTelemetry's packages together%s.",
        _INSTRUMENTATION,
        installed,
        error,
        ", or install 'setuptools<81', which has pkg_resources" if error.name == "pkg_resources" else "",
    )


def _native_tracing(app: FastAPI | None) -> dict[str, Any]:
    """The settings of FastAPI's own tracing; empty in versions without it.

    FastAPI 0.165 has no public way to read them.
    """
    settings = getattr(app, "_telemetry", None)
    return settings if isinstance(settings, dict) else {}


def _exclude_from_native(settings: dict[str, Any], prefix: str) -> None:
    present = settings.get("exclude")
    if isinstance(present, _Excluding):  # from an earlier run, or from a second `Athomic`
        present.prefixes.add(prefix)
    else:
        settings["exclude"] = _Excluding(prefix, present)


class _Excluding:
    """Tells FastAPI which requests to leave out of its telemetry: this package's routes, and what the app leaves out.

    `instrument_app` adds to `prefixes`.
    """

    def __init__(self, prefix: str, others: Callable[[Mapping[str, Any]], bool] | None) -> None:
        self.prefixes = {prefix}
        self._others = others

    def __call__(self, scope: Mapping[str, Any]) -> bool:
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        own = any(path == prefix or path.startswith(f"{prefix}/") for prefix in self.prefixes)
        return own or (self._others is not None and bool(self._others(scope)))


def _excluded_urls(app: FastAPI, prefix: str) -> str:
    """URL patterns: this package's routes, and what the operator excludes by OpenTelemetry's environment variables."""
    own = rf"//[^/]+(?:{re.escape(app.root_path)})?{re.escape(prefix)}(?:/|$)"
    names = ("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS")
    others = next((value for name in names if (value := os.environ.get(name))), "")
    return ",".join(part for part in (own, others) if part)

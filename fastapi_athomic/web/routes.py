"""The routes that `include_athomic` adds to an app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fastapi import APIRouter, Response
from fastapi.params import Depends
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse

from ..control.steering import Steering
from ..exceptions import ConfigurationError
from ..failures.dead_letters import DeadLetters
from ..loop.load import LoopLag, RequestGauge
from ..manager import ConsumerManager, unstarted
from ..observation.process import instance_id
from ..observation.reasons import ReasonCode
from ..observation.status import ConsumerStatus, HealthReport, HealthStatus
from ..settings import AthomicSettings
from .asyncapi_routes import Document, add_asyncapi
from .control_parts import ControlOptions, ControlParts
from .dashboard import add_dashboard
from .examples import HEALTH, ILL, METRICS, NO_PROBE, PROBE
from .problems import ProblemRoute
from .status_routes import INSTANCE_HEADER, StatusParts, add_statuses
from .streams import Streams

UNAVAILABLE, NOT_IMPLEMENTED = 503, 501


class ProbeResult(BaseModel):
    """The answer of a probe; 503 if it is not ok."""

    ok: bool
    codes: list[ReasonCode] | None = Field(
        default=None, description="Why it is not; left out where the probes are open to all"
    )


class RouteParts(NamedTuple):
    """What the routes of one `Athomic` answer from."""

    manager: Callable[[], ConsumerManager | None]  # returns None while the app does not run
    lag: LoopLag
    settings: AthomicSettings
    streams: Streams
    requests: RequestGauge
    steering: Steering
    letters: Callable[[str], DeadLetters]  # of a handler id
    group_status: Callable[[str | None], Awaitable[list[ConsumerStatus]]]  # see `StatusParts`
    asyncapi: Document


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions:
    """How the routes are added."""

    prefix: str
    dependencies: Sequence[Depends]
    probe_dependencies: Sequence[Depends] | None  # None: the same as `dependencies`
    include_in_schema: bool
    control: ControlOptions

    def __post_init__(self) -> None:
        """Raises `ConfigurationError`, where FastAPI would have an assertion or an `AttributeError`."""
        if not self.prefix.startswith("/") or self.prefix.endswith("/"):
            raise ConfigurationError(
                f"include_athomic: the prefix must begin with a slash and not end with one, unlike {self.prefix!r}"
            )
        lists: dict[str, object] = {
            "dependencies": self.dependencies,
            "probe_dependencies": self.probe_dependencies,
            "control_dependencies": self.control.control_dependencies,
            "payload_dependencies": self.control.payload_dependencies,
        }
        for name, given in lists.items():
            if given is None and name == "probe_dependencies":
                continue
            if not isinstance(given, Iterable) or not all(isinstance(each, Depends) for each in given):
                raise ConfigurationError(f"include_athomic: {name} must be a list of Depends(...)")


def new_routers(parts: RouteParts, options: RouteOptions) -> tuple[APIRouter, ...]:
    """The probes; the others; and with `control.enabled` those that change something, and those of dead letters."""
    named = Depends(_naming_the_process(parts.settings))
    own = options.probe_dependencies
    open_to_all = own is not None and not own  # then an answer says yes or no, and does not name the host
    probes = _router(options, [*(options.dependencies if own is None else own), *(() if open_to_all else (named,))])
    others = _router(options, [*options.dependencies, named])
    _add_probes(probes, parts, shows_codes=not open_to_all)
    _add_metrics(others, parts)
    routers = (probes, others, *_control_routers(parts, options, named))
    if parts.settings.dashboard.enabled:
        add_dashboard(others, parts.settings.dashboard, parts.streams, parts.requests, lambda: routers)
    if parts.settings.asyncapi.enabled:
        add_asyncapi(others, parts.asyncapi)
    _add_health(others, parts)
    add_statuses(others, StatusParts(parts.manager, parts.group_status, parts.settings))
    return routers


def _control_routers(parts: RouteParts, options: RouteOptions, named: Depends) -> Iterator[APIRouter]:
    if not parts.settings.control.enabled:
        return
    from .control_routes import control_routers  # their models take time to build, and many apps have none of them
    from .letter_routes import letter_routers

    control = ControlParts(
        steering=parts.steering,
        manager=parts.manager,
        letters=parts.letters,
        settings=parts.settings.control,
        options=options.control,
    )

    def new_router(dependencies: Sequence[Depends]) -> APIRouter:
        return _router(options, [*options.dependencies, *dependencies, named])

    yield from control_routers(new_router, control)
    yield from letter_routers(new_router, control)


def _router(options: RouteOptions, dependencies: list[Depends]) -> APIRouter:
    return APIRouter(
        prefix=options.prefix,
        route_class=ProblemRoute,
        tags=["consumers"],
        dependencies=dependencies,
        include_in_schema=options.include_in_schema,
    )


def _naming_the_process(settings: AthomicSettings) -> Callable[[Response], object]:
    async def name_process(response: Response) -> None:
        response.headers[INSTANCE_HEADER] = instance_id(settings.instance_id)

    return name_process


def _add_probes(router: APIRouter, parts: RouteParts, *, shows_codes: bool) -> None:
    def probe(path: str, summary: str, problems: Callable[[ConsumerManager | None], list[ReasonCode]]) -> None:
        async def check(response: Response) -> ProbeResult:
            codes = problems(parts.manager())
            if codes:
                response.status_code = UNAVAILABLE
            return ProbeResult(ok=not codes, codes=codes if codes and shows_codes else None)

        router.add_api_route(
            f"/health/{path}",
            check,
            summary=summary,
            name=f"consumers_{path}",
            response_model_exclude_none=True,
            responses={200: PROBE, UNAVAILABLE: {"model": ProbeResult, "description": "No", **NO_PROBE}},
        )

    probe("live", "Liveness: a restart would not help", _why_not_live)
    probe("ready", "Readiness: this instance can be given requests", _why_not_ready)
    probe("startup", "Start-up: all consumers have consumed once", _why_not_up)


def _why_not_live(manager: ConsumerManager | None) -> list[ReasonCode]:
    return manager.why_not_live() if manager is not None else []


def _why_not_ready(manager: ConsumerManager | None) -> list[ReasonCode]:
    return manager.why_not_ready() if manager is not None else [ReasonCode.NOT_STARTED]


def _why_not_up(manager: ConsumerManager | None) -> list[ReasonCode]:
    if manager is None:
        return [ReasonCode.NOT_STARTED]
    return [] if manager.has_come_up else [ReasonCode.STARTING]


def _add_health(router: APIRouter, parts: RouteParts) -> None:
    @router.get(
        "/health",
        summary="Health of all consumers",
        responses={200: HEALTH, UNAVAILABLE: {"model": HealthReport, "description": "Unhealthy or starting", **ILL}},
    )
    async def health(response: Response) -> HealthReport:
        """The worst status of all consumers, with reasons; 503 when unhealthy or starting."""
        current = parts.manager()
        report = current.health() if current else unstarted(parts.settings)
        if report.status in (HealthStatus.UNHEALTHY, HealthStatus.STARTING):
            response.status_code = UNAVAILABLE
        return report


def _add_metrics(router: APIRouter, parts: RouteParts) -> None:
    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=PlainTextResponse,
        responses={200: METRICS, NOT_IMPLEMENTED: {"description": "The extra `prometheus` is not installed"}},
    )
    async def metrics() -> Response:
        headers = {INSTANCE_HEADER: instance_id(parts.settings.instance_id)}
        try:
            from ..exporters.prometheus import PrometheusCollector, exposition
        except ImportError:
            hint = "install fastapi-athomic[prometheus] for metrics\n"
            return PlainTextResponse(hint, NOT_IMPLEMENTED, headers)
        content, content_type = exposition(PrometheusCollector(parts.manager, parts.lag, parts.settings))
        return Response(content, media_type=content_type, headers=headers)

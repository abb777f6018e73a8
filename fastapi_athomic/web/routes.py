"""The routes that `include_athomic` adds to an app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from fastapi import APIRouter, Response
from fastapi.params import Depends
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from ..control.steering import Steering
from ..exceptions import ConfigurationError
from ..failures.dead_letters import DeadLetters
from ..loop.load import LoopLag, RequestGauge
from ..manager import ConsumerManager, unstarted
from ..observation.process import instance_id
from ..observation.status import ConsumerStatus, HealthReport, HealthStatus
from ..settings import AthomicSettings
from .control_parts import ControlOptions, ControlParts
from .control_routes import control_routers
from .dashboard import add_dashboard
from .letter_routes import letter_routers
from .problems import CONSUMER_NOT_FOUND, INVALID_REQUEST, ProblemError, ProblemRoute, responses
from .streams import Streams

UNAVAILABLE, NOT_IMPLEMENTED = 503, 501
INSTANCE_HEADER = "x-athomic-instance"
"""The response header that holds the setting `instance_id`: which of several workers has answered."""
SHOWN_IDS = 20
"""At most so many ids are listed in the answer to a request for an unknown one."""


class ProbeResult(BaseModel):
    """The answer of a probe; 503 if it is not ok."""

    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteParts:
    """What the routes of one `Athomic` answer from."""

    manager: Callable[[], ConsumerManager | None]  # returns None while the app does not run
    lag: LoopLag
    settings: AthomicSettings
    streams: Streams
    requests: RequestGauge
    steering: Steering
    letters: Callable[[str], DeadLetters]  # of a handler id


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
    _add_probes(probes, parts)
    _add_metrics(others, parts)
    routers = (probes, others, *_control_routers(parts, options, named))
    if parts.settings.dashboard.enabled:
        add_dashboard(others, parts.settings.dashboard, parts.streams, parts.requests, lambda: routers)
    _add_statuses(others, parts)
    return routers


def _control_routers(parts: RouteParts, options: RouteOptions, named: Depends) -> Iterator[APIRouter]:
    if not parts.settings.control.enabled:
        return
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


def _add_probes(router: APIRouter, parts: RouteParts) -> None:
    def probe(path: str, summary: str, answer: Callable[[ConsumerManager], bool], *, unstarted_answer: bool) -> None:
        async def check(response: Response) -> ProbeResult:
            current = parts.manager()
            ok = answer(current) if current else unstarted_answer
            if not ok:
                response.status_code = UNAVAILABLE
            return ProbeResult(ok=ok)

        router.add_api_route(
            f"/health/{path}",
            check,
            summary=summary,
            name=f"consumers_{path}",
            responses={UNAVAILABLE: {"model": ProbeResult, "description": "No"}},
        )

    probe("live", "Liveness: a restart would not help", lambda m: m.live, unstarted_answer=True)
    probe("ready", "Readiness: all consumers consume", lambda m: m.ready, unstarted_answer=False)
    probe("startup", "Start-up: all consumers have consumed once", lambda m: m.has_come_up, unstarted_answer=False)


def _add_statuses(router: APIRouter, parts: RouteParts) -> None:
    @router.get(
        "/health",
        summary="Health of all consumers",
        responses={UNAVAILABLE: {"model": HealthReport, "description": "Unhealthy or starting"}},
    )
    async def health(response: Response) -> HealthReport:
        """The worst status of all consumers, with reasons; 503 when unhealthy or starting."""
        current = parts.manager()
        report = current.health() if current else unstarted(parts.settings)
        if report.status in (HealthStatus.UNHEALTHY, HealthStatus.STARTING):
            response.status_code = UNAVAILABLE
        return report

    @router.get("", summary="Status of all consumers")
    async def consumers() -> list[ConsumerStatus]:
        current = parts.manager()
        return current.statuses() if current else []

    @router.get(
        "/{consumer_id}",
        summary="Status of one consumer",
        responses=responses(CONSUMER_NOT_FOUND, INVALID_REQUEST),
    )
    async def consumer(consumer_id: str) -> ConsumerStatus:
        current = parts.manager()
        service = current.consumers.get(consumer_id) if current else None
        if service is None:
            known = current.consumers if current else None
            headers = {INSTANCE_HEADER: instance_id(parts.settings.instance_id)}
            raise ProblemError(CONSUMER_NOT_FOUND, _not_found(consumer_id, known), headers)
        return service.status()


def _not_found(wanted: str, known: Iterable[str] | None) -> str:
    if known is None:
        return f"no consumer has the id {wanted!r}: the app has not started"
    ids = sorted(known)
    if not ids:
        return f"no consumer has the id {wanted!r}: the app has no handlers"
    if near := get_close_matches(wanted, ids, n=3):
        return f"no consumer has the id {wanted!r}; did you mean {' or '.join(near)}?"
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return f"no consumer has the id {wanted!r}; there are {', '.join(ids[:SHOWN_IDS])}{more}"


def _add_metrics(router: APIRouter, parts: RouteParts) -> None:
    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=PlainTextResponse,
        responses={NOT_IMPLEMENTED: {"description": "The extra `prometheus` is not installed"}},
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

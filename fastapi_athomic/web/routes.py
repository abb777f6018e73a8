"""The routes that `include_athomic` adds to an app."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter, HTTPException, Response
from fastapi.params import Depends
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from ..loop.load import LoopLag
from ..manager import ConsumerManager, unstarted
from ..observation.status import ConsumerStatus, HealthReport, HealthStatus

UNAVAILABLE, NOT_IMPLEMENTED = 503, 501


class ProbeResult(BaseModel):
    """The answer of a probe; 503 if it is not ok."""

    ok: bool


def add_routes(router: APIRouter, manager: Callable[[], ConsumerManager | None], lag: LoopLag) -> None:
    """Adds health, probes, metrics and status. `manager` returns None while the app does not run."""
    _add_metrics(router, manager, lag)

    @router.get(
        "/health",
        summary="Health of all consumers",
        responses={UNAVAILABLE: {"model": HealthReport, "description": "Unhealthy or starting"}},
    )
    async def health(response: Response) -> HealthReport:
        """The worst status of all consumers, with reasons; 503 when unhealthy or starting."""
        current = manager()
        report = current.health() if current else unstarted()
        if report.status in (HealthStatus.UNHEALTHY, HealthStatus.STARTING):
            response.status_code = UNAVAILABLE
        return report

    def probe(path: str, summary: str, answer: Callable[[ConsumerManager], bool], *, unstarted_answer: bool) -> None:
        async def check(response: Response) -> ProbeResult:
            current = manager()
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

    @router.get("", summary="Status of all consumers")
    async def consumers() -> list[ConsumerStatus]:
        current = manager()
        return current.statuses() if current else []

    @router.get(
        "/{consumer_id}",
        summary="Status of one consumer",
        responses={404: {"description": "No consumer has this id"}},
    )
    async def consumer(consumer_id: str) -> ConsumerStatus:
        current = manager()
        service = current.consumers.get(consumer_id) if current else None
        if service is None:
            raise HTTPException(404, f"no consumer has the id {consumer_id!r}")
        return service.status()


def _add_metrics(router: APIRouter, manager: Callable[[], ConsumerManager | None], lag: LoopLag) -> None:
    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=PlainTextResponse,
        responses={NOT_IMPLEMENTED: {"description": "The extra `prometheus` is not installed"}},
    )
    async def metrics() -> Response:
        try:
            from ..exporters.prometheus import PrometheusCollector, exposition
        except ImportError:
            hint = "install fastapi-athomic[prometheus] for metrics\n"
            return PlainTextResponse(hint, status_code=NOT_IMPLEMENTED)
        content, content_type = exposition(PrometheusCollector(manager, lag))
        return Response(content, media_type=content_type)


def new_router(prefix: str, dependencies: Sequence[Depends]) -> APIRouter:
    """A router without routes."""
    return APIRouter(prefix=prefix, tags=["consumers"], dependencies=list(dependencies))

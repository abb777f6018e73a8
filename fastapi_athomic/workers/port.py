"""Probes, status and metrics of all processes of a supervisor, over HTTP. Needs uvicorn."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..exceptions import AthomicError
from ..observation.process import this_process
from ..observation.status import HealthReport, HealthStatus, ProcessInfo, worst
from .merging import merged
from .supervisor import Place, Supervisor

ANSWER_SECONDS = 0.8
"""So long a process has to answer. Kubernetes waits one second for a probe, unless told otherwise."""
END_SECONDS = 1
"""So long answers that are under way may take at the end."""
UNAVAILABLE = 503
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PlaceHealth(BaseModel):
    """One process of the supervisor."""

    place: int
    pid: int | None  # None: there is none at the moment
    state: str  # starting, running, backing_off
    restarts: int  # how often a process ended unasked, and the next one was started
    last_end: str | None  # how the last of those ended
    health: list[HealthReport]  # of its `Athomic`s; empty: it has not answered


class WorkerHealth(BaseModel):
    """The health of all processes: the worst of theirs."""

    status: HealthStatus
    supervisor: ProcessInfo
    places: list[PlaceHealth]


class Answers:
    """What the routes say. Processes are asked, all at once, whenever somebody asks."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._places = supervisor.places

    async def _ask(self, what: str) -> list[Any | None]:
        async def ask(place: Place) -> Any | None:
            return await place.process.ask(what, ANSWER_SECONDS) if place.process is not None else None

        return await asyncio.gather(*map(ask, self._places))

    async def live(self, _: Request) -> Response:
        """A restart would not help: the supervisor restarts what does not run."""
        return _probe(True)

    async def ready(self, _: Request) -> Response:
        """The consumers of all processes consume."""
        return _probe(all(await self._ask("ready")) and all(place.up.is_set() for place in self._places))

    async def startup(self, _: Request) -> Response:
        """All processes have consumed once."""
        return _probe(all(place.was_up for place in self._places))

    async def health(self, _: Request) -> Response:
        answers = await self._ask("health")
        places = [_health_of(*each) for each in zip(self._places, answers, strict=True)]
        status = worst([_status_of(each) for each in places])
        report = WorkerHealth(status=status, supervisor=this_process("{hostname}:{pid}"), places=places)
        bad = status in (HealthStatus.UNHEALTHY, HealthStatus.STARTING)
        return JSONResponse(report.model_dump(mode="json"), UNAVAILABLE if bad else 200)

    async def consumers(self, _: Request) -> Response:
        """As `GET /consumers` of the app, with the consumers of all processes."""
        answers = await self._ask("consumers")
        return JSONResponse([status for answer in answers if isinstance(answer, list) for status in answer])

    async def metrics(self, _: Request) -> Response:
        answers = [answer for answer in await self._ask("metrics") if isinstance(answer, list)]
        texts = [text for answer in answers for text in answer]
        return PlainTextResponse(merged([*texts, self._own_metrics()]), media_type=METRICS_TYPE)

    def _own_metrics(self) -> str:
        up = sum(place.up.is_set() for place in self._places)
        restarts = sum(place.restarts for place in self._places)
        return (
            "# HELP athomic_worker_processes Processes that the supervisor keeps\n"
            "# TYPE athomic_worker_processes gauge\n"
            f"athomic_worker_processes {len(self._places)}\n"
            "# HELP athomic_worker_processes_ready Processes whose consumers consume\n"
            "# TYPE athomic_worker_processes_ready gauge\n"
            f"athomic_worker_processes_ready {up}\n"
            "# HELP athomic_worker_restarts_total Times a process was started because one had ended unasked\n"
            "# TYPE athomic_worker_restarts_total counter\n"
            f"athomic_worker_restarts_total {restarts}\n"
        )


def _health_of(place: Place, answer: Any | None) -> PlaceHealth:
    return PlaceHealth(
        place=place.number,
        pid=place.process.pid if place.process is not None else None,
        state=place.state,
        restarts=place.restarts,
        last_end=place.last_end,
        health=[HealthReport.model_validate(report) for report in answer] if isinstance(answer, list) else [],
    )


def _status_of(place: PlaceHealth) -> HealthStatus:
    if place.state == "backing_off" or (place.state == "running" and not place.health):
        return HealthStatus.UNHEALTHY
    if not place.health:
        return HealthStatus.STARTING
    return worst([report.status for report in place.health])


def _probe(ok: bool) -> Response:
    return JSONResponse({"ok": ok}, 200 if ok else UNAVAILABLE)


def new_app(supervisor: Supervisor, prefix: str, *, with_status: bool) -> Starlette:
    """The routes have the paths that they have in the app. Without status: only probes, and metrics."""
    answers = Answers(supervisor)
    routes: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/health/live": answers.live,
        "/health/ready": answers.ready,
        "/health/startup": answers.startup,
        "/metrics": answers.metrics,
    }
    if with_status:
        routes |= {"/health": answers.health, "": answers.consumers}
    return Starlette(routes=[Route(f"{prefix}{path}", answer, methods=["GET"]) for path, answer in routes.items()])


def listening(host: str, port: int) -> socket.socket:
    """A socket on which nobody answers yet. Raises `AthomicError`."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise AthomicError(f"nothing can be served at {host}:{port}: {os.strerror(error.errno or 0)}") from None


@asynccontextmanager
async def served(app: Starlette, on: socket.socket) -> AsyncIterator[None]:
    """Inside the block uvicorn answers on the socket. It leaves signals alone.

    Raises:
        AthomicError: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError:
        raise AthomicError("probes and metrics need uvicorn: install it, or do without them by --port 0") from None

    class Server(uvicorn.Server):
        def install_signal_handlers(self) -> None:
            """Of older versions."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app, lifespan="off", access_log=False, log_config=None, timeout_graceful_shutdown=END_SECONDS
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[on]), name="athomic-port")
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([serving])

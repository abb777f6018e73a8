"""Probes, status and metrics of all processes, over HTTP."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from fastapi_athomic.exceptions import AthomicError
from fastapi_athomic.observation.process import this_process
from fastapi_athomic.observation.status import ConsumerHealth, HealthReport, HealthStatus
from fastapi_athomic.workers.port import listening, new_app, served
from tests.unit.workers.test_supervisor import FakeProcess, World, supervised, up

HEALTHY = HealthReport(
    status=HealthStatus.HEALTHY,
    process=this_process("p"),
    role="worker",
    consumers={"h": ConsumerHealth(status=HealthStatus.HEALTHY)},
).model_dump(mode="json")


class Answering(World):
    """Processes that answer as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, Any] = {"health": [HEALTHY], "ready": True, "consumers": [], "metrics": []}

    async def spawn(self, place: int) -> FakeProcess:
        process = await super().spawn(place)

        async def ask(what: str, timeout: float) -> Any:
            said = self.said[what]
            return said(place) if callable(said) else said

        process.ask = ask  # type: ignore[method-assign]
        return process


@pytest.fixture
async def world() -> Answering:
    return Answering()


def client(supervisor: Any, *, with_status: bool = True) -> httpx.AsyncClient:
    app = new_app(supervisor, "/consumers", with_status=with_status)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://worker/consumers")


async def test_probes_while_it_starts_and_when_it_is_up(world: Answering) -> None:
    world.gets_ready = False
    async with supervised(world, 2) as supervisor, client(supervisor) as http:
        await world.until(lambda: "go 101" in world.events)
        world.said["ready"] = False
        probes = [(await http.get(f"/health/{name}")).status_code for name in ("live", "ready", "startup")]
        assert probes == [200, 503, 503]
        world.processes[0].ready.set()
        await world.until(lambda: supervisor.places[0].up.is_set())
        world.said["ready"] = True
        assert (await http.get("/health/ready")).status_code == 503, "one of two"
        world.processes[1].ready.set()
        await world.until(lambda: up(supervisor))
        probes = [(await http.get(f"/health/{name}")).status_code for name in ("live", "ready", "startup")]
        assert probes == [200, 200, 200]
        world.said["ready"] = lambda place: place == 1
        assert (await http.get("/health/ready")).json() == {"ok": False}, "one consumes no more"
        assert (await http.get("/health/startup")).status_code == 200


async def test_health_is_the_worst_and_names_each_process(world: Answering) -> None:
    bad = {**HEALTHY, "status": "unhealthy"}
    async with supervised(world, 2) as supervisor, client(supervisor) as http:
        await world.until(lambda: up(supervisor))
        answer = await http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (200, "healthy")
        assert [(each["place"], each["pid"]) for each in answer.json()["places"]] == [(1, 100), (2, 101)]
        world.said["health"] = lambda place: [HEALTHY if place == 1 else bad]
        answer = await http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
        world.said["health"] = lambda place: [HEALTHY] if place == 1 else None
        assert (await http.get("/health")).json()["status"] == "unhealthy", "one does not answer"


async def test_a_process_that_is_gone_is_unhealthy_and_says_how_it_ended(world: Answering) -> None:
    async with supervised(world, 1) as supervisor, client(supervisor) as http:
        await world.until(lambda: up(supervisor))
        world.sleeps = False
        world.processes[0].finish(-9)
        await world.until(lambda: world.slept)
        answer = await http.get("/health")
        assert answer.status_code == 503
        (place,) = answer.json()["places"]
        assert (place["state"], place["pid"], place["restarts"]) == ("backing_off", None, 1)
        assert answer.json()["status"] == "unhealthy", "not merely starting"
        assert place["last_end"] == "process 100 was killed by SIGKILL"


async def test_consumers_and_metrics_of_all_processes(world: Answering) -> None:
    world.said["consumers"] = lambda place: [{"id": "h", "place": place}]
    world.said["metrics"] = lambda place: [f'# HELP a A\n# TYPE a gauge\na{{instance_id="{place}"}} {place}.0\n']
    async with supervised(world, 2) as supervisor, client(supervisor) as http:
        await world.until(lambda: up(supervisor))
        assert [each["place"] for each in (await http.get("http://worker/consumers")).json()] == [1, 2]
        metrics = (await http.get("/metrics")).text
        assert metrics.startswith('# HELP a A\n# TYPE a gauge\na{instance_id="1"} 1.0\na{instance_id="2"} 2.0\n')
        assert "\nathomic_worker_processes 2\n" in metrics
        assert "\nathomic_worker_processes_ready 2\n" in metrics
        assert "\nathomic_worker_restarts_total 0\n" in metrics
        world.said["metrics"] = None  # without the extra
        assert (await http.get("/metrics")).text.startswith("# HELP athomic_worker_processes ")


async def test_status_can_be_left_out(world: Answering) -> None:
    async with supervised(world, 1) as supervisor, client(supervisor, with_status=False) as http:
        await world.until(lambda: up(supervisor))
        assert (await http.get("/health/ready")).status_code == 200
        assert (await http.get("/metrics")).status_code == 200
        assert [(await http.get(path)).status_code for path in ("http://worker/consumers", "/health")] == [404, 404]


async def test_uvicorn_serves_it_and_leaves_the_socket_behind(world: Answering) -> None:
    async with supervised(world, 1) as supervisor:
        on = listening("127.0.0.1", 0)
        url = f"http://127.0.0.1:{on.getsockname()[1]}/consumers/health/live"
        async with served(new_app(supervisor, "/consumers", with_status=True), on), httpx.AsyncClient() as http:
            assert (await http.get(url)).json() == {"ok": True}
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient() as http:
                await http.get(url)


def test_an_address_that_cannot_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AthomicError, match="Address already in use"):
        listening("127.0.0.1", taken.getsockname()[1])

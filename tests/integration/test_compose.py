"""What docker-compose.yml runs as `app`, with its command and its environment; Docker is not needed.

Only addresses are replaced: by those of the servers of the tests, and of a receiver that stands for Jaeger.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import redis
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from example_app.messages import EVENTS, MAILS, ORDERS, STOCK
from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.postgres import Postgres
from tests.support.processes import Process, free_port
from tests.support.redis_server import ExternalRedis, RedisServer
from tests.support.schema_registry import ApicurioRegistry, ExternalRegistry

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
ONE_TRACE = {
    "POST /orders",
    *(f"{verb} {topic}" for verb in ("send", "process") for topic in (ORDERS, EVENTS, STOCK, MAILS)),
}


class Received(NamedTuple):
    service: str
    name: str
    trace_id: bytes


class Receiver(ThreadingHTTPServer):
    """Takes traces by OTLP over HTTP, as Jaeger does at port 4318."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Traces)
        self.spans: list[Received] = []

    def take(self, request: ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            attributes = {item.key: item.value.string_value for item in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    self.spans.append(Received(attributes["service.name"], span.name, span.trace_id))

    def traces(self) -> dict[bytes, set[str]]:
        """The names of the spans by trace."""
        found: dict[bytes, set[str]] = {}
        for span in list(self.spans):
            found.setdefault(span.trace_id, set()).add(span.name)
        return found


class Traces(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.server.take(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_traces_reach_jaeger_and_the_ordered_consumer_uses_redis(
    apache_kafka: KafkaBroker | ExternalKafka,
    redis_server: RedisServer | ExternalRedis,
    postgres: Postgres,
    schema_registry: ApicurioRegistry | ExternalRegistry,
    receiver: Receiver,
    tmp_path: Path,
) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    service: dict[str, Any] = compose["services"]["app"]
    port = str(free_port())
    addresses = {
        "kafka:29092": apache_kafka.bootstrap,
        "redis://redis:6379/0": redis_server.url,
        "postgresql+asyncpg://shop:shop@postgres:5432/shop": postgres.new_database(),
        "http://registry:8080/apis/ccompat/v7": schema_registry.url,
        "jaeger:4318": f"127.0.0.1:{receiver.server_port}",
    }
    environment = {name: replaced(value or "", addresses) for name, value in service["environment"].items()}
    assert all(":" not in value or "127.0.0.1" in value or "localhost" in value for value in environment.values())
    shell = shlex.split(service["command"])[-1]
    _, _, uvicorn = shell.rpartition("&& ")
    command = [sys.executable, "-m", *shlex.split(uvicorn.replace("8000", port).replace("0.0.0.0", "127.0.0.1"))]
    log = tmp_path / "app.log"
    environment |= {"OTEL_BSP_SCHEDULE_DELAY": "100", "PYTHONPATH": str(ROOT)}
    app = Process(command, log, **{**os.environ, **environment})
    app.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            ready = service["healthcheck"]["test"][-1].split("127.0.0.1:8000")[1].split("'")[0]
            app.wait_until(lambda: http.get(ready).raise_for_status(), SECONDS)
            order = http.post("/orders", json={"customer": "ann", "item": "book", "unit_price": "12.50"}).json()
            place = f"/orders/{order['order_id']}"
            app.wait_until(lambda: expect(statuses(http, place) == ["placed", "billed", "reserved"]), SECONDS)
            app.wait_until(lambda: expect(http.get("/mails").json() == [order["order_id"]]), SECONDS)
        app.wait_until(lambda: expect(any(names >= ONE_TRACE for names in receiver.traces().values())), SECONDS)
    finally:
        app.stop()
    assert {span.service for span in receiver.spans} == {service["environment"]["OTEL_SERVICE_NAME"]}
    with redis.Redis.from_url(redis_server.url) as client:
        assert any(b"shipping" in key for key in client.scan_iter("athomic*")), "the state of the ordered consumer"


def replaced(value: str, addresses: dict[str, str]) -> str:
    for here, there in addresses.items():
        value = value.replace(here, there)
    return value


def statuses(http: httpx.Client, place: str) -> list[str]:
    return [event["status"] for event in http.get(place).raise_for_status().json()]


def expect(seen: bool) -> None:
    assert seen, "not yet"

"""Two services, two processes, one trace and one context, on Apache Kafka."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.processes import Process, free_port

ROOT = Path(__file__).parents[2]
SECONDS = 60.0


class Service:
    def __init__(self, name: str, topic: str, bootstrap: str, directory: Path) -> None:
        self.name, self._port, self._directory = name, free_port(), directory
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "ATHOMIC_BROKER_URL": f"kafka://{bootstrap}",
            "TRACED_DIRECTORY": str(directory),
            "TRACED_NAME": name,
            "TRACED_TOPIC": topic,
        }
        command = [sys.executable, "-m", "uvicorn", "tests.integration.traced_service:app", "--port", str(self._port)]
        self.process = Process(command, directory / f"{name}.log", **environment)
        self.process.start()

    def wait_until_ready(self) -> None:
        self.process.wait_until(lambda: self.get("/consumers/health/startup"), SECONDS)

    def get(self, path: str) -> None:
        httpx.get(f"http://127.0.0.1:{self._port}{path}", timeout=5).raise_for_status()

    def post(self, path: str, **headers: str) -> None:
        httpx.post(f"http://127.0.0.1:{self._port}{path}", headers=headers, timeout=20).raise_for_status()

    def lines(self, kind: str) -> list[Any]:
        file = self._directory / f"{self.name}.{kind}"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.timeout(180)
def test_a_trace_and_a_context_go_through_two_services(
    apache_kafka: KafkaBroker | ExternalKafka, tmp_path: Path
) -> None:
    topic = f"traced-{uuid4().hex[:8]}"
    services = [Service(name, topic, apache_kafka.bootstrap, tmp_path) for name in ("a", "b")]
    a, b = services
    try:
        for service in services:
            service.wait_until_ready()
        a.post("/start", **{"x-request-id": "req-7"})
        end = time.monotonic() + SECONDS
        while not (b.lines("handled") and a.lines("handled")) and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        for service in services:
            service.process.stop()
    assert a.lines("handled") == [["acme", "req-7", {"step": 1}]]
    assert b.lines("handled") == [["acme", "req-7", {"step": 2}]]

    spans = {span["context"]["span_id"]: span for service in services for span in service.lines("spans")}
    (last,) = [span for span in spans.values() if span["name"] == f"process {topic}.next"]
    assert last["resource"]["attributes"]["service.name"] == "b"
    names, current = [], last
    while current is not None:
        names.append(current["name"])
        assert current["context"]["trace_id"] == last["context"]["trace_id"]
        current = spans.get(current["parent_id"])
    ours = [name for name in names if name.startswith(("process", "send", "POST"))]
    expected = [f"process {topic}.next", f"send {topic}.next", f"process {topic}", f"send {topic}", "POST /start"]
    assert list(dict.fromkeys(ours)) == expected
    assert not any("/consumers" in span["name"] for span in spans.values()), "health checks are not traced"

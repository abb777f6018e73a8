"""The end of a process under uvicorn: what others hold open does not hold up consumers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from tests.support.processes import Process, free_port
from tests.support.silent_server import SilentServer

SECONDS = 15.0
"""So long a test waits for something that should happen at once."""


class Service:
    def __init__(self, directory: Path, **environment: str) -> None:
        self.port = free_port()
        module = "tests.integration.streaming_service:app"
        command = [sys.executable, "-m", "uvicorn", module, "--port", str(self.port), "--log-level", "info"]
        self.process = Process(command, directory / "log", **{**os.environ, **environment})

    @contextmanager
    def running(self) -> Iterator[Process]:
        self.process.start()
        try:
            self.process.wait_until(lambda: self.get("/consumers/health"), SECONDS)
            yield self.process
        finally:
            self.process.kill()

    def get(self, path: str) -> str:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5).raise_for_status().text

    def says(self, what: str, seconds: float = SECONDS) -> None:
        end = monotonic() + seconds
        while not re.search(what, self.process.output()):
            assert monotonic() < end, f"did not say {what}:\n{self.process.output()[-3000:]}"
            sleep(0.02)


@pytest.mark.parametrize("isolation", ["loop", "thread"])
def test_p10_fault_18_an_open_stream_does_not_hold_up_the_drain(tmp_path: Path, isolation: str) -> None:
    service = Service(tmp_path, ATHOMIC_ISOLATION=isolation)
    with service.running() as process, socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"tick" not in client.recv(4096):
            pass
        service.get("/work")
        service.says("begun")
        process.signal(signal.SIGTERM)
        service.says("done")
        service.says("h: stopped")
        assert process.is_running, "the stream is open still"
        assert b"tick" in client.recv(4096)
        client.close()
        service.says("Finished server process")


def test_p10_fault_18_a_catalogue_that_does_not_answer_holds_up_neither_the_drain_nor_the_end(tmp_path: Path) -> None:
    with SilentServer() as catalogue:
        service = Service(
            tmp_path,
            OPENLINEAGE_URL=catalogue.url,
            OPENLINEAGE__TRANSPORT__TYPE="http",
            OPENLINEAGE__TRANSPORT__URL=catalogue.url,
            OPENLINEAGE__TRANSPORT__TIMEOUT="3600",
            ATHOMIC_SHUTDOWN_TIMEOUT="1",
        )
        with service.running() as process:
            assert catalogue.asked.acquire(timeout=SECONDS), "the start of the run is being reported"
            service.get("/work")
            service.says("begun")
            process.signal(signal.SIGTERM)
            service.says("h: stopped")
            service.says("the end of the runs could not be reported")
            process.stop(SECONDS)
            assert "killed" not in process.ending, "no thread holds it"


ASYNCIO_RUN = """
import asyncio

from fastapi import FastAPI

from fastapi_athomic import include_athomic, subscribe_to


@subscribe_to("t", group_id="g")
async def handle(message: str) -> None: ...


async def main() -> None:
    athomic = include_athomic(FastAPI(), handlers=[handle])
    async with athomic.app.router.lifespan_context(athomic.app):
        await athomic.wait_until_ready()


asyncio.run(main())
print("ended")
"""


def test_p10_fault_18_a_catalogue_that_does_not_answer_does_not_hold_up_the_end_of_an_event_loop() -> None:
    """Uvicorn ends by its signal, whatever threads there are; `asyncio.run` waits for those of its executor."""
    with SilentServer() as catalogue:
        environment = {
            "OPENLINEAGE__TRANSPORT__TYPE": "http",
            "OPENLINEAGE__TRANSPORT__URL": catalogue.url,
            "OPENLINEAGE__TRANSPORT__TIMEOUT": "3600",
            "ATHOMIC_SHUTDOWN_TIMEOUT": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", ASYNCIO_RUN],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        assert "ended" in done.stdout
        assert catalogue.asked.acquire(blocking=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_p10_an_open_dashboard_does_not_hold_up_the_stop(tmp_path: Path, number: signal.Signals) -> None:
    """Its stream would last for an hour, and its next event would come after an hour."""
    service = Service(
        tmp_path, ATHOMIC_DASHBOARD__STREAM_SECONDS="3600", ATHOMIC_DASHBOARD__INTERVAL="3600", PYTHONUNBUFFERED="1"
    )
    with (
        service.running() as process,
        httpx.stream("GET", f"http://127.0.0.1:{service.port}/consumers/events", timeout=SECONDS) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == "event: snapshot"
        process.signal(number)
        assert 'data: {"reason": "stopping"}' in lines
        service.says("Finished server process")

"""What a process says when it starts, under servers whose logging nobody has touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.processes import Process, free_port

APP = """
from fastapi import FastAPI

from fastapi_athomic import include_athomic, subscribe_to

app = FastAPI()
include_athomic(app)


@subscribe_to("orders.placed", group_id="billing", handler_id="bill")
async def bill(order: bytes) -> None: ...
"""
SECONDS = 60.0
"""Most seconds that a server may take to come up, on a busy machine."""


@contextmanager
def uvicorn(directory: Path, *options: str, **environment: str) -> Iterator[Process]:
    (directory / "shop.py").write_text(APP)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--app-dir", str(directory), "--port", str(port), *options]
    process = Process(command, directory / "log", **{**os.environ, **environment})
    process.start()
    try:
        process.wait_until(
            lambda: httpx.get(f"http://127.0.0.1:{port}/consumers", timeout=5).raise_for_status(), SECONDS
        )
        yield process
    finally:
        process.stop()


def test_p22_uvicorn_shows_one_line_at_the_start_and_one_at_the_end(tmp_path: Path) -> None:
    with uvicorn(tmp_path, ATHOMIC_BROKER_URL="kafka://127.0.0.1:1", ATHOMIC_SHUTDOWN_TIMEOUT="2") as process:
        said = process.output().splitlines()
    (line,) = [line for line in said if "starts with broker" in line]
    assert line.startswith("INFO:     fastapi_athomic: process "), "as uvicorn writes its own lines"
    assert "broker kafka://127.0.0.1:1 (PLAINTEXT), state store none, 1 consumer in the event loop" in line
    assert line.endswith("bill (orders.placed)")
    assert "has stopped its consumers, in" in process.output()


def test_p22_memory_in_several_workers_of_uvicorn_is_warned_of(tmp_path: Path) -> None:
    with uvicorn(tmp_path, "--workers", "2") as process:
        pass
    assert "the broker is memory:// and the server runs 2 workers" in process.output()


def test_p22_a_misspelt_variable_ends_the_start_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--app-dir", str(tmp_path), "--port", str(free_port())]
    environment = {**os.environ, "ATHOMIC_BROKERURL": "kafka://ann:s3cret@a:9092"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode != 0
    assert "ATHOMIC_BROKERURL: there is no such setting: did you mean ATHOMIC_BROKER_URL?" in ended.stderr
    assert "s3cret" not in ended.stderr

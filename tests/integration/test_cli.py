"""The command line, in processes of its own, against dead letters of the example app on Apache Kafka."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fastapi_athomic import AthomicSettings
from tests.support.apps import new_app, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker

ROOT = Path(__file__).parents[2]
HANDLER = "cli-handler"


@pytest.fixture
def module(tmp_path: Path) -> str:
    """A module with an app whose handler fails, and topics of its own."""
    name = f"cli_{uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(f"""
from fastapi import FastAPI
from fastapi_athomic import RetryPolicy, include_athomic, subscribe_to

app = FastAPI()
athomic = include_athomic(app)

@athomic.on_control
def audit(event):
    with open("audit", "a") as file:
        print(event.action, event.consumer, event.actor, event.reason, event.details["settled"], file=file)

@subscribe_to("{name}", group_id="{name}", handler_id="{HANDLER}", retry=RetryPolicy(max_attempts=1))
async def handle(message: str) -> None:
    if message.startswith("bad"):
        raise RuntimeError("s3cret reason")
""")
    return name


class Shell:
    def __init__(self, directory: Path, module: str, bootstrap: str) -> None:
        self._directory, self._module = directory, module
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "ATHOMIC_BROKER_URL": f"kafka://{bootstrap}"}

    def __call__(self, *arguments: str, status: int = 0, app: str | None = None, area: str = "dlq") -> str:
        command = [sys.executable, "-W", "error", "-m", "fastapi_athomic", area, *arguments]
        done = subprocess.run(
            [*command, "--app", app or f"{self._module}:app"],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    def json(self, *arguments: str, area: str = "dlq") -> Any:
        return json.loads(self(*arguments, "--json", area=area))


async def test_list_show_redrive_and_discard(
    apache_kafka: KafkaBroker | ExternalKafka, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    handle = __import__(module).handle
    athomic = new_app(AthomicSettings(broker_url=f"kafka://{apache_kafka.bootstrap}"), handle)
    async with running(athomic):
        for number in range(4):
            await athomic.publish(module, f"bad {number}", key="k")
        await athomic.drain()
    shell = Shell(tmp_path, module, apache_kafka.bootstrap)

    listed = shell.json("list", HANDLER)
    assert [letter["value"] for letter in listed] == [f"bad {number}" for number in range(4)]
    partition = str(listed[0]["partition"])
    assert "key=k  builtins.RuntimeError  s3cret reason" in shell("list", HANDLER)
    shown = shell.json("show", HANDLER, "--partition", partition, "--offset", "1")
    assert (shown["value"], shown["key"], shown["original_topic"]) == ("bad 1", "k", module)
    assert (shown["id"], shown["handler_id"], shown["omitted"]) == (listed[1]["id"], HANDLER, [])
    assert "s3cret reason" in shell("show", HANDLER, "--partition", partition, "--offset", "1")

    assert "say which" in shell("redrive", HANDLER, "--yes", status=1)
    assert "nobody to ask: pass --yes" in shell("redrive", HANDLER, "--all", status=2)
    assert shell.json("redrive", HANDLER, "--all", "--dry-run")["settled"] == 4
    assert shell.json("redrive", HANDLER, "--partition", partition, "--offset", "0", "--yes")["settled"] == 1
    assert shell.json("discard", HANDLER, "--all", "--limit", "1", "--reason", "test", "--yes")["settled"] == 1
    assert "2 of 2 dead letters sent back" in shell("redrive", HANDLER, "--all", "--yes")
    assert shell.json("list", HANDLER) == []
    ann = getpass.getuser()
    assert (tmp_path / "audit").read_text().splitlines() == [
        f"redrive {HANDLER} {ann} None 1",
        f"discard {HANDLER} {ann} test 1",
        f"redrive {HANDLER} {ann} None 2",
    ]

    topics = {topic["name"]: topic["partitions"] for topic in shell.json("--ask-broker", area="topics")["topics"]}
    assert topics[module] == topics[f"{module}.{module}.dlq"] == topics[f"{module}.{module}.redrive"] > 0
    assert topics.keys() == {module, f"{module}.{module}.dlq", f"{module}.{module}.redrive"}

    assert "there is no handler nobody" in shell("list", "nobody", status=1)
    assert "there is no module no_such_module" in shell("list", HANDLER, app="no_such_module:app", status=1)
    assert "has no athomic" in shell("list", HANDLER, app="json:dumps", status=1)
    assert "no dead letter at this place" in shell("show", HANDLER, "--partition", "0", "--offset", "99", status=1)

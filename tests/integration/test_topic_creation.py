"""`fastapi-athomic topics --create` on Apache Kafka, and on one with an authorizer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fastapi_athomic.cli import main
from fastapi_athomic.rights import Right
from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.secure_kafka import PASSWORD, SecureKafka

SECONDS = 30
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a module with an app, and the beginning of the names of its topics. Nobody but the command makes them."""
    found = f"made_{uuid4().hex[:8]}"
    (tmp_path / f"{found}.py").write_text(f"""
import re
from fastapi import FastAPI
from fastapi_athomic import RetryPolicy, include_athomic, subscribe_to

app = FastAPI()
include_athomic(app)

@subscribe_to(["{found}", "{found}-b"], group_id="g", handler_id="h", ordering="none", dlq="{found}-errors",
              retry=RetryPolicy(retry_topics=(10,)))
async def handle(message: bytes) -> None: ...

@subscribe_to("{found}-errors", group_id="e", handler_id="e")
async def look(message: bytes) -> None: ...

@subscribe_to(re.compile("{found}-p.*"), group_id="p", handler_id="p")
async def every(message: bytes) -> None: ...
""")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATHOMIC_CREATE_TOPICS", "never")  # what the app itself may do
    return found


@pytest.fixture
def run(name: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """What became of each topic, by what follows the module's name."""

    def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["topics", "--create", "--app", name, "--publishes", f"{name}-out", "--json", *arguments]) == status
        topics = json.loads(capsys.readouterr().out)["topics"]
        return {each["name"].removeprefix(name): each for each in topics}

    return run


def results(found: dict[str, Any]) -> dict[str, tuple[str, int | None]]:
    return {topic: (each["result"], each["partitions"]) for topic, each in found.items()}


def test_what_is_missing_is_made(
    apache_kafka: KafkaBroker | ExternalKafka, name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATHOMIC_BROKER_URL", f"kafka://{apache_kafka.bootstrap}")
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap, "log_level": 0})
    for done in admin.create_topics([NewTopic(f"{name}-b", 5, 1), NewTopic(f"{name}-p1", 2, 1)]).values():
        done.result(SECONDS)

    def there() -> dict[str, int]:
        found = admin.list_topics(timeout=SECONDS).topics
        return {each.removeprefix(name): len(topic.partitions) for each, topic in found.items() if name in each}

    planned = results(run("--dry-run", "--partitions", "3"))
    assert there() == {"-b": 5, "-p1": 2}
    wanted = {
        "": 3,
        "-b": 5,
        "-out": 3,
        ".g.retry.10s": 3,
        "-b.g.retry.10s": 5,
        ".g.redrive": 3,
        "-b.g.redrive": 5,
        "-errors": 5,
        "-errors.e.redrive": 5,
        "-errors.e.dlq": 5,
        "-p1.p.redrive": 2,
        "-p1.p.dlq": 2,
    }
    assert planned == {each: ("exists" if each == "-b" else "would be created", n) for each, n in wanted.items()}
    some = run("--for", "redrive", status=1)
    assert some[".g.redrive"]["error"] == f"it gets as many partitions as {name}, which does not exist"
    assert some["-b.g.redrive"]["result"] == "created"
    assert there() == {"-b": 5, "-p1": 2, "-b.g.redrive": 5, "-p1.p.redrive": 2}
    made = run("--partitions", "3")
    assert {each: topic["partitions"] for each, topic in made.items()} == wanted
    assert there() == {**wanted, "-p1": 2}
    assert {topic["result"] for topic in run("--partitions", "9").values()} == {"exists"}
    assert there() == {**wanted, "-p1": 2}


def test_what_may_not_be_made_is_named_and_the_rest_is_made(
    secure_kafka: SecureKafka, name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = secure_kafka.user()
    for variable, value in {
        "BROKER_URL": f"kafka://{secure_kafka.sasl}",
        "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA__SASL_MECHANISM": "SCRAM-SHA-256",
        "KAFKA__SASL_USERNAME": str(user.sasl_username),
        "KAFKA__SASL_PASSWORD": PASSWORD,
    }.items():
        monkeypatch.setenv(f"ATHOMIC_{variable}", value)

    def allow(topic: str, *operations: Any) -> None:
        secure_kafka.allow(user, [Right(resource_type="Topic", name=topic, operations=operations, purpose="")])

    allow(name, "Create", "Describe")
    allow(f"{name}.g.redrive", "Describe")
    allow(f"{name}.g.retry.10s", "Create", "Describe")
    found = run(status=1)
    assert results(found)[""][0] == results(found)[".g.retry.10s"][0] == "created"
    assert "the right Create on topic" in found[".g.redrive"]["error"]
    assert "the right Describe on topic" in found["-b"]["error"]
    assert {topic for topic in secure_kafka.topics() if name in topic} == {name, f"{name}.g.retry.10s"}

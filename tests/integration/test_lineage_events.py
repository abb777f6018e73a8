"""Run events of OpenLineage, written by its own client to a file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

from fastapi_athomic import AthomicSettings, RetryPolicy, get_lineage, include_athomic
from tests.support.apps import Record, eventually, running
from tests.support.kafka_broker import ExternalKafka, KafkaBroker


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(tmp_path / "events"))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    return tmp_path / "events"


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """OpenLineage's client makes more variables of OPENLINEAGE_URL, and leaves them."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


async def test_a_handlers_run_is_reported_from_start_to_end(
    apache_kafka: KafkaBroker | ExternalKafka, log: Path
) -> None:
    settings = AthomicSettings(broker_url=f"kafka://{apache_kafka.bootstrap}", lineage_interval=0.2)
    athomic, record = include_athomic(FastAPI(), settings), Record()

    @athomic.subscribe_to("lineage-in", group_id="lineage", handler_id="reported", retry=RetryPolicy(max_attempts=1))
    async def reported(message: str) -> None:
        record.note(get_lineage())
        if message == "bad":
            raise LookupError("s3cret")
        await athomic.publish("lineage-out", message)

    @athomic.subscribe_to("lineage-in", group_id="lineage-2", handler_id="silent", enable_lineage=False)
    async def silent(message: str) -> None: ...

    async with running(athomic):
        for message in ("good", "bad"):
            await athomic.publish("lineage-in", message)
        await record.count(2)
        await athomic.drain()
        await eventually(lambda: any(event["eventType"] == "RUNNING" for event in events(log)))
    found = events(log)
    assert {event["job"]["name"] for event in found} == {"reported"}
    assert found[0]["eventType"] == "START"
    assert found[-1]["eventType"] == "COMPLETE"
    assert {event["run"]["runId"] for event in found} == {str(record.seen[0].run.run_id)}
    last = found[-1]
    namespace = f"kafka://{apache_kafka.bootstrap.split(',')[0]}"
    assert [(data["namespace"], data["name"]) for data in last["inputs"]] == [(namespace, "lineage-in")]
    assert {data["name"] for data in last["outputs"]} == {"lineage-out", "lineage-in.lineage.dlq"}
    counts = last["run"]["facets"]["athomic_messageCounts"]
    assert (counts["received"], counts["processed"], counts["failed"], counts["deadLettered"]) == (2, 1, 1, 1)
    assert "s3cret" not in json.dumps(found)
    for event in found:  # the library's own classes take them, and check times, ids and addresses
        RunEvent(
            eventTime=event["eventTime"],
            producer=event["producer"],
            run=Run(runId=event["run"]["runId"]),
            job=Job(namespace=event["job"]["namespace"], name=event["job"]["name"]),
            eventType=RunState[event["eventType"]],
        )


async def test_fault_18_the_last_event_knows_what_a_pattern_consumed(log: Path) -> None:
    """It is sent when the consumers have stopped, and have no partitions any more."""
    athomic, record = include_athomic(FastAPI(), AthomicSettings()), Record()

    @athomic.subscribe_to(re.compile("lineage-[ab]"), group_id="g", handler_id="patterned")
    async def patterned(message: str) -> None:
        record.note(message)

    async with running(athomic):
        for topic in ("lineage-a", "lineage-b"):
            await athomic.publish(topic, "x")
        await record.count(2)
    last = events(log)[-1]
    assert last["eventType"] == "COMPLETE"
    assert [data["name"] for data in last["inputs"]] == ["lineage-a", "lineage-b"]
    assert last["run"]["facets"]["athomic_messageCounts"]["processed"] == 2


async def test_a_catalogue_that_is_away_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:1")
    athomic, record = include_athomic(FastAPI(), AthomicSettings(lineage_interval=0.05)), Record()

    @athomic.subscribe_to("t", group_id="g", handler_id="h")
    async def handle(message: str) -> None:
        record.note(message)

    async with running(athomic):
        await athomic.publish("t", "x")
        await record.count(1)
        await athomic.drain()
    warnings = [entry for entry in caplog.records if "lineage could not be sent" in entry.getMessage()]
    assert len(warnings) <= 1

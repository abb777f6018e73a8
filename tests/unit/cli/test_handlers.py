from __future__ import annotations

import pytest

from tests.unit.cli.conftest import Command, Write

SHOP = """
import re
from fastapi import FastAPI
from fastapi_athomic import RetryPolicy, include_athomic, ordered_consumer, subscribe_to

app = FastAPI()
include_athomic(app)

class Patient(RetryPolicy): ...

@subscribe_to(["orders", "refunds"], group_id="billing", handler_id="bill", ordering="none", concurrency=5,
              retry=RetryPolicy(max_attempts=2, delay=0.1, retry_topics=(10, 60)))
async def bill(order: bytes) -> None: ...

@subscribe_to(re.compile("shop[.].*"), group_id="archive", handler_id="keep", batch_size=50, dlq=False,
              retry=Patient(max_attempts=0, delay=lambda attempt, error: 1.0))
async def keep(messages: list[bytes]) -> None: ...

@ordered_consumer("events", group_id="ship", handler_id="ship", aggregate_key_field="a", sequence_id_field="b",
                  dlq="errors")
async def ship(event: dict[str, int]) -> None: ...
"""


def test_each_handler_is_a_line(write: Write, command: Command) -> None:
    write(listed1=SHOP)
    answer = command("handlers", "--app", "listed1")
    assert answer.status == 0
    title, bill, keep, ship = answer.out.splitlines()
    assert title.split() == ["HANDLER", "TOPICS", "GROUP", "ORDER", "CONCURRENCY", "BATCH", "PAYLOAD", "RETRY", "DLQ"]
    assert [column.strip() for column in bill.split("  ") if column.strip()] == [
        "bill",
        "orders, refunds",
        "billing",
        "none",
        "5",
        "-",
        "json",
        "2x, then 10s 60s",
        "orders.billing.dlq, refunds.billing.dlq",
    ]
    assert "/shop[.].*/" in keep
    assert "Patient: no limit" in keep
    assert keep.endswith("none: what fails is skipped")
    assert "sequence" in ship
    assert ship.endswith("errors")
    assert bill.index("billing") == title.index("GROUP") == ship.index("ship", 4), "columns"


def test_settings_of_an_operator_are_in_it(write: Write, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HANDLER", "bill"), ("CONCURRENCY", "7"), ("RETRY__MAX_ATTEMPTS", "9"), ("PAUSED", "1")):
        monkeypatch.setenv(f"ATHOMIC_TUNING__0__{name}", value)
    monkeypatch.setenv("ATHOMIC_DLQ_TOPIC", "dead.{topic}")
    write(listed2=SHOP)
    bill, keep, ship = command("handlers", "--app", "listed2", "--json").json
    assert bill == {
        "id": "bill",
        "topics": ["orders", "refunds"],
        "pattern": None,
        "group_id": "billing",
        "ordering": "none",
        "concurrency": 7,
        "batch_size": None,
        "timeout": None,
        "auto_offset_reset": "earliest",
        "paused": True,
        "payloads": {"orders": "json", "refunds": "json"},
        "retry": {
            "policy": "RetryPolicy",
            "max_attempts": 9,
            "delay": 0.1,
            "backoff": 2.0,
            "max_delay": 30.0,
            "max_elapsed": None,
            "retry_topics": [10, 60],
        },
        "dlq_topics": ["dead.orders", "dead.refunds"],
    }
    assert (keep["pattern"], keep["topics"], keep["dlq_topics"], keep["retry"]["delay"]) == ("shop[.].*", [], [], None)
    assert (ship["ordering"], ship["dlq_topics"]) == ("sequence", ["errors"])


def test_what_is_wrong_is_told_instead(write: Write, command: Command) -> None:
    write(listed3=SHOP + "\n@subscribe_to('x', group_id='y', handler_id='z')\nasync def bad(x) -> None: ...\n")
    for name in ("handlers", "topics"):
        answer = command(name, "--app", "listed3")
        assert (answer.status, answer.out) == (1, "")
        assert answer.err.startswith("error: handler z: annotate x")


def test_the_pipeline_of_each_handler_is_shown_without_secrets(
    write: Write, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3I="
    for name, value in {
        "SERIALIZER": "messagepack",
        "READS": "json",
        "COMPRESSION": "zstd",
        "ENCRYPTION": "fernet",
        "ENCRYPTION_KEYS": key,
        "TOPICS__0__TOPIC": "refunds",
        "TOPICS__0__COMPRESSION_WRITES": "false",
        "TOPICS__0__ENCRYPTION": "none",
    }.items():
        monkeypatch.setenv(f"ATHOMIC_PAYLOAD__{name}", value)
    write(listed4=SHOP)
    answer = command("handlers", "--app", "listed4")
    assert "messagepack+zstd+fernet (reads json), messagepack (reads json zstd)" in answer.out
    assert key not in answer.out + answer.err
    bill, keep, _ = command("handlers", "--app", "listed4", "--json").json
    assert bill["payloads"] == {
        "orders": "messagepack+zstd+fernet (reads json)",
        "refunds": "messagepack (reads json zstd)",
    }
    assert keep["payloads"] == {"<topic>": "messagepack+zstd+fernet (reads json)"}

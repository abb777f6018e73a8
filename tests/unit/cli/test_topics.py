from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from fastapi_athomic.cli.topic_needs import literal_prefix
from tests.unit.cli.conftest import Command, Write

SHOP = """
import re
from fastapi import FastAPI
from fastapi_athomic import RetryPolicy, include_athomic, subscribe_to

app = FastAPI()
include_athomic(app)

@subscribe_to(["orders", "refunds"], group_id="billing", handler_id="bill", ordering="none",
              retry=RetryPolicy(retry_topics=(10,)))
async def bill(order: bytes) -> None: ...

@subscribe_to("orders", group_id="mail", handler_id="mail", dlq="errors")
async def mail(order: bytes) -> None: ...

@subscribe_to("refunds", group_id="mail", handler_id="news", dlq="errors")
async def news(order: bytes) -> None: ...

@subscribe_to("clicks", group_id="statistics", handler_id="count", dlq=False)
async def count(click: bytes) -> None: ...
"""
PATTERN = """
import re
from fastapi import FastAPI
from fastapi_athomic import include_athomic, subscribe_to

app = FastAPI()
include_athomic(app)

@subscribe_to(re.compile(r"shop\\..*"), group_id="archive", handler_id="keep")
async def keep(message: bytes) -> None: ...
"""


def needs(answer: Any) -> dict[str, Any]:
    assert answer.status == 0, answer.err
    return {topic["name"]: topic for topic in answer.json["topics"]}


def rights(answer: Any, key: str = "rights") -> dict[tuple[str, str], list[str]]:
    return {(right["resource_type"], right["name"]): right["operations"] for right in answer.json[key]}


def test_every_topic_that_the_app_needs(write: Write, command: Command) -> None:
    write(topics1=SHOP)
    found = needs(command("topics", "--app", "topics1", "--json"))
    assert {name: topic["kinds"] for name, topic in found.items()} == {
        "orders": ["source"],
        "refunds": ["source"],
        "clicks": ["source"],
        "orders.billing.retry.10s": ["retry"],
        "orders.billing.redrive": ["redrive"],
        "orders.billing.dlq": ["dlq"],
        "refunds.billing.retry.10s": ["retry"],
        "refunds.billing.redrive": ["redrive"],
        "refunds.billing.dlq": ["dlq"],
        "orders.mail.redrive": ["redrive"],
        "refunds.mail.redrive": ["redrive"],
        "errors": ["dlq"],
    }
    assert found["orders"]["handlers"] == ["bill", "mail"]
    assert found["orders"]["partitions_as"] == []
    assert found["orders.billing.dlq"]["partitions_as"] == ["orders"]
    assert found["errors"]["partitions_as"] == ["orders", "refunds"]
    assert found["errors"]["partitions"] is None, "nobody was asked"
    assert found["errors"]["created_by_app"]


def test_the_text_says_how_many_partitions(write: Write, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    write(topics2=SHOP)
    answer = command("topics", "--app", "topics2")
    lines = [re.split(r"  +", line) for line in answer.out.splitlines()]
    assert ["orders", "source", "your choice", "bill, mail"] in lines
    assert ["orders.billing.dlq", "dlq", "as many as orders", "bill"] in lines
    assert ["errors", "dlq", "as many as the largest of orders, refunds", "mail, news"] in lines
    assert ["Read, Describe", "group billing", "to be a member and to commit"] in lines
    assert "The app makes what is missing when it is needed (create_topics)" in answer.out
    assert "name it with --publishes TOPIC" in answer.err
    monkeypatch.setenv("ATHOMIC_CREATE_TOPICS", "false")
    write(topics3=SHOP)
    answer = command("topics", "--app", "topics3", "--publishes", "mails")
    assert "create_topics is off: somebody else makes the topics, or this command with --create." in answer.out
    assert "Create" not in answer.out.partition("create_topics")[0]
    assert answer.err == ""


def test_at_start_the_app_makes_redrive_topics_too(
    write: Write, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(topics8=SHOP)
    redrive = ("Topic", "orders.billing.redrive")
    assert rights(command("topics", "--app", "topics8", "--json"))[redrive] == ["Read", "Describe"]
    monkeypatch.setenv("ATHOMIC_CREATE_TOPICS", "at_start")
    write(topics9=SHOP)
    assert "The app makes what is missing at its start" in command("topics", "--app", "topics9").out
    assert rights(command("topics", "--app", "topics9", "--json"))[redrive] == ["Read", "Describe", "Create"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dry-run"], "--dry-run, --for and --partitions go with --create"),
        (["--for", "dlq"], "--dry-run, --for and --partitions go with --create"),
        (["--create", "--partitions", "0"], "--partitions must be 1 or more"),
        (["--create"], "memory://, which lives inside the app's own process"),
    ],
)
def test_what_creates_nothing_says_so(write: Write, command: Command, options: list[str], said: str) -> None:
    write(topics10=SHOP)
    answer = command("topics", "--app", "topics10", *options)
    assert (answer.status, answer.out) == (1, "")
    assert said in answer.err


def test_the_rights_that_the_app_needs(write: Write, command: Command) -> None:
    write(topics4=SHOP)
    answer = command("topics", "--app", "topics4", "--json", "--publishes", "mails", "--publishes", "audit.*")
    found = rights(answer)
    assert found["Group", "billing"] == ["Read", "Describe"]
    assert found["Topic", "orders"] == ["Read", "Describe", "Create"]
    assert found["Topic", "orders.billing.retry.10s"] == ["Read", "Write", "Describe", "Create"]
    assert found["Topic", "errors"] == ["Write", "Describe", "Create"]
    assert found["Topic", "mails"] == ["Write", "Describe", "Create"]
    (audit,) = [right for right in answer.json["rights"] if right["name"] == "audit."]
    assert audit["pattern_type"] == "Prefixed"
    assert ("Cluster", "kafka-cluster") not in found, "who may write to some topic needs none on the cluster"
    settle = rights(answer, "rights_to_settle_dead_letters")
    assert settle["Topic", "errors"] == ["Read", "Write", "Describe"]
    assert settle["Topic", "refunds.mail.redrive"] == ["Read", "Write", "Describe", "Create"]


def test_rights_for_a_pattern_are_for_all_that_begin_like_it(write: Write, command: Command) -> None:
    write(topics5=PATTERN)
    answer = command("topics", "--app", "topics5", "--json")
    found = needs(answer)
    assert list(found) == ["/shop\\..*/", "<topic>.archive.redrive", "<topic>.archive.dlq"]
    assert {topic["pattern"] for topic in found.values()} == {"shop\\..*"}
    assert found["<topic>.archive.dlq"]["partitions_as"] == ["<topic>"]
    (right,) = [right for right in answer.json["rights"] if right["resource_type"] == "Topic"]
    assert (right["name"], right["pattern_type"]) == ("shop.", "Prefixed")
    assert set(right["operations"]) == {"Read", "Write", "Describe", "Create"}


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        (r"shop\..*", "shop."),
        (r"shop-(a|b)", "shop-"),
        (r"shops?\.x", "shop"),
        (r"ab*c", "a"),
        (r"ab{0,2}c", "a"),
        (r"ab+c", "ab"),
        (r"shop|mail", ""),
        (r"shop(a)|mail", ""),
        (r".*\.dlq", ""),
        (r"(?i:shop).*", ""),
        (r"\w+", ""),
        (r"shop\d", "shop"),
        (r"[ab]c", ""),
    ],
)
def test_the_plain_beginning_of_a_pattern(pattern: str, prefix: str) -> None:
    assert literal_prefix(re.compile(pattern)) == prefix
    assert literal_prefix(re.compile(pattern, re.IGNORECASE)) == ""


def test_lines_for_kafka_acls(write: Write, command: Command) -> None:
    write(topics6=SHOP + PATTERN.partition("include_athomic(app)")[2])
    arguments = ("--format", "kafka-acls", "--principal", "User:the shop")
    out = command("topics", "--app", "topics6", *arguments).out
    app, people = out.split("# what people need who list, redrive and discard dead letters; ")
    lines = [shlex.split(line) for line in app.splitlines()[1:]]
    assert app.startswith("# what the app needs\n")
    start = ["kafka-acls.sh", "--bootstrap-server", "$BOOTSTRAP", "--add", "--allow-principal", "User:the shop"]
    assert all(line[:6] == start for line in lines)
    assert ["--operation", "Read", "--operation", "Describe", "--group", "billing"] in [line[6:] for line in lines]
    (prefixed,) = [line for line in lines if "prefixed" in line]
    assert prefixed[-4:] == ["--topic", "shop.", "--resource-pattern-type", "prefixed"]
    others = people.splitlines()[1:]
    assert len(others) == len({*others}) > 5
    assert all(shlex.split(line)[5] == "$OPERATOR" for line in others), "an app that runs all lines gets no more rights"


def test_memory_cannot_be_asked_from_another_process(write: Write, command: Command) -> None:
    write(topics7=SHOP)
    answer = command("topics", "--app", "topics7", "--ask-broker")
    assert answer.status == 1
    assert "memory://, which lives inside the app's own process: this process sees nothing of it" in answer.err
    assert "dead_letters" not in answer.err
    assert answer.out == ""


def test_declared_publishers_are_listed_with_their_rights(write: Write, command: Command) -> None:
    write(
        shop="""
from fastapi import FastAPI
from fastapi_athomic import include_athomic

app = FastAPI()
include_athomic(app).publisher("orders.placed", str)
"""
    )
    answer = command("topics", "--app", "shop:app", "--json")
    assert needs(answer)["orders.placed"]["kinds"] == ["published"]
    assert any(right["name"] == "orders.placed" and "Write" in right["operations"] for right in answer.json["rights"])

"""What an app says at its start: one line that is seen, and a warning where `memory://` is probably not meant."""

from __future__ import annotations

import os
import re
from multiprocessing import current_process
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from fastapi_athomic import AthomicSettings, KafkaSettings, include_athomic, subscribe_to
from fastapi_athomic.observation import startup
from fastapi_athomic.observation.startup import announce, doubts, server_workers, start_line
from fastapi_athomic.payload_settings import PayloadSettings, RegistrySettings
from fastapi_athomic.subscriptions import Subscription
from tests.support.loggers import configured


def consumer(number: int, *topics: str, pattern: str | None = None) -> Subscription:
    compiled = None if pattern is None else re.compile(pattern)
    return Subscription(handler_id=f"h{number}", topics=topics, pattern=compiled, group_id="g")


def test_the_line_says_where_messages_and_state_are_and_who_consumes() -> None:
    settings = AthomicSettings(
        broker_url="kafka://a:9092,b:9092",
        state_store_url=SecretStr("redis://ann:s3cret@store:6379/0"),
        kafka=KafkaSettings(security_protocol="SASL_SSL", sasl_username="ann", sasl_password=SecretStr("s3cret")),
        isolation="thread",
    )
    line = start_line(settings, [consumer(1, "orders"), consumer(2, pattern="shop.*")])
    assert line == (
        f"process {os.getpid()} starts with broker kafka://a:9092,b:9092 (SASL_SSL), state store "
        "redis://store:6379/0, 2 consumers in a thread of their own: h1 (orders), h2 (pattern shop.*)"
    )


def test_the_line_stays_short() -> None:
    line = start_line(AthomicSettings(), [consumer(number, *(f"t{n}" for n in range(9))) for number in range(7)])
    assert "broker memory:// (in this process only, it forgets at the end), state store memory://, 7 consumers" in line
    assert "h0 (t0, t1, t2 and 6 more)" in line
    assert line.endswith("h4 (t0, t1, t2 and 6 more), and 2 more")
    assert start_line(AthomicSettings(broker_url="kafka://a:1"), []).endswith(
        "state store none, 0 consumers in the event loop of the routes"
    )


async def test_an_app_says_it_at_its_start_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    async def bill(order: bytes) -> None: ...

    app = FastAPI()
    include_athomic(app, AthomicSettings(), handlers=[subscribe_to("orders", group_id="g", handler_id="bill")(bill)])
    caplog.set_level("INFO")
    async with app.router.lifespan_context(app):
        assert "1 consumer in the event loop of the routes: bill (orders)" in caplog.text
        assert "has stopped" not in caplog.text
    assert re.search(rf"process {os.getpid()} has stopped its consumers, in [\d.]+ s", caplog.text)


# --- where it is seen


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn.error", "hypercorn.error", "_granian"])
def test_where_only_the_server_logs_the_line_is_beside_its_own(server: str) -> None:
    with configured(server) as (kept,):
        announce("it starts")
    assert kept.said == [f"{'uvicorn.error' if server == 'uvicorn' else server}: fastapi_athomic: it starts"]


@pytest.mark.parametrize("ours", ["", "fastapi_athomic"])
def test_an_app_that_configures_logging_gets_it_under_our_name(ours: str) -> None:
    with configured(ours, "uvicorn") as (own, server):
        announce("it starts")
    assert own.said == ["fastapi_athomic.observation.startup: fastapi_athomic: it starts"]
    assert server.said == []


def test_p22_loggers_that_a_configuration_has_disabled_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup.logger, "disabled", True)
    with configured("", "uvicorn") as (root, server):
        announce("it starts")
    (said,) = root.said
    assert said.startswith("root: fastapi_athomic: its loggers are disabled, so nobody is told of messages that fail")
    assert said.endswith("unless disable_existing_loggers is False")
    assert server.said == []


# --- memory:// where it is probably not meant


def test_memory_in_several_workers_is_doubted() -> None:
    (doubt,) = doubts(AthomicSettings(), workers=4)
    assert "the broker is memory:// and the server runs 4 workers" in doubt
    assert "set ATHOMIC_BROKER_URL to kafka://host:port; ATHOMIC_REQUIRE_BROKER=1 refuses memory://" in doubt
    assert list(doubts(AthomicSettings(), workers=1)) == []
    assert list(doubts(AthomicSettings(broker_url="kafka://a:1"), workers=4)) == []


def test_state_in_memory_beside_kafka_is_doubted_in_several_workers() -> None:
    settings = AthomicSettings(broker_url="kafka://a:1", state_store_url=SecretStr("memory://"))
    (doubt,) = doubts(settings, workers=2)
    assert "the state store is memory:// and the server runs 2 workers" in doubt
    assert "set ATHOMIC_STATE_STORE_URL to redis://" in doubt
    assert list(doubts(settings, workers=1)) == []


def test_a_schema_registry_in_memory_beside_kafka_is_doubted() -> None:
    payload = PayloadSettings(serializer="avro", registry=RegistrySettings(url="memory://"))
    (doubt,) = doubts(AthomicSettings(broker_url="kafka://a:1", payload=payload), workers=1)
    assert "the schema registry is memory://" in doubt
    assert list(doubts(AthomicSettings(payload=payload), workers=1)) == []


async def test_memory_beside_redis_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    include_athomic(app, AthomicSettings(state_store_url=SecretStr("redis://ann:s3cret@store:6379/0")))
    async with app.router.lifespan_context(app):
        (said,) = [record for record in caplog.records if "beside the state store" in record.getMessage()]
    assert said.levelname == "WARNING"
    assert "memory:// beside the state store redis://store:6379/0" in said.getMessage()
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("command", "environment", "workers"),
    [
        ("/bin/gunicorn -w 4 main:app", {}, 4),
        ("/bin/gunicorn -w4 main:app", {}, 4),
        ("/bin/gunicorn --workers=3 main:app", {"WEB_CONCURRENCY": "7"}, 3),
        ("/bin/gunicorn main:app", {"GUNICORN_CMD_ARGS": "--bind=:80 --workers 5"}, 5),
        ("/bin/gunicorn -w 2 main:app", {"GUNICORN_CMD_ARGS": "--workers 5"}, 2),
        ("/bin/gunicorn main:app", {"WEB_CONCURRENCY": "7"}, 7),
        ("/lib/gunicorn/__main__.py -w 4 main:app", {}, 4),
        ("/bin/gunicorn main:app", {}, 1),
        ("/bin/granian --interface asgi --workers 2 main:app", {}, 2),
        ("/bin/granian main:app", {"GRANIAN_WORKERS": "3"}, 3),
        ("/bin/pytest -w 4", {"WEB_CONCURRENCY": "7"}, 1),
        ("main.py --workers 4", {}, 1),
        ("", {}, 1),
    ],
)
def test_the_workers_of_servers_that_fork_are_on_the_command_line(
    command: str, environment: dict[str, str], workers: int
) -> None:
    assert server_workers(command.split(), environment) == workers


@pytest.mark.parametrize(
    ("config", "workers"),
    [
        (SimpleNamespace(workers=3, should_reload=False), 3),
        (SimpleNamespace(workers=3, should_reload=True), 1),
        (SimpleNamespace(workers=2), 2),  # hypercorn
        (SimpleNamespace(workers=None), 1),
        (SimpleNamespace(), 1),
    ],
)
def test_the_workers_of_uvicorn_and_hypercorn_are_in_what_their_processes_get(
    monkeypatch: pytest.MonkeyPatch, config: SimpleNamespace, workers: int
) -> None:
    monkeypatch.setattr(current_process(), "_kwargs", {"config": config}, raising=False)
    assert server_workers([], {}) == workers
